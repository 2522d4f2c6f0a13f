"""Carry out what operators ask of the cluster: amend the limits, give up old revisions, adopt a
store's head.

Raises BadRequest for what cannot be done, NotApplied for what was not done, OutcomeUnknown for what
may still happen.
"""

from __future__ import annotations

import asyncio

from coordinator.commit.leadership import LeadersPart
from coordinator.log import Log
from coordinator.machine.commands import Amend, Floor, encode
from coordinator.machine.limits import Limits
from coordinator.machine.machine import Machine
from coordinator.peers.roster import Roster
from coordinator.replicated.cursors import OrderedCursors
from kv.errors import BadRequest, NotApplied, OutcomeUnknown, Pruned


class Operating:
    """The operator's commands on one member; they go to its log and its committer."""

    def __init__(
        self,
        node: str,
        log: Log,
        *,
        machine: Machine,
        committer: LeadersPart,
        roster: Roster,
        limits: Limits,
        cursors: OrderedCursors | None,
    ) -> None:
        """`cursors`: what has been told of; None: the store is shared."""
        self._cursors = cursors
        self._node, self._log, self._machine = node, log, machine
        self._committer, self._roster, self._limits = committer, roster, limits

    @property
    def limits_differ(self) -> tuple[str, ...]:
        """Names of the limits in which this member's settings differ from those in the log, which
        apply.
        """
        machine = self._machine
        return () if machine.founded is None else machine.limits.differing(self._limits)

    async def amend(self, *, timeout_s: float) -> tuple[str, ...]:
        """See `kv.ports.Consensus.amend`."""
        if self._machine.founded is None:
            raise NotApplied("starting", "no history is founded yet")
        changed = self.limits_differ
        through = self._log.propose(encode(Amend(self._limits)))
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(through)
        except TimeoutError as exc:
            raise OutcomeUnknown("the limits are still on their way to the log") from exc
        return changed

    async def compact(self, revision: int, *, timeout_s: float) -> bool:
        """See `kv.ports.Consensus.compact`."""
        machine, cursors = self._machine, self._cursors
        if cursors is None:
            return False
        if revision > machine.settled.revision:
            raise BadRequest("future_revision", f"revision {revision} was not given yet")
        if revision <= machine.book.floor:
            raise Pruned(machine.book.floor)
        held = cursors.held_at()
        if held is not None and revision > held:
            raise NotApplied("behind", f"what is after revision {held} is not broadcast yet")
        through = self._log.propose(encode(Floor(revision)))
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(through)
        except TimeoutError as exc:
            raise OutcomeUnknown("the floor is still on its way to the log") from exc
        return True

    async def adopt(self, *, gives_up: int | None, timeout_s: float) -> int:
        """See `kv.ports.Consensus.adopt`."""
        if self._committer.term is None:
            raise self._not_leader()
        adopted = self._committer.adopt(gives_up)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(adopted)
        except TimeoutError as exc:
            raise OutcomeUnknown("the adoption is still on its way") from exc

    def _not_leader(self) -> NotApplied | BadRequest:
        self._roster.look(self._log.status())
        leader = self._roster.leader.id
        if leader is None or leader == self._node:
            return NotApplied(
                "no_leader", "only the leader adopts the store's head, and none is known here yet"
            )
        where = self._roster.url_of(leader)
        return BadRequest(
            "ask_leader",
            f"only the leader adopts the store's head: {leader}{where and f' at {where}'}",
            allowed=where or leader,
        )
