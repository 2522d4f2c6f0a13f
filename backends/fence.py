"""Say what every store must hold a group, a committer and a prefix to, whatever keeps the rows.

Pure rules that all Store adapters share. It never reads or writes anything.
"""

from __future__ import annotations

from kv.errors import BadRequest, InvariantViolated
from kv.model import KEY_BYTES_MAX, Group, Head, LedgerRow, Recorded

KEY_ABOVE_ALL = b"\xff" * (KEY_BYTES_MAX + 1)
"""Above every key: one byte longer than the longest."""


def outranks(head: Head, term: int, committer: str) -> bool:
    """Say whether the row at `head` forbids this committer to append behind it (DESIGN: "The ledger fences")."""
    if head.seq == 0:
        return False
    return head.term > term or (head.term == term and head.committer != committer)


def check_group(group: Group) -> None:
    """Assert what any group is, before anything of it is written. Raises InvariantViolated."""
    row, base = group.row, group.base
    if row.seq != base.seq + 1 or row.first != base.last + 1 or row.last != base.last + len(row.body):
        raise InvariantViolated(f"ledger row {row.seq} ({row.first}..{row.last}) does not continue {base}")
    if not row.body and row.digest != base.digest:
        raise InvariantViolated(f"ledger row {row.seq} has no intents but another digest")
    made = [(version.revision, version.key) for version in group.versions]
    said = [(row.first + n, key) for n, recorded in enumerate(row.body) for key in recorded.keys]
    if sorted(made) != sorted(said) or len(set(made)) != len(made):
        raise InvariantViolated(f"the versions of ledger row {row.seq} are not the keys that it says it changed")
    for operation in group.operations:
        recorded = _recorded(row, operation.revision)
        if (recorded.op_id, recorded.body_hash) != (operation.op_id, operation.body_hash):
            raise InvariantViolated(f"{operation.op_id} is not what ledger row {row.seq} records there")


def _recorded(row: LedgerRow, revision: int) -> Recorded:
    if not row.first <= revision <= row.last:
        raise InvariantViolated(f"revision {revision} lies outside ledger row {row.seq}")
    return row.body[revision - row.first]


def empty_row(head: Head, term: int, committer: str, log_time_ms: int, adopt_last: int | None) -> LedgerRow:
    """Return the row without intents that takes the place behind `head`."""
    last = head.last if adopt_last is None else adopt_last
    if last < head.last:
        raise BadRequest("adopt_last", f"{last} lies below the head, {head.last}", allowed=f"at least {head.last}")
    return LedgerRow(head.seq + 1, term, committer, head.last + 1, last, head.digest, log_time_ms)


def range_of(prefix: bytes, after: bytes) -> tuple[bytes, bytes]:
    """Return (start, end) such that start <= key < end holds for exactly the keys > `after` under `prefix`."""
    start = after + b"\0" if after >= prefix else prefix
    stem = prefix.rstrip(b"\xff")
    end = stem[:-1] + bytes((stem[-1] + 1,)) if stem else KEY_ABOVE_ALL
    return start, end
