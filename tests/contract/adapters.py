"""Name every adapter that the contract suites run against: to add one, write its opener and add it to the table.

A store's opener makes one empty database and yields a function that gives a new, unopened session of it each time;
a cache's yields one such function too; a broadcast's yields the open broadcast and a way to hear what it told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from backends.local import LocalBroadcast
from backends.memory import MemoryCache, MemoryDatabase, MemoryStore
from backends.sqlite import SqliteStore
from kv.ports import Broadcast, Cache, Change, Store

OpenStore: TypeAlias = Callable[[], Store]
StoreOpener: TypeAlias = Callable[[Path], AbstractAsyncContextManager[OpenStore]]
"""Given an empty directory, make one empty database."""
OpenCache: TypeAlias = Callable[[], Cache]
CacheOpener: TypeAlias = Callable[[Path], AbstractAsyncContextManager[OpenCache]]
Hear: TypeAlias = Callable[[int], Awaitable[list[Change]]]
"""Wait for so many changes, and return them in the order in which they came."""
BroadcastOpener: TypeAlias = Callable[[Path], AbstractAsyncContextManager[tuple[Broadcast, Hear]]]


@asynccontextmanager
async def sqlite_database(directory: Path) -> AsyncIterator[OpenStore]:
    yield lambda: SqliteStore(str(directory / "store.sqlite"))


@asynccontextmanager
async def memory_database(directory: Path) -> AsyncIterator[OpenStore]:
    database = MemoryDatabase()
    yield lambda: MemoryStore(database)


@asynccontextmanager
async def memory_cache(directory: Path) -> AsyncIterator[OpenCache]:
    yield MemoryCache


@asynccontextmanager
async def local_broadcast(directory: Path) -> AsyncIterator[tuple[Broadcast, Hear]]:
    async with LocalBroadcast() as broadcast:
        with broadcast.subscribe() as subscription:

            async def hear(count: int) -> list[Change]:
                return [await anext(subscription) for _ in range(count)]

            yield broadcast, hear


STORES: dict[str, StoreOpener] = {"sqlite": sqlite_database, "memory": memory_database}
CACHES: dict[str, CacheOpener] = {"memory": memory_cache}
BROADCASTS: dict[str, BroadcastOpener] = {"local": local_broadcast}
EXAMPLES: dict[str, int] = {"sqlite": 40, "memory": 150}
"""How many generated cases a property gets per store (default 20): a fresh database each."""
