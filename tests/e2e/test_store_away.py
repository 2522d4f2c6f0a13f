"""A node is ready only while a write could land: what is in its way is named, and gone when it is
gone.
"""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from tests.e2e.conftest import Start, until


@pytest.mark.timeout(180)
async def test_a_store_file_that_is_gone_makes_nodes_unready_though_nobody_writes(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """The descriptors go on reading what was removed: a leader would acknowledge into a file that
    nobody can open.
    """
    store = f"sqlite:///{tmp_path / 'data' / 'store.sqlite'}"
    async with start(nodes=1, store=store) as cluster:
        (node,) = cluster.nodes.values()
        async with http.put(f"{node.url}/v1/kv/k", data=b"1") as answer:
            assert answer.status == 201
        (path,) = (tmp_path / "data").rglob("*.sqlite")

        async def says(status: int, words: str) -> bool:
            async with http.get(f"{node.url}/readyz?verbose") as answer:
                return answer.status == status and words in await answer.text()

        path.rename(path.with_name("away"))
        await until(lambda: says(503, f"{path} is gone"), "the file that is gone is named")
        async with http.get(f"{node.url}/v1/kv/k") as answer:
            assert (answer.status, await answer.read()) == (200, b"1"), "reads go on"
        async with http.put(
            f"{node.url}/v1/kv/k", data=b"2", headers={"Acordo-Timeout": "2"}
        ) as answer:
            assert answer.status in (503, 504), "and nothing is acknowledged"
        path.with_name("away").rename(path)
        await until(lambda: says(200, "[+]store ok"), "ready once it is back")
