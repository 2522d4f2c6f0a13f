"""Define the rules that every store applies to a group, a committer and a prefix, whatever holds
the rows.

Pure rules that all Store adapters share. Nothing here reads or writes anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from kv.errors import BadRequest, InvariantViolated, NotApplied, StoreDamaged
from kv.model import (
    FROM_KEY,
    KEY_BYTES_MAX,
    OPERATIONS_MAX,
    Group,
    Head,
    LedgerRow,
    Recorded,
    Reference,
    Version,
    value_hash,
)
from kv.ports import Scrubbed

KEY_ABOVE_ALL = b"\xff" * (KEY_BYTES_MAX + 1)
"""Greater than every key: one byte longer than the longest."""


SCRUB_ROWS: Final = OPERATIONS_MAX + 1
"""The number of versions scrubbed in one step: more than one revision can have values, and at most
8 MiB.
"""
STAGED_BYTES_MAX: Final = 256 * 1024 * 1024
"""The total bytes of staged values that no recorded intent refers to. A value above it is
refused.
"""


def hash_of(version: Version) -> bytes:
    """Return the hash that a store keeps beside a version, to detect damage to its value; empty for
    a tombstone.
    """
    match version.value:
        case None:
            return b""
        case Reference() as reference:
            return reference.hash
        case value:
            return value_hash(value)


def checked(version: Version, kept: bytes, unhashed: int, backend: str) -> Version:
    """Return the version if it is what was written. Raises StoreDamaged otherwise.

    A version at or below the revision `unhashed` may have no hash, because it was written before
    stores kept hashes.
    """
    if kept == hash_of(version) or (not kept and version.revision <= unhashed):
        return version
    raise StoreDamaged(backend, version.key, version.revision)


def scrubbed(
    found: Sequence[tuple[Version | None, bytes, int, bytes]], after: int, unhashed: int
) -> Scrubbed:
    """Check (version, key, revision, hash) of the next versions, in order of revisions, at most
    SCRUB_ROWS.

    A version of None could not even be decoded. A full page is cut before its last revision, which
    may continue on the next one.
    """
    more = len(found) >= SCRUB_ROWS
    judged = [row for row in found if not more or row[2] < found[-1][2]]
    damaged, references = list[tuple[bytes, int]](), list[Reference]()
    for version, key, revision, kept in judged:
        try:
            if version is None:
                raise StoreDamaged("", key, revision)
            if isinstance(checked(version, kept, unhashed, "").value, Reference):
                references.append(cast(Reference, version.value))
        except StoreDamaged:
            damaged.append((key, revision))
    reached = judged[-1][2] if judged else after
    return Scrubbed(reached, len(judged), tuple(damaged), tuple(references), more)


def checked_blob(value: bytes, reference: Reference, backend: str) -> bytes:
    """Return the staged value if it is what was staged. Raises StoreDamaged otherwise."""
    if value_hash(value) != reference.hash:
        raise StoreDamaged(
            backend, b"", 0, f"the large value staged under {reference.op_id} is damaged"
        )
    return value


def check_room(staged_bytes: int, size: int, bytes_max: int) -> None:
    """Check that a value of `size` bytes may be staged besides those that wait for their intents.

    Raises NotApplied("overloaded").
    """
    if staged_bytes + size > bytes_max:
        raise NotApplied(
            "overloaded",
            f"{staged_bytes} bytes of large values wait for their writes already",
            retry_after_s=5.0,
        )


def outranks(head: Head, term: int, committer: str) -> bool:
    """Return whether the row at `head` forbids this committer to append behind it (DESIGN: "The
    ledger fences").
    """
    if head.seq == 0:
        return False
    return head.term > term or (head.term == term and head.committer != committer)


def check_group(group: Group) -> None:
    """Check that a group is consistent, before anything of it is written. Raises
    InvariantViolated.
    """
    row, base = group.row, group.base
    if (
        row.seq != base.seq + 1
        or row.first != base.last + 1
        or row.last != base.last + len(row.body)
    ):
        raise InvariantViolated(
            f"ledger row {row.seq} ({row.first}..{row.last}) does not continue {base}"
        )
    if not row.body and row.digest != base.digest:
        raise InvariantViolated(f"ledger row {row.seq} has no intents but another digest")
    made = [(version.revision, version.key) for version in group.versions]
    said = [(row.first + n, key) for n, recorded in enumerate(row.body) for key in recorded.keys]
    if sorted(made) != sorted(said) or len(set(made)) != len(made):
        raise InvariantViolated(
            f"the versions of ledger row {row.seq} are not the keys that it says it changed"
        )
    for operation in group.operations:
        recorded = _recorded(row, operation.revision)
        if (recorded.op_id, recorded.body_hash) != (operation.op_id, operation.body_hash):
            raise InvariantViolated(
                f"{operation.op_id} is not what ledger row {row.seq} records there"
            )


def _recorded(row: LedgerRow, revision: int) -> Recorded:
    if not row.first <= revision <= row.last:
        raise InvariantViolated(f"revision {revision} lies outside ledger row {row.seq}")
    return row.body[revision - row.first]


def empty_row(
    head: Head, term: int, committer: str, log_time_ms: int, adopt_last: int | None
) -> LedgerRow:
    """Return the row without intents that is appended behind `head`. Raises BadRequest for an
    `adopt_last` below the head.
    """
    last = head.last if adopt_last is None else adopt_last
    if last < head.last:
        raise BadRequest(
            "adopt_last",
            f"{last} lies below the head, {head.last}",
            allowed=f"at least {head.last}",
        )
    return LedgerRow(head.seq + 1, term, committer, head.last + 1, last, head.digest, log_time_ms)


def bounds_of(key: bytes, end: bytes) -> tuple[bytes, bytes]:
    """Return (start, end) such that start <= key < end holds for exactly the keys of a range as
    `kv.model.Compare` names it.
    """
    if not end:
        return key, key + b"\0"
    return key, KEY_ABOVE_ALL if end == FROM_KEY else end


def listed(first: bytes, end: bytes | None, after: bytes) -> tuple[bytes, bytes]:
    """Return (start, end) such that start <= key < end holds for exactly the keys > `after` that a
    listing shows: those under a prefix, or those of a range when an end is given.
    """
    if end is None:
        return range_of(first, after)
    start, stop = bounds_of(first, end)
    return (max(start, after + b"\0") if after else start), stop


def range_of(prefix: bytes, after: bytes) -> tuple[bytes, bytes]:
    """Return (start, end) such that start <= key < end holds for exactly the keys > `after` under
    `prefix`.
    """
    start = after + b"\0" if after >= prefix else prefix
    stem = prefix.rstrip(b"\xff")
    end = stem[:-1] + bytes((stem[-1] + 1,)) if stem else KEY_ABOVE_ALL
    return start, end
