"""Whatever callers do while PostgreSQL does not answer, each connection finds its way back to its
pool.
"""

from __future__ import annotations

import asyncio
import signal

import asyncpg  # type: ignore[import-untyped]  # ships no types
import pytest

from backends.postgres.connections import READERS_MAX, WRITERS_MAX
from backends.postgres.store import PostgresStore
from cluster.services.postgres import PostgresServer
from kv.errors import BackendUnavailable, OutcomeUnknown
from tests.contract.groups import T, commit, group, put
from tests.integration.backends.conftest import until
from tests.services import fresh_database, needs

pytestmark = pytest.mark.timeout(240)
CALLS = 1000


def whole(store: PostgresStore) -> bool:
    """Say whether both pools could lend all their connections at once."""
    assert store.connections.readers is not None and store.connections.writers is not None
    free = [pool._queue.qsize() for pool in (store.connections.readers, store.connections.writers)]
    return free == [READERS_MAX, WRITERS_MAX]


async def test_a_thousand_calls_at_a_server_that_hangs_cost_no_connection() -> None:
    """asyncpg#467: a wait that ended as its connection came could take that connection along."""
    needs("postgresql")
    with PostgresServer() as server:
        async with PostgresStore(server.url) as store:
            made = await commit(store, [put("1", b"k", b"1")])
            await asyncio.gather(*(store.head(timeout_s=T) for _ in range(READERS_MAX)))
            server.signal(signal.SIGSTOP)
            try:
                told: list[str] = []

                async def ask(n: int) -> None:
                    """End in one of three ways: out of time, told to stop while it waits, or both
                    at once.
                    """
                    late = group(made.row.head, [put(f"late-{n}", b"k", b"2")])
                    call = asyncio.ensure_future(
                        store.append(late, timeout_s=0.05)
                        if n % 5 == 0
                        else store.head(timeout_s=0.05)
                    )
                    if n % 3 == 0:
                        asyncio.get_running_loop().call_later(
                            0.05 if n % 2 else 0.02 + n % 7 / 1000, call.cancel
                        )
                    try:
                        await call
                    except (BackendUnavailable, OutcomeUnknown, asyncio.CancelledError) as exc:
                        told.append(type(exc).__name__)

                for start in range(0, CALLS, 50):
                    await asyncio.gather(*(ask(n) for n in range(start, start + 50)))
            finally:
                server.signal(signal.SIGCONT)
            assert len(told) == CALLS and set(told) >= {"BackendUnavailable", "CancelledError"}
            await until(lambda: whole(store), "the pools are whole")
            heads = await asyncio.gather(*(store.head(timeout_s=T) for _ in range(50)))
            assert all(head.last >= 1 for head in heads)
            assert whole(store)
            await store.probe(timeout_s=T)


async def test_a_probe_tells_a_server_that_takes_no_writes_from_one_that_is_away() -> None:
    url = fresh_database()
    async with PostgresStore(url) as store:
        await store.probe(timeout_s=T)
        connection = await asyncpg.connect(url)
        database = url.rpartition("/")[2]
        await connection.execute(
            f"ALTER DATABASE {database} SET default_transaction_read_only = on"
        )
        await store.connections.expire()  # a setting of a database is that of new sessions
        with pytest.raises(
            BackendUnavailable, match="takes no writes: default_transaction_read_only is on"
        ):
            await store.probe(timeout_s=T)
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
        await connection.close()
        await store.probe(timeout_s=T)
    needs("postgresql")
    with PostgresServer() as server:
        async with PostgresStore(server.url) as store:
            await store.probe(timeout_s=T)
            server.psql("ALTER SYSTEM SET default_transaction_read_only = on")
            server.psql("SELECT pg_reload_conf()")

            async def refused() -> bool:
                try:
                    await store.probe(timeout_s=T)
                except BackendUnavailable as exc:
                    return "takes no writes" in str(exc)
                return False

            await until(refused, "a session that was there before is told too")
            server.signal(signal.SIGSTOP)
            try:
                with pytest.raises(BackendUnavailable, match="TimeoutError"):
                    await store.probe(timeout_s=0.3)
            finally:
                server.signal(signal.SIGCONT)
            server.kill()
            with pytest.raises(BackendUnavailable):
                await store.probe(timeout_s=T)
