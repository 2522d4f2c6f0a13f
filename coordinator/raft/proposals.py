"""Keep the commands proposed at this member until their outcomes are known or they time out.

Never proposes a command twice, and never reports a time-out as a failure (INV-4).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from coordinator.log import Position
from coordinator.raft.core.protocol import Core
from coordinator.raft.core.pysyncobj_library import (
    DISCARDED,
    MISSING_LEADER,
    NOT_LEADER,
    QUEUE_FULL,
    REQUEST_DENIED,
    SUCCESS,
)
from kv.errors import InvariantViolated, NotApplied, OutcomeUnknown

COMMAND_BYTES_MAX: Final = 16 << 20
"""Bytes of one command; together with its stamp it must not exceed what the wire allows."""
WAITING_BYTES_MAX: Final = 64 << 20
WAITING_MAX: Final = 20_000
"""Number of commands, and their bytes, that may wait for an outcome; more are refused as
overloaded.
"""


class _Proposal:
    """A proposed command whose outcome is not known yet."""

    __slots__ = ("deadline", "future", "owner", "size")

    def __init__(
        self, owner: Proposals, future: asyncio.Future[Position], size: int, deadline: float
    ) -> None:
        self.owner, self.future = owner, future
        self.size, self.deadline = size, deadline

    def answer(self, result: Any, reason: int) -> None:
        """Settle the proposal with the outcome that the core reports."""
        self.owner.settle(self, _outcome(result, reason))


class Proposals:
    """The commands that were proposed at one member and wait for their outcomes."""

    def __init__(self, core: Core, loop: asyncio.AbstractEventLoop, *, timeout_s: float) -> None:
        self._core, self._loop, self._timeout_s = core, loop, timeout_s
        self._waiting: deque[_Proposal] = deque()
        """The proposals, oldest first. Answered ones are removed only once no older one waits."""
        self._bytes = self._count = 0

    def propose(self, command: bytes) -> asyncio.Future[Position]:
        """Propose a command; return the future of its position.

        The future gets NotApplied at once if the command is too large or too much waits already,
        and OutcomeUnknown when the time-out passes.
        """
        core, size = self._core, len(command)
        future: asyncio.Future[Position] = self._loop.create_future()
        if (
            size > COMMAND_BYTES_MAX
            or self._count >= WAITING_MAX
            or self._bytes + size > WAITING_BYTES_MAX
            or (core.leads and core.log.unsynced_bytes + size > WAITING_BYTES_MAX)
        ):
            future.set_exception(
                NotApplied("overloaded", "too many commands or bytes wait for their order")
            )
            return future
        proposal = _Proposal(self, future, size, core.now() + self._timeout_s)
        self._waiting.append(proposal)
        self._bytes += size
        self._count += 1
        core.commands.propose(command, proposal.answer)
        return future

    def settle(self, proposal: _Proposal, outcome: Position | Exception) -> None:
        """Answer a proposal with its outcome; does nothing if it is answered already."""
        if proposal.size >= 0:
            self._bytes -= proposal.size
            self._count -= 1
            proposal.size = -1
        if proposal.future.done():
            return
        if isinstance(outcome, Exception):
            proposal.future.set_exception(outcome)
        else:
            proposal.future.set_result(outcome)

    def expire(self, now: float) -> None:
        """Answer proposals past their deadline with OutcomeUnknown; forget answered ones."""
        waiting = self._waiting
        while waiting and (waiting[0].future.done() or waiting[0].deadline <= now):
            self.settle(waiting.popleft(), OutcomeUnknown("no answer in time"))

    def close(self) -> None:
        """Answer all waiting proposals with OutcomeUnknown, because this member stops."""
        for proposal in self._waiting:
            self.settle(proposal, OutcomeUnknown("this member stops"))


_REASONS: Final = {
    QUEUE_FULL: ("overloaded", "the queue of commands is full"),
    MISSING_LEADER: ("no_leader", "there is no leader"),
    NOT_LEADER: ("not_leader", "the leader was not reached"),
    DISCARDED: ("deposed", "another leader's entry took its place in the log"),
    REQUEST_DENIED: ("not_leader", "the leader denied it"),
}


def as_error(reason: int) -> NotApplied | OutcomeUnknown:
    """Return the error for one of the library's reasons. A command that is in no log, or whose
    entry was replaced, is definitely not applied; in all other cases the outcome is unknown.
    """
    if reason in _REASONS:
        code, detail = _REASONS[reason]
        return NotApplied(code, detail, retry_after_s=0.5)
    return OutcomeUnknown("the connection or the leadership was lost before the outcome was known")


def _outcome(result: Any, reason: int) -> Position | Exception:
    if reason != SUCCESS:
        return as_error(reason)
    if isinstance(result, Position):
        return result
    return InvariantViolated(f"a command raised while it was applied: {result}")
