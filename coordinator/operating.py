"""Carry out what operators ask of the cluster: amend the limits, adopt a store's head.

Raises BadRequest for what cannot be done, NotApplied for what was not done, OutcomeUnknown for what
may still happen.
"""

from __future__ import annotations

import asyncio

from coordinator.commit.leadership import LeadersPart
from coordinator.log import Log
from coordinator.machine.commands import Amend, encode
from coordinator.machine.limits import Limits
from coordinator.machine.machine import Machine
from coordinator.peers.roster import Roster
from kv.errors import BadRequest, NotApplied, OutcomeUnknown


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
    ) -> None:
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
