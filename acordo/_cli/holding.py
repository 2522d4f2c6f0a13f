"""Hold a lock, or the lead of an election, while something runs. It says that it is held only while
nobody else can hold it; the recipes decide that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from acordo._client import Client
from acordo._errors import AcordoError
from acordo._recipes.lock import Election
from acordo._recipes.session import TRUST
from acordo._results import Bookmark

PAUSE_S: Final = 0.25

T = TypeVar("T")


class Hold:
    """A lock that is held until `lost` is set.

    It is set `grace_s` before somebody else can have the lock, unless its key was deleted or its
    lease revoked: then as soon as that is known. `token` grows with each holder.
    """

    def __init__(self, name: bytes, token: int, lease: str, ttl_s: float) -> None:
        self.name, self.token, self.lease = name, token, lease
        self.grace_s: Final = ttl_s * (1 - TRUST)
        self.lost = asyncio.Event()
        self.why = ""

    def lose(self, why: str) -> None:
        """Say that it is held no longer."""
        if not self.lost.is_set():
            self.why = why
            self.lost.set()


async def while_held(
    client: Client,
    name: bytes,
    value: bytes,
    work: Callable[[Hold], Awaitable[T]],
    *,
    ttl_s: float,
    wait_s: float | None,
    on_waiting: Callable[[bytes], None],
) -> T | None:
    """Take the lock of this name, do `work` while it is held, and release it; None: it was not
    given within `wait_s` seconds (None: wait for ever).

    `on_waiting` is told the value of who has it. `work` has to end when the hold is lost. Raises
    AcordoError while it is not held; what is left of the try then ends with its lease.
    """
    lock = Election(client, name, ttl_s=ttl_s, value=value)
    before = await lock.leader()
    if before is not None:
        on_waiting(before.value)
    if not await lock.acquire(timeout_s=wait_s):
        return None
    key = lock.guard().key
    hold = Hold(name, lock.token, key[len(name) + 1 :].decode(), ttl_s)
    guards = [
        asyncio.create_task(_notice_lease(lock, hold)),
        asyncio.create_task(_notice_key(client, key, hold)),
    ]
    try:
        return await work(hold)  # what it raises is ours as it is, so this is no group of tasks
    finally:
        for each in guards:
            each.cancel()
        await asyncio.gather(*guards, return_exceptions=True)
        await lock.release()


async def _notice_lease(lock: Election, hold: Hold) -> None:
    if await lock.wait_lost():
        hold.lose("its lease was not renewed in time, or has ended")


async def _notice_key(client: Client, key: bytes, hold: Hold) -> None:
    """Notice when the key is deleted, or put by somebody who does not ask whether it is held."""
    after: int | str = hold.token
    while True:
        try:
            async for event in client.watch(key, after=after, bookmarks=True):
                if isinstance(event, Bookmark):
                    after = event.position or event.revision
                elif event.key == key:
                    who = "deleted" if event.kind == "delete" else "overwritten"
                    return hold.lose(f"its key was {who} at revision {event.revision}")
        except AcordoError:
            await asyncio.sleep(PAUSE_S)  # the lease alone counts meanwhile
