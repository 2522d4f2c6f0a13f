"""Read the rows of `/v1/ledger` and compute their digest chain independently.

It imports nothing of the nodes on purpose, because what they report is what is being checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import msgspec

from chaos.records.history import HistoryError

GENESIS: Final = bytes(32)
OUTCOMES: Final = ("applied", "refused", "expired", "again", "mismatch")


@dataclass(frozen=True)
class LedgerIntent:
    """One intent of a row."""

    revision: int
    op_id: str
    body_hash: bytes
    outcome: str
    keys: tuple[str, ...] = ()
    """Keys that the intent changed."""


@dataclass(frozen=True)
class LedgerRow:
    """One committed group. A take-over or adopted head has no body."""

    seq: int
    term: int
    committer: str
    first: int
    last: int
    digest: bytes
    body: tuple[LedgerIntent, ...] = ()
    index: int = 0
    """Log index of the command that made it; 0 in a shared store."""


@dataclass(frozen=True)
class Ledger:
    """The rows from one `seq` on, in order."""

    rows: tuple[LedgerRow, ...] = field(default=())
    read: bool = True
    """False: the ledger could not be read, so nothing follows from rows that are missing."""

    @cached_property
    def intents(self) -> dict[int, LedgerIntent]:
        """Return the intents by revision."""
        return {e.revision: e for row in self.rows for e in row.body}

    @cached_property
    def changes(self) -> dict[int, tuple[str, ...]]:
        """Return the keys changed by each revision that changed any, in revision order."""
        return {e.revision: e.keys for row in self.rows for e in row.body if e.keys}

    @cached_property
    def applied(self) -> dict[str, int]:
        """Return the revision at which each op_id first took effect."""
        found: dict[str, int] = {}
        for row in self.rows:
            for e in row.body:
                if e.outcome == "applied":
                    found.setdefault(e.op_id, e.revision)
        return found

    @property
    def first(self) -> int:
        """Return the first revision that the rows cover."""
        return self.rows[0].first if self.rows else 1

    @property
    def last(self) -> int:
        """Return the last revision that the rows cover."""
        return self.rows[-1].last if self.rows else 0

    @property
    def whole(self) -> bool:
        """Return whether the rows start at the beginning, so that whatever they lack never
        happened.
        """
        return self.read and (not self.rows or self.rows[0].seq == 1)


def roll(before: bytes, op_id: str, body_hash: bytes) -> bytes:
    """Return the digest after one more intent.

    It is BLAKE2b-256 over the msgpack of (op_id, body hash), keyed by the digest before.
    """
    return hashlib.blake2b(
        msgspec.msgpack.encode((op_id, body_hash)), digest_size=32, key=before
    ).digest()


def parse(rows: Iterable[Mapping[str, Any]], *, source: str = "ledger") -> Ledger:
    """Parse rows in the form of `/v1/ledger`.

    Raises HistoryError if they have another form.
    """
    made = []
    for n, raw in enumerate(rows, 1):
        try:
            made.append(_row(raw))
        except (KeyError, TypeError, ValueError) as exc:
            raise HistoryError(f"no ledger row: {exc!r}", line=n, source=source) from exc
    return Ledger(tuple(made))


def _row(raw: Mapping[str, Any]) -> LedgerRow:
    first = int(raw["first"])
    body = tuple(_intent(each, first + n) for n, each in enumerate(raw.get("body") or ()))
    return LedgerRow(
        seq=int(raw["seq"]),
        term=int(raw["term"]),
        committer=str(raw["committer"]),
        first=first,
        last=int(raw["last"]),
        digest=bytes.fromhex(raw["digest"]),
        body=body,
        index=int(raw.get("index", 0)),
    )


def _intent(raw: Mapping[str, Any], revision: int) -> LedgerIntent:
    outcome = raw["outcome"]
    name = str(outcome["outcome"] if isinstance(outcome, Mapping) else outcome)
    if name not in OUTCOMES:
        raise ValueError(f"outcome {name!r}")
    stated = raw.get("revision", revision)
    if stated != revision:
        raise ValueError(f"intent says revision {stated}, its place says {revision}")
    return LedgerIntent(
        revision,
        op_id=str(raw["op_id"]),
        body_hash=bytes.fromhex(raw["body_hash"]),
        outcome=name,
        keys=tuple(_key(k) for k in raw.get("keys") or ()),
    )


def _key(raw: Any) -> str:
    return str(raw) if isinstance(raw, str) else "base64:" + str(raw["base64"])
