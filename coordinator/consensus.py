"""Implement the Consensus port of one member: a machine driven by a Log, plus the leader's loops.

It decides nothing itself: the machine and the committer do. It never gives a client an answer that
is not in the ledger, and never reports an intent as not applied after handing it to the log.

The module is long because the port and the Replica protocol are wide: most methods are one line
that delegates to the part that does the work.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, Literal, Self

import structlog

from coordinator.applier import Applier
from coordinator.background.likeness import Likeness
from coordinator.background.publisher import Cursors, Publisher
from coordinator.background.scrubber import Scrubber
from coordinator.background.sweeper import Sweeper
from coordinator.clients.feed import Feed
from coordinator.clients.recovery import Recovery
from coordinator.clients.submission import Submission
from coordinator.clients.waits import Waits
from coordinator.commit.committer import Committer
from coordinator.commit.leadership import LeadersPart
from coordinator.failure import FatalFailure
from coordinator.leases.asking import Asking
from coordinator.leases.keeper import LeaseKeeper
from coordinator.log import Log, Position, Replica
from coordinator.logtime import LogTime
from coordinator.machine.machine import Machine
from coordinator.machine.snapshot import MachineState, decode_state
from coordinator.operating import Operating
from coordinator.peers.roster import Roster
from coordinator.peers.timekeeping import Timekeeping
from coordinator.replicated.member import OwnParts, own_parts
from coordinator.report import counts_of, status_of
from coordinator.settings import CoordinatorSettings
from kv.errors import NotApplied, store_refused
from kv.model import Answer, Cancel, Head, Intent, Recorded
from kv.ports import (
    Broadcast,
    Clock,
    LeaseTime,
    Listener,
    MemberStore,
    Space,
    StateCopy,
    Status,
    Store,
    StoreReader,
    UndoneRange,
)

_log = structlog.get_logger("acordo.consensus")

HEARTBEAT_S: Final = 0.25
"""How often the notes of the peers are read."""
TIME_ASKED_S: Final = 0.01
"""The same interval while this member does not know the log time: until then it can write nothing.
"""


class Coordinator:
    """One member of the cluster: its Consensus port, and the Replica that its log drives.

    `async with` opens the log and starts the background loops. A loop that dies cancels the task
    that entered the `async with`, and its exception leaves the block in an exception group. Let it
    end the process: the supervisor restarts it.
    """

    def __init__(
        self,
        *,
        node: str,
        url: str,
        log: Callable[[Replica], Log],
        store: Store | None = None,
        own: MemberStore | None = None,
        broadcast: Broadcast,
        clock: Clock,
        rng: random.Random,
        settings: CoordinatorSettings | None = None,
        entropy: Callable[[int], bytes] | None = None,
        members: bytes = b"",
        cluster: str = "",
        broadcasts: bool = True,
    ) -> None:
        """Compose the member's parts without any I/O. The caller opens the store and `broadcast`;
        `log` is opened by `async with` here.

        Exactly one of `store`, which all members share, and `own`, this member's own, is given.
        `broadcasts` says whether changes have to reach a broker: if not, the ordered floor of a
        replicated store does not wait for it.

        `entropy` returns the given number of unpredictable bytes (None: taken from `rng`, for
        tests). `members` is the digest of the first member list that this member was given.
        `cluster` is the id that the store is claimed for.
        """
        self.node, self.url, self.cluster = node, url, cluster
        self.settings = settings or CoordinatorSettings()
        self.machine = Machine(self.settings.limits)
        self._clock = clock
        self._log = log(self)
        name = f"{node}.{rng.getrandbits(48):012x}"
        self._committer: Committer | None = None
        self.own: OwnParts | None = None
        """What keeps this member's own store; None: the store is shared."""
        self.leading: LeadersPart
        reader: StoreReader
        cursors: Cursors
        if own is not None and store is None:
            self.own = parts = own_parts(
                self,
                own,
                self._log,
                clock,
                name=name,
                rng=rng,
                settings=self.settings,
                entropy=entropy,
                members=members,
                broadcasts=broadcasts,
            )
            self.leading, reader, cursors = parts.leading, own, parts.cursors
        elif store is not None and own is None:
            self.leading = self._committer = Committer(
                self,
                store,
                self._log,
                clock,
                name=name,
                rng=rng,
                settings=self.settings,
                entropy=entropy,
                members=members,
                cluster=cluster,
            )
            reader, cursors = store, store
        else:
            raise ValueError("exactly one of store and own is given")
        self.scrubber = Scrubber(
            reader, self.settings, found=None if self.own is None else self.own.row_scrub.found
        )
        self.sweeper = Sweeper(
            self, reader, self._log, clock, name=name, settings=self.settings, pruned=store
        )
        self.publisher = Publisher(
            self,
            reader,
            cursors,
            broadcast,
            clock,
            rng=rng,
            settings=self.settings,
            ordered=lambda: 0 if self.own is None else self.own.cursors.held_at() or 0,
        )
        self.leases = LeaseKeeper(self, reader, clock, name=name, settings=self.settings)
        self._asking = Asking(self._log)
        self.likeness = Likeness(self, self._log)
        self._know_peers()
        self._serve_clients(reader)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.is_open = False

    @property
    def committer(self) -> Committer:
        """The committer of a member with a shared store."""
        assert self._committer is not None
        return self._committer

    def _know_peers(self) -> None:
        """Create the parts that track the other members and that serve operators."""
        self.timekeeping = Timekeeping(self.node, self._log, self._clock)
        self.roster = Roster(
            self.node,
            self.url,
            log=self._log,
            clock=self._clock,
            machine=self.machine,
            committer=self.leading,
            timekeeping=self.timekeeping,
            own=self.own,
            level=self.settings.level,
        )
        self._operating = Operating(
            self.node,
            self._log,
            machine=self.machine,
            committer=self.leading,
            roster=self.roster,
            limits=self.settings.limits,
            cursors=None if self.own is None else self.own.cursors,
        )

    def _serve_clients(self, store: StoreReader) -> None:
        """Create the parts that carry clients' intents into the log and outcomes back to the
        clients.
        """
        self._failure = FatalFailure()
        self._waits, self._feed = Waits(), Feed()
        self._feed.listen(self.publisher.hear)
        self._feed.listen(self.leases.hear)
        self._recovery = Recovery(self._waits, store, self.settings)
        self._submission = Submission(self, self._log, self._waits, self._failure, self.settings)
        self._applier = Applier(
            self.machine,
            waits=self._waits,
            feed=self._feed,
            recovery=self._recovery,
            timekeeping=self.timekeeping,
            failure=self._failure,
            settling=None if self.own is None else self.own.settling,
        )

    async def __aenter__(self) -> Self:
        if self.own is not None:
            self.own.keeping.begun_again()
        self._group = await asyncio.TaskGroup().__aenter__()
        for name, loop in (
            *(() if self.own is None else self.own.loops()),
            ("committer", self.leading.run()),
            ("sweeper", self.sweeper.run()),
            ("leases", self.leases.run()),
            ("asking", self._asking.run()),
            ("scrubber", self.scrubber.run()),
            ("publisher", self.publisher.run()),
            ("recovery", self._recovery.run()),
            ("heartbeat", self._watch_peers()),
            ("likeness", self.likeness.run()),
            ("failure", self._failure.ended_by()),
        ):
            self._tasks.append(self._group.create_task(loop, name=f"acordo-{name}-{self.node}"))
        try:
            await self._log.__aenter__()
        except BaseException:
            await self._stop(None)
            raise
        self.is_open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.is_open = False
        try:
            await self._stop(exc[1] if isinstance(exc[1], asyncio.CancelledError) else None)
        finally:
            await self._log.__aexit__(None, None, None)

    async def _stop(self, cancelled: asyncio.CancelledError | None) -> None:
        """Cancel the loops and fail the waits. Raises the exceptions of loops that died, as an
        exception group.
        """
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        group, self._group = self._group, None
        self._waits.end("this node stops")
        if group is not None:
            await group.__aexit__(type(cancelled) if cancelled else None, cancelled, None)

    async def _watch_peers(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S if self.time.kept else TIME_ASKED_S)
            if self.is_open:
                raft = self._log.status()
                self.roster.look(raft)
                self.timekeeping.look(raft, self.roster.readings(raft), self.leading)
                if self.own is not None:
                    self.own.contents.look(raft, self.roster.tellings(raft))
                    self.own.mending.look(raft)
                    await self.own.keeping.keep_confirmed()

    # -------------------------------------------------------------------------------------- writing

    def submit(self, intents: Sequence[Intent | Cancel]) -> list[asyncio.Future[Answer]]:
        """Propose intents as one command of the log; see `kv.ports.Consensus.submit`."""
        return self._submission.submit(intents)

    def refuses(self, intents: Sequence[Intent | Cancel]) -> NotApplied | None:
        """Return why these intents would be refused now, if they would; see
        `kv.ports.Consensus.refuses`.
        """
        return self._submission.refuses(intents)

    def taken_over(self) -> None:
        """Let the publisher start: the committer has taken over the store."""
        self.publisher.taken_over()

    def committed(self, first: int, records: Sequence[Recorded]) -> None:
        """Answer the local clients that wait for a group. INV-2: called only after the group's
        COMMIT.
        """
        self._waits.answer_records(first, records)

    # -------------------------------------------------------------------------------------- Replica

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        """Apply one committed command; see `log.Replica.apply`."""
        effects = self._applier.apply(position, stamp_ms, command)
        if effects is None:
            return
        if effects.verdict in {"founded", "amended"} and self._operating.limits_differ:
            names = ", ".join(self._operating.limits_differ)
            _log.warning(
                "settings of this member are not those of the cluster, which count", differing=names
            )
        self.leading.wake()

    def foresee(self, command: bytes) -> None:
        """Answer clients by what a leader says is committed; see `log.Replica.foresee`."""
        self._applier.foresee(command)

    def stamp_ms(self) -> int:
        """Return the log time for an entry that this leader appends; 0 when it does not know the
        log time.
        """
        return self.now_ms() if self.time.kept else 0

    def snapshot(self) -> Callable[[], bytes]:
        """Capture the machine's state now and return a function that encodes it."""
        if self.own is not None:
            self.own.keeping.capture()
        return self._applier.capture()

    @property
    def keeps_store(self) -> bool:
        """Whether this member has a store of its own; see `log.Replica.keeps_store`."""
        return self.own is not None

    @property
    def takes_more(self) -> bool:
        """Whether commands may be applied: with a shared store, always."""
        return self.own is None or self.own.mending.takes_more

    async def secure(self, position: Position) -> None:
        """Make the own store durable up to a position; see `log.Replica.secure`."""
        if self.own is not None:
            await self.own.keeping.secure(position)

    def saved(self, position: Position) -> None:
        """Note that a snapshot is in place; see `log.Replica.saved`."""
        if self.own is not None:
            self.own.keeping.saved()

    async def attach(self) -> StateCopy | None:
        """Return a copy of the own store; None: the store is shared."""
        return None if self.own is None else await self.own.keeping.attach()

    async def install(self, snapshot: bytes, state: StateCopy | None) -> None:
        """Replace the state by another member's; see `log.Replica.install`."""
        if self.own is not None:
            differed = self.own.condition.spoilt == "diverged"
            await self.own.keeping.install(snapshot, state, self._restore)
            if differed:
                self._applier.undo_told()
        elif state is not None:
            raise ValueError("this member has no store of its own")
        else:
            self.restore(snapshot)

    def restore(self, snapshot: bytes) -> None:
        """Replace the state by a snapshot's; see `log.Replica.restore`."""
        state = decode_state(snapshot)
        if self.own is not None:
            self.own.keeping.check(state)
        self._restore(state)

    def _restore(self, state: MachineState) -> None:
        self._applier.restore(state)
        if self.own is not None:
            self.own.keeping.restored()
        asyncio.get_running_loop().call_soon(self._restored)
        self.leading.wake()

    def _restored(self) -> None:
        self._applier.restored_in(self._log.applied.term)

    def reset(self) -> None:
        """Discard everything that was applied; see `log.Replica.reset`."""
        self._applier.reset()
        if self.own is not None:
            self.own.keeping.begun_again()
        self.leading.wake()

    def led(self, term: int) -> None:
        """Start leading; see `log.Replica.led`."""
        self.timekeeping.led()
        self.roster.lead_seen(self.node, term)
        self.leading.led(term)
        self.sweeper.led(term)
        self.leases.led(term)
        self.scrubber.led()
        self.publisher.led(term)

    def deposed(self, term: int) -> None:
        """Stop leading; see `log.Replica.deposed`."""
        self.leading.deposed(term)
        self.sweeper.deposed()
        self.leases.deposed()
        self.scrubber.deposed()
        self.publisher.deposed()

    async def answer(self, question: bytes) -> bytes:
        """Answer what a member asks about leases; see `log.Replica.answer`."""
        return await self.leases.answer(question)

    def note(self) -> bytes:
        """Return the note about this member's machine that its peers receive."""
        return self.roster.note()

    # -------------------------------------------------------------------------------------- reading

    async def read_index(self, *, timeout_s: float) -> None:
        """Wait until this machine has applied everything that was acknowledged anywhere before the
        call; see `kv.ports.Consensus.read_index`.
        """
        ends_s = self._clock.monotonic() + timeout_s
        self._check_alike()
        position = await self._log.read_index(timeout_s=timeout_s)
        if self._log.applied != position:
            await self._wait_for_entry(position, ends_s)

    def _check_alike(self) -> None:
        """Raise NotApplied while this machine is known to have diverged from the leader's: however
        much it has applied, what it says about keys may be wrong.
        """
        if self.own is not None and self.own.condition.refusal is not None:
            raise store_refused(self.own.condition.refusal)
        if self.likeness.apart:
            raise NotApplied(
                "diverged",
                "this member's machine went another way than the leader's; it is built anew",
            )

    async def _wait_for_entry(self, position: Position, ends_s: float) -> None:
        """Wait until exactly the entry at the read index, with its term, is applied here. The index
        alone is not enough: the entry that this log holds there may be of another term, and be
        overwritten later.
        """
        try:
            await self._log.wait_applied(
                position, timeout_s=max(0.0, ends_s - self._clock.monotonic())
            )
        except TimeoutError as exc:
            raise NotApplied("no_quorum", "this node's log does not catch up") from exc

    async def lease_time(self, lease: int, *, renew: bool, timeout_s: float) -> LeaseTime | None:
        """Ask the leader how long a lease lives; see `kv.ports.Consensus.lease_time`."""
        return await self._asking.time(lease, renew=renew, timeout_s=timeout_s)

    @property
    def ordered(self) -> int:
        """The newest revision that was given."""
        return self.machine.revision

    @property
    def settled(self) -> Head:
        """The settled revision and its digest; the other fields of the Head are not set."""
        settled = self.machine.settled
        return Head(last=settled.revision, digest=settled.digest)

    @property
    def namespace(self) -> int:
        """The namespace of the caches; 0 until the history is founded."""
        return self.machine.cache_namespace

    @property
    def undone(self) -> UndoneRange:
        """The revisions that the newest adoption undid."""
        return self.machine.undone

    def term_of(self, revision: int) -> int:
        """Return the term of the row that gave a revision; see `kv.ports.Consensus.term_of`."""
        return self.machine.term_of(revision)

    def holds_to(self, revision: int, term: int) -> int:
        """Return to where a kept position is in force; see `kv.ports.Consensus.holds_to`."""
        return self.machine.holds_to(revision, term)

    @property
    def space(self) -> Space | None:
        """The namespace and key whose cache entries may be served here; None until the history is
        founded.
        """
        founded = self.machine.founded
        return None if founded is None else Space(self.machine.cache_namespace, founded.cache_key)

    @property
    def refusal(self) -> str | None:
        """Why writes and store reads are refused: this leader's own reason, or the one in its
        leader's note.
        """
        if self.own is not None:
            return self.own.refusal(self.roster.word.refusal)
        return self.leading.refusal if self.leads else self.roster.word.refusal

    @property
    def held_back(self) -> str:
        """Why what is ordered has not been applied here for a while; empty when it is."""
        return "" if self.own is None else self.own.held_back(self.settings.stall_s)

    def touched(self, key: bytes) -> int:
        """Return the revision that a cached entry's `as_of` has to reach for the entry to hold
        (INV-5).
        """
        return self.machine.touched(key)

    @property
    def time(self) -> LogTime:
        """The log time that this member keeps."""
        return self.timekeeping.time

    def now_ms(self) -> int:
        """Return the log time now."""
        return self.timekeeping.now_ms()

    @property
    def operation_retention_ms(self) -> int:
        """How long op_ids are remembered, in milliseconds of log time."""
        return self.machine.limits.window_ms

    @property
    def stamped(self) -> bool:
        """Whether this node knows the log time, so that a deadline set here means what it says."""
        begun = self.own is None or self.machine.book.founded
        return self.time.kept and self.machine.log_time_ms > 0 and begun

    def recorded(self, op_id: str) -> Answer | Literal["pending"] | None:
        """Return the answer that the machine's window has for an op_id, or "pending", or None."""
        known = self.machine.window.get(op_id, self.machine.log_time_ms)
        if known is not None:
            return Answer(known.revision, known.outcome)
        return "pending" if self.machine.attempts(op_id) else None

    async def wait_settled(self, revision: int, *, timeout_s: float) -> None:
        """Return once this member has settled at least `revision`. Raises TimeoutError."""
        if self.machine.settled.revision >= revision:
            return
        await self._feed.waits.wait(revision, timeout_s=timeout_s)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each Settled from now on. The returned function unsubscribes it."""
        return self._feed.listen(listener)

    # --------------------------------------------------------------------------------------- status

    @property
    def leads(self) -> bool:
        """Whether this member leads, as far as it knows."""
        return self.leading.term is not None

    def status(self) -> Status:
        """Return the status of this member, and what it knows of the others."""
        raft = self._log.status()
        self.roster.look(raft)
        return status_of(
            node=self.node,
            cluster=self.cluster,
            raft=raft,
            machine=self.machine,
            committer=self.leading,
            roster=self.roster,
            refusal=self.refusal,
            store_trouble=self._store_trouble(),
            limits_differ=self._operating.limits_differ,
            diverged=self.likeness.apart,
            broadcast_lag=self.publisher.lag,
            stamped=self.stamped and self._applier.stamped_in == raft.term,
            counts=self._counts(),
            own=self.own,
        )

    def _store_trouble(self) -> str | None:
        """Return why ordered intents do not get committed, as this leader sees it or as its
        leader's note says; None when nothing is wrong.
        """
        if self.leads and self.leading.stuck is not None:
            return self.leading.stuck
        if not self.leads and self.roster.word.stuck:
            return "the leader's store does not take what it commits"
        return "what was ordered does not get committed" if self._submission.stalled else None

    def _counts(self) -> dict[str, int]:
        own = {} if self.own is None else self.own.counts
        return counts_of(self.leading, self.sweeper, self.scrubber, self.publisher) | {
            **own,
            "leases_ended": self.leases.ended,
            "keep_alives_answered": self.leases.renewed,
            "time_jumps": self.timekeeping.jumps,
            "resets": self._applier.resets,
            "machines_rebuilt": self.likeness.rebuilt,
            "snapshots_restored": self._applier.restores,
            "commands_undecoded": self._applier.undecoded,
        }

    def leader_settled(self) -> int | None:
        """Return the settled revision of the present leader's newest note."""
        return self.roster.leader_settled()

    def level_spoken(self) -> int:
        """Return the feature level that every member in force speaks, as far as they said so."""
        return self.roster.level_spoken()

    def unneeded_below(self) -> int:
        """Return the revision up to which no voter will ever need the ledger's rows again."""
        return self.roster.unneeded_below()

    # ------------------------------------------------------------------------------------ operators

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        """Transfer the leadership to a member; see `kv.ports.Consensus.transfer`."""
        return await self._log.transfer(to, timeout_s=timeout_s)

    async def add_member(
        self, member: str, raft_address: str, url: str, *, voter: bool, timeout_s: float
    ) -> str:
        """Add or promote a member. `url` is not used: the new member reports its own in its
        note.
        """
        return await self._log.add_member(member, raft_address, voter=voter, timeout_s=timeout_s)

    async def remove_member(self, member: str, *, timeout_s: float) -> str:
        """Remove a member; see `kv.ports.Consensus.remove_member`."""
        return await self._log.remove_member(member, timeout_s=timeout_s)

    async def amend(self, *, timeout_s: float) -> tuple[str, ...]:
        """Propose this member's limits for the whole cluster; see `kv.ports.Consensus.amend`."""
        return await self._operating.amend(timeout_s=timeout_s)

    async def compact(self, revision: int, *, timeout_s: float) -> bool:
        """Give up what is below a revision; see `kv.ports.Consensus.compact`."""
        return await self._operating.compact(revision, timeout_s=timeout_s)

    async def adopt(self, *, gives_up: int | None = None, timeout_s: float) -> int:
        """Adopt the store's head; see `kv.ports.Consensus.adopt`."""
        if self.own is not None:
            await self.leading.adopt(gives_up)  # there is nothing to adopt
        return await self._operating.adopt(gives_up=gives_up, timeout_s=timeout_s)
