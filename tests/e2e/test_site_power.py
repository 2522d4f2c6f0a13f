"""docs/degradation.md, "A power cut at the whole site": two of three journals are refused, and what
then.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import aiohttp
import pytest

from acordo import BadRequest, Client
from cluster.local.runner import LocalCluster
from tests.e2e.conftest import Start, until
from tests.services import fresh_database


def damaged(raft: Path) -> None:
    """Leave a hole of zeros before what is good, as pages do that reached the disk in another
    order.
    """
    newest = max(raft.glob("journal.0*"))
    content = bytearray(newest.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    newest.write_bytes(content)


async def ended(cluster: LocalCluster, name: str) -> bool:
    return "damaged" in cluster.nodes[name].log.read_text()


@pytest.mark.timeout(300)
async def test_what_was_acknowledged_is_in_the_store_when_two_of_three_logs_are_refused(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    store = fresh_database()
    async with start(store=store) as cluster:
        url = cluster.nodes["n1"].url
        for number in range(5):
            async with http.put(f"{url}/v1/kv/k{number}", data=b"v%d" % number) as reply:
                assert reply.status in (200, 201)
    for name in ("n2", "n3"):
        damaged(data / name / "raft")
    async with start(wait=False, store=store) as cluster:
        await until(lambda: ended(cluster, "n2"), "n2 refuses its journal")
        await until(lambda: ended(cluster, "n3"), "n3 refuses its journal")

        async def unready() -> bool:
            try:
                async with http.get(f"{url}/readyz") as reply:
                    return reply.status == 503
            except aiohttp.ClientConnectionError:
                return False

        await until(unready, "n1 says that it has no quorum")
    for name in ("n1", "n2", "n3"):  # the sound one too: its history has no quorum any more
        shutil.move(data / name, tmp_path / f"before-{name}")
    async with (
        start(wait=False, store=store) as cluster,
        Client([node.url for node in cluster.nodes.values()]) as client,
    ):

        async def refused() -> bool:
            try:
                async with http.get(f"{cluster.nodes['n1'].url}/readyz") as reply:
                    return b"ledger failed" in await reply.read()
            except aiohttp.ClientConnectionError:
                return False

        await until(refused, "the store is known to be of another history")

        async def adopted() -> bool:
            try:
                await client.adopt(gives_up=0)
            except BadRequest:  # the leadership still goes round
                return False
            return True

        await until(adopted, "the leader adopts the store's head")
        await cluster.wait_ready()
        for number in range(5):
            found = await client.get(f"k{number}")
            assert found is not None
            assert found.value == b"v%d" % number
        await client.put("k5", b"v5")
