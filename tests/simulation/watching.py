"""Look from outside at what a member's parts do: each step of its log, what it takes the time for,
and what it tells its watchers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from coordinator.background.publisher import _Part
from coordinator.commit.leadership import LeadersPart
from coordinator.consensus import Coordinator
from coordinator.log import Position, RaftStatus
from coordinator.logtime import ClockReading
from kv.ports import Settled
from tests.planted.registry import is_planted
from tests.simulation import levels
from tests.soundness import broken

if TYPE_CHECKING:
    from tests.simulation.node import SimNode


class WatchedCoordinator(Coordinator):
    """The product's Coordinator, looked at from outside after every step of its log."""

    sim: SimNode

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        world, own = self.sim.world, self.sim.own
        if own is not None:
            own.applying = self.at, (position.index, position.term), (stamp_ms, command)
        super().apply(position, stamp_ms, command)
        is_done = self._failure._cause is None and (
            self.own is None or self.own.condition.spoilt is None
        )
        if own is not None and is_done and self.at == (position.index, position.term):
            own.replayed()
        world.applied(self.sim, position, command)
        levels.applied(self.sim)
        if world.steps % 16 == 0:
            wrong = broken(self.machine)
            if wrong and not is_planted():
                world.violate("Machine", f"{self.node}: {'; '.join(wrong)}")

    @property
    def at(self) -> tuple[int, int]:
        """Return the index and the term of the newest command of a replicated log."""
        return self.machine.book.index, self.machine.book.term

    def stamp_ms(self) -> int:
        stamp_ms = super().stamp_ms()
        if stamp_ms:
            self.sim.world.times.stamped(self.sim.member._core.term, stamp_ms)
        return stamp_ms

    def watch_clocks(self) -> None:
        """Look at the time that this member keeps whenever it looks at the others'."""
        look = self.timekeeping.look

        def looked(
            raft: RaftStatus, readings: Sequence[ClockReading], committer: LeadersPart
        ) -> None:
            knew = self.time.kept
            look(raft, readings, committer)
            self.sim.world.times.looked(self.sim, knew=knew)

        self.timekeeping.look = looked  # type: ignore[method-assign]

    def watch_publisher(self) -> None:
        """Look at where the publisher goes on: below the floor a change may be told by half."""
        go_on = self.publisher._next

        async def looked(position: int) -> _Part | None:
            floor = self.machine.book.floor
            if position < floor:
                self.sim.world.violate(
                    "INV-6 (floor)",
                    f"{self.node} publishes what follows {position}, the floor is {floor}",
                )
            return await go_on(position)

        self.publisher._next = looked  # type: ignore[method-assign]

    def led(self, term: int) -> None:
        self.sim.led_s = asyncio.get_running_loop().time()
        self.sim.world.led(self.sim, term)
        super().led(term)

    def deposed(self, term: int) -> None:
        self.sim.world.say("deposed", node=self.node, term=term)
        super().deposed(term)

    def reset(self) -> None:
        self.sim.world.say("reset", node=self.node)
        self.sim.world.counts["resets"] += 1
        super().reset()


class WatchedFeed:
    """Watch what a node tells its watchers: exactly the ledger's rows, without gap or repeat
    (INV-6).
    """

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._last: int | None = None
        self.told: dict[int, str] = {}
        """By revision, what was told and is not undone."""

    def __call__(self, settled: Settled) -> None:
        world = self._node.world
        # watchers are told: of a suffix that a quorum lost, or of contents that differed
        lost = world.plan.replicated and settled.undone_after == settled.previous
        if lost:
            self.told = {at: op_id for at, op_id in self.told.items() if at <= settled.last}
        if self._last is not None and settled.previous != self._last and not lost:
            world.violate(
                "INV-6 (watch)", f"{self._node.name} jumps from {self._last} to {settled.previous}"
            )
        self._last = settled.last
        world.counts["watched"] += len(settled.records)
        for revision, record in enumerate(settled.records, settled.previous + 1):
            self.told[revision] = record.op_id
            world.kept[revision, settled.term] = record.op_id
            known = world.settled_as.setdefault(revision, record.op_id)
            if known != record.op_id and (world.plan.raft_keeps or not world.plan.loses):
                # Else the store was taken back behind it, and a majority of the logs has lost it as
                # well: nobody knows.
                world.violate(
                    "INV-6 (revisions)", f"{revision} was {known}, and is {record.op_id} now"
                )
        if world.plan.loses:
            return
        for revision, record in enumerate(settled.records, settled.previous + 1):
            row = world.landed.landed.get(revision)
            bare = msgspec.structs.replace(record, numbers=())  # which only a Settle carries
            if row is None or row.body[revision - row.first] != bare:
                world.violate(
                    "INV-6 (watch)",
                    f"{self._node.name} tells {record.op_id}@{revision}, not in the ledger",
                )
        for version in settled.versions or ():
            if world.landed.newest(version.key, version.revision) != version:
                world.violate(
                    "INV-6 (watch)", f"{self._node.name} tells {version}, not in the store"
                )
        if settled.records and len(settled.records) != settled.last - settled.previous:
            world.violate(
                "INV-6 (watch)", f"{self._node.name} leaves out records up to {settled.last}"
            )
