"""Be the Consensus port of one member: the machine, driven by a Log, with the leader's loops beside
it.

It decides nothing itself: the machine does, and the committer. It never answers a client with
anything that is not in the ledger, and never refuses what it has handed to the log.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Final, Literal, Self

import structlog

from coordinator.background.likeness import Likeness
from coordinator.background.publisher import Publisher
from coordinator.background.scrubber import Scrubber
from coordinator.background.sweeper import Sweeper
from coordinator.commit.committer import Committer
from coordinator.log import Log, Position, RaftStatus, Replica
from coordinator.logtime import LogTime, Reading
from coordinator.machine.commands import TICK, Amend, Submit, decode, encode
from coordinator.machine.ledger import GivenUp
from coordinator.machine.machine import Machine
from coordinator.machine.pending import size_of_all
from coordinator.machine.snapshot import decode_state, encode_state
from coordinator.notes import (
    NOTE_URL_MAX,
    NOTE_VERSION,
    Note,
    Standing,
    encode_note,
    read_note,
    unneeded,
)
from coordinator.rules import PROTOCOL, Rules
from coordinator.settings import Settings
from coordinator.waits import RevisionWaits, Wait, Waits, fail
from kv.errors import (
    BackendUnavailable,
    BadRequest,
    InvariantViolated,
    NotApplied,
    OutcomeUnknown,
    Pruned,
    store_refused,
)
from kv.model import NODE_OP_ID_PREFIX, Answer, Cancel, Head, Intent, Recorded
from kv.ports import Broadcast, Clock, Listener, Member, Settled, Space, Status, Store, Undone

_log = structlog.get_logger("acordo.consensus")

HEARTBEAT_S: Final = 0.25
"""How often the notes of the peers are looked at."""
TIME_ASKED_S: Final = 0.01
"""… while this member does not know the time: nothing is written before."""


class Coordinator:
    """Consensus and Replica of one member. `async with` opens the log and runs the loops beside it.

    A loop that dies cancels the task that entered the `async with` and comes out of it as an
    exception group: let it end the process, its supervisor restarts it.
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
        chance: random.Random,
        settings: Settings | None = None,
        rules: Rules = PROTOCOL,
        entropy: Callable[[int], bytes] | None = None,
        members: bytes = b"",
        cluster: str = "",
    ) -> None:
        """Compose; no I/O. `store` and `broadcast` are opened by whoever made them, `log` is opened
        here.

        `entropy` gives so many bytes that nobody can guess (None: `chance` does, for tests);
        `members` is the digest of the first member list that this member was given; `cluster` is
        the id that the store is claimed for.
        """
        self.node, self.url, self.cluster = node, url, cluster
        self.settings = settings or Settings()
        self.rules = rules
        self.machine = Machine(self.settings.limits, rules)
        self._store, self._clock = store, clock
        self._log = log(self)
        name = f"{node}.{chance.getrandbits(48):012x}"
        self.committer = Committer(
            self,
            store,
            self._log,
            clock,
            name=name,
            chance=chance,
            settings=self.settings,
            rules=rules,
            entropy=entropy,
            members=members,
            cluster=cluster,
        )
        self.scrubber = Scrubber(store, self.settings)
        self.sweeper = Sweeper(self, store, self._log, clock, name=name, settings=self.settings)
        self.publisher = Publisher(
            self, store, broadcast, clock, chance=chance, settings=self.settings, rules=rules
        )
        self.likeness = Likeness(self, self._log)
        self._waits = Waits()
        self._listeners: dict[int, Listener] = {}
        self._numbers = count(1)
        self._settled_waits = RevisionWaits()
        self._fed = 0
        """Newest revision that the listeners heard of."""
        self.time = LogTime(clock.monotonic())
        self._led_s = 0.0
        """Since when this member leads, if it does."""
        self._synced = False
        """What this member's log acknowledges is on its disk, as far as is known yet."""
        self._stamped_in = 0
        """The newest term of which a stamp is applied here."""
        self._leader: tuple[str | None, int, int] = (None, 0, 0)
        """Who leads, in which term, since when (this node's wall clock, or the leader's word)."""
        self._leader_refusal: str | None = None
        self._leader_gives_up: GivenUp | None = None
        self._leader_stuck = False
        self._recovering: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self._fault: BaseException | None = None
        self._faulty = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._open = False
        self.time_jumps = 0
        """How often log time did not go by this leader's monotonic clock."""
        self.resets = self.restores = self.undecoded = 0
        """Commands of the log that this version could not read: they did nothing here."""

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        for name, loop in (
            ("committer", self.committer.run()),
            ("sweeper", self.sweeper.run()),
            ("scrubber", self.scrubber.run()),
            ("publisher", self.publisher.run()),
            ("recovery", self._recover_for_ever()),
            ("heartbeat", self._watch_peers()),
            ("likeness", self.likeness.run()),
            ("fault", self._die_of_faults()),
        ):
            self._tasks.append(self._group.create_task(loop, name=f"acordo-{name}-{self.node}"))
        try:
            await self._log.__aenter__()
        except BaseException:
            await self._stop(None)
            raise
        self._open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._open = False
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

    # -------------------------------------------------------------------------------------- writing

    def submit(self, intents: Sequence[Intent | Cancel]) -> list[asyncio.Future[Answer]]:
        """Hand intents to Raft as one command; see `kv.ports.Consensus.submit`."""
        for intent in intents:
            if type(intent) is Cancel and intent.op_id.startswith(NODE_OP_ID_PREFIX):
                raise BadRequest("not_cancellable", "op_ids made by a node cannot be cancelled")
        refused = self._refuses(intents)
        if refused is not None:
            return [_failed(refused) for _ in intents]
        waits = [self._waits.add(intent) for intent in intents]
        if waits:
            through = self._log.propose(encode(Submit(tuple(intents))))
            through.add_done_callback(partial(self._submitted, waits))
        return [wait.answered for wait in waits]

    def refuses(self, intents: Sequence[Intent | Cancel]) -> NotApplied | None:
        refused = self._refuses(intents)
        if refused is not None:
            return refused
        raft = self._log.status()
        if raft.leader is None:
            return NotApplied("no_leader", "no leader is known")
        return None if raft.quorum else NotApplied("no_quorum", "no quorum answers the leader")

    def _refuses(self, intents: Sequence[Intent | Cancel]) -> NotApplied | None:
        """Say why an attempt is not handed to Raft at all: only such a refusal is definite by
        itself (INV-4).
        """
        machine, settings = self.machine, self.settings
        if not self._open:
            return NotApplied("draining", "this node is not open")
        refusal = self.refusal
        if refusal is not None:
            return store_refused(refusal)
        if not self.stamped:
            return NotApplied(
                "starting",
                "this node does not know yet what time it is in the log",
                retry_after_s=0.2,
            )
        if (
            len(machine.pending) + len(intents) > settings.pending_intents_max
            or machine.pending_bytes + size_of_all(intents) > settings.pending_bytes_max
            or len(self._waits) + len(intents) > settings.waiters_max
        ):
            return NotApplied("overloaded", "too many intents wait for the store")
        if self._stalled():
            return NotApplied("store_away", "what was ordered before does not get committed")
        return None

    def _stalled(self) -> bool:
        """Say whether the oldest pending intent waits for its commit for too long."""
        oldest = self.machine.pending.get(self.machine.settled.revision + 1)
        return (
            oldest is not None and self.now_ms() - oldest.ordered_ms > self.settings.stall_s * 1000
        )

    def _store_trouble(self) -> str | None:
        """Say why what is ordered does not get committed, as this member sees it or its leader
        tells.
        """
        if self.leads:
            own = self.committer.stuck
            return (
                own
                if own is not None or not self._stalled()
                else "what was ordered does not get committed"
            )
        if self._leader_stuck:
            return "the leader's store does not take what it commits"
        return "what was ordered does not get committed" if self._stalled() else None

    def _submitted(self, waits: list[Wait], through: asyncio.Future[Position]) -> None:
        """Fail the waits of an attempt that did not get into the log, or may not have."""
        exc = asyncio.CancelledError() if through.cancelled() else through.exception()
        if exc is None:
            return  # applied here: the machine knows it, and answers when it settles
        for wait in waits:
            if wait.answered.done():
                continue
            if isinstance(exc, NotApplied):
                wait.fail(NotApplied(exc.reason, exc.detail, retry_after_s=exc.retry_after_s))
            else:
                wait.fail(
                    OutcomeUnknown(str(exc) or "the log lost sight of it", op_id=wait.attempt[0])
                )
            self._waits.drop(wait)
        if not isinstance(exc, NotApplied | OutcomeUnknown | asyncio.CancelledError):
            self._die(exc)

    def taken_over(self) -> None:
        self.publisher.taken_over()

    def committed(self, first: int, records: Sequence[Recorded]) -> None:
        """Answer those who wait here for a group that is in the store (INV-2: never called before
        its COMMIT).
        """
        self._waits.answer_records(first, records)

    # -------------------------------------------------------------------------------------- Replica

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        try:
            # NewerCommand ends the member, before it could come to another state than others
            decoded = decode(command)
        except ValueError as exc:
            self.undecoded += 1
            _log.error("command not understood", index=position.index, error=str(exc))
            return
        try:
            ordered_before = self.machine.revision
            effects = self.machine.apply(decoded, stamp_ms)
            if self._waits and isinstance(decoded, Submit):
                self._waits.ordered(decoded.intents, ordered_before, self.machine.pending)
            self._keep_time()
            if stamp_ms:
                self._stamped_in = position.term
            for told in effects.told:
                self._waits.answer((told.op_id, told.body_hash), told.answer)
            for settled in effects.settled:
                self._waits.answer_records(settled.previous + 1, settled.records)
                self._feed(settled)
        except Exception as exc:  # noqa: BLE001 (whatever it is, it must end the process, not the log's loop)
            self._die(exc)
            return
        if effects.verdict in {"founded", "amended"} and self.limits_differ:
            names = ", ".join(self.limits_differ)
            _log.warning(
                "settings of this member are not those of the cluster, which count", differing=names
            )
        if effects.verdict in {"foreign", "gap", "illegal"}:
            _log.info(
                "command did nothing",
                verdict=effects.verdict,
                kind=type(decoded).__name__,
                index=position.index,
            )
        self.committer.wake()

    def stamp_ms(self) -> int:
        return self.now_ms() if self.time.kept else 0

    def snapshot(self) -> Callable[[], bytes]:
        # Without `last`: copying it would hold up the loop, and whoever restores this only reads a
        # little more.
        return partial(encode_state, self.machine.capture(last=False))

    def restore(self, snapshot: bytes) -> None:
        self.machine.restore(decode_state(snapshot))
        self.restores += 1
        self._keep_time()
        asyncio.get_running_loop().call_soon(self._restored)
        self._waits.forget_order()
        self._answer_from_window()
        settled = self.machine.settled
        if settled.revision > self._fed:
            if self._waits:
                self._recovering.put_nowait((self._fed, settled.revision))
            undone = self.machine.undone
            after = undone.after if self._fed < undone.to else None
            jump = Settled(
                self._fed,
                settled.revision,
                settled.digest,
                (),
                None,
                self.machine.log_time_ms,
                after,
            )
            try:
                self._feed(jump)
            except Exception as exc:  # noqa: BLE001 (as in apply)
                self._die(exc)
        self.committer.wake()

    def _restored(self) -> None:
        """Count a stamp in a snapshot for one that was applied: where it was made, its term had
        begun.
        """
        self._stamped_in = max(self._stamped_in, self._log.applied.term)

    def reset(self) -> None:
        if self.rules.reset:
            _log.warning(
                "applied log was overwritten: starting again", settled=self.machine.settled.revision
            )
            self.resets += 1
            self.machine.reset()
        self.committer.wake()

    def led(self, term: int) -> None:
        self._led_s = self._clock.monotonic()
        self._lead_seen(self.node, term, 0)
        self.committer.led(term)
        self.sweeper.led(term)
        self.scrubber.led()
        self.publisher.led(term)

    def deposed(self, term: int) -> None:
        self.committer.deposed(term)
        self.sweeper.deposed()
        self.scrubber.deposed()
        self.publisher.deposed()

    def note(self) -> bytes:
        settled = self.machine.settled
        given = self.committer.gives_up if self.leads else None
        note = Note(
            version=NOTE_VERSION,
            ordered=self.machine.revision,
            settled=settled.revision,
            digest=settled.digest,
            url=self.url[:NOTE_URL_MAX],
            refusal=(self.committer.refusal or "") if self.leads else "",
            leader_since_ms=self._leader[2] if self.leads else 0,
            namespace=self.machine.namespace,
            wall_ms=self._clock.wall_ms(),
            kept_ms=self.now_ms() if self.time.kept else 0,
            found_in=self.time.found_in,
            synced=self._synced,
            gives_up=given.revisions if given else -1,
            gives_up_after=given.after if given else 0,
            stuck=self.leads and self.committer.stuck is not None,
        )
        return encode_note(note)

    # -------------------------------------------------------------------------------------- reading

    async def read_index(self, *, timeout_s: float) -> None:
        """Wait until this machine holds all that was acknowledged anywhere; see
        `kv.ports.Consensus.read_index`.
        """
        ends_s = self._clock.monotonic() + timeout_s
        if self.likeness.apart and self.rules.machines_alike:
            raise NotApplied(
                "diverged",
                "this member's machine went another way than the leader's; it is built anew",
            )
        position = await self._log.read_index(timeout_s=timeout_s)
        if self._log.applied == position:
            return
        if not self.rules.readindex_entry:
            while self._log.applied.index < position.index:  # noqa: ASYNC110 (a rule taken away, in tests only)
                await asyncio.sleep(HEARTBEAT_S / 10)
            return
        try:
            await self._log.wait_applied(
                position, timeout_s=max(0.0, ends_s - self._clock.monotonic())
            )
        except TimeoutError as exc:
            raise NotApplied("no_quorum", "this node's log does not catch up") from exc

    @property
    def ordered(self) -> int:
        return self.machine.revision

    @property
    def settled(self) -> Head:
        settled = self.machine.settled
        return Head(last=settled.revision, digest=settled.digest)

    @property
    def namespace(self) -> int:
        return self.machine.namespace

    @property
    def undone(self) -> Undone:
        return self.machine.undone

    @property
    def space(self) -> Space | None:
        founded = self.machine.founded
        return None if founded is None else Space(self.machine.namespace, founded.cache_key)

    @property
    def refusal(self) -> str | None:
        if not self.rules.refuse_behind:
            return None
        if self.leads:
            return self.committer.refusal
        return self._leader_refusal

    def touched(self, key: bytes) -> int:
        return self.machine.touched(key)

    def now_ms(self) -> int:
        return self.time.now_ms(self._clock.monotonic())

    @property
    def operation_retention_ms(self) -> int:
        return self.machine.limits.window_ms

    @property
    def stamped(self) -> bool:
        """Say whether this node knows the time: deadlines set here mean what they say."""
        return self.time.kept and self.machine.log_time_ms > 0

    def _keep_time(self) -> None:
        self.time.stamp(self.machine.log_time_ms, self._clock.monotonic())

    def recorded(self, op_id: str) -> Answer | Literal["pending"] | None:
        known = self.machine.window.get(op_id, self.machine.log_time_ms)
        if known is not None:
            return Answer(known.revision, known.outcome)
        return "pending" if self.machine.attempts(op_id) else None

    async def wait_settled(self, revision: int, *, timeout_s: float) -> None:
        if self.machine.settled.revision >= revision:
            return
        await self._settled_waits.wait(revision, timeout_s=timeout_s)

    def listen(self, listener: Listener) -> Callable[[], None]:
        number = next(self._numbers)
        self._listeners[number] = listener

        def end() -> None:
            self._listeners.pop(number, None)

        return end

    def _feed(self, settled: Settled) -> None:
        """Tell the listeners what they have not heard yet, and those who wait for a revision."""
        if settled.previous < self._fed:
            settled = _after(settled, self._fed)  # a log that was reset repeats itself
        if settled.last > self._fed:
            self._fed = settled.last
            self.publisher.hear(settled)
            for listener in list(self._listeners.values()):
                listener(settled)
        self._settled_waits.reached(self.machine.settled.revision)

    # --------------------------------------------------------------------------------------- status

    @property
    def leads(self) -> bool:
        return self.committer.term is not None

    def status(self) -> Status:
        raft, machine = self._log.status(), self.machine
        leads = raft.role == "leader"
        self._look_at(raft)
        given = self.committer.gives_up if self.leads else self._leader_gives_up
        urls = {member.id: member.url for member in self._members(raft)}
        return Status(
            node=self.node,
            role=raft.role,
            term=raft.term,
            leader=raft.leader,
            leader_url=urls.get(raft.leader) or None if raft.leader is not None else None,
            leader_since_ms=self._leader[2] or None if raft.leader is not None else None,
            quorum=raft.quorum,
            taken_over=leads and self.committer.taken_over,
            ordered=machine.revision,
            settled=machine.settled.revision,
            digest=machine.settled.digest.hex(),
            pending=len(machine.pending),
            gives_up=None if given is None else given.revisions,
            gives_up_after=None if given is None else given.after,
            cluster_id=self.cluster,
            history=machine.founded.history.hex() if machine.founded else None,
            limits_differ=self.limits_differ,
            diverged=self.likeness.apart,
            floor=machine.recent.floor,
            namespace=machine.namespace,
            log_time_ms=machine.log_time_ms,
            refusal=self.refusal,
            fsync=raft.fsync,
            members=tuple(self._members(raft)),
            broadcast_lag=self.publisher.lag,
            conflicts=raft.conflicts,
            stamped=self.stamped and self._stamped_in == raft.term,
            unsynced_age_s=round(raft.unsynced_age_s, 3),
            store_trouble=self._store_trouble(),
            unfit=raft.unfit,
            counts=self._counts(),
        )

    def _counts(self) -> dict[str, int]:
        committer, sweeper, publisher = self.committer, self.sweeper, self.publisher
        return {
            "groups_committed": committer.groups,
            "intents_committed": committer.intents,
            "take_overs": committer.takeovers,
            "rebases": committer.rebases,
            "commits_unknown": committer.unknown_commits,
            "groups_fenced": committer.fenced,
            "time_jumps": self.time_jumps,
            "resets": self.resets,
            "machines_rebuilt": self.likeness.rebuilt,
            "snapshots_restored": self.restores,
            "commands_undecoded": self.undecoded,
            "keys_expired": sweeper.expired,
            "versions_pruned": sweeper.pruned_versions,
            "ledger_rows_pruned": sweeper.pruned_rows,
            "operations_pruned": sweeper.pruned_operations,
            "blobs_pruned": sweeper.pruned_blobs,
            "versions_scrubbed": self.scrubber.scrubbed,
            "versions_damaged": len(self.scrubber.damaged),
            "changes_broadcast": publisher.published,
            "broadcasts_failed": publisher.failures,
        }

    def _members(self, raft: RaftStatus) -> Iterable[Member]:
        for peer in raft.peers:
            own = peer.id == self.node
            note = read_note(self.note() if own else peer.note)
            yield Member(
                id=peer.id,
                url=self.url if own else (note.url if note else ""),
                raft_address=peer.address,
                voter=peer.voter,
                role=raft.role if own else peer.role,
                term=raft.term if own else None,
                applied=note.ordered if note else None,
                settled=note.settled if note else None,
                digest=note.digest.hex() if note else None,
                lag=max(0, raft.last - peer.match) if peer.match is not None else None,
                last_seen_s=0.0 if own else peer.last_seen_s,
                trouble=peer.trouble,
            )

    @property
    def limits_differ(self) -> tuple[str, ...]:
        """Names of the limits in which this member's own settings differ from those of the log,
        which count.
        """
        machine = self.machine
        return () if machine.founded is None else machine.limits.differing(self.settings.limits)

    def leader_settled(self) -> int | None:
        """Return the settled revision that the leader of the present term told of last."""
        raft = self._log.status()
        for peer in raft.peers:
            if (
                peer.id == raft.leader != self.node
                and peer.role == "leader"
                and peer.note_term == raft.term
            ):
                note = read_note(peer.note)
                return None if note is None else note.settled
        return None

    def _where(self, member: str) -> str:
        return next((m.url for m in self._members(self._log.status()) if m.id == member), "")

    def unneeded_below(self) -> int:
        """Return up to where no voter will ever need the ledger's rows again; 0: one may
        need all.
        """
        raft = self._log.status()
        voters = [peer for peer in raft.peers if peer.voter]
        heard: list[Standing | None] = []
        for peer in voters:
            note = read_note(self.note() if peer.id == self.node else peer.note)
            heard.append(None if note is None else Standing(note.settled, note.synced))
        return unneeded(heard)

    def _lead_seen(self, leader: str | None, term: int, since_ms: int) -> None:
        known, known_term, known_since_ms = self._leader
        if (known, known_term) != (leader, term):
            self._leader = (leader, term, since_ms or self._clock.wall_ms())
        elif since_ms and since_ms != known_since_ms:
            self._leader = (leader, term, since_ms)

    def _look_at(self, raft: RaftStatus) -> None:
        """Take over what the leader says of itself."""
        refusal, since_ms, gives_up, stuck = None, 0, None, False
        for peer in raft.peers:
            if peer.id == raft.leader and peer.id != self.node:
                note = read_note(peer.note)
                if note is not None and peer.role == "leader":
                    refusal, since_ms, stuck = (
                        note.refusal or None,
                        note.leader_since_ms,
                        note.stuck,
                    )
                    if refusal is not None and note.gives_up >= 0:
                        gives_up = GivenUp(note.gives_up_after, note.gives_up)
        self._leader_refusal, self._leader_gives_up, self._leader_stuck = refusal, gives_up, stuck
        self._lead_seen(raft.leader, raft.term, since_ms)

    # ----------------------------------------------------------------------------------- membership

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        return await self._log.transfer(to, timeout_s=timeout_s)

    async def add_member(
        self, member: str, raft_address: str, url: str, *, voter: bool, timeout_s: float
    ) -> str:
        """Add or promote; the new member tells its `url` itself, in its note."""
        return await self._log.add_member(member, raft_address, voter=voter, timeout_s=timeout_s)

    async def remove_member(self, member: str, *, timeout_s: float) -> str:
        return await self._log.remove_member(member, timeout_s=timeout_s)

    async def amend(self, *, timeout_s: float) -> tuple[str, ...]:
        if self.machine.founded is None:
            raise NotApplied("starting", "no history is founded yet")
        changed = self.limits_differ
        through = self._log.propose(encode(Amend(self.settings.limits)))
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(through)
        except TimeoutError as exc:
            raise OutcomeUnknown("the limits are still on their way to the log") from exc
        return changed

    async def adopt(self, *, gives_up: int | None = None, timeout_s: float) -> int:
        if not self.leads:
            self._look_at(self._log.status())
            leader = self._leader[0]
            if leader is None or leader == self.node:
                raise NotApplied(
                    "no_leader",
                    "only the leader adopts the store's head, and none is known here yet",
                )
            where = self._where(leader)
            raise BadRequest(
                "ask_leader",
                f"only the leader adopts the store's head: {leader}{where and f' at {where}'}",
                allowed=where or leader,
            )
        adopted = self.committer.adopt(gives_up)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(adopted)
        except TimeoutError as exc:
            raise OutcomeUnknown("the adoption is still on its way") from exc

    # ----------------------------------------------------------------------------- loops of its own

    async def _watch_peers(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S if self.time.kept else TIME_ASKED_S)
            if self._open:
                raft = self._log.status()
                self._synced = raft.fsync == "always"
                self._look_at(raft)
                self._look_at_clocks(raft)

    def _look_at_clocks(self, raft: RaftStatus) -> None:
        """Follow the leader's time or, as the leader, find it out and go on with it (logtime.py
        decides).
        """
        at_s, knew = self._clock.monotonic(), self.time.kept
        if self.leads:
            voters = sum(peer.voter for peer in raft.peers)
            jump_ms = self.time.lead(
                self._readings(raft), voters, at_s - self._led_s, at_s, raft.term
            )
            if jump_ms > 0:
                self.time_jumps += 1
                if knew:
                    _log.warning("log time jumps to what a quorum kept", by_ms=jump_ms)
                else:
                    _log.info("log time is found", now_ms=self.now_ms(), by_ms=jump_ms)
                if self.committer.taken_over:  # else it orders a tick itself
                    self._log.propose(encode(TICK)).add_done_callback(_heard)
            if self.time.kept and not knew:
                self.committer.wake()
            return
        for reading in self._readings(raft):
            if reading.member == raft.leader != self.node:
                self.time.follow(reading, at_s)

    def _readings(self, raft: RaftStatus) -> list[Reading]:
        """Return what the members' clocks said in the present term: older words may be of before a
        step or a stop.
        """
        readings = []
        for peer in raft.peers:
            own = peer.id == self.node
            note = read_note(self.note() if own else peer.note)
            if note is not None and note.wall_ms and (own or peer.note_term == raft.term):
                age_s = 0.0 if own else peer.note_age_s
                readings.append(
                    Reading(peer.id, peer.voter, note.wall_ms, note.kept_ms, age_s, note.found_in)
                )
        return readings

    async def _die_of_faults(self) -> None:
        await self._faulty.wait()
        raise InvariantViolated("applying the log failed") from self._fault

    def _die(self, exc: BaseException) -> None:
        """End the process: what the log or a listener ran into cannot be gone on from."""
        if self._fault is None:
            self._fault = exc
            _log.error("fault", error=repr(exc))
        self._faulty.set()

    def _answer_from_window(self) -> None:
        """After a snapshot took the place of the commands that would have answered them."""
        for op_id, body_hash in self._waits.attempts():
            known = self.machine.window.get(op_id, self.machine.log_time_ms)
            if known is not None:
                told = self.machine.window.meet(known, body_hash)
                first = (
                    Answer(known.revision, known.outcome) if known.body_hash == body_hash else told
                )
                self._waits.answer((op_id, body_hash), first)

    async def _recover_for_ever(self) -> None:
        while True:
            after, to = await self._recovering.get()
            try:
                await self._recover(after, to)
            except (BackendUnavailable, Pruned, TimeoutError) as exc:
                _log.warning("waiting clients stay unanswered", after=after, to=to, error=str(exc))

    async def _recover(self, after: int, to: int) -> None:
        """Answer those who wait from the ledger rows that a snapshot stepped over; the others'
        waits run out.
        """
        left = self.settings.recover_rows_max
        while after < to and left > 0 and self._waits:
            page = await self._store.rows(
                after, min(left, 256), timeout_s=self.settings.store_timeout_s
            )
            if not page:
                return
            for row in page:
                self._waits.answer_records(row.first, row.body)
            after, left = page[-1].last, left - len(page)


def _after(settled: Settled, fed: int) -> Settled:
    """Return the part of it past `fed`."""
    return Settled(
        previous=max(settled.previous, fed),
        last=settled.last,
        digest=settled.digest,
        records=settled.records[fed - settled.previous :] if settled.records else (),
        versions=None
        if settled.versions is None
        else tuple(v for v in settled.versions if v.revision > fed),
        log_time_ms=settled.log_time_ms,
    )


def _heard(through: asyncio.Future[Position]) -> None:
    """Take note of how a tick ended that nobody waits for."""
    if not through.cancelled():
        through.exception()


def _failed(exc: Exception) -> asyncio.Future[Answer]:
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    fail(answered, exc)
    return answered
