"""A replicated log in one process: one list of entries that several members apply, with faults by
command.

It keeps the contract of `coordinator.log.Log`: same entries, same positions, `led` after the own
no-op, ReadIndex only from a leader that has opened its reads. Leaders change, members lag, and
committed entries are lost when a test says so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal, Self

import msgspec

from coordinator.log import PeerStatus, Position, RaftStatus, Replica
from kv.errors import BackendUnavailable, NotApplied, OutcomeUnknown


class SharedEntry(msgspec.Struct, frozen=True):
    """One entry; `command` None is the no-op of a term."""

    term: int
    stamp_ms: int
    command: bytes | None


class SharedLog:
    """What all members share."""

    def __init__(self) -> None:
        self.entries: list[SharedEntry] = []
        self.members: dict[str, SharedMember] = {}
        self.leader: str | None = None
        self.term = 0
        self.dropped: deque[NotApplied | OutcomeUnknown] = deque()
        """Fates of the next proposals, in order; an OutcomeUnknown proposal is ordered all the same
        if `lands`.
        """
        self.unknown_lands = True
        self.filter: Callable[[str, bytes], Exception | None] = lambda member, command: None
        """Asked for each proposal: an exception is its fate."""
        self.fsync: Literal["always", "off"] = "off"
        self.unheard: list[PeerStatus] = []
        """Members that never ran."""
        self.late: list[bytes] = []
        """Commands whose proposal was forwarded and is still on its way."""

    def member(self, name: str) -> Callable[[Replica], SharedMember]:
        return lambda replica: self.members.setdefault(name, SharedMember(self, name, replica))

    def append(self, command: bytes | None) -> Position:
        leader = self.members.get(self.leader or "")
        stamp_ms = leader.replica.stamp_ms() if leader is not None else 0
        self.entries.append(SharedEntry(self.term, stamp_ms, command))
        for member in self.members.values():
            if command is not None and member is not leader and member.open:
                member.replica.foresee(command)
        return Position(len(self.entries), self.term)

    def elect(self, name: str, *, lose: int = 0, unnoticed: bool = False) -> None:
        """Let a member lead the next term; its log lacks the newest `lose` entries of the old one.

        `unnoticed`: the old leader does not hear of it, and goes on.
        """
        if unnoticed:
            self.leader = None
        self.depose()
        if lose:
            del self.entries[-lose:]
        self.term += 1
        self.leader = name
        for member in self.members.values():
            member.notice_loss()
        self.append(None)
        self.pump()

    def depose(self) -> None:
        """Leave the cluster without a leader."""
        if self.leader is not None:
            old, term = self.members.get(self.leader), self.term
            self.leader = None
            if old is not None:
                old.leads = None
                old.replica.deposed(term)

    def pump(self) -> None:
        for member in self.members.values():
            member.pump()


class SharedMember:
    """One member's Log."""

    def __init__(self, shared: SharedLog, name: str, replica: Replica) -> None:
        self.shared, self.name, self.replica = shared, name, replica
        self.position = Position(0, 0)
        self.history: list[SharedEntry] = []
        """What was applied, entry by entry."""
        self.opened: int | None = None
        self.leads: int | None = None
        self.lags = False
        """Apply nothing for now."""
        self.resting = False
        """Replay nothing: another member's state is being put in place."""
        self.ignores_loss = False
        self.prefers = ""
        """To whom the leadership goes if nobody is named."""
        self.outranked_by: list[int] = []
        self.proposed: list[bytes] = []
        self._waits: list[tuple[Position, asyncio.Future[Position]]] = []
        self._pumping = False
        self.open = False
        self._fetching: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        self.open = True
        self.pump()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.open = False
        self.shared.members.pop(self.name, None)
        if self.shared.leader == self.name:
            self.shared.leader = None

    def propose(self, command: bytes) -> asyncio.Future[Position]:
        future: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        shared = self.shared
        fate = shared.dropped.popleft() if shared.dropped else shared.filter(self.name, command)
        if shared.leader is None and fate is None:
            fate = NotApplied("no_leader")
        if fate is not None:
            future.set_exception(fate)
            if (
                isinstance(fate, OutcomeUnknown)
                and shared.unknown_lands
                and shared.leader is not None
            ):
                shared.append(command)
                shared.pump()
            return future
        self.proposed.append(command)
        position = shared.append(command)
        self._waits.append((position, future))
        shared.pump()
        return future

    def pump(self) -> None:
        """Apply what is there, soon."""
        if not self._pumping and not self.lags and self.open:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._apply_all)

    def _apply_all(self) -> None:
        self._pumping = False
        entries = self.shared.entries
        while (
            self.open
            and not self.lags
            and self.replica.takes_more
            and self.position.index < len(entries)
        ):
            entry = entries[self.position.index]
            self.position = Position(self.position.index + 1, entry.term)
            self.history.append(entry)
            if entry.command is not None:
                self.replica.apply(self.position, entry.stamp_ms, entry.command)
            elif entry.term == self.shared.term and self.shared.leader == self.name:
                self.leads = entry.term
                self.replica.led(entry.term)
            self._resolve()

    def _resolve(self) -> None:
        waits, self._waits = self._waits, []
        for position, future in waits:
            if future.done():
                continue
            if self._holds(position):
                future.set_result(position)
            elif self.position.index >= position.index:
                future.set_exception(OutcomeUnknown("overwritten"))
            else:
                self._waits.append((position, future))

    def _holds(self, position: Position) -> bool:
        index = position.index
        return index == 0 or (
            len(self.history) >= index and self.history[index - 1].term == position.term
        )

    def notice_loss(self) -> None:
        """Start again when what was applied is not the log any more."""
        kept = self.shared.entries[: self.position.index]
        if self.history != kept and not self.ignores_loss:
            self.position, self.history = Position(0, 0), []
            self.replica.reset()
        for position, future in self._waits:
            if position.index > len(self.shared.entries) and not future.done():
                future.set_exception(OutcomeUnknown("overwritten"))
        self._waits = [wait for wait in self._waits if not wait[1].done()]

    def install(self, snapshot: bytes, of: SharedMember) -> None:
        """Take another member's snapshot instead of the entries up to its position."""
        self.replica.restore(snapshot)
        self.position, self.history = of.position, list(of.history)
        self._resolve()

    async def read_index(self, *, timeout_s: float) -> Position:
        await asyncio.sleep(0)
        if self.leads not in {None, self.shared.term}:
            raise NotApplied("deposed")  # the voters follow another leader, whom it has not heard
        leader = self.shared.members.get(self.shared.leader or "")
        if leader is None or leader.opened != self.shared.term:
            raise NotApplied("not_taken_over" if leader else "no_leader")
        return Position(len(self.shared.entries), self.shared.entries[-1].term)

    async def ask(self, question: bytes, *, timeout_s: float) -> bytes:
        if self.leads is not None:
            return await self.replica.answer(question)
        await asyncio.sleep(0.0001)
        leader = self.shared.members.get(self.shared.leader or "")
        if leader is None:
            raise NotApplied("no_leader")
        return await leader.replica.answer(question)

    def open_reads(self, term: int) -> None:
        self.opened = term

    @property
    def applied(self) -> Position:
        return self.position

    async def wait_applied(self, position: Position, *, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while not self._holds(position):
                await asyncio.sleep(0.001)

    def status(self) -> RaftStatus:
        return RaftStatus(
            id=self.name,
            role="leader" if self.shared.leader == self.name else "follower",
            term=self.shared.term,
            leader=self.shared.leader,
            quorum=self.shared.leader is not None,
            applied=self.position.index,
            committed=len(self.shared.entries),
            last=len(self.shared.entries),
            fsync=self.shared.fsync,
            peers=(
                *self.shared.unheard,
                *(
                    PeerStatus(
                        id=member.name,
                        address=f"{member.name}:1",
                        voter=True,
                        role="leader" if self.shared.leader == member.name else "follower",
                        match=member.position.index,
                        last_seen_s=0.0,
                        note=member.replica.note(),
                        note_term=self.shared.term,
                    )
                    for member in self.shared.members.values()
                ),
            ),
        )

    def resume(self) -> None:
        self.pump()

    def replay(self) -> bool:
        if self.resting:
            return False
        self.position, self.history = Position(0, 0), []
        self.replica.reset()
        self.pump()
        return True

    def fetch_snapshot(self) -> None:
        source = self.shared.members.get(self.shared.leader or "")
        if source is None or source is self:
            return
        if getattr(self.replica, "own", None) is None:
            self.replay()  # this log has no snapshots: all of it is here
        elif self._fetching is None or self._fetching.done():
            self._fetching = asyncio.ensure_future(self._fetch(source))

    async def _fetch(self, source: SharedMember) -> None:
        """Put another member's state in place: its dump first, then its store (R6)."""
        try:
            position, history = source.position, list(source.history)
            snapshot = source.replica.snapshot()()
            await source.replica.secure(position)
            state = await source.replica.attach()
            assert state is not None
            await self.replica.install(snapshot, state)
        except (BackendUnavailable, ValueError):
            return
        state.close()
        self.position, self.history = position, history
        self.pump()

    def step_down(self) -> None:
        if self.shared.leader == self.name:
            self.shared.depose()

    def outrank(self, term: int) -> None:
        self.outranked_by.append(term)
        self.shared.term = max(self.shared.term, term)
        asyncio.get_running_loop().call_soon(self._stand_again)

    def _stand_again(self) -> None:
        if self.shared.leader in {self.name, None} and self.open:
            self.shared.elect(self.name)

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        others = [name for name in self.shared.members if name != self.name]
        name = to or (self.prefers if self.prefers in others else others[0])
        self.shared.elect(name)
        return name

    async def add_member(self, member: str, address: str, *, voter: bool, timeout_s: float) -> str:
        raise NotImplementedError

    async def remove_member(self, member: str, *, timeout_s: float) -> str:
        raise NotImplementedError
