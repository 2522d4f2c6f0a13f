"""Be one member of the replicated log: `coordinator.log.Log` on the hardened core.

Never sends a command twice, never calls a time-out a failure (INV-4), never reads a clock, thread,
file or random source but those it is given. Decides nothing: protocol.py, readindex.py and
membership.py do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any, Final, Literal, Protocol, Self

import msgspec
import structlog
from pysyncobj import SyncObjConf
from pysyncobj.node import Node

from coordinator.log import Members, Peer, PeerAddress, Position, RaftStatus, Replica
from coordinator.raft.core.messages import ALL
from coordinator.raft.core.protocol import Core
from coordinator.raft.core.reads import Reads
from coordinator.raft.core.rules.membership import (
    Add,
    Change,
    Promote,
    Refusal,
    Remove,
    bootstrap,
    first_digest,
)
from coordinator.raft.core.state import (
    DISCARDED,
    MISSING_LEADER,
    NOT_LEADER,
    QUEUE_FULL,
    REQUEST_DENIED,
    SUCCESS,
)
from coordinator.raft.net.codec import Codec
from coordinator.raft.net.connection import TransportLimits
from coordinator.raft.net.peer_check import PeerCheck
from coordinator.raft.net.peer_identity import PeerIdentity
from coordinator.raft.net.security import Security
from coordinator.raft.net.transport import AsyncioTransport
from coordinator.raft.storage.disk import Disk
from coordinator.raft.storage.journal import Journal, Policy
from coordinator.raft.storage.snapshot import SnapshotStore
from kv.errors import BadRequest, InvariantViolated, KvError, NotApplied, OutcomeUnknown
from kv.ports import Clock

COMMAND_BYTES_MAX: Final = 16 << 20
"""One command; with its stamp it must fit what the wire allows."""
WAITING_BYTES_MAX: Final = 64 << 20
WAITING_MAX: Final = 20_000
"""Commands, and their bytes, that wait for their outcome here; more are refused as overloaded."""
NOTE_PERIOD_S: Final = 0.25
"""Notes carry the time, which a member that starts waits for before it takes writes."""
NOTE_BYTES_MAX: Final = 256
RETRY_S: Final = 0.05
"""Pause before a membership change that was refused for the moment is asked again."""
REDIAL_S_MAX: Final = 0.25
"""Longest pause before a peer is dialled again: a member that is back must be reached before the
next failure.
"""
UNKNOWN: Final = "unknown"
"""The problem that a leader answers when it cannot tell whether a transfer will happen."""
TIMER_S_MAX: Final = 0.1
TIMER_S_MIN: Final = 0.001

log = structlog.get_logger("acordo.raft")


class Settings(msgspec.Struct, frozen=True):
    """How this member behaves; timings are for a local network."""

    fsync: Policy = "always"
    election_min_s: float = 0.3
    election_max_s: float = 0.6
    heartbeat_s: float = 0.05
    propose_timeout_s: float = 10.0
    """After it a command without an answer is unknown."""
    batch_bytes: int = 1 << 20
    """Entries sent in one message."""
    chunk_bytes: int = 1 << 20
    """Snapshot bytes sent in one message."""
    compact_entries: int = 50_000
    compact_bytes: int = 32 << 20
    """A snapshot is made when the log has grown by either since the last one."""


class MemberTransport(Protocol):
    """What a member needs of a transport beyond the library's own interface."""

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    identity: Callable[[], PeerIdentity]
    """What goes with our hello."""
    judge: Callable[[str, PeerIdentity], tuple[str, str] | None]
    """(peer that has proved itself, its identity) -> (reason, detail) why it is not let in, or
    None.
    """
    on_refused: Callable[[str, str], None]
    """(peer, what it said) when it did not let us in."""


TransportFactory = Callable[[Node, Callable[[], None], Callable[[BaseException], None]], Any]
"""(own node, kick, on_fatal) -> a `pysyncobj.transport.Transport` that is a MemberTransport too."""


