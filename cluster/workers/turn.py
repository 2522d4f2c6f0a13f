"""Take a turn: one worker at a time does what needs one, by a key that expires and is renewed.

What was begun in a turn is given up as soon as the turn may be another's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from acordo import AcordoError, Client, PreconditionFailed

TURN_S: Final = 60.0
"""Silence after which another worker may take the turn."""
RENEWALS: Final = 4
"""Renewals attempted in that time."""
RELIED_ON: Final = 0.7
"""Fraction of the time that the holder relies on, as clocks run at different speeds."""
RELEASE_TIMEOUT_S: Final = 2.0

T = TypeVar("T")


class TurnTaken(Exception):
    """Another worker has the turn, or may have it."""


async def in_turn(client: Client, key: str, worker: str, work: Callable[[], Awaitable[T]]) -> T:
    """Take the turn, do the work, which is cancelled if the turn is lost, and give the turn back.

    Raises TurnTaken, AcordoError, and what the work raises.
    """
    try:
        written = await client.put(key, worker, ttl_s=TURN_S, exists=False)
    except PreconditionFailed as exc:
        raise TurnTaken("another worker has the turn") from exc
    held = [written.revision]
    renewing = asyncio.ensure_future(_renew(client, key, worker, held))
    working = asyncio.ensure_future(work())
    try:
        await asyncio.wait({renewing, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await renewing  # raises
        return await working
    finally:
        for task in (renewing, working):
            task.cancel()
        await asyncio.gather(renewing, working, return_exceptions=True)
        with contextlib.suppress(AcordoError, TimeoutError):
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await client.delete(key, if_revision=held[0])


async def _renew(client: Client, key: str, worker: str, held: list[int]) -> None:
    """Renew the turn until cancelled. Raises TurnTaken."""
    loop = asyncio.get_running_loop()
    until = loop.time() + TURN_S * RELIED_ON
    while True:
        await asyncio.sleep(TURN_S / RENEWALS)
        asked = loop.time()
        try:
            written = await client.put(key, worker, ttl_s=TURN_S, if_revision=held[0])
        except PreconditionFailed as exc:
            raise TurnTaken("another worker has the turn") from exc
        except AcordoError as exc:
            if loop.time() >= until:
                raise TurnTaken("the turn could not be renewed") from exc
            continue
        held[0], until = written.revision, asked + TURN_S * RELIED_ON
