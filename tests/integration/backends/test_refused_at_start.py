"""What an operator must mend is said in one line and ends the node (exit 78); what only looks odd
does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # ships no types
import pytest

from acordo import Client
from backends.postgres import schema
from backends.postgres.store import PostgresStore
from cluster.services.postgres import PostgresServer
from kv.errors import BadRequest
from tests import services
from tests.integration.backends.conftest import started, until
from tests.services import fresh_database, needs

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"store": "postgresql://acordo:wrong@{at}/acordo"}, "password"),
        ({"store": "postgresql://acordo:secret@{at}/nowhere"}, "nowhere"),
        ({"store": "cockroachdb://acordo:secret@{at}/{database}"}, "PostgreSQL"),
        ({"store": "postgresql://acordo:secret@{at}"}, "database"),
        ({"broadcast": "amqp://guest:wrong@{broker}/"}, "login"),
        ({"broadcast": "amqp://guest:guest@{broker}/nowhere"}, "vhost"),
        ({"cache": "redis+sentinel://127.0.0.1:1"}, "master"),
    ],
)
async def test_what_an_operator_must_mend_ends_the_node(
    tmp_path: Path, change: dict[str, str], said: str
) -> None:
    """Wrong password, database, kind of server, vhost: one clear line and exit 78, not a loop of
    restarts.
    """
    at, database = fresh_database().split("@")[1].split("/")
    broker = f"127.0.0.1:{services.rabbitmq().port}" if "broadcast" in change else ""
    given: dict[str, Any] = {
        name: url.format(at=at, database=database, broker=broker) for name, url in change.items()
    }
    with pytest.raises(BadRequest) as refused:
        async with started(tmp_path, nodes=1, **given):
            pass
    assert said in str(refused.value), refused.value
    assert "wrong" not in str(refused.value), "a password was printed"


SCHEMA = "CREATE TABLE acordo_schema (one int8, application text, version int8)"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("CREATE TABLE acordo_ledger (x int)", "another application: acordo_ledger.seq is missing"),
        (
            "CREATE TABLE acordo_cursors (name text, place text)",
            "acordo_cursors.place is text, not bigint",
        ),
        ("INSERT INTO acordo_schema VALUES (1, 'acordo', 999)", "newer"),
        ("INSERT INTO acordo_schema VALUES (1, 'other', 1)", "other"),
        ("INSERT INTO acordo_schema VALUES (1, 'acordo', 1)", "tables are missing: acordo_blobs"),
    ],
)
async def test_a_foreign_or_newer_schema_is_left_as_it_is(
    tmp_path: Path, statement: str, said: str
) -> None:
    url = fresh_database()
    connection = await asyncpg.connect(url)
    if statement.startswith("INSERT"):
        await connection.execute(SCHEMA)
    await connection.execute(statement)
    before = await connection.fetch("SELECT count(*) FROM pg_class WHERE relname LIKE 'acordo%'")
    with pytest.raises(BadRequest) as refused:
        async with started(tmp_path, nodes=1, store=url):
            pass
    assert said in str(refused.value)
    after = await connection.fetch(
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'acordo%' AND relname <> 'x'"
    )
    assert after[0][0] - before[0][0] <= 2, "at most the lease (and its index) was added"
    await connection.close()


async def test_wrong_types_in_a_schema_that_says_it_is_ours(tmp_path: Path) -> None:
    """Somebody altered a column: refused at start, not at the first row that does not fit."""
    url = fresh_database()
    async with PostgresStore(url):
        pass
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER TABLE acordo_versions ALTER COLUMN key TYPE text USING 'k'")
    await connection.close()
    with pytest.raises(BadRequest, match=r"acordo_versions\.key is text, not bytea"):
        async with started(tmp_path, nodes=1, store=url):
            pass


# --------------------------------------------------------------------------------- too old a server


@contextlib.asynccontextmanager
async def pretending(port: int, before: bytes, after: bytes) -> AsyncIterator[int]:
    """Listen as a server that says `after` wherever the real one says `before` (of the same
    length).
    """
    assert len(before) == len(after)
    seen = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                # the answer is far shorter than what one read brings
                while data := await source.read(1 << 16):
                    seen.append(before in data)
                    sink.write(data.replace(before, after))
            sink.close()

        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
    assert any(seen), "the version was never asked for"


@pytest.mark.parametrize(
    ("scheme", "claimed", "said"),
    [
        ("postgresql", "PostgreSQL 13.22", "postgresql 14.0 or newer"),
        ("postgresql", "PostgreSQL 9.6.24", "postgresql 14.0 or newer"),
        ("cockroachdb", "CockroachDB CCL v21.2.17", "cockroachdb 22.1 or newer"),
        ("postgresql", "CockroachDB CCL v25.1.0", "cockroachdb://"),
    ],
)
async def test_a_server_that_is_too_old_or_another_kind(
    tmp_path: Path, scheme: str, claimed: str, said: str
) -> None:
    host, _, database = fresh_database().rpartition("@")[2].partition("/")
    port = int(host.rpartition(":")[2])
    connection = await asyncpg.connect(f"postgresql://acordo:secret@{host}/{database}")
    real = str(await connection.fetchval("SELECT version()"))[: len(claimed) + 2]
    async with pretending(
        port, real.encode(), f"{claimed} (".ljust(len(real)).encode()
    ) as pretended:
        url = f"{scheme}://acordo:secret@127.0.0.1:{pretended}/{database}"
        with pytest.raises(BadRequest) as refused:
            async with started(tmp_path, nodes=1, store=url):
                pass
    assert said in str(refused.value) and claimed in str(refused.value)
    tables = await connection.fetch("SELECT 1 FROM pg_class WHERE relname LIKE 'acordo%'")
    assert not tables, "a server that is refused is left alone"
    await connection.close()


# ---------------------------------------------------------------------------------- a clock far off


class Displaced(PostgresServer):
    """PostgreSQL whose wall clock is off by so many days."""

    days = 0

    def command(self) -> Sequence[str]:
        library = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")[0]
        faked = [
            f"LD_PRELOAD={library}",
            f"FAKETIME={self.days:+d}d",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]
        words = list(super().command())
        at = next(n for n, word in enumerate(words) if word.endswith("/postgres"))
        # as the server's own user: what it shares is its own
        return [*words[:at], "/usr/bin/env", *faked, *words[at:]]


async def test_the_clock_of_the_database_is_far_off(tmp_path: Path) -> None:
    """Nothing but the lease of a migration asks for it: log time is the members' own, so deadlines
    and TTLs hold.
    """
    needs("postgresql", "faketime")
    server = Displaced()
    server.days = 400
    with server:
        async with started(tmp_path, nodes=3, store=server.url) as cluster:
            urls = [node.url for node in cluster.nodes.values()]
            async with Client(urls, timeout_s=20) as client:
                ahead_s = float(server.psql("SELECT extract(epoch FROM now())")) - time.time()
                assert ahead_s > 399 * 86400, "the server's clock is not off"
                await client.put("lasting", "1", ttl_s=3600)
                await client.put("passing", "1", ttl_s=1)
                await until(lambda: _gone(client, "passing"), "what expires does, by log time")
                # A node died while it held the lease, under a clock that is set back afterwards.
                server.psql(
                    "INSERT INTO acordo_lease "
                    "VALUES ('schema', 'dead', now() + interval '15 seconds') "
                    "ON CONFLICT (name) DO UPDATE "
                    "SET holder = excluded.holder, until = excluded.until"
                )
                server.kill()
                server.days = -400
                server.start()
                assert (await client.put("after", "1", timeout_s=60)).revision > 0
                found = await client.get("lasting")
                assert found is not None and found.text == "1"
                # takes the lease over at once: it would wait 800 days
                async with PostgresStore(server.url) as store:
                    assert (await store.head(timeout_s=5)).last > 0


async def _gone(client: Client, key: str) -> bool:
    return await client.get(key) is None


def test_columns_are_read_off_the_migrations() -> None:
    """The check at start is no second list of the tables."""
    tables = schema.columns(1)
    assert len(tables) == sum(each.startswith("CREATE TABLE") for each in schema.MIGRATIONS[0])
    assert tables["acordo_due"] == {"key": "bytea", "revision": "bigint", "expires": "bigint"}
