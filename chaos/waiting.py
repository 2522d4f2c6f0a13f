"""Wait for a condition, or for the end of a run, but never without a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

POLL_S: Final = 0.05


async def until(condition: Callable[[], Awaitable[bool]], within_s: float) -> bool:
    """Wait until a condition holds; return whether it did in time."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                if await condition():
                    return True
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        return False


async def wait_for_stop(stop: asyncio.Event, seconds: float) -> bool:
    """Wait for `stop` or for the time to pass; return whether `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return stop.is_set()
    return True
