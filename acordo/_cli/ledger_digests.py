"""Recompute the ledger's chain: rows are contiguous, terms never fall, digests roll over every
intent. Pure.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from acordo._results import LedgerRow

GENESIS_DIGEST: Final = "00" * 32
DIGESTS_MAX: Final = 10_000
"""Number of newest rows whose digest is kept for comparing members, which settle close to the
end.
"""
_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode


class Flaw(msgspec.Struct, frozen=True):
    """A flaw of one row."""

    seq: int
    why: str


def rolled(before: str, op_id: str, body_hash: str) -> str:
    """Return the digest after one more intent: BLAKE2b-256 of msgpack (op_id, body hash), keyed by
    the digest before it.
    """
    content = _encode((op_id, bytes.fromhex(body_hash)))
    return hashlib.blake2b(content, digest_size=32, key=bytes.fromhex(before)).hexdigest()


class Chain:
    """The ledger's chain, recomputed from rows in order. The first row is trusted unless it is row
    1.
    """

    def __init__(self) -> None:
        self.rows, self.intents = 0, 0
        self.first_seq = 0
        self.newest: LedgerRow | None = None
        self.digests: dict[int, str] = {}
        """Last revision → digest of the newest rows, for comparing members."""

    def add(self, row: LedgerRow) -> list[Flaw]:
        """Return the flaws of `row` as the successor of the rows before it."""
        try:
            flaws = self._flaws(row)
        except (KeyError, TypeError, ValueError) as exc:
            flaws = [f"it cannot be read: {exc!r}"]
        self.first_seq = self.first_seq or row.seq
        self.newest = row
        self.rows, self.intents = self.rows + 1, self.intents + len(row.body)
        self.digests[row.last] = row.digest
        if len(self.digests) > DIGESTS_MAX:
            del self.digests[next(iter(self.digests))]
        return [Flaw(row.seq, why) for why in flaws]

    def _flaws(self, row: LedgerRow) -> list[str]:
        flaws = []
        before = self.newest
        seq = row.seq - 1 if before is None else before.seq
        last = row.first - 1 if before is None else before.last
        term = 0 if before is None else before.term
        digest = None if before is None else before.digest
        if before is None and row.seq == 1:
            digest = GENESIS_DIGEST
            if row.first != 1:
                flaws.append(f"the first row begins at revision {row.first}")
        if row.seq != seq + 1:
            flaws.append(f"it follows row {seq}")
        if row.first != last + 1:
            flaws.append(f"it begins at revision {row.first} after {last}")
        if row.term < term:
            flaws.append(f"its term {row.term} is below {term}")
        if row.body and row.last != row.first + len(row.body) - 1:
            flaws.append(f"{len(row.body)} intents for revisions {row.first} to {row.last}")
        if not row.body and row.last < last:
            flaws.append(f"it goes back to revision {row.last}")
        for intent in row.body:
            digest = digest and rolled(digest, str(intent["op_id"]), str(intent["body_hash"]))
        if digest is not None and digest != row.digest:
            flaws.append("its digest does not follow from its intents")
        return flaws
