"""Notice that this member's machine went another way than the leader's, and build it anew from
snapshot and log.

If that does not help, the snapshot here went the other way too: the leader's takes its place.

Machines that apply the same log are the same. One that has applied all that the leader had, and
still lacks what the leader has settled, is not: whatever made it so, nothing may be judged by it.
It never takes slowness for difference.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog

from coordinator.log import Log
from coordinator.machine.machine import Machine
from kv.errors import KvError

LOOK_S: Final = 1.0
"""How often a member that lags looks whether it only lags."""
AGAIN_S: Final = 30.0
"""Longest pause before a machine that went apart once more is built anew once more."""
CONFIRM_TIMEOUT_S: Final = 5.0

_log = structlog.get_logger("acordo.likeness")


class ComparedMember(Protocol):
    """What comparing asks of the member it runs on."""

    @property
    def machine(self) -> Machine:
        """Its machine."""
        ...

    @property
    def leads(self) -> bool:
        """Whether it leads, as far as it knows."""
        ...

    def leader_settled(self) -> int | None:
        """Return the settled revision that the leader gave in its note of the present term; None:
        there is none yet.
        """
        ...


class Likeness:
    """A member's comparison of its own machine with the leader's word. `run` it once."""

    def __init__(self, member: ComparedMember, log: Log) -> None:
        self._member, self._log = member, log
        self.apart = False
        """The machine lacks what the leader has settled, though it has applied the same log: refuse
        to judge by it.
        """
        self.rebuilt = 0

    async def run(self) -> None:
        """Look, for ever."""
        pause_s = LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                apart = await self._differs()
            except (KvError, TimeoutError):
                continue  # nobody confirms anything now
            if not apart:
                if self.apart:
                    _log.info(
                        "machine is like the leader's again",
                        settled=self._member.machine.settled.revision,
                    )
                self.apart, pause_s = False, LOOK_S
                continue
            settled = self._member.machine.settled.revision
            if not self.apart:
                _log.critical("machine is not like the leader's: building it anew", settled=settled)
                self._log.replay()
            else:  # so the snapshot here, if any, was made by a machine that had gone apart
                _log.critical(
                    "machine is still not like the leader's: its snapshot is asked for",
                    settled=settled,
                    advice="if that lasts, replace this member",
                )
                self._log.fetch_snapshot()
            self.apart = True
            self.rebuilt += 1
            pause_s = min(pause_s * 2, AGAIN_S)

    async def _differs(self) -> bool:
        """Say whether this machine lacks what the leader had settled, after applying all that the
        leader had applied.

        The leader's word is older than the round; what it had applied then is committed, so it lies
        below the position.
        """
        leader_settled, machine = self._member.leader_settled(), self._member.machine
        if (
            self._member.leads
            or leader_settled is None
            or machine.settled.revision >= leader_settled
        ):
            return False
        position = await self._log.read_index(timeout_s=CONFIRM_TIMEOUT_S)
        if self._log.applied != position:
            await self._log.wait_applied(position, timeout_s=CONFIRM_TIMEOUT_S)
        return not self._member.leads and machine.settled.revision < leader_settled
