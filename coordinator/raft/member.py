"""Run one member of the replicated log: `coordinator.log.Log` on the hardened core.

Never sends a command twice, never reports a time-out as a failure (INV-4), and uses no clock,
thread, file or random source but those it is given. It makes no protocol decision; core/ does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final, Self

import msgspec
import structlog
from pysyncobj import SyncObjConf
from pysyncobj.node import Node

from coordinator.log import Members, Position, RaftStatus, Replica
from coordinator.raft.administration import Administration
from coordinator.raft.core.compaction import LogBounds
from coordinator.raft.core.protocol import Core
from coordinator.raft.core.pysyncobj_library import Library, MemberNode
from coordinator.raft.core.questions import Questions
from coordinator.raft.core.reads import ReadIndex
from coordinator.raft.core.rules.membership import bootstrap, first_digest
from coordinator.raft.net.peer_check import PeerCheck
from coordinator.raft.notes import Notes
from coordinator.raft.proposals import WAITING_MAX, Proposals
from coordinator.raft.sockets import TransportFactory
from coordinator.raft.storage.disk import Disk
from coordinator.raft.storage.journal import Journal, Policy
from coordinator.raft.storage.snapshot import SnapshotStore
from kv.errors import BadRequest, KvError, NotApplied
from kv.ports import Clock

TIMER_S_MAX: Final = 0.1
TIMER_S_MIN: Final = 0.001

log = structlog.get_logger("acordo.raft")


class Settings(msgspec.Struct, frozen=True):
    """The tuning of one member; the default timings suit a local network."""

    fsync: Policy = "always"
    election_min_s: float = 0.3
    election_max_s: float = 0.6
    heartbeat_s: float = 0.05
    propose_timeout_s: float = 10.0
    """Time after which the outcome of a command without an answer is unknown."""
    batch_bytes: int = 1 << 20
    """Bytes of entries sent in one message."""
    chunk_bytes: int = 1 << 20
    """Bytes of a snapshot sent in one message."""
    transfer_bytes_per_s: float = 64 << 20
    """The rate at which a snapshot is sent to one member, if a copy of the own store goes with it.
    """
    compact_entries: int = 50_000
    compact_bytes: int = 32 << 20
    """Growth of the log since the last snapshot, in entries or bytes, at which one is made."""
    keep_bytes: int = 0
    keep_s: float = 3600.0
    """Bytes of the log that stay behind a snapshot, and for how long, beyond the little that always
    stays (compaction.KEEP_BYTES): a member that was away for less needs no snapshot.
    """


class Member:
    """One member of the replicated log. `async with` loads the disk, listens and joins."""

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
        rng: Random,
        on_fatal: Callable[[BaseException], None],
        settings: Settings = Settings(),  # noqa: B008 frozen
    ) -> None:
        """`members` are the first members of the cluster; once there is a log, its configuration
        counts instead. A member that joins later lists itself there as an observer.

        Raises BadRequest if this member is not in the list.
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
        self._clock, self._rng, self._on_fatal = clock, rng, on_fatal
        self._settings = settings

        self._core: Core
        self._journal: Any = None
        self._transport: Any = None
        self._peer_check: PeerCheck
        self._reads: ReadIndex
        self._questions: Questions
        self._proposals: Proposals
        self._administration: Administration
        self._notes: Notes
        self._applied_waiters: list[tuple[Position, asyncio.Future[None]]] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}
        """An ordered set, in the order of start: the order of a set is not reproducible."""
        self._tick_pending = False
        self._timer: asyncio.TimerHandle | None = None
        self._running = False
        self._loop: asyncio.AbstractEventLoop

    # ----------------------------------------------------------------------------------------- life

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        settings, rng = self._settings, self._rng
        self._journal = self._make_journal()
        self._journal.on_fatal = self._fail
        node = MemberNode(self.id, address=self._address)
        self._transport = self._make_transport(node, self.wake, self._fail)
        core = self._core = self._make_core(node)
        incarnation = rng.getrandbits(128).to_bytes(16, "big")
        check = PeerCheck(core, self.id, self._address, incarnation, self._fail)
        self._peer_check = check
        self._transport.identity, self._transport.judge = check.identity, check.judge
        self._transport.on_refused = check.on_refused
        core.flush = self._transport.flush
        self._reads = ReadIndex(core, self._loop, rng, self.wake)
        self._questions = Questions(
            core, self._loop, self._spawn, first_id=int.from_bytes(incarnation[:6], "big")
        )
        self._notes = Notes(core, self._replica.note)
        self._administration = Administration(
            core, self._loop, self._spawn, first_request=rng.getrandbits(48)
        )
        self._proposals = Proposals(core, self._loop, timeout_s=settings.propose_timeout_s)
        self._running = True
        await self._transport.start()
        self.wake()
        self._arm()
        return self

    def _make_journal(self) -> Journal:
        return Journal(
            disk=self._disk, cluster=self._cluster, member=self.id, fsync=self._settings.fsync
        )

    def _make_core(self, node: Node) -> Core:
        others = [MemberNode(m.id, address=m.address) for m in self._members if m.id != self.id]
        settings = self._settings
        return Core(
            Library(node, others, self._conf(), nodeClass=MemberNode, transport=self._transport),
            clock=self._clock,
            rng=self._rng,
            replica=self._replica,
            journal=self._journal,
            snapshots=SnapshotStore(self._disk, cluster=self._cluster),
            spawn=self._spawn,
            wake=self.wake,
            wake_in=lambda seconds: self._loop.call_later(seconds, self.wake),
            on_fault=self._fail,
            configuration=bootstrap(self._members),
            first=first_digest(self._members, self.id),
            log_bounds=LogBounds(settings.compact_bytes, settings.keep_bytes, settings.keep_s),
            leader_wait_s=settings.election_max_s,
            transfer_bytes_per_s=settings.transfer_bytes_per_s,
        )

    def _conf(self) -> SyncObjConf:
        settings = self._settings
        order = sorted(m.id for m in self._members).index(self.id)
        return SyncObjConf(
            autoTick=False,
            appendEntriesPeriod=settings.heartbeat_s,
            raftMinTimeout=settings.election_min_s,
            raftMaxTimeout=settings.election_max_s,
            leaderFallbackTimeout=settings.election_max_s,
            connectionTimeout=max(1.5, settings.election_max_s),
            appendEntriesBatchSizeBytes=settings.batch_bytes,
            logCompactionBatchSize=settings.chunk_bytes,
            # Staggered, because members that snapshot at the same index would be slow together.
            logCompactionMinEntries=settings.compact_entries
            + order * max(1, settings.compact_entries // 10),
            commandsWaitLeader=False,
            commandsQueueSize=WAITING_MAX,
        )

    async def __aexit__(self, *exc: object) -> None:
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        for task in (tasks := list(self._tasks)):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._core.leader.close()
        self._core.giving.close()
        self._proposals.close()
        self._reads.close()
        self._questions.close()
        for _, future in self._applied_waiters:
            future.cancel()
        self._administration.close()
        if self._transport is not None:
            await self._transport.aclose()
        await self._journal.aclose()

    def _fail(self, exc: BaseException) -> None:
        """Stop this member for good because of a bug or a failed disk, and call `on_fatal`."""
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

    def wake(self) -> None:
        """Tick at the loop's next turn; everything that happens until then is handled together."""
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
        self._core.tick()
        self._reads.drive()
        if self._applied_waiters:
            self._applied_waiters = [
                waiter for waiter in self._applied_waiters if not self._reached(*waiter)
            ]
        self._administration.look()

    def _arm(self) -> None:
        delay = self._core.next_due() - self._clock.monotonic()
        self._timer = self._loop.call_later(
            min(max(delay, TIMER_S_MIN), TIMER_S_MAX), self._on_timer
        )

    def _on_timer(self) -> None:
        if not self._running:
            return
        now = self._clock.monotonic()
        self._proposals.expire(now)
        self._guarded(self._work)
        self._notes.maybe_send(now)
        if self._running:
            self._arm()

    # --------------------------------------------------------------------------- proposals, reads

    def propose(self, command: bytes) -> asyncio.Future[Position]:
        """Order a command; see `coordinator.log.Log`."""
        if self._running:
            return self._proposals.propose(command)
        future: asyncio.Future[Position] = self._loop.create_future()
        future.set_exception(NotApplied("draining", "this member has stopped"))
        return future

    async def read_index(self, *, timeout_s: float) -> Position:
        """Return a position that a quorum confirms; see `coordinator.log.Log`."""
        if not self._running:
            raise NotApplied("draining", "this member has stopped")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reads.arrive()
        except TimeoutError as exc:
            raise NotApplied("no_quorum", "no quorum confirmed the read in time") from exc

    async def ask(self, question: bytes, *, timeout_s: float) -> bytes:
        """Return the leader's answer to a question; see `coordinator.log.Log`."""
        if not self._running:
            raise NotApplied("draining", "this member has stopped")
        return await self._questions.ask(question, timeout_s=timeout_s)

    def open_reads(self, term: int) -> None:
        """Allow reads to be confirmed in `term`."""
        self._reads.open(term)
        self.wake()

    @property
    def applied(self) -> Position:
        """The last entry that the replica has applied."""
        return self._core.log.applied

    async def wait_applied(self, position: Position, *, timeout_s: float) -> None:
        """Wait until the entry of exactly that index and term is applied. Raises TimeoutError."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self._reached(position, future):
            return
        self._applied_waiters.append((position, future))
        async with asyncio.timeout(timeout_s):
            await future

    def _reached(self, position: Position, future: asyncio.Future[None]) -> bool:
        """Notify a waiter if exactly its entry is applied; return True if its wait is over."""
        if not future.done() and self._core.log.has_applied(position):
            future.set_result(None)
        return future.done()

    # --------------------------------------------------------------------------------------- status

    def status(self) -> RaftStatus:
        """Return the status of this member, and of the others as far as it knows."""
        core = self._core
        leader = core.leader_node
        return RaftStatus(
            id=self.id,
            role=core.role,
            term=core.term,
            leader=None if leader is None else leader.id,
            quorum=core.quorate,
            applied=core.pysyncobj.applied_index,
            committed=core.pysyncobj.commit_index,
            last=core.log.last_index,
            fsync=self._settings.fsync,
            unsynced_age_s=core.unsynced_age_s(),
            peers=tuple(self._notes.peer(member) for member in core.members),
            unfit=core.unfit,
            conflicts=self._conflicts(),
        )

    def _conflicts(self) -> tuple[str, ...]:
        duplicate_ids = getattr(self._transport, "duplicate_ids", ())
        return (
            *(f"two processes use the id {member}; stop one of them" for member in duplicate_ids),
            *self._peer_check.conflicts,
            *self._core.pull.troubles,
        )

    @property
    def counts(self) -> dict[str, int]:
        """The number of each kind of event: elections, truncations, snapshots_installed, ..."""
        return dict(self._core.environment.counts)

    # -------------------------------------------------------------------------- leadership, members

    def resume(self) -> None:
        """Look again whether the replica takes more commands."""
        self.wake()

    def replay(self) -> bool:
        """Rebuild the replica from this member's own snapshot and log."""
        return self._core.rebuild.replay()

    def fetch_snapshot(self) -> None:
        """Rebuild the replica from another member's snapshot."""
        self._core.transfer.fetch()
        self.wake()

    def step_down(self) -> None:
        """Stop leading without naming a successor."""
        self._core.leader.resign()
        self.wake()

    def outrank(self, term: int) -> None:
        """Stand at once for a term above `term`."""
        self._core.elections.outrank(term)
        self.wake()

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        """Move the leadership; see `Administration`."""
        return await self._administration.transfer(to, timeout_s=timeout_s)

    async def add_member(self, member: str, address: str, *, voter: bool, timeout_s: float) -> str:
        """Add a member; see `Administration`."""
        return await self._administration.add_member(
            member, address, voter=voter, timeout_s=timeout_s
        )

    async def remove_member(self, member: str, *, timeout_s: float) -> str:
        """Remove a member; see `Administration`."""
        return await self._administration.remove_member(member, timeout_s=timeout_s)
