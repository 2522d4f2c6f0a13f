"""Do the leader's part where every member has its own store: found the history, and serve once the
own store has reached the log. There is nothing to take over: the log is the authority.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

import structlog

from coordinator.backoff import Backoff
from coordinator.commit.leadership import Leadership, Proposer
from coordinator.log import Log
from coordinator.logtime import LogTime
from coordinator.machine import founding
from coordinator.machine.book import LEVEL_MIN
from coordinator.machine.commands import TICK, Command, Level
from coordinator.machine.machine import Machine
from coordinator.machine.standing import GivenUp
from coordinator.replicated.condition import Condition
from coordinator.settings import CoordinatorSettings
from kv.errors import BadRequest
from kv.ports import Clock

_log = structlog.get_logger("acordo.leading")


class LeadingMember(Protocol):
    """The member that leads, as far as its part needs it."""

    @property
    def machine(self) -> Machine:
        """Its machine."""
        ...

    @property
    def time(self) -> LogTime:
        """The log time that it keeps, if it knows it yet."""
        ...

    def taken_over(self) -> None:
        """Note that this member serves as the leader."""
        ...

    def level_spoken(self) -> int:
        """Return the feature level that every member in force said, in this term, that it
        speaks; 0 while one has said nothing.
        """
        ...


class Leading:
    """The leader's loop. Call `run` once; the log's callbacks call `led`, `deposed` and `wake`."""

    def __init__(
        self,
        member: LeadingMember,
        log: Log,
        clock: Clock,
        condition: Condition,
        *,
        name: str,
        rng: random.Random,
        settings: CoordinatorSettings,
        entropy: Callable[[int], bytes] | None = None,
        members: bytes = b"",
    ) -> None:
        """`entropy` returns the given number of unpredictable bytes; None: taken from `rng`, for
        tests. `members` is the digest of the first member list.
        """
        self.name = name
        self._member, self._log, self._condition = member, log, condition
        self._settings = settings
        self._entropy, self._first_members = entropy or rng.randbytes, members
        self._leadership = Leadership()
        self._proposer = Proposer(
            log, clock, self._leadership, timeout_s=settings.propose_timeout_s
        )
        self._backoff = Backoff(rng, min_s=settings.backoff_s_min, max_s=settings.backoff_s_max)
        self.taken: int | None = None
        """The newest term in which this member served as the leader."""
        self.takeovers = 0

    # ---------------------------------------------------------------------------- called by the log

    def led(self, term: int) -> None:
        """Start: this member leads `term`."""
        self._leadership.begin(term)

    def deposed(self, term: int) -> None:
        """Stop: this member leads `term` no more."""
        self._leadership.end(term)

    def wake(self) -> None:
        """Wake the loop: a command was applied, or the own store changed its state."""
        if self._leadership.term is not None:
            self._leadership.wake()

    # --------------------------------------------------------------------------------------- status

    @property
    def term(self) -> int | None:
        """The term that this member leads; None when it does not lead."""
        return self._leadership.term

    @property
    def taken_over(self) -> bool:
        """Whether this member serves as the leader of the term that it leads."""
        return self.term is not None and self.taken == self.term

    @property
    def refusal(self) -> str | None:
        """Why nothing is served by this leader."""
        return self._condition.refusal

    @property
    def gives_up(self) -> GivenUp | None:
        """Nothing: no head is ever adopted."""
        return None

    @property
    def stuck(self) -> str | None:
        """Why nothing that is ordered gets applied here."""
        condition = self._condition
        return condition.detail if condition.state in {"full", "set_aside", "diverged"} else None

    @property
    def counts(self) -> dict[str, int]:
        """Running totals, by the names of their metrics."""
        return {"take_overs": self.takeovers}

    def adopt(self, gives_up: int | None) -> asyncio.Future[int]:
        """Raise BadRequest: the log is the authority, and there is no head to adopt."""
        raise BadRequest(
            "nothing_to_adopt",
            "every member of this cluster has its own store, and the log says what is in it",
            allowed="a new cluster, loaded from a backup",
        )

    # ----------------------------------------------------------------------------------------- loop

    async def run(self) -> None:
        """Lead whenever the log says so, forever."""
        while True:
            term = self.term
            if term is None:
                await self._leadership.wait_news(None)
            else:
                await self._lead(term)

    async def _lead(self, term: int) -> None:
        leadership, member = self._leadership, self._member
        self._backoff.reset()
        while leadership.leads(term) and not member.time.kept:
            # until then this leader does not know the log time, and could date nothing
            await leadership.wait_news(None)
        while leadership.leads(term) and not await self._begin(term):
            await leadership.pause(self._backoff.next_s())
        while leadership.leads(term) and not self._may_serve():
            await leadership.wait_news(1.0)
        if leadership.leads(term):
            self._serve(term)
        while leadership.leads(term):
            await self._raise_level(term)
            await leadership.pause(self._settings.level_look_s)

    async def _begin(self, term: int) -> bool:
        """Order the term's first command. It found the history if there is none (R14); otherwise it
        brings log time up to this leader's, and shows whether the file holds what this log has
        lost. Return whether it is applied here.

        A history begins at a level that no member of it is known not to speak: a first start may
        have members of two versions.
        """
        machine = self._member.machine
        command: Command = TICK
        if machine.founded is None:
            level = max(LEVEL_MIN, self._level_spoken())
            command = founding.found(
                self._entropy, self._settings.limits, self._first_members, level=level
            )
        done = await self._proposer.order(command, term)
        if done and machine.founded == command:
            _log.info("history founded", history=machine.founded.history.hex())
        return done and machine.founded is not None

    def _may_serve(self) -> bool:
        """Return whether the own store has reached the log, so that reads may be confirmed (R5)."""
        return self._condition.refusal is None

    def _serve(self, term: int) -> None:
        self.takeovers += 1
        self.taken = term
        self._log.open_reads(term)
        self._member.taken_over()
        _log.info("leads", term=term, settled=self._member.machine.settled.revision)

    async def _raise_level(self, term: int) -> None:
        """Order a higher feature level once every member in force has said, in this term, that it
        speaks it (R14).
        """
        spoken = self._level_spoken()
        if spoken > self._member.machine.book.level:
            _log.info(
                "feature level raised: no earlier version serves any more", feature_level=spoken
            )
            await self._proposer.order(Level(spoken), term)

    def _level_spoken(self) -> int:
        """Return the feature level that every member in force is known to speak; 0: none is."""
        return min(self._settings.level, self._member.level_spoken())
