"""Wait for a condition or for the end of a run, always with a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

POLL_S: Final = 0.05


async def until(condition: Callable[[], Awaitable[bool]], within_s: float) -> bool:
    """Poll until a condition holds; return False if it does not within `within_s` seconds."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                if await condition():
                    return True
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        return False


async def wait_for_stop(stop: asyncio.Event, seconds: float) -> bool:
    """Wait until `stop` is set, but at most `seconds`; return whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return stop.is_set()
    return True
