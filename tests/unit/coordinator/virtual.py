"""Run a test on a loop whose time is virtual: waits cost nothing, and the same test always runs the
same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH_MS = 1_700_000_000_000


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jump to the next timer whenever nothing is ready."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 1000.0

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        if not ready:
            live = [timer for timer in scheduled if not timer._cancelled]
            if not live:
                raise RuntimeError("everything waits for something that nobody does")
            self._now_s = max(self._now_s, min(timer.when() for timer in live))
        super()._run_once()  # type: ignore[misc]


class VirtualClock:
    """Clock of a VirtualLoop; its wall clock can be set off."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wall_off_ms: int = 0) -> None:
        self._loop, self.wall_off_ms = loop, wall_off_ms

    def monotonic(self) -> float:
        return self._loop.time()

    def wall_ms(self) -> int:
        return EPOCH_MS + int(self._loop.time() * 1000) + self.wall_off_ms


def run(story: Callable[[], Coroutine[Any, Any, T]], *, limit_s: float = 600.0) -> T:
    """Run a story to its end within `limit_s` of virtual time."""
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(asyncio.wait_for(story(), limit_s))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def until(holds: Callable[[], bool], *, limit_s: float = 60.0) -> None:
    """Wait until a condition holds."""
    ends_s = asyncio.get_running_loop().time() + limit_s
    while not holds():
        if asyncio.get_running_loop().time() > ends_s:
            raise AssertionError("the condition never held")
        await asyncio.sleep(0.001)
