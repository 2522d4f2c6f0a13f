"""A read that waits while the leadership changes under it: no round begins before the new term's
own entry.
"""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

from coordinator.log import Position
from coordinator.raft.core.protocol import Core
from coordinator.raft.core.reads import ReadIndex
from tests.unit.raft.cluster import virtual


class Leader(SimpleNamespace):
    """What `ReadIndex` sees of a core: one of three voters, the leader of a term in which it has
    committed.
    """

    def __init__(self) -> None:
        super().__init__(
            leads=True, own_term_committed=True, term=1, committed=Position(5, 1), node_id="A",
            configuration=SimpleNamespace(voters=("A", "B", "C")), heartbeat_s=0.05,
            handlers={}, asked=[],
        )  # fmt: skip

    def handle(self, kind: str, handler: Any) -> None:
        self.handlers[kind] = handler

    def now(self) -> float:
        return 0.0

    def tell_member(self, voter: str, message: dict[str, Any]) -> None:
        self.asked.append((voter, message["term"]))


@virtual
async def test_a_round_begins_only_with_an_entry_of_the_own_term_committed() -> None:
    leader = Leader()
    reads = ReadIndex(
        cast("Core", leader), asyncio.get_running_loop(), random.Random(1), lambda: None
    )
    reads.open(1)
    leader.handlers["read_request"]("B", {"request": 1})
    leader.term, leader.own_term_committed = 3, False  # deposed and elected again since
    reads.drive()
    assert leader.asked == []
    leader.own_term_committed, leader.committed = True, Position(9, 3)
    reads.drive()
    assert leader.asked == [("B", 3), ("C", 3)]
