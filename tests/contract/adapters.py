"""Name every adapter that the contract suites run against: to add one, write its opener and add it
to the table.

A store's opener makes one empty database and yields a function that gives a new, unopened session
of it each time; a cache's yields one such function too; a broadcast's yields the open broadcast and
a way to hear what it told.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import asyncpg  # type: ignore[import-untyped]  # ships no types

from backends.local.broadcast import LocalBroadcast
from backends.local.cache import MemoryCache
from backends.memory.database import MemoryDatabase
from backends.memory.store import MemoryStore
from backends.postgres.store import PostgresStore
from backends.rabbitmq.broadcast import RabbitBroadcast, change_of
from backends.redis import RedisCache
from kv.model import Reference
from kv.ports import Broadcast, Cache, Change, Store
from tests import services

OpenStore: TypeAlias = Callable[[], Store]
StoreOpener: TypeAlias = Callable[[Path], AbstractAsyncContextManager[OpenStore]]
"""Given an empty directory, make one empty database."""
OpenCache: TypeAlias = Callable[[], Cache]
CacheOpener: TypeAlias = Callable[[Path], AbstractAsyncContextManager[OpenCache]]
Hear: TypeAlias = Callable[[int], Awaitable[list[Change]]]
"""Wait for so many changes, and return them in the order in which they came."""
BroadcastOpener: TypeAlias = Callable[[Path], AbstractAsyncContextManager[tuple[Broadcast, Hear]]]


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


@asynccontextmanager
async def postgres_database(directory: Path) -> AsyncIterator[OpenStore]:
    url = services.fresh_database()
    yield lambda: PostgresStore(url)


@asynccontextmanager
async def cockroach_database(directory: Path) -> AsyncIterator[OpenStore]:
    """A database of the server that ACORDO_TEST_COCKROACH_URL names, emptied."""
    url = COCKROACH_URL.replace("cockroachdb://", "postgresql://")
    connection = await asyncpg.connect(url)
    for table in (
        "schema",
        "ledger",
        "versions",
        "due",
        "ops",
        "blobs",
        "state",
        "cursors",
        "lease",
        "identity",
    ):
        await connection.execute(f"DROP TABLE IF EXISTS acordo_{table}")
    await connection.close()
    yield lambda: PostgresStore(COCKROACH_URL)


@asynccontextmanager
async def redis_cache(directory: Path) -> AsyncIterator[OpenCache]:
    url = services.empty_redis()
    # a busy machine must not look like a slow cache
    yield lambda: RedisCache.from_url(url, call_timeout_s=5)


@asynccontextmanager
async def rabbit_broadcast(directory: Path) -> AsyncIterator[tuple[Broadcast, Hear]]:
    async with RabbitBroadcast.from_url(services.rabbitmq().url) as broadcast:
        bodies = broadcast.subscribe()
        first = asyncio.ensure_future(anext(bodies))
        probe = Change(2**53 - 1, "probe", 0, ())
        while not first.done():  # until the queue is bound
            await broadcast.publish([probe], timeout_s=10)
            await asyncio.wait({first}, timeout=0.1)

        async def hear(count: int) -> list[Change]:
            found: list[Change] = []
            while len(found) < count:
                change = change_of(await anext(bodies))
                if change != probe:
                    found.append(change)
            return found

        yield broadcast, hear
        await bodies.aclose()


async def flip(store: Store, key: bytes, revision: int) -> None:
    """Let the value of one version be another than was written, behind the store's back, as a
    flipped bit does.
    """
    match store:
        case MemoryStore():
            store.database.damage(key, revision)
        case PostgresStore():
            rows = await store.connections.change(
                """UPDATE acordo_versions SET value = overlay(value PLACING 'c'::bytea FROM 1)
                    WHERE key = $1::bytea AND revision = $2::int8 RETURNING revision""",
                key,
                revision,
                timeout_s=10,
            )
            assert len(rows) == 1
        case _:
            raise NotImplementedError(type(store).__name__)


async def flip_blob(store: Store, reference: Reference) -> None:
    """The same for a staged value."""
    match store:
        case MemoryStore():
            store.database.damage_blob(reference)
        case PostgresStore():
            statement = (
                "UPDATE acordo_blobs SET value = overlay(value PLACING 'c'::bytea FROM 1) "
                "RETURNING seq"
            )
            assert await store.connections.change(statement, timeout_s=10)
        case _:
            raise NotImplementedError(type(store).__name__)


async def garble(store: Store) -> bool:
    """Cut what the ledger and the op_ids hold short, behind the store's back; False where nothing
    is encoded.
    """
    match store:
        case PostgresStore():
            for statement in (
                "UPDATE acordo_ledger SET body = substring(body FROM 1 FOR 3) "
                "WHERE body IS NOT NULL RETURNING seq",
                "UPDATE acordo_ops SET outcome = decode('c1', 'hex') RETURNING revision",
            ):
                assert await store.connections.change(statement, timeout_s=10)
        case _:
            return False
    return True


COCKROACH_URL = os.environ.get("ACORDO_TEST_COCKROACH_URL", "")
STORES: dict[str, StoreOpener] = {
    "memory": memory_database,
    "postgres": postgres_database,
    **({"cockroach": cockroach_database} if COCKROACH_URL else {}),
}
CACHES: dict[str, CacheOpener] = {"memory": memory_cache, "redis": redis_cache}
BROADCASTS: dict[str, BroadcastOpener] = {"local": local_broadcast, "rabbitmq": rabbit_broadcast}
EXAMPLES: dict[str, int] = {"memory": 150, "postgres": 8, "cockroach": 4}
"""How many generated cases a property gets per store (default 20): a fresh database each."""
