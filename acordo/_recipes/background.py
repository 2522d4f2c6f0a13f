"""Run something beside the caller, and wait for flags: on the caller's event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable


class Flag:
    """A flag that is raised once, for all who wait for it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Raise it."""
        self._event.set()

    def is_set(self) -> bool:
        """Return whether it was raised."""
        return self._event.is_set()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is raised, at most so many seconds; return whether it was."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        return self.is_set()


class Background:
    """A call that runs beside the caller, and ends soon after `stopping` is raised."""

    def __init__(self, run: Callable[[], Awaitable[None]], stopping: Flag) -> None:
        self._stopping = stopping
        self._task = asyncio.ensure_future(run())

    async def stop(self) -> None:
        """End it, and wait until it has ended."""
        self._stopping.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
