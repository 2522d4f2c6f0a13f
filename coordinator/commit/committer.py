"""Turn pending intents into store transactions, one group after another, while this member leads.

It never assumes how a transaction ended: taking over (an empty ledger row) finds out. It never
reports an outcome before the COMMIT that made it true (INV-2).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from coordinator.backoff import Backoff
from coordinator.commit.adoption import Adoption
from coordinator.commit.context import AskedStore, CommitContext, CommittingMember
from coordinator.commit.fence import Fence
from coordinator.commit.groups import GroupCommitter
from coordinator.commit.leadership import Leadership, Proposer
from coordinator.commit.refusal import StoreRefusal
from coordinator.commit.takeover import TakeOver
from coordinator.log import Log
from coordinator.machine import founding
from coordinator.machine.commands import TICK
from coordinator.machine.standing import GivenUp
from coordinator.settings import CoordinatorSettings
from kv.errors import NotApplied
from kv.ports import Clock, Store

_log = structlog.get_logger("acordo.committer")


class Committer:
    """The leader's commit loop. Call `run` once; the log's callbacks call `led`, `deposed` and
    `wake`.
    """

    def __init__(
        self,
        member: CommittingMember,
        store: Store,
        log: Log,
        clock: Clock,
        *,
        name: str,
        rng: random.Random,
        settings: CoordinatorSettings,
        entropy: Callable[[int], bytes] | None = None,
        members: bytes = b"",
        cluster: str = "",
    ) -> None:
        """Compose the committer's parts. `entropy` returns the given number of unpredictable bytes;
        None: taken from `rng`, for tests. `members` is the digest of the first member list.
        """
        leadership = Leadership()
        self._context = context = CommitContext(
            member=member,
            store=AskedStore(store, clock, settings.store_timeout_s),
            log=log,
            clock=clock,
            leadership=leadership,
            proposer=Proposer(log, clock, leadership, timeout_s=settings.propose_timeout_s),
            settings=settings,
            name=name,
            cluster=cluster,
        )
        self._entropy, self._first_members = entropy or rng.randbytes, members
        self._backoff = Backoff(rng, min_s=settings.backoff_s_min, max_s=settings.backoff_s_max)
        self._refusal = StoreRefusal()
        fence = Fence(context, self._refusal)
        self._groups = GroupCommitter(context, self._backoff)
        adoption = Adoption(context, fence, self._groups, self._refusal, self._entropy)
        self._takeover = TakeOver(context, fence, self._groups, adoption)
        self.taken: int | None = None
        """The newest term in which this member has taken over."""

    # ---------------------------------------------------------------------------- called by the log

    def led(self, term: int) -> None:
        """Start: this member leads `term`."""
        self._context.leadership.begin(term)

    def deposed(self, term: int) -> None:
        """Stop: this member leads `term` no more."""
        self._refusal.deposed()
        self._context.leadership.end(term)

    def wake(self) -> None:
        """Wake the loop: intents were ordered, or a command was applied."""
        self._context.leadership.wake()

    # --------------------------------------------------------------------------------------- status

    @property
    def name(self) -> str:
        """The name of this incarnation in the ledger."""
        return self._context.name

    @property
    def term(self) -> int | None:
        """The term that this member leads; None when it does not lead."""
        return self._context.leadership.term

    @property
    def taken_over(self) -> bool:
        """Whether this member has taken over the store in the term that it leads."""
        return self.term is not None and self.taken == self.term

    @property
    def refusal(self) -> str | None:
        """Why this leader refuses the store, if it does."""
        return self._refusal.why

    @property
    def gives_up(self) -> GivenUp | None:
        """What adopting the refused head would give up."""
        return self._refusal.gives_up

    @property
    def store_trouble(self) -> str | None:
        """Why the store did not accept the last group; None once it accepts one."""
        return self._context.store.trouble

    @property
    def stuck(self) -> str | None:
        """Why the store accepts nothing, once that has lasted a while."""
        return self._context.store.stuck

    @property
    def groups(self) -> int:
        """The number of groups committed."""
        return self._groups.groups

    @property
    def intents(self) -> int:
        """The number of intents in the groups committed."""
        return self._groups.intents

    @property
    def unknown_commits(self) -> int:
        """The number of commits whose outcome was lost."""
        return self._groups.unknown

    @property
    def fenced(self) -> int:
        """The number of groups that the ledger fenced off, because it ended at another head."""
        return self._groups.fenced

    @property
    def takeovers(self) -> int:
        """The number of attempts to take over."""
        return self._takeover.tries

    @property
    def rebases(self) -> int:
        """How often the ledger held an order that the log had lost."""
        return self._takeover.rebases

    @property
    def counts(self) -> dict[str, int]:
        """Running totals, by the names of their metrics."""
        return {
            "groups_committed": self.groups,
            "intents_committed": self.intents,
            "take_overs": self.takeovers,
            "rebases": self.rebases,
            "commits_unknown": self.unknown_commits,
            "groups_fenced": self.fenced,
        }

    def adopt(self, gives_up: int | None) -> asyncio.Future[int]:
        """Ask the loop, which refuses the store, to adopt its head. Raises NotApplied,
        BadRequest.
        """
        if self.term is None:
            raise NotApplied("not_leader", "only the leader adopts the store's head")
        if self.refusal is None and not self.taken_over:
            raise NotApplied("not_taken_over", "this leader has not looked at the store yet")
        asked = self._refusal.ask_adoption(gives_up)
        self._context.leadership.interrupt()
        return asked

    # ----------------------------------------------------------------------------------------- loop

    async def run(self) -> None:
        """Lead whenever the log says so, forever."""
        while True:
            term = self.term
            if term is None:
                await self._context.leadership.wait_news(None)
            else:
                await self._lead(term)

    async def _lead(self, term: int) -> None:
        context, leadership = self._context, self._context.leadership
        self._backoff.reset()
        while leadership.leads(term) and not context.member.time.kept:
            # until then this leader does not know the log time, and could date nothing
            await leadership.wait_news(None)
        # The tick brings log time up to this leader's, before the first deadline is judged by it.
        await context.proposer.order(TICK, term)
        while leadership.leads(term):
            head = await self._takeover.run(term) if await self._founded(term) else None
            if head is None:
                if leadership.leads(term):
                    await leadership.pause(self._backoff.next_s())
                continue
            self._taken(term)
            before = self.groups
            await self._groups.run(term, head)
            if self.groups > before:
                self._backoff.reset()

    async def _founded(self, term: int) -> bool:
        """Order the founding of a history unless the log has one. Return whether it has one now."""
        context = self._context
        if context.machine.founded is None:
            command = founding.found(self._entropy, context.settings.limits, self._first_members)
            if await context.proposer.order(command, term) and context.machine.founded == command:
                _log.info("history founded", history=command.history.hex())
        return context.machine.founded is not None

    def _taken(self, term: int) -> None:
        """Record that the store is this leader's. ReadIndex is answered only from here on."""
        context = self._context
        if self.refusal is not None:
            _log.info("store accepted again", term=term)
        self._refusal.clear()
        context.store.answered()
        if self.taken != term:
            self.taken = term
            context.log.open_reads(term)
            context.member.taken_over()
            _log.info("taken over", term=term, settled=context.machine.settled.revision)
