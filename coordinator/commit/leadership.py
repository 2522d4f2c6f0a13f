"""Track whether this member leads, wait for changes of that, and order the leader's own commands.

It never decides who leads: the log does.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Protocol

import structlog

from coordinator.log import Log
from coordinator.machine.commands import Command, encode
from coordinator.machine.standing import GivenUp
from kv.ports import Clock

_log = structlog.get_logger("acordo.committer")


class LeadersPart(Protocol):
    """What a member does while it leads: the committer of a shared store, or the leader's part of a
    replicated one. The log's callbacks call `led`, `deposed` and `wake`.
    """

    @property
    def term(self) -> int | None:
        """The term that this member leads; None when it does not lead."""
        ...

    @property
    def taken_over(self) -> bool:
        """Whether this member may serve as the leader of the term that it leads."""
        ...

    @property
    def refusal(self) -> str | None:
        """Why this leader refuses the store, if it does."""
        ...

    @property
    def gives_up(self) -> GivenUp | None:
        """What adopting the refused head would give up."""
        ...

    @property
    def stuck(self) -> str | None:
        """Why the store accepts nothing, once that has lasted a while."""
        ...

    @property
    def counts(self) -> dict[str, int]:
        """Running totals, by the names of their metrics."""
        ...

    def led(self, term: int) -> None:
        """Start: this member leads `term`."""
        ...

    def deposed(self, term: int) -> None:
        """Stop: this member leads `term` no more."""
        ...

    def wake(self) -> None:
        """Wake the loop: a command was applied, or something else changed."""
        ...

    def adopt(self, gives_up: int | None) -> asyncio.Future[int]:
        """Ask to adopt the refused head of the store. Raises NotApplied, BadRequest."""
        ...

    async def run(self) -> None:
        """Lead whenever the log says so, forever."""
        ...


class Leadership:
    """The term that this member leads, if any, and the events that its committer waits for."""

    def __init__(self) -> None:
        self.term: int | None = None
        self._news = asyncio.Event()
        """Set when intents were ordered, a Settle finished, or the leadership changed."""
        self._shift = asyncio.Event()
        """Set when the leadership changed or an operator asks for something: it ends a back-off
        early.
        """

    def begin(self, term: int) -> None:
        """Record that this member leads `term`."""
        self.term = term
        self.interrupt()
        self.wake()

    def end(self, term: int) -> None:
        """Record that this member leads `term` no more. It may lead a later one already."""
        if self.holds_up_to(term):
            self.term = None
        self.interrupt()
        self.wake()

    def holds_up_to(self, term: int) -> bool:
        """Return whether this member leads `term` or an earlier one."""
        return self.term is not None and self.term <= term

    def leads(self, term: int) -> bool:
        """Return whether this member still leads exactly `term`."""
        return self.term == term

    def wake(self) -> None:
        """End `wait_news`: something changed."""
        self._news.set()

    def interrupt(self) -> None:
        """End `pause`: there is something better to do."""
        self._shift.set()

    async def wait_news(self, seconds: float | None) -> bool:
        """Wait for news; return False when there was none within `seconds`."""
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                return await self._news.wait()
        except TimeoutError:
            return False

    async def pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until the leadership changes or an operator asks for something."""
        self._shift.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._shift.wait()


class Proposer:
    """The leader's own proposals: it hands commands to the log, and waits until they are
    applied.
    """

    def __init__(self, log: Log, clock: Clock, leadership: Leadership, *, timeout_s: float) -> None:
        self._log, self._clock, self._leadership = log, clock, leadership
        self.timeout_s = timeout_s

    def propose(self, command: Command) -> asyncio.Future[Any]:
        """Hand a command to the log. The committer is woken when the result is known."""
        through = self._log.propose(encode(command))
        through.add_done_callback(self._ended)
        return through

    def _ended(self, through: asyncio.Future[Any]) -> None:
        mark_retrieved(through)
        self._leadership.wake()

    async def order(self, command: Command, term: int) -> bool:
        """Order one command and wait until it is applied here. Return False when this member leads
        no more, or when there is no result within `timeout_s`.
        """
        through = self.propose(command)
        ends_s = self._clock.monotonic() + self.timeout_s
        while (
            not through.done() and self._leadership.leads(term) and self._clock.monotonic() < ends_s
        ):
            await self._leadership.wait_news(ends_s - self._clock.monotonic())
        if through.done() and not through.cancelled() and through.exception() is None:
            return True
        reason = (
            str(through.exception()) if through.done() and not through.cancelled() else "no answer"
        )
        _log.info("not ordered", kind=type(command).__name__, reason=reason)
        return False


def mark_retrieved(through: asyncio.Future[Any]) -> None:
    """Mark a failure as retrieved, because nobody may be waiting for it: otherwise the event loop
    reports it.
    """
    if not through.cancelled():
        through.exception()
