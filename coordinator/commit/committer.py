"""Turn pending intents into store transactions, one group after another, while this member leads.

It never assumes how a transaction ended: what was not heard is found out by taking over (an empty
ledger row), and it never tells of an outcome before the COMMIT that made it true (INV-2).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Literal, Protocol, TypeVar

import msgspec
import structlog

from coordinator.backoff import Backoff
from coordinator.log import Log, Position
from coordinator.logtime import LogTime
from coordinator.machine import founding
from coordinator.machine.commands import TICK, Adopt, Command, encode
from coordinator.machine.evaluate import evaluate, needs, no_facts
from coordinator.machine.ledger import (
    Ahead,
    GivenUp,
    Level,
    Refuse,
    adoption,
    anchored,
    belongs,
    given_up,
    group_on,
    mark_of,
    settle_of,
    standing,
)
from coordinator.machine.machine import Machine
from coordinator.machine.pending import Mark, Pending
from coordinator.rules import PROTOCOL, Rules
from coordinator.settings import Settings
from kv.errors import (
    BackendUnavailable,
    BadRequest,
    InvariantViolated,
    NotApplied,
    OutcomeUnknown,
    Pruned,
)
from kv.model import Group, Head, LedgerRow, Recorded, roll
from kv.ports import Appended, Clock, Fenced, Identity, Outranked, Store, TakenOver

_log = structlog.get_logger("acordo.committer")
_T = TypeVar("_T")

STUCK_AFTER_S: Final = 1.0
HANG_FACTOR: Final = 1.5
"""A store that overruns the time it was given by this factor is treated as having lost the
answer.
"""


class Node(Protocol):
    """What the committer asks of the member it runs on."""

    @property
    def machine(self) -> Machine: ...

    def now_ms(self) -> int: ...

    @property
    def time(self) -> LogTime: ...

    def taken_over(self) -> None:
        """Take note that this member has taken over the store."""
        ...

    def committed(self, first: int, records: Sequence[Recorded]) -> None:
        """Answer the clients that wait here: the group that begins at `first` is in the store."""
        ...


class Committer:
    """The leader's loop. `run` it once; `led`, `deposed` and `wake` are called from the
    log's side.
    """

    def __init__(
        self,
        node: Node,
        store: Store,
        log: Log,
        clock: Clock,
        *,
        name: str,
        chance: random.Random,
        settings: Settings,
        rules: Rules = PROTOCOL,
        entropy: Callable[[int], bytes] | None = None,
        members: bytes = b"",
        cluster: str = "",
    ) -> None:
        """`entropy` gives so many bytes that nobody can guess; None: `chance` does, for tests."""
        self._node, self._store, self._log, self._clock = node, store, log, clock
        self._settings, self._rules = settings, rules
        self._entropy, self._first_members = entropy or chance.randbytes, members
        self._cluster = cluster
        self._backoff = Backoff(chance, min_s=settings.backoff_s_min, max_s=settings.backoff_s_max)
        self._news = asyncio.Event()
        """Intents were ordered, a Settle is through, or what `_shift` says."""
        self._shift = asyncio.Event()
        """Leadership changed, or an operator asks: what ends a back-off early."""
        self._mine: dict[int, Recorded] = {}
        """Own verdicts of an unresolved commit; used only when `ledger_outcomes` is off."""
        self._settles: deque[tuple[int, asyncio.Future[Position], float]] = deque()
        """Groups committed whose Settle is on its way: their last revision, and when to
        give it up.
        """
        self._batch_max = settings.group_intents_max
        """Halved by every failure of the store, doubled by every commit: what is too much for it
        gets through.
        """
        self._adopting: asyncio.Future[int] | None = None
        self.name = name
        """Names this incarnation in the ledger: no two ever append in one term."""
        self.term: int | None = None
        """The term that this member leads, if it does."""
        self.taken: int | None = None
        """The newest term in which it has taken over."""
        self.refusal: str | None = None
        self.gives_up: GivenUp | None = None
        """What adopting the refused head would give up."""
        self.store_trouble: str | None = None
        """Why the store did not take the last group, until it takes one."""
        self._troubled_at = 0.0
        self._told_of = Mark()
        """Up to where clients of this member were answered at COMMIT: in the store, though perhaps
        not settled yet.
        """
        self._handed_on_at: Mark | None = None
        """The settled place for which the leadership was offered to others: once for each."""
        self.groups = self.intents = self.takeovers = self.unknown_commits = self.rebases = (
            self.fenced
        ) = 0

    # -------------------------------------------------------------------------- from the log's side

    def led(self, term: int) -> None:
        self.term = term
        if not self._rules.readindex_taken:
            self._log.open_reads(term)
        self._shift.set()
        self._news.set()

    def deposed(self, term: int) -> None:
        if self.term is not None and self.term <= term:
            self.term = None
        if self._adopting is not None and not self._adopting.done():
            self._adopting.set_exception(NotApplied("deposed"))
        self.refusal = self.gives_up = None
        self._shift.set()
        self._news.set()

    def wake(self) -> None:
        """Say that something changed: intents were ordered, or a command was applied."""
        self._news.set()

    @property
    def taken_over(self) -> bool:
        return self.term is not None and self.taken == self.term

    @property
    def stuck(self) -> str | None:
        """Why the store takes nothing, once that lasts: one lost answer is no reason to send
        clients elsewhere.
        """
        lasts = self._clock.monotonic() - self._troubled_at >= STUCK_AFTER_S
        return self.store_trouble if lasts else None

    def adopt(self, gives_up: int | None) -> asyncio.Future[int]:
        """Ask the loop, which refuses, to adopt the store's head. Raises NotApplied, BadRequest."""
        if self.term is None:
            raise NotApplied("not_leader", "only the leader adopts the store's head")
        if self.refusal is None and not self.taken_over:
            raise NotApplied("not_taken_over", "this leader has not looked at the store yet")
        if self.refusal is None or self.gives_up is None:
            raise BadRequest(
                "nothing_to_adopt", "the store is what was settled: there is nothing to adopt"
            )
        if self.refusal == "store_foreign":
            raise BadRequest(
                "foreign_store",
                "the store is another cluster's: it cannot be adopted",
                allowed="this cluster's store",
            )
        if gives_up != self.gives_up.revisions:
            raise BadRequest(
                "gives_up", _named(self.gives_up), allowed=f"gives_up: {self.gives_up.revisions}"
            )
        if self._adopting is None or self._adopting.done():
            self._adopting = asyncio.get_running_loop().create_future()
            self._adopting.add_done_callback(_consume)
        self._shift.set()
        return self._adopting

    # ----------------------------------------------------------------------------------------- loop

    async def run(self) -> None:
        """Lead whenever the log says so, for ever."""
        while True:
            term = self.term
            if term is None:
                await self._wait_news(None)
            else:
                await self._lead(term)

    async def _lead(self, term: int) -> None:
        self._backoff.reset()
        while self.term == term and not self._node.time.kept:
            await self._wait_news(None)  # nothing is dated by a clock that nobody vouches for
        # log time is this leader's before the first deadline is judged by it
        await self._ordered(TICK, term)
        while self.term == term:
            head = await self._take_over(term) if await self._founded(term) else None
            if head is None:
                if self.term == term:
                    await self._pause(self._backoff.next_s())
                continue
            self._taken(term)
            before = self.groups
            await self._commit(term, head)
            if self.groups > before:
                self._backoff.reset()

    async def _founded(self, term: int) -> bool:
        """Order the beginning of this history unless the log has one; say whether there is
        one now.
        """
        if self._machine.founded is None:
            command = founding.found(self._entropy, self._settings.limits, self._first_members)
            if await self._ordered(command, term) and self._machine.founded == command:
                _log.info("history founded", history=command.history.hex())
        return self._machine.founded is not None

    def _taken(self, term: int) -> None:
        self._mine = {}
        if self.refusal is not None:
            _log.info("store accepted again", term=term)
        self.refusal = self.gives_up = None
        self._well()
        if self.taken != term:
            self.taken = term
            self._log.open_reads(term)
            self._node.taken_over()
            _log.info("taken over", term=term, settled=self._machine.settled.revision)

    @property
    def _machine(self) -> Machine:
        return self._node.machine

    # ---------------------------------------------------------------------------------- taking over

    async def _take_over(self, term: int) -> Head | None:
        """Append the empty row, read the head, bring the machines there; return what to build on.

        None: it did not work out this time, or this member leads no more.
        """
        self.takeovers += 1
        if not await self._owned(term):
            return None
        landed = await self._append_empty_row(term)
        if landed is None or self.term != term:
            return None
        own = landed.own
        if not self._rules.reads_head:
            settled = self._machine.settled
            return Head(own.seq, own.term, own.committer, settled.revision, settled.digest)
        while True:
            settled = self._machine.settled
            found = await self._plan(settled, own)
            if found is None or self.term != term:
                return None
            if isinstance(found, Refuse):
                if await self._nobody_moved(settled, own):
                    await self._stay_refused(term, own, found)
                return None
            if not found:
                return own
            for command in found:
                if not await self._ordered(command, term):
                    return None
            if self._machine.settled.revision <= settled.revision:
                # another command came first: the settled revision is still below the head
                return None

    async def _owned(self, term: int) -> bool:
        """Make sure that the store is this history's before anything is written to it; refuse one
        that is not.
        """
        founded = self._machine.founded
        if founded is None or not self._rules.store_identity:
            return self.term == term
        found = await self._asked(
            self._store.claim(self._identity, timeout_s=self._settings.store_timeout_s)
        )
        refuse = None if found is None else belongs(self._identity, found)
        if refuse is not None and self.term == term:
            head = await self._asked(self._store.head(timeout_s=self._settings.store_timeout_s))
            if head is not None and self.term == term:
                if refuse.why == "store_history" and _outranked(head, term, self.name):
                    self._log.outrank(max(term, head.term))  # who adopts it appends behind that row
                    await self._pause(self._settings.backoff_s_max)
                else:
                    await self._stay_refused(term, head, refuse)
        return found is not None and refuse is None and self.term == term

    @property
    def _identity(self) -> Identity:
        founded = self._machine.founded
        return Identity(self._cluster, b"" if founded is None else founded.history)

    async def _nobody_moved(self, settled: Mark, own: Head) -> bool:
        """Say whether the head is still the own row and the machine still where it was compared
        with it.

        Otherwise another leader is at work, whose Settles may arrive here before the news of its
        election does: what looked like a store that is behind was only an old look at it.
        """
        head = await self._look(settled)
        return head == own and self._machine.settled == settled

    async def _append_empty_row(self, term: int, adopt_last: int | None = None) -> TakenOver | None:
        """Take the place behind the newest row, so that nothing that was in flight can land any
        more.
        """
        if not self._rules.fence_row and adopt_last is None:
            head = await self._asked(self._store.head(timeout_s=self._settings.store_timeout_s))
            return None if head is None else TakenOver(head, head)
        try:
            async with asyncio.timeout(self._settings.store_timeout_s * HANG_FACTOR):
                result = await self._store.take_over(
                    term,
                    self.name,
                    self._node.now_ms(),
                    adopt_last=adopt_last,
                    identity=None if adopt_last is None else self._identity,
                    timeout_s=self._settings.store_timeout_s,
                )
        except (BackendUnavailable, OutcomeUnknown, TimeoutError) as exc:
            self._trouble(exc)  # if it landed after all, the next row stands on it
            return None
        if isinstance(result, Outranked):
            _log.warning(
                "outranked by a ledger row",
                term=term,
                row_term=result.head.term,
                row_of=result.head.committer,
            )
            self.refusal = self.gives_up = None  # whoever wrote that row decides
            self._log.outrank(max(term, result.head.term))
            await self._pause(self._settings.backoff_s_max)
            return None
        return result

    async def _plan(self, settled: Mark, own: Head) -> tuple[Command, ...] | Refuse | None:
        """Decide on the next steps from what is settled to the head, at most a page of rows; ()
        when it is there.

        None: the store does not answer.
        """
        stands = standing(settled, own, digest_check=self._rules.digest_check)
        if self._told_of.revision > settled.revision and not isinstance(stands, Refuse):
            told = standing(self._told_of, own, digest_check=self._rules.digest_check)
            if isinstance(told, Refuse):
                # what clients heard is not in the store: no other order may take its place
                return told
        if isinstance(stands, Level):
            return ()
        if isinstance(stands, Refuse):
            return stands
        assert isinstance(stands, Ahead)
        timeout_s = self._settings.store_timeout_s
        try:
            ending = None
            if settled.revision:
                ending = await self._within(
                    self._store.row_ending(settled.revision, timeout_s=timeout_s)
                )
            refuse = anchored(settled, ending)
            if refuse is not None and self._rules.digest_check:
                return refuse
            page = await self._within(
                self._store.rows(settled.revision, self._settings.rows_page, timeout_s=timeout_s)
            )
        except Pruned:
            return Refuse("store_pruned")
        except BackendUnavailable as exc:
            self._trouble(exc)
            return None
        rows = [row for row in page if row.last <= own.last]
        if not self._rules.ledger_outcomes:
            rows = [self._with_own_verdicts(row) for row in rows]
        known = bool(rows) and self._machine.holds(mark_of(rows[-1]))
        found = adoption(settled, rows, known=known, rows_bytes_max=self._settings.rebase_bytes_max)
        if not known and not isinstance(found, Refuse):
            self.rebases += 1
            _log.warning(
                "ledger holds what the log lost",
                settled=settled.revision,
                to=rows[-1].last,
                head=own.last,
            )
        return found

    async def _ordered(self, command: Command, term: int) -> bool:
        """Order one command and wait until it is applied here, or this member leads no more, or too
        long.
        """
        through = self._log.propose(encode(command))
        through.add_done_callback(self._settle_done)
        ends_s = self._clock.monotonic() + self._settings.propose_timeout_s
        while not through.done() and self.term == term and self._clock.monotonic() < ends_s:
            await self._wait_news(ends_s - self._clock.monotonic())
        if through.done() and not through.cancelled() and through.exception() is None:
            return True
        reason = (
            str(through.exception()) if through.done() and not through.cancelled() else "no answer"
        )
        _log.info("not ordered", kind=type(command).__name__, reason=reason)
        return False

    async def _look(self, settled: Mark) -> Head | None:
        """Return the store's head, of the server that holds what was settled if there are several;
        None: no answer.
        """
        timeout_s = self._settings.store_timeout_s
        return await self._asked(self._store.head(at_least=settled.revision, timeout_s=timeout_s))

    async def _handed_on(self, term: int, settled: Mark) -> bool:
        """Let the next voter try before refusing: its way may lead to the server that holds what
        was settled.

        Each member hands on once for one settled place, so the leadership goes round once and then
        stays.
        """
        if self._handed_on_at == settled:
            return False
        self._handed_on_at = settled
        status = self._log.status()
        for voter in next_voters(status.id, [peer.id for peer in status.peers if peer.voter]):
            try:
                await self._log.transfer(voter, timeout_s=self._settings.hand_on_s)
            except (NotApplied, OutcomeUnknown, BadRequest) as exc:
                _log.info("not handed on", to=voter, error=str(exc))
            if self.term != term:
                return True
        return False

    async def _stay_refused(self, term: int, own: Head, refuse: Refuse) -> None:
        """Refuse writes and reads of the store until it changes, an operator adopts its head, or
        another leads.
        """
        settled = self._machine.settled
        if self.refusal != refuse.why:
            _log.error(
                "store is not what was settled: refusing",
                why=refuse.why,
                settled=settled.revision,
                settled_digest=settled.digest.hex(),
                head=own.last,
                head_digest=own.digest.hex(),
                gives_up=given_up(settled, own).revisions,
            )
        self.refusal, self.gives_up = refuse.why, given_up(settled, own)
        if await self._handed_on(term, settled):
            return
        while self.term == term and self._machine.settled == settled:
            if self._adopting is not None and not self._adopting.done():
                await self._adopt(term, own, self._adopting)
                return
            await self._pause(self._settings.refused_check_s)
            head = await self._look(settled)
            if head is not None and head != own:
                return  # somebody repaired it, or made it worse

    async def _adopt(self, term: int, own: Head, asked: asyncio.Future[int]) -> None:
        """Append the row that ends above every revision ever given, and order its adoption."""
        last = max(self._machine.revision, own.last) + 1
        landed = await self._append_empty_row(term, adopt_last=last)
        if landed is None:
            _fail(asked, BackendUnavailable("store", "the adopting row was not appended"))
            return
        before, head = landed.before, landed.own
        row = LedgerRow(
            seq=head.seq,
            term=head.term,
            committer=head.committer,
            first=before.last + 1,
            last=head.last,
            digest=head.digest,
            log_time_ms=self._node.now_ms(),
        )
        if not await self._ordered(Adopt(row, founding.namespace(self._entropy)), term):
            _fail(asked, OutcomeUnknown("the adoption was not seen to be ordered"))
        elif self._machine.settled.revision < head.last:
            _fail(asked, NotApplied("deposed", "another command came before the adoption"))
        else:
            _log.warning("head adopted", settled=head.last, digest=head.digest.hex())
            self.refusal = self.gives_up = None  # the store is what is settled, from here on
            self._told_of = Mark()
            if not asked.done():
                asked.set_result(head.last)

    # ----------------------------------------------------------------------------------- the groups

    async def _commit(self, term: int, head: Head) -> None:
        """Commit group after group behind `head`; return when taking over again has to say where
        the head is.
        """
        self._settles.clear()
        while self.term == term:
            if not self._settles_went_well() or not self._continues(head):
                return
            batch = self._next_batch(head)
            if not batch or len(self._settles) >= self._settings.settles_in_flight_max:
                await self._wait_news(self._settings.propose_timeout_s if self._settles else None)
                continue
            if self._rules.digest_check and not _follows(head, batch[0]):
                return
            group = await self._group(term, head, batch)
            if group is None:  # the facts are of another head
                return
            if group == "later":
                await self._pause(self._backoff.next_s())
                continue
            if self.term != term or not self._machine.holds(batch[-1].mark):
                return  # nothing was sent: who leads now commits these, in the order they have now
            ended = await self._append(group)
            if ended == "later":
                await self._pause(self._backoff.next_s())
                continue
            if ended == "unknown":
                return
            head = group.row.head
            self._told(group)

    def _settles_went_well(self) -> bool:
        """Take the settles that are through off the queue; say whether they settled what they
        should.
        """
        while self._settles and self._settles[0][1].done():
            last, through, _ = self._settles.popleft()
            if (
                through.cancelled()
                or through.exception() is not None
                or self._machine.settled.revision < last
            ):
                return False  # the settled revision stays below the head: take over again
        return not self._settles or self._clock.monotonic() < self._settles[0][2]

    def _continues(self, head: Head) -> bool:
        """Say whether the machine still goes on behind the head (a Rebase or Adopt may have come in
        between).
        """
        settled = self._machine.settled
        if settled.revision < head.last:
            return not self._rules.digest_check or self._machine.holds(mark_of(head))
        return settled == mark_of(head) or not self._rules.digest_check

    def _next_batch(self, head: Head) -> list[Pending]:
        """Return the pending intents behind the head, as many as one group may take."""
        batch: list[Pending] = []
        size = 0
        pending = self._machine.pending
        revision = head.last + 1
        while len(batch) < self._batch_max:
            entry = pending.get(revision)
            if entry is None or (batch and size + entry.size > self._settings.group_bytes_max):
                break
            batch.append(entry)
            size += entry.size
            revision += 1
        if not batch and self._machine.revision > head.last:
            raise InvariantViolated(f"revision {head.last + 1} was ordered and is not pending")
        return batch

    async def _group(
        self, term: int, head: Head, batch: Sequence[Pending]
    ) -> Group | Literal["later"] | None:
        """Look up what the batch needs and evaluate it at exactly `head`."""
        asks = needs(batch)
        facts = no_facts(head)
        if not asks.nothing:
            found = await self._asked(
                self._store.facts(
                    asks.op_ids,
                    asks.keys,
                    asks.hashed,
                    asks.blobs,
                    timeout_s=self._settings.store_timeout_s,
                )
            )
            if found is None:
                return "later"
            if found.head != head and self._rules.fence:
                return None
            facts = found
        now_ms = self._node.now_ms()
        evaluation = evaluate(batch, facts, now_ms, self._rules)
        return group_on(
            head,
            term=term,
            committer=self.name,
            log_time_ms=now_ms,
            batch=batch,
            evaluation=evaluation,
        )

    async def _append(self, group: Group) -> Literal["committed", "unknown", "later"]:
        """Run the group's transaction. `later`: nothing happened; `unknown`: taking over
        will tell.
        """
        if not (self._rules.answer_committed and self._rules.settle_committed):
            self._tell_early(group)
        try:
            async with asyncio.timeout(self._settings.store_timeout_s * HANG_FACTOR):
                result = await self._store.append(group, timeout_s=self._settings.store_timeout_s)
        except BackendUnavailable as exc:
            self._trouble(exc)
            self._batch_max = max(1, self._batch_max // 2)
            return "later"
        except (OutcomeUnknown, TimeoutError) as exc:
            self.unknown_commits += 1
            self._batch_max = max(1, self._batch_max // 2)
            self._mine = {group.row.first + i: record for i, record in enumerate(group.row.body)}
            self._trouble(exc)
            return "unknown"
        if isinstance(result, Fenced):
            self.fenced += 1
            _log.warning(
                "group fenced off",
                first=group.row.first,
                last=group.row.last,
                head=result.head.last,
            )
            return "unknown"
        assert isinstance(result, Appended)
        self._well()
        self._batch_max = min(self._batch_max * 2, self._settings.group_intents_max)
        return "committed"

    def _told(self, group: Group) -> None:
        """Answer the clients that wait here, and tell all members through the log."""
        self._told_of = mark_of(group.row)
        self.groups += 1
        self.intents += len(group.row.body)
        if self._rules.answer_committed:
            self._node.committed(group.row.first, group.row.body)
        if self._rules.settle_committed:
            self._propose_settle(group)

    def _propose_settle(self, group: Group) -> None:
        through = self._log.propose(encode(settle_of(group.row)))
        through.add_done_callback(self._settle_done)
        self._settles.append(
            (group.row.last, through, self._clock.monotonic() + self._settings.propose_timeout_s)
        )

    def _settle_done(self, through: asyncio.Future[Position]) -> None:
        _consume(through)
        self._news.set()

    # --------------------------------------------------------------------------------- small change

    async def _within(self, asking: Coroutine[Any, Any, _T]) -> _T:
        """Read from the store. Raises BackendUnavailable, also when it overruns its own
        time-out.
        """
        try:
            async with asyncio.timeout(self._settings.store_timeout_s * HANG_FACTOR):
                return await asking
        except TimeoutError as exc:
            raise BackendUnavailable("store", "no answer in time") from exc

    async def _asked(self, asking: Coroutine[Any, Any, _T]) -> _T | None:
        """Ask the store something that may be asked again; None when it does not answer."""
        try:
            return await self._within(asking)
        except (BackendUnavailable, OutcomeUnknown) as exc:
            self._trouble(exc)
            return None

    def _trouble(self, exc: Exception) -> None:
        if self.store_trouble is None:
            _log.warning("store in trouble", error=str(exc) or type(exc).__name__)
            self._troubled_at = self._clock.monotonic()
        self.store_trouble = str(exc) or type(exc).__name__

    def _well(self) -> None:
        if self.store_trouble is not None:
            _log.info("store answers again")
        self.store_trouble = None

    async def _wait_news(self, seconds: float | None) -> bool:
        """Wait for news; False when there was none for so long."""
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                return await self._news.wait()
        except TimeoutError:
            return False

    async def _pause(self, seconds: float) -> None:
        """Wait, but not past a change of leadership or an operator's call."""
        self._shift.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._shift.wait()

    # ---------------------------------------------------------- what happens with a rule taken away

    def _tell_early(self, group: Group) -> None:
        if not self._rules.answer_committed:
            self._node.committed(group.row.first, group.row.body)
        if not self._rules.settle_committed:
            self._propose_settle(group)

    def _with_own_verdicts(self, row: LedgerRow) -> LedgerRow:
        body = tuple(
            mine
            if mine is not None and (mine.op_id, mine.body_hash) == (record.op_id, record.body_hash)
            else record
            for record, mine in ((r, self._mine.get(row.first + i)) for i, r in enumerate(row.body))
        )
        return msgspec.structs.replace(row, body=body)


def next_voters(own: str, voters: Sequence[str]) -> list[str]:
    """Return the other voters in the order of a ring, so that each of them is tried as the
    leadership goes round.
    """
    ring = sorted(voters)
    return [each for each in ring if each > own] + [each for each in ring if each < own]


def _follows(head: Head, first: Pending) -> bool:
    """Say whether the machine's digest of the first pending intent rolls on from the head's."""
    return roll(head.digest, first.intent.op_id, first.body_hash) == first.digest


def _outranked(head: Head, term: int, name: str) -> bool:
    return head.seq > 0 and (head.term > term or (head.term == term and head.committer != name))


def _named(given: GivenUp) -> str:
    if not given.revisions:
        return "adopting this store gives up nothing that was settled here; say so"
    first, last = given.after + 1, given.after + given.revisions
    lost = f"{given.revisions} revisions that were settled, {first} to {last}"
    kept = (
        f"what the store has up to {given.after} stays"
        if given.after
        else "the store's own take their place"
    )
    return f"adopting this store gives up {lost}: {kept}; say how many"


def _fail(asked: asyncio.Future[int], exc: Exception) -> None:
    if not asked.done():
        asked.set_exception(exc)


def _consume(through: asyncio.Future[Any]) -> None:
    """Take note of a failure that nobody may be waiting for."""
    if not through.cancelled():
        through.exception()
