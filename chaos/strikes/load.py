"""Put a small load on the stack, remember all that was acknowledged, and read it again.

It makes each attempt once: what fails or is unknown is counted, never repeated and never taken for
acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from acordo import AcordoError, Client
from chaos.waiting import until

WARM_UP: Final = 300
"""Acknowledged writes before anything is done: what must still be there afterwards."""
WARM_UP_LEAST: Final = 20
"""So many must do when WARM_UP_S is over."""
WARM_UP_S: Final = 30.0
LOADED_WITHIN_S: Final = 120.0
"""Without so many as WARM_UP_LEAST by then, there is no load to judge by."""
WRITERS: Final = 4
ATTEMPT_S: Final = 3.0
EVERY_S: Final = 0.1
"""Between the beginnings of two attempts of one writer, or of the reader."""
SELDOM_S: Final = 1.0
"""The same after QUICK attempts: the keys to read again stay few, however long an outage lasts."""
QUICK: Final = 1500
AT_ONCE: Final = 32
"""Attempts of one writer, or of the reader, under way: one that hangs for ATTEMPT_S keeps no other
from being made.
"""
READ_BACK_AT_ONCE: Final = 32
READ_BACK_WITHIN_S: Final = 120.0


@dataclass
class StackLoad:
    """Writers and a reader without retries, and when their attempts succeeded. No key is written
    twice.
    """

    url: str
    acked: dict[bytes, bytes] = field(default_factory=dict)
    """Every acknowledged write, for good. One that failed or is unknown is not here."""
    writes_at: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end of every acknowledged write."""
    reads_at: list[tuple[float, float]] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    prefix: str = field(default_factory=lambda: f"disturbed/{secrets.token_hex(4)}/")

    async def run(self, stop: asyncio.Event) -> None:
        """Write and read until `stop`; attempts under way end by themselves."""
        connections = (WRITERS + 1) * AT_ONCE
        async with (
            Client(
                self.url, retries=False, timeout_s=ATTEMPT_S, connections_max=connections
            ) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for writer in range(WRITERS):
                tasks.create_task(_paced(partial(self._write, client, writer), stop))
            tasks.create_task(_paced(partial(self._read, client), stop))

    async def _write(self, client: Client, writer: int, n: int) -> None:
        key, value = f"{self.prefix}{writer}/{n}", f"{writer}:{n}".encode()
        began = asyncio.get_running_loop().time()
        try:
            await client.put(key, value)
        except AcordoError as exc:
            self._fail("write", exc)
        else:
            self.acked[key.encode()] = value
            self.writes_at.append((began, asyncio.get_running_loop().time()))

    async def _read(self, client: Client, n: int) -> None:
        began = asyncio.get_running_loop().time()
        try:
            await client.get(f"{self.prefix}0/0")
        except AcordoError as exc:
            self._fail("read", exc)
        else:
            self.reads_at.append((began, asyncio.get_running_loop().time()))

    async def warmed_up(self) -> None:
        """Wait for enough acknowledged writes, or for a few on a slow machine. Raises
        TimeoutError.
        """

        async def reached(writes: int) -> bool:
            return len(self.writes_at) >= writes and len(self.reads_at) >= WARM_UP_LEAST

        if await until(lambda: reached(WARM_UP), WARM_UP_S):
            return
        if not await until(lambda: reached(WARM_UP_LEAST), LOADED_WITHIN_S):
            raise TimeoutError(f"no load could be put on {self.url}: {self.failed}")

    def _fail(self, what: str, exc: AcordoError) -> None:
        name = f"{what}: {type(exc).__name__}"
        self.failed[name] = self.failed.get(name, 0) + 1

    async def lost(self) -> list[str]:
        """Read every acknowledged write again; return those that are not there.

        Raises AcordoError, and TimeoutError after READ_BACK_WITHIN_S.
        """
        found: list[str] = []
        left = iter(sorted(self.acked.items()))

        async def read_on(client: Client) -> None:
            for key, value in left:
                entry = await client.get(key)
                if entry is None or entry.value != value:
                    found.append(key.decode())

        try:
            async with (
                asyncio.timeout(READ_BACK_WITHIN_S),
                Client(self.url, timeout_s=30) as client,
            ):
                await _all(read_on(client) for _ in range(READ_BACK_AT_ONCE))
        except TimeoutError as exc:
            raise TimeoutError(
                f"{len(self.acked)} keys not read again in {READ_BACK_WITHIN_S:g} s"
            ) from exc
        return sorted(found)


async def _paced(attempt: Callable[[int], Coroutine[Any, Any, None]], stop: asyncio.Event) -> None:
    """Begin an attempt every EVERY_S (after QUICK of them SELDOM_S) until `stop`; at most AT_ONCE
    are under way.
    """
    free = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> None:
        try:
            await attempt(n)
        finally:
            free.release()

    async with asyncio.TaskGroup() as tasks:
        for n in itertools.count():
            await free.acquire()
            if stop.is_set():
                return
            tasks.create_task(one(n))
            await asyncio.sleep(EVERY_S if n < QUICK else SELDOM_S)


async def _all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all at once. Raises the first error; the others are cancelled."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
