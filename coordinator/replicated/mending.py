"""Bring a member's own store back to use: let the log go on once it may, and replace a store that
cannot be used by the state of another member. The log and the votes stay (R3, R5).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from coordinator.commit.leadership import LeadersPart
from coordinator.log import Log
from coordinator.machine.machine import Machine
from coordinator.replicated.condition import Condition
from coordinator.replicated.keeping import Keeping
from kv.errors import BackendUnavailable, KvError
from kv.ports.member_store import MemberStore

_log = structlog.get_logger("acordo.own_store")

LOOK_S: Final = 0.05
"""How often a member that takes no commands looks whether it may."""
AGAIN_S: Final = 5.0
"""How often another member is asked for its state, while none has come."""
HAND_ON_S: Final = 2.0


class Mending:
    """The loops that end what keeps a member from applying. Call `run` once."""

    def __init__(
        self,
        machine: Machine,
        own: MemberStore,
        log: Log,
        *,
        leading: LeadersPart,
        condition: Condition,
        keeping: Keeping,
    ) -> None:
        self._machine, self._own, self._log = machine, own, log
        self._leading, self._condition, self._keeping = leading, condition, keeping
        self._held, self._mended = asyncio.Event(), condition.replaced
        self.refetches = self.set_aside = self.holds = 0
        """How often the state was asked for, a file was put aside, and applying paused (R9)."""

    @property
    def takes_more(self) -> bool:
        """Whether the log may go on. If not, it is told as soon as it may."""
        if self._condition.takes_more:
            return True
        self._held.set()
        return False

    async def run(self) -> None:
        """Watch the own store, forever."""
        while True:
            self._held.clear()
            if self._condition.takes_more:
                await self._held.wait()
            self.holds += 1
            while not self._condition.takes_more:
                await self._mend()
            self._log.resume()

    async def _mend(self) -> None:
        condition = self._condition
        if condition.spoilt is not None:
            await self._replace()
        elif condition.replacing:
            await asyncio.sleep(LOOK_S)
        else:
            await self._drain()

    async def _drain(self) -> None:
        """Wait until what is settled is in the file."""
        try:
            await self._own.wait_written(self._own.note.index, timeout_s=1.0)
        except (BackendUnavailable, TimeoutError):
            await asyncio.sleep(LOOK_S)
            return
        self._condition.draining = False

    # ------------------------------------------------------------------------------------ replacing

    async def _replace(self) -> None:
        """Put the file aside, and have the state made anew: from the log if all of it is here, else
        from another member.
        """
        condition = self._condition
        if self._leading.term is not None and not await self._hand_on():
            return
        whole = self._keeping.durable is None
        if not whole and self._is_alone():
            # what other copy is there? The file stays where it is.
            await asyncio.sleep(AGAIN_S)
            return
        if not condition.fetching:
            await self._put_aside()
        if whole:
            condition.mended()
            self._log.replay()
            return
        self.refetches += 1
        condition.fetching = True
        self._log.fetch_snapshot()
        self._mended.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AGAIN_S):
                await self._mended.wait()

    async def _put_aside(self) -> None:
        try:
            where = await self._own.set_aside(self._condition.why)
        except (BackendUnavailable, OSError) as exc:
            _log.error("file cannot be put aside", error=str(exc))
            return
        self.set_aside += 1
        _log.warning("file put aside", where=where, why=self._condition.why)

    async def _hand_on(self) -> bool:
        """Hand the leadership on: a leader whose store cannot be used serves nobody. Return whether
        another member leads, or there is no other.
        """
        if self._is_alone():
            return True
        with contextlib.suppress(KvError, TimeoutError):
            await self._log.transfer(None, timeout_s=HAND_ON_S)
        if self._leading.term is None:
            return True
        await asyncio.sleep(LOOK_S)
        return False

    def _is_alone(self) -> bool:
        return sum(peer.voter for peer in self._log.status().peers) <= 1
