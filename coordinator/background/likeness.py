"""Detect that this member's machine diverged from the leader's, and rebuild it from snapshot and
log.

If that does not help, the local snapshot has diverged too, and the leader's replaces it.

Machines that apply the same log are equal. A machine that has applied everything that the leader
had, and still lacks what the leader has settled, is not equal: whatever the cause, nothing may be
judged by it. A member that is merely slow is never treated as diverged.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog

from coordinator.log import Log
from coordinator.machine.machine import Machine
from kv.errors import KvError

LOOK_S: Final = 1.0
"""How often a member that lags checks whether it only lags."""
AGAIN_S: Final = 30.0
"""The longest pause before a machine that diverged again is rebuilt again."""
CONFIRM_TIMEOUT_S: Final = 5.0

_log = structlog.get_logger("acordo.likeness")


class ComparedMember(Protocol):
    """The member whose machine is compared, as far as the comparison needs it."""

    @property
    def machine(self) -> Machine:
        """Its machine."""
        ...

    @property
    def leads(self) -> bool:
        """Whether it leads, as far as it knows."""
        ...

    def leader_settled(self) -> int | None:
        """Return the settled revision in the leader's note of the present term; None when there is
        none yet.
        """
        ...


class Likeness:
    """The comparison of a member's machine with what the leader reports. Call `run` once."""

    def __init__(self, member: ComparedMember, log: Log) -> None:
        self._member, self._log = member, log
        self.apart = False
        """Whether the machine lacks what the leader has settled, though it has applied the same
        log. Nothing may be judged by it then.
        """
        self.rebuilt = 0

    async def run(self) -> None:
        """Compare again and again, forever."""
        pause_s = LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                apart = await self._differs()
            except (KvError, TimeoutError):
                continue  # no quorum confirms a position now
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
            else:  # the local snapshot, if any, was made by a machine that had already diverged
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
        """Return whether this machine lacks what the leader had settled, after applying everything
        that the leader had applied.

        The leader's note is older than the ReadIndex round, and what the leader had applied when it
        wrote the note was committed: so it lies below the position.
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
