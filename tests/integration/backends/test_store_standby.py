"""A PostgreSQL primary dies under load and its standby is promoted: nothing acknowledged is lost,
no node dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from acordo import AcordoError, Client
from backends.postgres.store import PostgresStore
from cluster.local.runner import LocalCluster
from cluster.ports import free_base_port
from cluster.services.postgres import PostgresServer, PostgresStandby
from kv.errors import BackendUnavailable, OutcomeUnknown
from kv.model import Version
from kv.ports import TakenOver
from tests.contract.groups import T, commit, group, put
from tests.integration.backends.conftest import started, until
from tests.services import needs

WRITERS: Final = 6
BETWEEN: Final = 40
"""Writes that are acknowledged before the next thing happens."""
CALLS_MAX: Final = 6
"""Calls after which a host that hangs has been left: one of them finds it out."""


def both(servers: Sequence[PostgresServer]) -> str:
    """Return a URL that names all of them."""
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in servers)
    return f"postgresql://acordo:secret@{hosts}/{PostgresServer.database}"


@pytest.mark.timeout(240)
async def test_a_promoted_standby_takes_over(tmp_path: Path) -> None:
    needs("postgresql")
    with PostgresServer() as primary, PostgresStandby(primary) as standby:
        async with started(
            tmp_path, store=both([standby, primary]), store_timeout_s=2.0
        ) as cluster:
            urls = [node.url for node in cluster.nodes.values()]
            acknowledged: dict[str, int] = {}
            enough = asyncio.Event()

            async def write(name: int, client: Client) -> None:
                """Write again under the same op_id until the outcome is known, as the client does
                by itself.
                """
                n = 0
                while not enough.is_set():
                    key = f"standby/{name}/{n}"
                    try:
                        acknowledged[key] = (
                            await client.put(key, key, op_id=f"{name}-{n}", timeout_s=30)
                        ).revision
                        n += 1
                    except AcordoError:
                        continue

            async with Client(urls, timeout_s=30) as client, asyncio.TaskGroup() as tasks:
                for name in range(WRITERS):
                    tasks.create_task(write(name, client))
                await until(
                    lambda: len(acknowledged) >= BETWEEN, "writes are acknowledged by the primary"
                )
                primary.kill()
                before = len(acknowledged)
                await until(lambda: _troubled(cluster), "a node tells that its store is in trouble")
                assert len(acknowledged) <= before + WRITERS, (
                    "nobody acknowledges what only a standby could hold"
                )
                standby.promote()
                await until(
                    lambda: len(acknowledged) >= before + BETWEEN,
                    "writes go on at the promoted one",
                )
                enough.set()
            async with Client(urls, timeout_s=30) as client:
                for key, revision in acknowledged.items():
                    found = await client.get(key)
                    assert found is not None and (found.text, found.revision) == (key, revision)
                ids = [
                    each["op_id"]
                    async for row in client.ledger()
                    for each in row.body
                    if each.get("keys")
                ]
                assert len(ids) == len(set(ids)), "an operation took effect twice"
                assert {f"{k.split('/')[1]}-{k.split('/')[2]}" for k in acknowledged} <= set(
                    map(str, ids)
                )
            assert sum(node.starts for node in cluster.nodes.values()) == 3, "no node died of it"


def _troubled(cluster: LocalCluster) -> bool:
    return _said(cluster, "store in trouble")


@pytest.mark.timeout(120)
async def test_a_primary_that_hangs_is_left_for_the_promoted_one() -> None:
    """Its host takes connections and answers nothing, as a stopped machine: callers whose time is
    shorter than that of a connection get to the other host all the same, within a few calls.
    """
    needs("postgresql")
    with PostgresServer() as primary, PostgresStandby(primary) as standby:
        async with PostgresStore(both([primary, standby])) as store:
            assert (await store.head(timeout_s=5)).last == 0
            primary.pause()
            try:
                standby.promote()
                for _ in range(CALLS_MAX):
                    with contextlib.suppress(BackendUnavailable, OutcomeUnknown):
                        await store.head(timeout_s=1.0)
                        break
                assert store.connections.hosts.used == f"127.0.0.1:{standby.port}"
            finally:
                primary.resume()


@pytest.mark.timeout(120)
async def test_a_standby_alone_is_no_store_until_it_is_promoted() -> None:
    """Its refusal is a store that does not answer, which a node waits for: not an error nobody
    expects.
    """
    needs("postgresql")
    with PostgresServer() as primary, PostgresStandby(primary) as standby:
        with pytest.raises(BackendUnavailable, match="takes no writes"):
            async with PostgresStore(standby.url):
                pass
        async with PostgresStore(both([standby, primary])) as store:
            assert (await store.head(timeout_s=5)).last == 0
            assert store.connections.hosts.used == f"127.0.0.1:{primary.port}"
            primary.kill()
            with pytest.raises(BackendUnavailable):
                await store.head(timeout_s=5)
            standby.promote()
            assert (await store.head(timeout_s=5)).last == 0
            assert store.connections.hosts.used == f"127.0.0.1:{standby.port}"


def write_on(primary: PostgresServer) -> None:
    """Let an old primary take writes although its standby is gone: it came back, and nobody fenced
    it off.
    """
    primary.psql("ALTER SYSTEM RESET synchronous_standby_names")
    primary.psql("SELECT pg_reload_conf()")


@pytest.mark.timeout(240)
async def test_of_two_hosts_that_take_writes_the_one_ahead_is_used() -> None:
    needs("postgresql")
    with PostgresServer() as old, PostgresStandby(old) as new:
        async with PostgresStore(both([old, new])) as store:
            await commit(store, [put("op1", b"k", b"1")])
            new.promote()
            write_on(old)
            async with PostgresStore(new.url) as direct:
                for n in (2, 3):
                    made = await commit(direct, [put(f"op{n}", b"k", b"%d" % n)])
            # Leaders that were refused left empty rows behind on the old one: it has the longer
            # ledger, not the newer.
            for term in range(10, 20):
                await store.take_over(term, "n9", 1, timeout_s=T)
            assert (await store.head(timeout_s=T)).last == 1
            assert await store.head(at_least=3, timeout_s=T) == made.row.head, "it was looked for"
            assert store.connections.hosts.used == f"127.0.0.1:{new.port}"
        for order in range(4):
            async with PostgresStore(both([old, new]), rng=random.Random(order)) as again:
                assert await again.head(timeout_s=T) == made.row.head
        async with PostgresStore(both([old, new])) as reader:
            reader.connections.hosts._used = next(
                dsn for dsn in reader.connections.hosts._dsns if str(old.port) in dsn
            )
            await reader.connections.expire()
            assert (await reader.read([b"k"], timeout_s=T)).head.last == 1
            found = await reader.read([b"k"], settled=3, timeout_s=T)
            assert (found.versions[0], found.digest_at) == (
                Version(b"k", 3, b"3", None, 1, 3),
                made.row.digest,
            )


@pytest.mark.timeout(240)
async def test_an_old_primary_that_came_back_refuses_nobody_and_loses_nothing(
    tmp_path: Path,
) -> None:
    """It answered "refused" for ever on some members, and adopting would have discarded what others
    acknowledged.
    """
    needs("postgresql")
    with PostgresServer() as old, PostgresStandby(old) as new:
        base = free_base_port(3, 14000 + os.getpid() % 900 * 10)
        async with started(
            tmp_path, base_port=base, store=both([old, new]), store_timeout_s=2.0
        ) as cluster:
            urls = [node.url for node in cluster.nodes.values()]
            async with Client(urls, timeout_s=30) as client:
                await client.put("k", "before")
                old.kill()
                new.promote()
                for n in range(5):
                    last = await client.put("k", f"at the new one {n}")
        old.start()
        write_on(old)
        async with started(
            tmp_path, base_port=base, store=both([old, new]), store_timeout_s=2.0
        ) as cluster:
            for url in urls:
                async with Client([url], timeout_s=30) as one:
                    last = await one.put("k", f"through {url}")
                for other in urls:
                    async with Client([other], timeout_s=30) as reader:
                        found = await reader.get("k")
                        assert found is not None and found.revision == last.revision
        async with PostgresStore(new.url) as direct:
            assert (await direct.head(timeout_s=T)).last >= last.revision, (
                "all of it is at the one that was ahead"
            )


@pytest.mark.timeout(240)
@pytest.mark.parametrize("gives_up", ["is out of time", "is cancelled"])
async def test_what_no_standby_has_yet_is_seen_by_nobody(gives_up: str) -> None:
    """A cancelled wait for a standby makes the row visible: it would be read, and be gone after a
    fail-over.
    """
    needs("postgresql")
    with PostgresServer() as primary, PostgresStandby(primary) as standby:
        async with PostgresStore(primary.url) as store, PostgresStore(primary.url) as reader:
            before = (await commit(store, [put("op1", b"k", b"1")])).row.head
            standby.kill()
            made = group(before, [put("op2", b"k", b"2")])
            if gives_up == "is cancelled":
                call = asyncio.ensure_future(store.append(made, timeout_s=T))
                waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                await until(lambda: primary.psql(waits) == "1", "the server waits for its standby")
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            else:
                with pytest.raises(OutcomeUnknown):
                    await store.append(made, timeout_s=0.5)
            for n in range(3):  # nor does taking over show it
                with pytest.raises((OutcomeUnknown, BackendUnavailable)):
                    await store.take_over(9 + n, "n2", 1, timeout_s=0.5)
            assert await reader.head(timeout_s=T) == before
            assert (await reader.read([b"k"], timeout_s=T)).versions == (
                Version(b"k", 1, b"1", None, 1, 1),
            )
            PostgresServer.start(standby)

            async def landed() -> bool:
                return (await reader.head(timeout_s=T)).last == 2

            await until(landed, "it is there once the standby has it")
            assert isinstance(await store.take_over(20, "n2", 1, timeout_s=T), TakenOver)


@pytest.mark.timeout(240)
async def test_an_asynchronous_standby_without_the_newest_rows_is_refused(tmp_path: Path) -> None:
    """It lacks what was acknowledged: writes, reads and look-ups are refused by name, and nothing
    is guessed.
    """
    needs("postgresql")
    with PostgresServer() as primary, PostgresStandby(primary) as standby:
        async with started(
            tmp_path, store=both([primary, standby]), store_timeout_s=2.0
        ) as cluster:
            urls = [node.url for node in cluster.nodes.values()]
            async with Client(urls, timeout_s=30) as client:
                await client.put("k", "kept", op_id="kept")
                write_on(primary)  # from here on it acknowledges without the standby
                standby.kill()
                await client.put("k", "lost", op_id="lost")
                primary.kill()
                PostgresServer.start(standby)
                standby.promote()
            async with Client(urls, timeout_s=5) as client:
                with pytest.raises(AcordoError):
                    await client.put("k", "new")
                await until(
                    lambda: _said(cluster, "store is not what was settled: refusing"),
                    "the store is refused",
                )
            for url in urls:
                async with Client([url], timeout_s=5) as client:
                    with pytest.raises(AcordoError):
                        await client.put("k", "new")
                    # refused, or what memory holds of what was acknowledged
                    with contextlib.suppress(AcordoError):
                        found = await client.get("k")
                        assert found is not None and found.text == "lost"
                    with contextlib.suppress(AcordoError):
                        assert (await client.operation("lost")).outcome == "applied"
            assert sum(node.starts for node in cluster.nodes.values()) == 3


def _said(cluster: LocalCluster, words: str) -> bool:
    return any(words in node.log.read_text() for node in cluster.nodes.values())
