"""What a promise rests on is asked for by each session and read back: a server that cannot keep it
is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg  # type: ignore[import-untyped]  # ships no types
import pytest

from backends.postgres.store import PostgresStore
from cluster.services.postgres import PostgresServer
from kv.errors import BackendUnavailable, BadRequest
from tests.contract.groups import commit, put
from tests.services import fresh_database, needs

pytestmark = pytest.mark.timeout(240)
T = 10.0


@contextlib.asynccontextmanager
async def told(url: str, *statements: str) -> AsyncIterator[None]:
    """Run statements in the database and put settings back afterwards."""
    name = url.rpartition("/")[2]
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement.format(database=name))
        yield
    finally:
        await connection.execute(f"ALTER DATABASE {name} RESET ALL")
        await connection.close()


async def in_force(store: PostgresStore, name: str) -> str:
    rows = await store.connections.fetch(
        "SELECT current_setting($1::text) AS value", name, timeout_s=T
    )
    assert isinstance(rows[0]["value"], str)
    return rows[0]["value"]


@pytest.mark.parametrize(
    ("setting", "weak", "needed"),
    [
        ("synchronous_commit", "off", "on"),
        ("synchronous_commit", "local", "on"),
        ("default_transaction_isolation", "'read committed'", "serializable"),
        ("default_transaction_deferrable", "on", "off"),
        ("idle_session_timeout", "1000", "0"),
        ("statement_timeout", "1", "15s"),
    ],
)
async def test_what_a_session_can_raise_is_raised(setting: str, weak: str, needed: str) -> None:
    """An acknowledged write was lost when the database's default was synchronous_commit = off and
    the server died.
    """
    url = fresh_database()
    async with (
        told(url, f"ALTER DATABASE {{database}} SET {setting} = {weak}"),
        PostgresStore(url) as store,
    ):
        assert await in_force(store, setting) == needed
        rows = await store.connections.change(
            "SELECT current_setting($1::text) AS value", setting, timeout_s=T
        )
        assert rows[0]["value"] == needed, "also where it writes"


async def test_an_acknowledged_write_survives_the_server() -> None:
    """With synchronous_commit = off the server says COMMIT 0.2 to 0.6 s before it is on disk."""
    needs("postgresql")
    with PostgresServer() as server:
        server.psql("ALTER SYSTEM SET synchronous_commit = off")
        server.psql("ALTER SYSTEM SET wal_writer_delay = '10s'")
        server.psql("SELECT pg_reload_conf()")
        async with PostgresStore(server.url) as store:
            for n in range(40):
                made = await commit(store, [put(f"op{n}", b"k", b"%d" % n)])
            server.kill()
            server.start()
        async with PostgresStore(server.url) as store:
            assert await store.head(timeout_s=T) == made.row.head


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("fsync", "off", "fsync = off: a power cut loses"),
        ("zero_damaged_pages", "on", "would vanish"),
    ],
)
async def test_what_no_session_can_raise_is_refused_by_name(
    setting: str, value: str, said: str
) -> None:
    needs("postgresql")
    with PostgresServer() as server:
        async with PostgresStore(server.url) as store:
            server.psql(f"ALTER SYSTEM SET {setting} = {value}")
            server.psql("SELECT pg_reload_conf()")
            with pytest.raises(BadRequest) as refused:
                async with PostgresStore(server.url):
                    pass
            assert refused.value.code == "store_settings"
            assert said in refused.value.detail and setting in str(refused.value.allowed)
            # a running node meets it at its next connection, and goes on once it is mended
            await store.connections.expire()
            with pytest.raises(BackendUnavailable, match=setting):
                await store.head(timeout_s=T)
            server.psql(f"ALTER SYSTEM RESET {setting}")
            server.psql("SELECT pg_reload_conf()")
            assert (await store.head(timeout_s=T)).last == 0


async def test_torn_pages_are_only_warned_of() -> None:
    needs("postgresql")
    with PostgresServer() as server:
        server.psql("ALTER SYSTEM SET full_page_writes = off")
        server.psql("SELECT pg_reload_conf()")
        async with PostgresStore(server.url) as store:
            assert (await store.head(timeout_s=T)).last == 0
            assert "full_page_writes" in store.connections.hosts._warned_of


async def test_tables_that_do_not_outlive_a_crash_are_refused() -> None:
    url = fresh_database()
    async with PostgresStore(url):
        pass
    async with told(url, "ALTER TABLE acordo_versions SET UNLOGGED"):
        with pytest.raises(BadRequest, match="acordo_versions is UNLOGGED") as refused:
            async with PostgresStore(url):
                pass
        assert refused.value.allowed == "ALTER TABLE acordo_versions SET LOGGED"


async def test_a_database_of_another_encoding_is_refused() -> None:
    url = fresh_database()
    async with told(url, "CREATE DATABASE {database}_latin ENCODING 'LATIN1' TEMPLATE template0"):
        with pytest.raises(BadRequest, match="server_encoding = LATIN1"):
            async with PostgresStore(f"{url}_latin"):
                pass


async def test_a_pooler_that_leaves_out_what_sessions_ask_for_is_refused() -> None:
    """One in transaction mode drops start-up parameters: then nothing that was asked for is in
    force.
    """
    url = fresh_database()
    at = url.rpartition("@")[2].partition("/")[0].partition(":")
    async with dropping(int(at[2]), b"synchronous_commit", b"synchronous_cXmmit") as port:
        with pytest.raises((BadRequest, BackendUnavailable), match="synchronous_c"):
            async with PostgresStore(url.replace(f":{at[2]}/", f":{port}/")):
                pass
    name = url.rpartition("/")[2]
    # Of the same length, and harmless: what was asked for does not arrive.
    asked, arrived = b"synchronous_commit\0on", b"application_name\0xxxx"
    async with (
        told(url, f"ALTER DATABASE {name} SET synchronous_commit = off"),
        dropping(int(at[2]), asked, arrived) as port,
    ):
        with pytest.raises(BadRequest, match=r"synchronous_commit = off.*pooler"):
            async with PostgresStore(url.replace(f":{at[2]}/", f":{port}/")):
                pass


async def test_a_database_that_is_read_only_by_default_is_passed_over_by_name() -> None:
    """Somebody fenced it off: that is a store to wait for, and no setting to override."""
    url = fresh_database()
    async with told(url, "ALTER DATABASE {database} SET default_transaction_read_only = on"):
        with pytest.raises(
            BackendUnavailable, match="takes no writes: default_transaction_read_only"
        ):
            async with PostgresStore(url):
                pass


@contextlib.asynccontextmanager
async def dropping(port: int, before: bytes, after: bytes) -> AsyncIterator[int]:
    """Stand between a client and the server, and let `after` arrive wherever the client says
    `before`.
    """
    assert len(before) == len(after)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 16):
                    sink.write(data.replace(before, after))
            sink.close()

        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
