"""Record a failure that a member cannot continue from, and let it end the process.

It never ends anything by itself: `ended_by` is one of the tasks whose end ends the member.
"""

from __future__ import annotations

import asyncio

import structlog

from kv.errors import InvariantViolated

_log = structlog.get_logger("acordo.consensus")


class FatalFailure:
    """The first failure inside the log's callbacks, which may not raise."""

    def __init__(self) -> None:
        self._cause: BaseException | None = None
        self._faulty = asyncio.Event()

    def die(self, exc: BaseException) -> None:
        """Record a failure of the log or of a listener that this member cannot continue from;
        `ended_by` then ends the process.
        """
        if self._cause is None:
            self._cause = exc
            _log.error("fault", error=repr(exc))
        self._faulty.set()

    async def ended_by(self) -> None:
        """Wait for a failure, then raise InvariantViolated from it."""
        await self._faulty.wait()
        raise InvariantViolated("applying the log failed") from self._cause
