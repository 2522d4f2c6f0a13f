"""A cut that wipes the log leaves nothing that the entries at hand could follow (found by the
simulation).
"""

from __future__ import annotations

from typing import Any, cast

from pysyncobj.node import Node

from coordinator.raft.core.protocol import Core
from coordinator.raft.core.rules.replication import Entry
from coordinator.raft.core.state import NO_OP


class Log(list[tuple[bytes, int, int]]):
    """Refuse a gap, as the journal does."""

    synced_index = 1

    def add(self, command: bytes, index: int, term: int) -> None:
        if index != self[-1][1] + 1:
            raise ValueError(f"entry {index} does not follow {self[-1][1]}")
        self.append((command, index, term))

    def maybe_sync(self) -> bool:
        return False


class Bare(Core):
    """Just what taking entries needs; the log is wiped by any cut, as it is when no snapshot
    serves.
    """

    def __init__(self) -> None:
        entries = [(NO_OP, index, 1) for index in range(5, 11)]
        members = self.__dict__
        members.update(
            _SyncObj__raftLog=Log(entries), _SyncObj__raftCommitIndex=10, _installing=False
        )
        members.update(
            _verified=0, _bytes_since_snapshot=0, answers=[], _SyncObj__raftLastApplied=10
        )

    def _follow(self, node: Node, message: dict[str, Any]) -> bool:
        return True

    def _truncate(self, index: int) -> None:
        log = self._SyncObj__raftLog
        log[:] = [(NO_OP, 1, 0)]
        self._SyncObj__raftCommitIndex = self._SyncObj__raftLastApplied = 1

    def _answer(
        self, node: Node, following: int, *, reset: bool = False, success: bool | None = None
    ) -> None:
        cast("list[tuple[int, bool]]", self.__dict__["answers"]).append((following, reset))


def test_a_wiped_log_asks_for_everything_and_takes_nothing() -> None:
    core = Bare()
    entries = [tuple(Entry(NO_OP, index, 2)) for index in (8, 9)]
    message = {
        "entries": entries,
        "prevLogIdx": 7,
        "prevLogTerm": 1,
        "commit_index": 9,
        "answer": True,
    }
    core._on_append_entries(Node("B"), message)
    assert [entry[1] for entry in core.__dict__["_SyncObj__raftLog"]] == [1]
    assert core.__dict__["answers"] == [(2, True)]
