"""Take the memory store's fence away, check by check: what all stores owe the protocol.

With all checks in place it decides as the real one does; only what a group is made of is not looked
at, so that groups that no right committer makes come through.
"""

from __future__ import annotations

import sys

import msgspec

from backends.fence import empty_row, outranks
from backends.memory.database import MemoryDatabase
from kv.model import Group, Head, Reference
from kv.ports import Appended, Fenced, Outranked, TakenOver
from tests.planted.registry import Patches

# What is checked of a group, by name: these are what a fault takes away.
PLACE = DIGEST = True
ROW = TERM = True


def unchecked(*checks: str) -> Patches:
    """Put the fence here in the place of the store's own, without these checks."""
    yield MemoryDatabase, "append", append
    yield MemoryDatabase, "take_over", take_over
    for check in checks:
        yield sys.modules[__name__], check, False


def append(self: MemoryDatabase, group: Group) -> Appended | Fenced:
    """Take the place of `MemoryDatabase.append`."""
    head = self.head()
    staged = [v.value for v in group.versions if isinstance(v.value, Reference)]
    if not _lets(group, head) or any((r.op_id, r.hash) not in self._blobs for r in staged):
        return Fenced(head)
    self._rows.append(msgspec.structs.replace(group.row, seq=head.seq + 1))
    for version in sorted(group.versions, key=lambda version: version.revision):
        self._versions.insert(version)
    for operation in group.operations:
        self._operations.setdefault(operation.op_id, operation)
    return Appended()


def _lets(group: Group, head: Head) -> bool:
    base, row = group.base, group.row
    if PLACE and head.last != base.last:
        return False
    if PLACE and DIGEST and head.digest != base.digest:
        return False
    if ROW and head.seq != base.seq:
        return False
    return not (ROW and TERM and outranks(head, row.term, row.committer))


def take_over(
    self: MemoryDatabase,
    term: int,
    committer: str,
    log_time_ms: int,
    adopt_last: int | None = None,
) -> TakenOver | Outranked:
    """Take the place of `MemoryDatabase.take_over`."""
    head = self.head()
    if TERM and outranks(head, term, committer):
        return Outranked(head)
    row = empty_row(head, term, committer, log_time_ms, adopt_last)
    self._rows.append(row)
    return TakenOver(head, row.head)
