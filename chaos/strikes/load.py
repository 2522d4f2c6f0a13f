"""Put a small load on the stack, remember every acknowledged write, and read it back at the end.

Each attempt is made once: a failed or unknown one is counted, never repeated, and never treated as
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
"""Acknowledged writes before the fault begins; all must still exist afterwards."""
WARM_UP_LEAST: Final = 20
"""Number of writes that is enough once WARM_UP_S is over."""
WARM_UP_S: Final = 30.0
LOADED_WITHIN_S: Final = 120.0
"""Time by which there must be WARM_UP_LEAST writes; otherwise the load is too small to judge by."""
WRITERS: Final = 4
ATTEMPT_S: Final = 3.0
EVERY_S: Final = 0.1
"""Seconds between the starts of two attempts of one writer, or of the reader."""
SELDOM_S: Final = 1.0
"""The same after QUICK attempts. It limits the number of keys to read back, however long an outage
lasts.
"""
QUICK: Final = 1500
AT_ONCE: Final = 32
"""Most concurrent attempts of one writer, or of the reader. An attempt that hangs for ATTEMPT_S
does not delay the next ones.
"""
READ_BACK_AT_ONCE: Final = 32
READ_BACK_WITHIN_S: Final = 120.0


@dataclass
class StackLoad:
    """A load of writers and a reader without retries, with the times of their successes.

    No key is written twice.
    """

    url: str
    acked: dict[bytes, bytes] = field(default_factory=dict)
    """Every acknowledged write. Failed and unknown ones are not included."""
    writes_at: list[tuple[float, float]] = field(default_factory=list)
    """Start and end of every acknowledged write."""
    reads_at: list[tuple[float, float]] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    prefix: str = field(default_factory=lambda: f"disturbed/{secrets.token_hex(4)}/")

    async def run(self, stop: asyncio.Event) -> None:
        """Write and read until `stop`. Attempts in flight end by themselves."""
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
        """Wait for enough acknowledged writes, or a few on a slow machine. Raises TimeoutError."""

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
        """Read back every acknowledged write; return the keys that are missing or differ.

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
    """Start an attempt every EVERY_S (after QUICK of them every SELDOM_S) until `stop`, with at
    most AT_ONCE in flight.
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
    """Run all concurrently. Raise the first error and cancel the others."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