class MemberCore(Core):
    """The core, with every fault of ours handed to the member instead of to whoever delivered a
    message.
    """

    fault: Callable[[BaseException], None]

    def _SyncObj__onMessageReceived(self, node: Node, message: dict[str, Any]) -> None:
        try:
            super()._SyncObj__onMessageReceived(node, message)
        except Exception as exc:  # noqa: BLE001 the process stops (STYLE 9)
            self.fault(exc)


class _Waiting:
    """A proposed command whose outcome is not known yet."""

    __slots__ = ("deadline", "future", "size")

    def __init__(self, future: asyncio.Future[Position], size: int, deadline: float) -> None:
        self.future, self.size, self.deadline = future, size, deadline


class Member:
    """One member. `async with` loads the disk, listens and joins."""

    def __init__(
        self,
        member: str,
        members: Members,
        *,
        cluster: str,
        replica: Replica,
        disk: Disk,
        transport: TransportFactory,
        clock: Clock,
        chance: Random,
        on_fatal: Callable[[BaseException], None],
        settings: Settings = Settings(),  # noqa: B008 frozen
        core: type[MemberCore] = MemberCore,
        journal: Callable[..., Any] = Journal,
    ) -> None:
        """`members`: the cluster as it was first made; once there is a log, its configuration
        counts.

        A new member names itself in it as an observer. `core` and `journal`: for tests that plant
        faults.
        """
        self.id, self._members, self._cluster = member, tuple(members), cluster
        own = next((m for m in self._members if m.id == member), None)
        if own is None:
            raise BadRequest(
                "not_a_member",
                f"{member} is not in the list of members",
                allowed="a list with itself",
            )
        self._address = own.address
        self._replica, self._disk, self._make_transport = replica, disk, transport
        self._clock, self._chance, self._on_fatal = clock, chance, on_fatal
        self._settings, self._core_type, self._make_journal = settings, core, journal

        self._core: MemberCore
        self._journal: Any = None
        self._transport: Any = None
        self._peer_check: PeerCheck
        self._reads: Reads
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._waiting_count = 0
        self._applied_waiters: list[tuple[Position, asyncio.Future[None]]] = []
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._asked: dict[int, asyncio.Future[tuple[str, str]]] = {}
        self._next_ask = 0
        self._notes: dict[str, tuple[bytes, int, float]] = {}
        """The newest note of each peer, the term it was made in, and when it came."""
        self._noted_at = float("-inf")
        self._noted_in: object = None
        """The term, its leader and the connected peers, as they were when the own note was last
        told.
        """
        self._tasks: dict[asyncio.Task[Any], None] = {}
        """In the order of their start: nothing depends on the order of a set."""
        self._tick_pending = self._timer_pending = False
        self._timer: asyncio.TimerHandle | None = None
        self._running = False
        self._loop: asyncio.AbstractEventLoop

    # ----------------------------------------------------------------------------------------- life

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        settings = self._settings
        self._journal = self._make_journal(
            disk=self._disk, cluster=self._cluster, member=self.id, fsync=settings.fsync
        )
        self._journal.on_fatal = self._fail
        snapshots = SnapshotStore(self._disk, cluster=self._cluster)
        node = Node(self.id, address=self._address)
        self._transport = self._make_transport(node, self.kick, self._fail)
        order = sorted(m.id for m in self._members).index(self.id)
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesPeriod=settings.heartbeat_s,
            raftMinTimeout=settings.election_min_s,
            raftMaxTimeout=settings.election_max_s,
            leaderFallbackTimeout=settings.election_max_s,
            connectionTimeout=max(1.5, settings.election_max_s),
            appendEntriesBatchSizeBytes=settings.batch_bytes,
            logCompactionBatchSize=settings.chunk_bytes,
            # Staggered: members that snapshot at the same log index would be slow at the same time.
            logCompactionMinEntries=settings.compact_entries
            + order * max(1, settings.compact_entries // 10),
            commandsWaitLeader=False,
            commandsQueueSize=WAITING_MAX,
        )
        others = [Node(m.id, address=m.address) for m in self._members if m.id != self.id]
        self._core = self._core_type(
            node,
            others,
            conf,
            nodeClass=Node,
            transport=self._transport,
            clock=self._clock,
            chance=self._chance,
            replica=self._replica,
            journal=self._journal,
            snapshots=snapshots,
            spawn=self._spawn,
            configuration=bootstrap(self._members),
            first=first_digest(self._members, self.id),
            compact_bytes=settings.compact_bytes,
            leader_wait_s=settings.election_max_s,
        )
        self._core.fault = self._fail
        self._core.on_kick = self.kick
        incarnation = self._chance.getrandbits(128).to_bytes(16, "big")
        self._peer_check = PeerCheck(self._core, self.id, self._address, incarnation, self._fail)
        self._transport.identity, self._transport.judge = (
            self._peer_check.identity,
            self._peer_check.judge,
        )
        self._transport.on_refused = self._peer_check.on_refused
        self._reads = Reads(self._core, self._loop, self._chance, self.kick)
        for name, handler in (
            ("note", self._on_note),
            ("ask", self._on_ask),
            ("answer", self._on_answer),
        ):
            self._core.handle(name, handler)
        self._next_ask = self._chance.getrandbits(48)
        self._running = True
        await self._transport.start()
        self.kick()
        self._arm()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for waiting in self._waiting:
            self._settle(waiting, OutcomeUnknown("this member stops"))
        self._reads.close()
        for _, future in (*self._applied_waiters, *self._watchers):
            future.cancel()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(OutcomeUnknown("this member stops"))
        if self._transport is not None:
            await self._transport.aclose()
        if self._journal is not None:
            await self._journal.aclose()

    def _fail(self, exc: BaseException) -> None:
        """Stop for good: a fault of ours, or a disk that does not keep."""
        if not self._running:
            return
        self._running = False
        log.critical("raft stops", member=self.id, error=repr(exc), exc_info=exc)
        self._on_fatal(exc)

    def _spawn(
        self, work: Coroutine[Any, Any, Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        task = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda ended: self._ended(ended, done))

    def _ended(
        self, task: asyncio.Task[Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        del self._tasks[task]
        if task.cancelled() or not self._running:
            return
        exc = task.exception()
        if exc is None:
            self._guarded(lambda: done(task.result(), None))
        elif isinstance(exc, OSError | ValueError | KvError):
            self._guarded(lambda: done(None, exc))
        else:
            self._fail(exc)

    # ---------------------------------------------------------------------------------------- ticks

    def kick(self) -> None:
        """Tick at the loop's next turn: all that happens until then is handled together."""
        if not self._tick_pending and self._running:
            self._tick_pending = True
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._tick_pending = False
        if self._running:
            self._guarded(self._work)

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as exc:  # noqa: BLE001 the process stops (STYLE 9)
            self._fail(exc)

    def _work(self) -> None:
        self._core.doTick()
        self._reads.drive()
        if self._applied_waiters:
            self._applied_waiters = [
                waiter for waiter in self._applied_waiters if not self._reached(*waiter)
            ]
        if self._watchers:
            self._watchers = [watcher for watcher in self._watchers if not self._seen(*watcher)]

    def _arm(self) -> None:
        delay = self._core.next_due() - self._clock.monotonic()
        self._timer = self._loop.call_later(
            min(max(delay, TIMER_S_MIN), TIMER_S_MAX), self._on_timer
        )

    def _on_timer(self) -> None:
        if not self._running:
            return
        now = self._clock.monotonic()
        while self._waiting and (
            self._waiting[0].future.done() or self._waiting[0].deadline <= now
        ):
            self._settle(self._waiting.popleft(), OutcomeUnknown("no answer in time"))
        self._guarded(self._work)
        situation = self._situation()
        if now - self._noted_at >= NOTE_PERIOD_S or situation != self._noted_in:
            self._noted_at, self._noted_in = now, situation
            self._tell_note()
        if self._running:
            self._arm()

    # ------------------------------------------------------------------------------------ proposals

    def propose(self, command: bytes) -> asyncio.Future[Position]:
        future: asyncio.Future[Position] = self._loop.create_future()
        size = len(command)
        if not self._running:
            future.set_exception(NotApplied("draining", "this member has stopped"))
        elif (
            size > COMMAND_BYTES_MAX
            or self._waiting_count >= WAITING_MAX
            or self._waiting_bytes + size > WAITING_BYTES_MAX
            or (self._core.leads and self._journal.unsynced_bytes + size > WAITING_BYTES_MAX)
        ):
            future.set_exception(
                NotApplied("overloaded", "too many commands or bytes wait for their order")
            )
        else:
            waiting = _Waiting(
                future, size, self._clock.monotonic() + self._settings.propose_timeout_s
            )
            self._waiting.append(waiting)
            self._waiting_bytes += size
            self._waiting_count += 1
            self._core.propose(
                command, lambda result, reason: self._settle(waiting, _outcome(result, reason))
            )
        return future

    def _settle(self, waiting: _Waiting, outcome: Position | Exception) -> None:
        if waiting.size >= 0:
            self._waiting_bytes -= waiting.size
            self._waiting_count -= 1
            waiting.size = -1
        if waiting.future.done():
            return
        if isinstance(outcome, Exception):
            waiting.future.set_exception(outcome)
        else:
            waiting.future.set_result(outcome)

    # ---------------------------------------------------------------------------------------- reads

    async def read_index(self, *, timeout_s: float) -> Position:
        if not self._running:
            raise NotApplied("draining", "this member has stopped")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reads.arrive()
        except TimeoutError as exc:
            raise NotApplied("no_quorum", "no quorum confirmed the read in time") from exc

    def open_reads(self, term: int) -> None:
        self._reads.open(term)
        self.kick()

    @property
    def applied(self) -> Position:
        return self._core.applied

    async def wait_applied(self, position: Position, *, timeout_s: float) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        if self._reached(position, future):
            return
        self._applied_waiters.append((position, future))
        async with asyncio.timeout(timeout_s):
            await future

    def _reached(self, position: Position, future: asyncio.Future[None]) -> bool:
        """Answer a waiter whose very entry is applied; True: it needs no more attention."""
        if not future.done() and self._core.has_applied(position):
            future.set_result(None)
        return future.done()

    # --------------------------------------------------------------------------------------- status

    def status(self) -> RaftStatus:
        core = self._core
        leader = core._getLeader()
        return RaftStatus(
            id=self.id,
            role=core.role,
            term=core.raftCurrentTerm,
            leader=None if leader is None else leader.id,
            quorum=core.quorate,
            applied=core.raftLastApplied,
            committed=core.raftCommitIndex,
            last=core.last_index,
            fsync=self._settings.fsync,
            unsynced_age_s=core.unsynced_age_s(),
            peers=tuple(self._peer(member) for member in core.members),
            unfit=core.unfit,
            conflicts=self._conflicts(),
        )

    def _conflicts(self) -> tuple[str, ...]:
        duplicate_ids = getattr(self._transport, "duplicate_ids", ())
        return (
            *(f"two processes use the id {member}; stop one of them" for member in duplicate_ids),
            *self._peer_check.conflicts,
        )

    def _peer(self, member: PeerAddress) -> Peer:
        core = self._core
        if member.id == self.id:
            return Peer(
                member.id,
                member.address,
                member.voter,
                core.role,
                core.last_index,
                0.0,
                bytes(self._replica.note()),
            )
        role: Literal["leader", "follower", "observer", "unknown"] = "unknown"
        leader = core._getLeader()
        if leader is not None and leader.id == member.id:
            role = "leader"
        elif core.connected(member.id):
            role = "follower" if member.voter else "observer"
        note, term, came_s = self._notes.get(member.id, (b"", 0, 0.0))
        return Peer(
            id=member.id,
            address=member.address,
            voter=member.voter,
            role=role,
            match=core.match(member.id),
            last_seen_s=core.last_seen_s(member.id),
            note=note,
            note_term=term,
            note_age_s=max(0.0, self._clock.monotonic() - came_s),
            trouble=core.trouble(member.id),
        )

    def _tell_note(self) -> None:
        note = bytes(self._replica.note())[:NOTE_BYTES_MAX]
        self._core.broadcast({"type": "note", "note": note, "term": self._core.raftCurrentTerm})

    def _situation(self) -> tuple[object, ...]:
        """Return what makes a note due at once: who may need it changed."""
        core = self._core
        leader = core._getLeader()
        reached = tuple(member.id for member in core.members if core.connected(member.id))
        return core.raftCurrentTerm, None if leader is None else leader.id, reached

    def _on_note(self, node: Node, message: dict[str, Any]) -> None:
        self._notes[node.id] = message["note"], message["term"], self._clock.monotonic()

    @property
    def counts(self) -> dict[str, int]:
        """How often something notable happened: elections, truncations, snapshots_installed, ..."""
        return dict(self._core.counts)

    # -------------------------------------------------------------------------- leadership, members

    def replay(self) -> None:
        self._core.replay()

    def fetch_snapshot(self) -> None:
        self._core.fetch_snapshot()
        self.kick()

    def step_down(self) -> None:
        self._core.resign()
        self.kick()

    def outrank(self, term: int) -> None:
        self._core.outrank(term)
        self.kick()

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        """Move the leadership to `to` or to the most advanced voter; return who leads then, as seen
        here.

        May be asked of any member. Raises BadRequest (`to` is no voter), NotApplied,
        OutcomeUnknown.
        """
        deadline = self._clock.monotonic() + timeout_s
        core = self._core
        if to is not None and not core.configuration.votes(to):
            raise BadRequest(
                "not_a_voter", f"{to} is not a voter", allowed=", ".join(core.configuration.voters)
            )
        while True:
            if core.leads:
                return await self._hand_over(to, deadline)
            leader = core._getLeader()
            if leader is not None:
                if leader.id == to:
                    return leader.id
                return await self._ask(leader, to or "", deadline)
            await self._wait_until(lambda: core._getLeader() is not None, deadline, "no_leader")

    async def _hand_over(self, to: str | None, deadline: float) -> str:
        core, term = self._core, self._core.raftCurrentTerm
        if to == self.id:
            return self.id
        told = False
        """A voter was told to stand: it may do so however late, so nothing is "not applied" any
        more (INV-4).
        """
        try:
            while core.leads and core.raftCurrentTerm == term:
                target = core.transfer_target(to)
                if target is None:
                    raise _not_moved(
                        told,
                        "no_quorum",
                        f"no connected voter can take over{f': {to}' if to else ''}",
                    )
                # New commands wait, unordered, until the target holds the log; then they follow the
                # leadership.
                core.hold(self._settings.election_max_s)
                attempt = min(deadline, self._clock.monotonic() + self._settings.election_max_s)
                with contextlib.suppress(NotApplied):
                    await self._wait_until(_caught_up(core, target), attempt, "")
                if core.leads and core.maybe_hand_over(target):
                    told = True
                    with contextlib.suppress(NotApplied):
                        await self._wait_until(lambda: not core.leads, attempt, "")
                if self._clock.monotonic() >= deadline and core.leads:
                    raise _not_moved(told, "no_quorum", "the leadership did not move in time")
            try:
                await self._wait_until(
                    lambda: core._getLeader() is not None and core.raftCurrentTerm > term,
                    deadline,
                    "no_leader",
                )
            except NotApplied as exc:
                raise _not_moved(told, exc.reason, "no other leader is heard in time") from exc
        finally:
            core.hold(0)
        leader = core._getLeader()
        return "" if leader is None else leader.id

    async def _ask(self, leader: Node, to: str, deadline: float) -> str:
        """Let the leader do it."""
        self._next_ask += 1
        ask = self._next_ask
        future: asyncio.Future[tuple[str, str]] = self._loop.create_future()
        self._asked[ask] = future
        left = max(0.0, deadline - self._clock.monotonic())
        try:
            if not self._core.tell(
                leader, {"type": "ask", "ask": ask, "to": to, "timeout_s": left}
            ):
                raise NotApplied("no_leader", f"{leader.id} is not reached")
            async with asyncio.timeout(left):
                problem, answer = await future
        except TimeoutError as exc:
            raise OutcomeUnknown("no answer to the transfer in time") from exc
        finally:
            del self._asked[ask]
        if problem == UNKNOWN:
            raise OutcomeUnknown(answer)
        if problem:
            raise NotApplied(problem, answer)
        return answer

    def _on_ask(self, node: Node, message: dict[str, Any]) -> None:
        async def serve() -> tuple[str, str]:
            try:
                return "", await self.transfer(
                    message["to"] or None, timeout_s=min(message["timeout_s"], 60.0)
                )
            except NotApplied as exc:
                return exc.reason, exc.detail
            except BadRequest as exc:
                return "no_leader", exc.detail
            except OutcomeUnknown as exc:
                return UNKNOWN, exc.detail

        def answer(result: Any, exc: BaseException | None) -> None:
            problem, text = result or (UNKNOWN, repr(exc))
            self._core.tell(
                node, {"type": "answer", "ask": message["ask"], "problem": problem, "text": text}
            )

        if not self._core.leads:
            answer(("not_leader", f"{self.id} does not lead"), None)
        elif len(self._tasks) < 64:
            self._spawn(serve(), answer)

    def _on_answer(self, node: Node, message: dict[str, Any]) -> None:
        future = self._asked.get(message["ask"])
        if future is not None and not future.done():
            future.set_result((message["problem"], message["text"]))

    async def add_member(self, member: str, address: str, *, voter: bool, timeout_s: float) -> str:
        """Take in an observer; with `voter` promote it once it has caught up. Asking again is safe.

        Return "" when all of it was done, else in words what was not: there was nothing to do, or
        it is a member now and not yet a voter. Raises BadRequest "membership_refused" or "unsafe"
        with the reason, NotApplied, OutcomeUnknown.
        """
        deadline = self._clock.monotonic() + timeout_s
        added = await self._change(Add(member, address), deadline)
        if not voter:
            return "" if added else f"{member} is a member already: there was nothing to do"
        try:
            promoted = await self._change(Promote(member), deadline)
        except (BadRequest, NotApplied) as exc:
            if not added:
                raise  # it was a member when we were asked: nothing has changed
            told = exc.detail
            return (
                told
                if told.startswith(member)
                else f"{member} is a member, not yet a voter: {told}"
            )
        return "" if added or promoted else f"{member} is a voter already: there was nothing to do"

    async def remove_member(self, member: str, *, timeout_s: float) -> str:
        """Take a member out for good; a leader hands its leadership over first. Return as
        `add_member` does.
        """
        deadline = self._clock.monotonic() + timeout_s
        leader = self._core._getLeader()
        if leader is not None and leader.id == member and len(self._core.configuration.voters) > 1:
            await self.transfer(None, timeout_s=timeout_s)
        removed = await self._change(Remove(member), deadline)
        return "" if removed else f"{member} was removed before: there was nothing to do"

    async def _change(self, change: Change, deadline: float) -> bool:
        """Ask until it is so, or is refused for good, or time is up: a change that is so already
        changes nothing.

        Say whether it was made now; an attempt whose answer was lost may have made it, so then it
        counts as made. A refusal speaks of the attempt that it answers: once an attempt is unknown,
        it may still take effect, so from then on only success is definite (INV-4).
        """
        unknown: OutcomeUnknown | None = None
        while True:
            answered: asyncio.Future[tuple[Any, int]] = self._loop.create_future()
            self._core.change(change, _into(answered))
            try:
                async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                    result, reason = await answered
            except TimeoutError as exc:
                raise OutcomeUnknown("no answer to the membership change in time") from exc
            if reason == SUCCESS:
                return isinstance(result, Position) or unknown is not None
            refusal: Exception
            if isinstance(result, Refusal):
                refusal = BadRequest(
                    "unsafe" if result.later else "membership_refused", result.reason
                )
            else:
                refusal = _as_error(result, reason)
            if isinstance(refusal, OutcomeUnknown):
                unknown = refusal
            for_good = isinstance(result, Refusal) and not result.later
            # The last moment while it is definite: another attempt could end without an answer.
            if for_good or deadline - self._clock.monotonic() < 2 * RETRY_S:
                if unknown is None or unknown is refusal:
                    raise refusal
                raise OutcomeUnknown(
                    f"an earlier attempt may take effect; the last one did not: {refusal}"
                ) from refusal
            await asyncio.sleep(RETRY_S)

    # -------------------------------------------------------------------------------------- waiting

    async def _wait_until(self, holds: Callable[[], bool], deadline: float, reason: str) -> None:
        """Wait for a condition that ticks may bring about. Raises NotApplied(reason)."""
        if holds():
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._watchers.append((holds, future))
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                await future
        except TimeoutError as exc:
            raise NotApplied(reason or "no_leader", "not in time") from exc

    @staticmethod
    def _seen(holds: Callable[[], bool], future: asyncio.Future[None]) -> bool:
        if not future.done() and holds():
            future.set_result(None)
        return future.done()


_REASONS: Final = {
    QUEUE_FULL: ("overloaded", "the queue of commands is full"),
    MISSING_LEADER: ("no_leader", "there is no leader"),
    NOT_LEADER: ("not_leader", "the leader was not reached"),
    DISCARDED: ("deposed", "another leader's entry took its place in the log"),
    REQUEST_DENIED: ("not_leader", "the leader denied it"),
}


def _as_error(result: Any, reason: int) -> Exception:
    """Sort by research section 4: what was in no log, or was replaced in it, is definite; all else
    is unknown.
    """
    if reason in _REASONS:
        code, detail = _REASONS[reason]
        return NotApplied(code, detail, retry_after_s=0.5)
    return OutcomeUnknown("the connection or the leadership was lost before the outcome was known")


def _not_moved(told: bool, reason: str, detail: str) -> NotApplied | OutcomeUnknown:
    """Refuse a transfer; once a voter was told to stand it is unknown."""
    return (
        OutcomeUnknown(f"a voter was told to take over, and may yet: {detail}")
        if told
        else NotApplied(reason, detail)
    )


def _caught_up(core: Core, target: Node) -> Callable[[], bool]:
    return lambda: not core.leads or core.holds_all(target)


def _into(future: asyncio.Future[tuple[Any, int]]) -> Callable[[Any, int], None]:
    def settle(result: Any, reason: int) -> None:
        if not future.done():
            future.set_result((result, reason))

    return settle


def _outcome(result: Any, reason: int) -> Position | Exception:
    if reason != SUCCESS:
        return _as_error(result, reason)
    if isinstance(result, Position):
        return result
    return InvariantViolated(f"a command raised while it was applied: {result}")


def over_sockets(
    cluster: str,
    listen: str,
    security: Security,
    *,
    chance: Random,
    entropy: Callable[[int], bytes],
    limits: TransportLimits | None = None,
    routes: Mapping[str, str] | None = None,
) -> TransportFactory:
    """Return what makes a member's transport: authenticated connections over sockets.

    `routes`: where members are dialled from here, whatever address all others have for them.
    """

    def make(
        node: Node, kick: Callable[[], None], on_fatal: Callable[[BaseException], None]
    ) -> AsyncioTransport:
        return AsyncioTransport(
            cluster,
            node,
            listen,
            Codec(*ALL),
            rng=chance,
            entropy=entropy,
            security=security,
            wake=kick,
            on_fatal=on_fatal,
            limits=limits or TransportLimits(retry_max_s=REDIAL_S_MAX),
            routes=routes,
        )

    return make
