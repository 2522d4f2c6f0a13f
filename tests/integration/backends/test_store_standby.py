"""A PostgreSQL primary dies under load and its standby is promoted: nothing acknowledged is lost, no node dies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from acordo.client import Client
from acordo.errors import AcordoError
from backends.postgres import PostgresStore
from cluster.runner import LocalCluster
from kv.errors import BackendUnavailable
from tests.integration.backends.conftest import started, until
from tests.servers.postgres import PostgresServer, PostgresStandby
from tests.servers.shared import needs

WRITERS: Final = 6
BETWEEN: Final = 40
"""Writes that are acknowledged before the next thing happens."""


def both(servers: Sequence[PostgresServer]) -> str:
    """Return a URL that names all of them."""
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in servers)
    return f"postgresql://acordo:secret@{hosts}/{PostgresServer.database}"


@pytest.mark.timeout(240)
async def test_a_promoted_standby_takes_over(tmp_path: Path) -> None:
    needs("postgresql")
    with PostgresServer() as primary, PostgresStandby(primary) as standby:
        async with started(tmp_path, store=both([standby, primary]), store_timeout_s=2.0) as cluster:
            urls = [node.url for node in cluster.nodes.values()]
            acknowledged: dict[str, int] = {}
            enough = asyncio.Event()

            async def write(name: int, client: Client) -> None:
                """Write again under the same op_id until the outcome is known, as the client does by itself."""
                n = 0
                while not enough.is_set():
                    key = f"standby/{name}/{n}"
                    try:
                        acknowledged[key] = (await client.put(key, key, op_id=f"{name}-{n}", timeout_s=30)).revision
                        n += 1
                    except AcordoError:
                        continue

            async with Client(urls, timeout_s=30) as client, asyncio.TaskGroup() as tasks:
                for name in range(WRITERS):
                    tasks.create_task(write(name, client))
                await until(lambda: len(acknowledged) >= BETWEEN, "writes are acknowledged by the primary")
                primary.kill()
                before = len(acknowledged)
                await until(lambda: _troubled(cluster), "a node tells that its store is in trouble")
                assert len(acknowledged) <= before + WRITERS, "nobody acknowledges what only a standby could hold"
                standby.promote()
                await until(lambda: len(acknowledged) >= before + BETWEEN, "writes go on at the promoted one")
                enough.set()
            async with Client(urls, timeout_s=30) as client:
                for key, revision in acknowledged.items():
                    found = await client.get(key)
                    assert found is not None and (found.text, found.revision) == (key, revision)
                ids = [each["op_id"] async for row in client.ledger() for each in row.body if each.get("keys")]
                assert len(ids) == len(set(ids)), "an operation took effect twice"
                assert {f"{k.split('/')[1]}-{k.split('/')[2]}" for k in acknowledged} <= set(map(str, ids))
            assert sum(node.starts for node in cluster.nodes.values()) == 3, "no node died of it"


def _troubled(cluster: LocalCluster) -> bool:
    return any("store in trouble" in node.log.read_text() for node in cluster.nodes.values())


@pytest.mark.timeout(120)
async def test_a_standby_alone_is_no_store_until_it_is_promoted() -> None:
    """Its refusal is a store that does not answer, which a node waits for: not an error nobody expects."""
    needs("postgresql")
    with PostgresServer() as primary, PostgresStandby(primary) as standby:
        with pytest.raises(BackendUnavailable, match="takes no writes"):
            async with PostgresStore(standby.url):
                pass
        async with PostgresStore(both([standby, primary])) as store:
            assert (await store.head(timeout_s=5)).last == 0
            assert store._hosts.used == f"127.0.0.1:{primary.port}"
            primary.kill()
            with pytest.raises(BackendUnavailable):
                await store.head(timeout_s=5)
            standby.promote()
            assert (await store.head(timeout_s=5)).last == 0
            assert store._hosts.used == f"127.0.0.1:{standby.port}"
