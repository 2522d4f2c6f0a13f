"""Be the Consensus port of one member: the machine, driven by a Log, with the leader's loops beside
it.

It decides nothing itself: the machine does, and the committer. It never answers a client with
anything that is not in the ledger, and never refuses what it has handed to the log.

It is long because the port and the Replica are wide: most calls are one line to the part that does
the work.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, Literal, Self

import structlog

from coordinator.applier import Applier
from coordinator.background.likeness import Likeness
from coordinator.background.publisher import Publisher
from coordinator.background.scrubber import Scrubber
from coordinator.background.sweeper import Sweeper
from coordinator.clients.feed import Feed
from coordinator.clients.recovery import Recovery
from coordinator.clients.submission import Submission
from coordinator.clients.waits import Waits
from coordinator.commit.committer import Committer
from coordinator.failure import FatalFailure
from coordinator.log import Log, Position, Replica
from coordinator.logtime import LogTime
from coordinator.machine.machine import Machine
from coordinator.operating import Operating
from coordinator.peers.roster import Roster
from coordinator.peers.timekeeping import Timekeeping
from coordinator.report import counts_of, status_of
from coordinator.settings import CoordinatorSettings
from kv.errors import NotApplied
from kv.model import Answer, Cancel, Head, Intent, Recorded
from kv.ports import Broadcast, Clock, Listener, Space, Status, Store, UndoneRange

_log = structlog.get_logger("acordo.consensus")

HEARTBEAT_S: Final = 0.25
"""How often the notes of the peers are looked at."""
TIME_ASKED_S: Final = 0.01
"""… while this member does not know the time: nothing is written before."""


class Coordinator:
    """One member of the cluster: its Consensus port, and the Replica that its log drives.

    `async with` opens the log and runs the loops beside it. A loop that dies cancels the task that
    entered the `async with`, and comes out of it as an exception group: let it end the process, its
    supervisor restarts it.
    """

    def __init__(
        self,
        *,
        node: str,
        url: str,
        log: Callable[[Replica], Log],
        store: Store,
        broadcast: Broadcast,
        clock: Clock,
        rng: random.Random,
        settings: CoordinatorSettings | None = None,
        entropy: Callable[[int], bytes] | None = None,
        members: bytes = b"",
        cluster: str = "",
    ) -> None:
        """Compose; no I/O. `store` and `broadcast` are opened by whoever made them, `log` is opened
        here.

        `entropy` gives so many bytes that nobody can guess (None: `rng` does, for tests);
        `members` is the digest of the first member list that this member was given; `cluster` is
        the id that the store is claimed for.
        """
        self.node, self.url, self.cluster = node, url, cluster
        self.settings = settings or CoordinatorSettings()
        self.machine = Machine(self.settings.limits)
        self._clock = clock
        self._log = log(self)
        name = f"{node}.{rng.getrandbits(48):012x}"
        self.committer = Committer(
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
        self.scrubber = Scrubber(store, self.settings)
        self.sweeper = Sweeper(self, store, self._log, clock, name=name, settings=self.settings)
        self.publisher = Publisher(self, store, broadcast, clock, rng=rng, settings=self.settings)
        self.likeness = Likeness(self, self._log)
        self._know_peers()
        self._serve_clients(store)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.is_open = False

    def _know_peers(self) -> None:
        """Compose what this member knows of the others, and what operators ask of it."""
        self.timekeeping = Timekeeping(self.node, self._log, self._clock)
        self.roster = Roster(
            self.node,
            self.url,
            log=self._log,
            clock=self._clock,
            machine=self.machine,
            committer=self.committer,
            timekeeping=self.timekeeping,
        )
        self._operating = Operating(
            self.node,
            self._log,
            machine=self.machine,
            committer=self.committer,
            roster=self.roster,
            limits=self.settings.limits,
        )

    def _serve_clients(self, store: Store) -> None:
        """Compose the way of clients' intents into the log, and of outcomes back to them."""
        self._failure = FatalFailure()
        self._waits, self._feed = Waits(), Feed()
        self._feed.listen(self.publisher.hear)
        self._recovery = Recovery(self._waits, store, self.settings)
        self._submission = Submission(self, self._log, self._waits, self._failure, self.settings)
        self._applier = Applier(
            self.machine,
            waits=self._waits,
            feed=self._feed,
            recovery=self._recovery,
            timekeeping=self.timekeeping,
            failure=self._failure,
        )

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        for name, loop in (
            ("committer", self.committer.run()),
            ("sweeper", self.sweeper.run()),
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
        """End the loops and the waits. Raises what a loop died of, as an exception group."""
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
                self.timekeeping.look(raft, self.roster.readings(raft), self.committer)

    # -------------------------------------------------------------------------------------- writing

    def submit(self, intents: Sequence[Intent | Cancel]) -> list[asyncio.Future[Answer]]:
        """Hand intents to Raft as one command; see `kv.ports.Consensus.submit`."""
        return self._submission.submit(intents)

    def refuses(self, intents: Sequence[Intent | Cancel]) -> NotApplied | None:
        """Say why these would be refused now; see `kv.ports.Consensus.refuses`."""
        return self._submission.refuses(intents)

    def taken_over(self) -> None:
        """Let the publisher begin: the committer has taken over the store."""
        self.publisher.taken_over()

    def committed(self, first: int, records: Sequence[Recorded]) -> None:
        """Answer those who wait here for a group that is in the store (INV-2: never called before
        its COMMIT).
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
        self.committer.wake()

    def stamp_ms(self) -> int:
        """Return the log time for what this leader appends; 0: it does not know it."""
        return self.now_ms() if self.time.kept else 0

    def snapshot(self) -> Callable[[], bytes]:
        """Capture the machine's state now; the returned function encodes it."""
        return self._applier.capture()

    def restore(self, snapshot: bytes) -> None:
        """Take over a snapshot's state; see `log.Replica.restore`."""
        self._applier.restore(snapshot)
        asyncio.get_running_loop().call_soon(self._restored)
        self.committer.wake()

    def _restored(self) -> None:
        self._applier.restored_in(self._log.applied.term)

    def reset(self) -> None:
        """Forget all that was applied; see `log.Replica.reset`."""
        self._applier.reset()
        self.committer.wake()

    def led(self, term: int) -> None:
        """Begin to lead; see `log.Replica.led`."""
        self.timekeeping.led()
        self.roster.lead_seen(self.node, term)
        self.committer.led(term)
        self.sweeper.led(term)
        self.scrubber.led()
        self.publisher.led(term)

    def deposed(self, term: int) -> None:
        """End to lead; see `log.Replica.deposed`."""
        self.committer.deposed(term)
        self.sweeper.deposed()
        self.scrubber.deposed()
        self.publisher.deposed()

    def note(self) -> bytes:
        """Return this member's word on its machine to the others."""
        return self.roster.note()

    # -------------------------------------------------------------------------------------- reading

    async def read_index(self, *, timeout_s: float) -> None:
        """Wait until this machine holds all that was acknowledged anywhere; see
        `kv.ports.Consensus.read_index`.
        """
        ends_s = self._clock.monotonic() + timeout_s
        self._check_alike()
        position = await self._log.read_index(timeout_s=timeout_s)
        if self._log.applied != position:
            await self._wait_for_entry(position, ends_s)

    def _check_alike(self) -> None:
        """Raise NotApplied while this machine is known to have gone another way than the leader's:
        what it says of keys may be wrong, however much it has applied.
        """
        if self.likeness.apart:
            raise NotApplied(
                "diverged",
                "this member's machine went another way than the leader's; it is built anew",
            )

    async def _wait_for_entry(self, position: Position, ends_s: float) -> None:
        """Wait until the very entry at the read index is applied here, its term too: an entry that
        this log holds in that place may be of another order, which is to be overwritten.
        """
        try:
            await self._log.wait_applied(
                position, timeout_s=max(0.0, ends_s - self._clock.monotonic())
            )
        except TimeoutError as exc:
            raise NotApplied("no_quorum", "this node's log does not catch up") from exc

    @property
    def ordered(self) -> int:
        """The newest revision given."""
        return self.machine.revision

    @property
    def settled(self) -> Head:
        """What is settled here: revision and digest alone."""
        settled = self.machine.settled
        return Head(last=settled.revision, digest=settled.digest)

    @property
    def namespace(self) -> int:
        """The caches' namespace; 0 until the history is founded."""
        return self.machine.namespace

    @property
    def undone(self) -> UndoneRange:
        """What the newest adoption undid."""
        return self.machine.undone

    @property
    def space(self) -> Space | None:
        """Whose cache entries may be served here; None: none yet."""
        founded = self.machine.founded
        return None if founded is None else Space(self.machine.namespace, founded.cache_key)

    @property
    def refusal(self) -> str | None:
        """Why writes and reads of the store are refused, by this leader or by its leader's word."""
        return self.committer.refusal if self.leads else self.roster.word.refusal

    def touched(self, key: bytes) -> int:
        """Return the revision that a cached entry has to reach to hold (INV-5)."""
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
        """For how long op_ids are remembered, in log time."""
        return self.machine.limits.window_ms

    @property
    def stamped(self) -> bool:
        """Whether this node knows the time: deadlines set here mean what they say."""
        return self.time.kept and self.machine.log_time_ms > 0

    def recorded(self, op_id: str) -> Answer | Literal["pending"] | None:
        """Return what the machine's window knows of an op_id."""
        known = self.machine.window.get(op_id, self.machine.log_time_ms)
        if known is not None:
            return Answer(known.revision, known.outcome)
        return "pending" if self.machine.attempts(op_id) else None

    async def wait_settled(self, revision: int, *, timeout_s: float) -> None:
        """Return once this member has settled that far. Raises TimeoutError."""
        if self.machine.settled.revision >= revision:
            return
        await self._feed.waits.wait(revision, timeout_s=timeout_s)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` at each Settled; return a function that ends that."""
        return self._feed.listen(listener)

    # --------------------------------------------------------------------------------------- status

    @property
    def leads(self) -> bool:
        """Whether this member leads, as far as it knows."""
        return self.committer.term is not None

    def status(self) -> Status:
        """Return what this member says of itself and of the others."""
        raft = self._log.status()
        self.roster.look(raft)
        return status_of(
            node=self.node,
            cluster=self.cluster,
            raft=raft,
            machine=self.machine,
            committer=self.committer,
            roster=self.roster,
            refusal=self.refusal,
            store_trouble=self._store_trouble(),
            limits_differ=self._operating.limits_differ,
            diverged=self.likeness.apart,
            broadcast_lag=self.publisher.lag,
            stamped=self.stamped and self._applier.stamped_in == raft.term,
            counts=self._counts(),
        )

    def _store_trouble(self) -> str | None:
        """Return why what is ordered does not get committed, as this member sees it or its leader
        says.
        """
        if self.leads and self.committer.stuck is not None:
            return self.committer.stuck
        if not self.leads and self.roster.word.stuck:
            return "the leader's store does not take what it commits"
        return "what was ordered does not get committed" if self._submission.stalled else None

    def _counts(self) -> dict[str, int]:
        return counts_of(self.committer, self.sweeper, self.scrubber, self.publisher) | {
            "time_jumps": self.timekeeping.jumps,
            "resets": self._applier.resets,
            "machines_rebuilt": self.likeness.rebuilt,
            "snapshots_restored": self._applier.restores,
            "commands_undecoded": self._applier.undecoded,
        }

    def leader_settled(self) -> int | None:
        """Return the settled revision of the present leader's newest note."""
        return self.roster.leader_settled()

    def unneeded_below(self) -> int:
        """Return up to where no voter will ever need the ledger's rows again."""
        return self.roster.unneeded_below()

    # ------------------------------------------------------------------------------------ operators

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        """Hand the leadership to a member; see `kv.ports.Consensus.transfer`."""
        return await self._log.transfer(to, timeout_s=timeout_s)

    async def add_member(
        self, member: str, raft_address: str, url: str, *, voter: bool, timeout_s: float
    ) -> str:
        """Add or promote; the new member tells its `url` itself, in its note."""
        return await self._log.add_member(member, raft_address, voter=voter, timeout_s=timeout_s)

    async def remove_member(self, member: str, *, timeout_s: float) -> str:
        """Take a member out; see `kv.ports.Consensus.remove_member`."""
        return await self._log.remove_member(member, timeout_s=timeout_s)

    async def amend(self, *, timeout_s: float) -> tuple[str, ...]:
        """Let this member's limits be those of all; see `kv.ports.Consensus.amend`."""
        return await self._operating.amend(timeout_s=timeout_s)

    async def adopt(self, *, gives_up: int | None = None, timeout_s: float) -> int:
        """Adopt the store's head; see `kv.ports.Consensus.adopt`."""
        return await self._operating.adopt(gives_up=gives_up, timeout_s=timeout_s)
