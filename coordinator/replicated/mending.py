"""Bring a member's own store back to use: let the log go on once it may, and replace a store that
cannot be used by the state of another member. The log and the votes stay (R3, R5).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from coordinator.log import Log, RaftStatus
from coordinator.replicated.condition import Condition
from coordinator.replicated.keeping import Keeping
from coordinator.replicated.settling import Settling
from kv.errors import BackendUnavailable, KvError
from kv.ports import Clock
from kv.ports.member_store import MemberStore

_log = structlog.get_logger("acordo.own_store")

LOOK_S: Final = 0.05
"""How often a member that takes no commands looks whether it may."""
AGAIN_S: Final = 5.0
"""How often another member is asked for its state, while none has come."""
HAND_ON_S: Final = 2.0
BEYOND_LOOKS: Final = 8
"""Looks at a leader whose log does not reach its file, until the file is cut back."""
WRITTEN_S: Final = 2.0
"""When nothing gets into the file for this long, a leader lets another member lead."""


class Mending:
    """The loops that end what keeps a member from applying. Call `run` once."""

    def __init__(
        self,
        own: MemberStore,
        log: Log,
        clock: Clock,
        *,
        condition: Condition,
        keeping: Keeping,
        settling: Settling,
    ) -> None:
        self._own, self._log, self._clock = own, log, clock
        self._condition, self._keeping, self._settling = condition, keeping, settling
        self.held_since_s: float | None = None
        """The monotonic time since which nothing is applied; None: it is."""
        self._held, self._mended = asyncio.Event(), condition.replaced
        self._beyond = 0
        """How often in a row the log had not reached the file."""
        self._handed = 0
        """How often another member was asked to lead."""
        self.refetches = self.set_aside = self.holds = 0
        """How often the state was asked for, a file was put aside, and applying paused (R9)."""

    @property
    def takes_more(self) -> bool:
        """Whether the log may go on. If not, it is told as soon as it may."""
        if self._condition.takes_more:
            return True
        self._held.set()
        return False

    def held_for_s(self) -> float:
        """Return for how long nothing has been applied here; 0 while it is."""
        since_s = self.held_since_s
        return 0.0 if since_s is None else self._clock.monotonic() - since_s

    async def run(self) -> None:
        """Watch the own store, forever."""
        while True:
            self._held.clear()
            if self._condition.takes_more:
                await self._held.wait()
            self.holds, self.held_since_s = self.holds + 1, self._clock.monotonic()
            while not self._condition.takes_more:
                await self._mend()
            self.held_since_s = None
            self._log.resume()

    async def _mend(self) -> None:
        condition = self._condition
        if condition.replacing:
            await asyncio.sleep(LOOK_S)
        elif condition.spoilt is not None:
            await self._replace()
        else:
            await self._drain()

    def look(self, raft: RaftStatus) -> None:
        """Notice a file that was damaged meanwhile.

        Cut the file back to what is applied, if this member leads and its log does not reach
        what the file holds. Call it at a steady pace.

        A quorum has lost what it had acknowledged (R12). Nothing else would end that: what such a
        leader would have to commit first may have to reach members that need a state from it, which
        it gives away only when its file is sure. What is cut off comes again with the log.
        """
        if self._condition.spoilt is None and not self._condition.replacing:
            self._keeping.find_damage()
        above = self._own.note.index > raft.committed == raft.applied
        if raft.role != "leader" or self._condition.caught_up or not above:
            self._beyond = 0
            return
        self._beyond += 1
        if self._beyond < BEYOND_LOOKS or self._own.unwritten_bytes:
            return
        with contextlib.suppress(BackendUnavailable):
            self._settling.cut_to_applied("this leader's log ends before it")

    async def _drain(self) -> None:
        """Wait until what is settled is in the file, or a part of it if that may do."""
        newest, written = self._own.note.index, self._own.written.index
        if not self._condition.draining:
            newest = written + (newest - written + 3) // 4
        try:
            await self._own.wait_written(newest, timeout_s=WRITTEN_S)
        except (BackendUnavailable, TimeoutError):
            if self._leads():
                await self._hand_on()
            await asyncio.sleep(LOOK_S)
            return
        if not self._own.unwritten_bytes:
            self._condition.draining = False
        if not self._condition.takes_more:
            await asyncio.sleep(LOOK_S / 5)

    # ------------------------------------------------------------------------------------ replacing

    async def _replace(self) -> None:
        """Put the file aside, and have the state made anew: from the log if all of it is here, else
        from another member.
        """
        condition = self._condition
        if self._leads() and not await self._hand_on():
            return
        whole = self._keeping.durable is None and condition.spoilt == "set_aside"
        if not whole and self._is_alone():
            # what other copy is there? The file stays where it is.
            await asyncio.sleep(AGAIN_S)
            return
        if self._own.condition == "empty":
            # there is nothing to keep; and what made it unusable may do so again at once
            await asyncio.sleep(LOOK_S)
        elif not condition.fetching:
            await self._put_aside()
        if whole:
            await self._replay()
            return
        self.refetches += 1
        condition.fetching = True
        self._log.fetch_snapshot()
        self._mended.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AGAIN_S):
                await self._mended.wait()

    async def _replay(self) -> None:
        """Make the state anew from the log. The machine begins again before the empty file is in
        use: a machine that is ahead of its file would miss there what it has ordered.
        """
        while not self._log.replay():
            await asyncio.sleep(LOOK_S)  # the log is putting another member's state in place
            if self._condition.spoilt is None:
                return  # it is there
        self._condition.mended()

    async def _put_aside(self) -> None:
        try:
            async with self._keeping.changing:
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
        others = self._other_voters()
        if not others:
            return True
        # Each in turn: the one whose log is furthest may be as unfit, and would hand it back.
        to = others[self._handed % len(others)]
        self._handed += 1
        with contextlib.suppress(KvError, TimeoutError):
            await self._log.transfer(to, timeout_s=HAND_ON_S)
        if not self._leads():
            return True
        await asyncio.sleep(LOOK_S)
        return False

    def _leads(self) -> bool:
        """Return whether this member was elected, also while it cannot apply its term's first
        command, and so serves nobody: its state can come from nowhere then.
        """
        return self._log.status().role == "leader"

    def _is_alone(self) -> bool:
        """Return whether there is no other voter: for an observer of a single one there is."""
        return not self._other_voters()

    def _other_voters(self) -> list[str]:
        """Return the other voters, in the order of a ring that all members agree on."""
        raft = self._log.status()
        others = [peer.id for peer in raft.peers if peer.voter and peer.id != raft.id]
        return sorted(others, key=lambda id: (id < raft.id, id))
