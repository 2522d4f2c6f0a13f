"""The stack in containers without a database: each node keeps its own copy in its own volume."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chaos.waiting import until
from deploy import images
from tests.docker.engine import PROJECT, Stack

pytestmark = pytest.mark.timeout(1200)
WITHIN_S = 180
NODES = ("node1", "node2", "node3")


@pytest.fixture(scope="module")
def bare(built: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack without a database, up and checked by ./start.sh."""
    folder = Path(tmp_path_factory.mktemp("replicated"))
    made = Stack(built, folder, project=f"{PROJECT}r", store="replicated")
    try:
        made.start(images.names())
        yield made
    finally:
        made.down()


async def put(stack: Stack, key: str, value: bytes) -> None:
    """Write one key through nginx, and again while a node that is just starting refuses it or the
    answer is lost: writing the same value twice is as good as once.
    """

    async def taken() -> bool:
        async with (
            aiohttp.ClientSession() as http,
            http.put(f"{stack.url}/v1/kv/{key}", data=value) as response,
        ):
            assert response.status in (200, 201, 502, 503, 504), await response.text()
            return response.status in (200, 201)

    assert await until(taken, WITHIN_S)


async def got(url: str, key: str) -> bytes | None:
    """Return what a node, or nginx, answers; None while it does not."""
    timeout = aiohttp.ClientTimeout(total=10)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(f"{url}/v1/kv/{key}") as response,
        ):
            return await response.read() if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError):
        return None


async def rows(url: str) -> Any:
    """Return the whole ledger of one node."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{url}/v1/ledger?from=1&limit=1000") as response,
    ):
        assert response.status == 200, await response.text()
        return (await response.json())["rows"]


def test_start_sh_brings_it_up_without_a_database(bare: Stack) -> None:
    assert "passed, 0 failed" in bare.said
    there = set(bare.containers())
    assert {*NODES, "nginx", "redis1", "rabbit1"} <= there
    assert not {name for name in there if name.startswith(("postgres", "cockroach"))}


async def test_every_node_has_its_own_copy_and_all_are_the_same(bare: Stack) -> None:
    for n in range(20):
        await put(bare, f"copied/{n}", b"x" * n)

    async def same() -> bool:
        ledgers = [await rows(bare.node(n)) for n in (1, 2, 3)]
        return bool(ledgers[0]) and ledgers[0] == ledgers[1] == ledgers[2]

    assert await until(same, WITHIN_S)
    for container in bare.containers(*NODES).values():
        code, said = container.exec_run(["ls", "/data/node"])
        assert code == 0 and b"store.sqlite" in said


async def test_two_of_three_serve_alone_after_all_were_killed(bare: Stack) -> None:
    """No node waits for all of them."""
    await put(bare, "killed", b"kept")
    nodes = bare.containers(*NODES)
    for container in nodes.values():
        container.kill()
    for name in ("node1", "node3"):
        nodes[name].start()

    async def serves() -> bool:
        return await got(bare.node(3), "killed") == b"kept"

    assert await until(serves, WITHIN_S)
    await put(bare, "killed", b"changed")
    nodes["node2"].start()

    async def caught_up() -> bool:
        return await got(bare.node(2), "killed") == b"changed"

    assert await until(caught_up, WITHIN_S)


async def test_a_node_that_lost_its_volume_gives_its_place_to_a_new_member(bare: Stack) -> None:
    await put(bare, "lost", b"kept")
    (node,) = bare.containers("node2").values()
    node.kill()
    done = await asyncio.to_thread(bare.script, "replace", "node2")
    assert done.returncode == 0, done.stdout
    assert "n2-2 has taken the place of n2" in done.stdout

    async def fetched() -> bool:
        return await got(bare.node(2), "lost") == b"kept"

    assert await until(fetched, WITHIN_S)
    assert await rows(bare.node(2)) == await rows(bare.node(1))
