"""Build and check the ledger's chain: each row continues the previous one, by revision and digest.

Pure. It never trusts a row that does not exactly continue the one before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from coordinator.machine.commands import Settle
from coordinator.machine.evaluate import Evaluation
from coordinator.machine.pending import Mark, Pending
from kv.model import GENESIS_DIGEST, Group, Head, LedgerRow, Recorded, roll


def mark_of(head: Head | LedgerRow) -> Mark:
    """Return the place at which a row ends."""
    return Mark(head.last, head.digest)


def roll_all(digest: bytes, records: Iterable[Recorded]) -> bytes:
    """Return the digest after rolling these records onto it."""
    for record in records:
        digest = roll(digest, record.op_id, record.body_hash)
    return digest


def group_on(
    base: Head,
    *,
    term: int,
    committer: str,
    log_time_ms: int,
    batch: Sequence[Pending],
    evaluation: Evaluation,
) -> Group:
    """Build the group of a batch, directly behind `base`. The digest is the machine's own, rolled
    over every intent.
    """
    row = LedgerRow(
        seq=base.seq + 1,
        term=term,
        committer=committer,
        first=batch[0].revision,
        last=batch[-1].revision,
        digest=batch[-1].digest,
        log_time_ms=log_time_ms,
        body=evaluation.records,
    )
    return Group(base, row, evaluation.versions, evaluation.operations)


def settle_of(row: LedgerRow, *, resolved: bool = False) -> Settle:
    """Return the Settle of a row with intents."""
    return Settle(row.first, row.last, row.digest, row.log_time_ms, row.body, resolved)


def settle_of_group(group: Group, numbers: Sequence[tuple[int, int]]) -> Settle:
    """Return the Settle of a group that was committed here; `numbers` are the create_revision and
    the version of its versions, as the store numbered them.
    """
    if not numbers:
        return settle_of(group.row)
    said = {
        (version.revision, version.key): (*each, version.lease)
        for version, each in zip(group.versions, numbers, strict=True)
    }
    records = tuple(
        [
            replace(record, numbers=tuple([said[revision, key] for key in record.keys]))
            if record.keys
            else record
            for revision, record in enumerate(group.row.body, group.row.first)
        ]
    )
    return replace(settle_of(group.row), records=records)


class RowStep(NamedTuple):
    """A ledger row, and the part of it that is new after a given mark."""

    first: int
    row: LedgerRow
    records: tuple[Recorded, ...]
    """The records at and after `first`."""


def continuation(
    base: Mark, rows: Sequence[LedgerRow], settled: Mark
) -> tuple[RowStep, ...] | None:
    """Return what `rows`, which must continue `base`, add after `settled`; None unless they exactly
    continue both.

    `settled` may lie inside the rows (some of them are settled already): then the digest there must
    be the same.
    """
    at = base.revision
    digest = base.digest
    passed = base == settled
    steps: list[RowStep] = []
    for row in rows:
        if row.first != at + 1 or row.last != at + len(row.body):
            return None
        first = row.first
        for record in row.body:
            digest = roll(digest, record.op_id, record.body_hash)
            at += 1
            if at == settled.revision and not passed:
                if digest != settled.digest:
                    return None
                passed = True
                first = at + 1
        if digest != row.digest:
            return None
        if passed and first <= row.last:
            steps.append(RowStep(first, row, row.body[first - row.first :]))
    return tuple(steps) if passed else None


class BrokenChain(NamedTuple):
    """The first row of a ledger that does not fit the one before it, and why."""

    seq: int
    why: str


def recompute(rows: Sequence[LedgerRow], base: Head | None = None) -> BrokenChain | None:
    """Recompute the digest over all rows, empty ones included, and return the first row that does
    not fit, if any.

    Without `base` the first row is trusted, because older ones may have been pruned.
    """
    if not rows:
        return None
    if base is not None:
        head, rest = base, rows
    elif rows[0].seq == 1:
        head, rest = Head(0, 0, "", 0, GENESIS_DIGEST), rows
    else:
        head, rest = rows[0].head, rows[1:]
    for row in rest:
        why = _misfit(head, row)
        if why is not None:
            return BrokenChain(row.seq, why)
        head = row.head
    return None


def _misfit(head: Head, row: LedgerRow) -> str | None:
    """Return why a row does not continue the one at `head`; None when it does."""
    if row.seq != head.seq + 1:
        return f"follows seq {head.seq}"
    if row.first != head.last + 1:
        return f"begins at {row.first}, the row before ends at {head.last}"
    if row.term < head.term:
        return f"is of term {row.term}, the row before of {head.term}"
    if row.body and row.last != head.last + len(row.body):
        return f"ends at {row.last} with {len(row.body)} intents from {row.first}"
    if not row.body and row.last < head.last:
        return f"is empty and ends at {row.last}, below {head.last}"
    if roll_all(head.digest, row.body) != row.digest:
        return "carries another digest than its intents roll up to"
    return None
