"""A memory database whose fence can be taken away, rule by rule, to see what it is for."""

from __future__ import annotations

import msgspec

from backends.fence import empty_row, outranks
from backends.memory import MemoryDatabase
from coordinator.rules import Rules
from kv.model import Group, Head
from kv.ports import Appended, Fenced, Outranked, TakenOver


class UnfencedDatabase(MemoryDatabase):
    """Check of a group only what `rules` ask for; with all of them it decides as the real
    one does.
    """

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules

    def append(self, group: Group) -> Appended | Fenced:
        head = self.head()
        if not self._lets(group, head):
            return Fenced(head)
        self._rows.append(msgspec.structs.replace(group.row, seq=head.seq + 1))
        for version in group.versions:
            self._insert(version)
        self._operations.update(
            (operation.op_id, operation)
            for operation in group.operations
            if operation.op_id not in self._operations
        )
        return Appended()

    def _lets(self, group: Group, head: Head) -> bool:
        rules, base, row = self.rules, group.base, group.row
        if rules.fence and head.last != base.last:
            return False
        if rules.fence and rules.fence_digest and head.digest != base.digest:
            return False
        if rules.fence_row and head.seq != base.seq:
            return False
        return not (
            rules.fence_row and rules.fence_ordered and outranks(head, row.term, row.committer)
        )

    def take_over(
        self, term: int, committer: str, log_time_ms: int, adopt_last: int | None = None
    ) -> TakenOver | Outranked:
        head = self.head()
        if self.rules.fence_ordered and outranks(head, term, committer):
            return Outranked(head)
        row = empty_row(head, term, committer, log_time_ms, adopt_last)
        self._rows.append(row)
        return TakenOver(head, row.head)
