"""Every member keeps its own store: processes are killed, files and directories lost; afterwards
all members hold the same, row by row.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from acordo import AcordoError, Client
from cluster.local.process import ROOT
from cluster.local.runner import LocalCluster
from cluster.ports import free_base_port
from tests.e2e.conftest import Start, until

pytestmark = pytest.mark.timeout(240)

LARGE = b"v" * (1 << 20)


def urls(cluster: LocalCluster, *but: str) -> list[str]:
    return [node.url for node in cluster.nodes.values() if node.id not in but]


async def ask(http: aiohttp.ClientSession, url: str) -> Any:
    async with http.get(url) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def ledger_of(http: aiohttp.ClientSession, url: str) -> list[Any]:
    rows: list[Any] = []
    at: int | None = 1
    while at is not None:
        said = await ask(http, f"{url}/v1/ledger?from={at}&limit=1000")
        rows += said["rows"]
        at = said["next"]
    return rows


async def all_hold_the_same(http: aiohttp.ClientSession, cluster: LocalCluster) -> list[Any]:
    """Wait until all members have the same rows, and return these."""
    found: list[list[Any]] = []

    async def same() -> bool:
        found[:] = [await ledger_of(http, url) for url in urls(cluster)]
        return all(rows == found[0] for rows in found)

    await until(same, "all ledgers are the same")
    assert all(row["content"] and row["index"] for row in found[0])
    return found[0]


async def fill(client: Client, numbers: Sequence[int], name: str = "k") -> None:
    await asyncio.gather(*(client.put(f"{name}/{n}", f"{name}{n}".encode()) for n in numbers))


async def holds(urls_: Sequence[str], numbers: Sequence[int], name: str = "k") -> None:
    for url in urls_:
        async with Client(url, timeout_s=30) as client:
            for number in numbers:
                found = await client.get(f"{name}/{number}")
                assert found is not None, (url, name, number)
                assert found.value == f"{name}{number}".encode()


async def follower(cluster: LocalCluster) -> str:
    leader = await cluster.leader()
    return next(name for name in cluster.nodes if name != leader)


async def test_each_node_has_its_own_file_and_all_hold_the_same(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with start() as cluster, Client(urls(cluster), timeout_s=30) as client:
        await fill(client, range(50))
        await client.put("large", LARGE)
        batch = [{"put": f"large{n}", "value": LARGE.decode()} for n in range(3)]
        async with http.post(urls(cluster)[1] + "/v1/txn", json={"writes": batch}) as response:
            assert response.status == 200, await response.text()
        for url in urls(cluster):
            for name in ("large", "large0", "large2"):
                async with http.get(f"{url}/v1/kv/{name}") as response:
                    assert await response.read() == LARGE
        await all_hold_the_same(http, cluster)
        view = await ask(http, urls(cluster)[0] + "/v1/cluster")
        assert (view["store_kind"], view["store_state"]) == ("replicated", "sound")
    files = sorted(path.parent.name for path in (tmp_path / "data").rglob("store.sqlite"))
    assert files == ["n1", "n2", "n3"]


async def test_kill_9_of_every_member_in_turn_loses_nothing(
    start: Start, http: aiohttp.ClientSession
) -> None:
    async with start() as cluster, Client(urls(cluster), timeout_s=40) as client:
        for turn, name in enumerate(list(cluster.nodes)):
            writing = asyncio.create_task(fill(client, range(60), f"turn{turn}"))
            cluster.kill(name, signal.SIGKILL)
            await writing
            await until(lambda: cluster.nodes[name].starts > 1, f"{name} is started again")  # noqa: B023
            await cluster.wait_ready()
        for turn in range(3):
            await holds(urls(cluster), range(60), f"turn{turn}")
        await all_hold_the_same(http, cluster)


async def test_all_killed_at_once_go_on(start: Start, http: aiohttp.ClientSession) -> None:
    async with start() as cluster, Client(urls(cluster), timeout_s=40) as client:
        await fill(client, range(40))
        for name in cluster.nodes:
            cluster.kill(name, signal.SIGKILL)
        await fill(client, range(40, 60))
        await cluster.wait_ready()
        await holds(urls(cluster), range(60))
        await all_hold_the_same(http, cluster)


@pytest.mark.parametrize("how", ["gone", "garbage", "old", "of another cluster"])
async def test_a_member_whose_file_is_lost_has_its_state_again(
    start: Start, http: aiohttp.ClientSession, how: str, tmp_path: Path
) -> None:
    """R5: file and dump are put aside, log and votes stay; nothing wrong is served meanwhile."""
    if how == "of another cluster":
        async with start(nodes=1, data=tmp_path / "other") as other, Client(urls(other)) as client:
            await fill(client, range(90), "theirs")
        shutil.copy(tmp_path / "other" / "n1" / "store.sqlite", tmp_path / "theirs")
    async with start() as cluster, Client(urls(cluster), timeout_s=40) as client:
        await fill(client, range(30))
        name = await follower(cluster)
        file = tmp_path / "data" / name / "store.sqlite"
        await cluster.stop_node(name)
        if how == "old":
            shutil.copy(file, tmp_path / "old")
            cluster.start_node(name)
            await cluster.wait_ready()
            await fill(client, range(30, 60))
            await cluster.stop_node(name)
        else:
            await fill(client, range(30, 60))
        for extra in ("", "-wal", "-shm"):
            file.with_name(file.name + extra).unlink(missing_ok=True)
        if how == "garbage":
            file.write_bytes(b"this is no database" * 1000)
        elif how == "old":
            shutil.copy(tmp_path / "old", file)
        elif how == "of another cluster":
            shutil.copy(tmp_path / "theirs", file)
        cluster.start_node(name)
        await cluster.wait_ready()
        await holds([cluster.nodes[name].url], range(60))
        await all_hold_the_same(http, cluster)
        await fill(client, range(60, 70))
        await holds(urls(cluster), range(70))
        async with Client(cluster.nodes[name].url) as own:
            assert await own.get("theirs/1", level="stale") is None


async def test_an_emptied_member_says_so_everywhere(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """R13: it never votes again under its id."""
    async with start() as cluster, Client(urls(cluster), timeout_s=40) as client:
        await fill(client, range(30))
        name = await follower(cluster)
        await cluster.stop_node(name)
        shutil.rmtree(tmp_path / "data" / name)
        (tmp_path / "data" / name).mkdir()
        cluster.start_node(name)
        url = cluster.nodes[name].url

        async def says() -> bool:
            try:
                async with http.get(url + "/readyz?verbose") as response:
                    text = await response.text()
                    return response.status == 503 and "replace it by one with a new id" in text
            except aiohttp.ClientError:
                return False

        await until(says, f"{name} says that its disk is lost")
        view = await ask(http, url + "/v1/cluster")
        assert (view["unfit"], view["store_state"]) == ("disk_lost", "emptied")
        assert [each["code"] for each in view["unready"]].count("disk_lost") == 1
        async with http.get(url + "/metrics") as response:
            metrics = await response.text()
        assert 'acordo_own_store{state="emptied"} 1.0' in metrics
        assert 'acordo_unready{reason="disk_lost"} 1.0' in metrics
        said = await shown_by("acordo", "--url", url, "status")
        assert "its own store is emptied: log and votes are gone" in said
        assert "replace it by one with a new id" in said
        said = await shown_by("cluster", "status", "--url", url)
        assert "this one's is emptied" in said
        await fill(client, range(30, 40))


async def shown_by(*command: str) -> str:
    """Return what a command says, in one line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return " ".join(said.decode().split())


async def test_without_a_quorum_only_what_needs_none_is_read(
    start: Start, http: aiohttp.ClientSession
) -> None:
    async with start() as cluster, Client(urls(cluster), timeout_s=30) as client:
        await client.put("kept", b"1")
        survivor = await cluster.leader()
        assert survivor is not None
        others = [name for name in cluster.nodes if name != survivor]
        await asyncio.gather(*(cluster.stop_node(name, signal.SIGKILL) for name in others))
        url = cluster.nodes[survivor].url

        async def refused() -> bool:
            async with http.get(url + "/v1/kv/kept") as response:
                return response.status == 503

        await until(refused, "linearizable reads are refused")
        for level in ("session", "stale"):
            async with http.get(f"{url}/v1/kv/kept?consistency={level}") as response:
                assert (response.status, await response.read()) == (200, b"1")
        async with http.get(f"{url}/v1/kv?prefix=&consistency=session") as response:
            assert response.status == 200
        for name in others:
            cluster.start_node(name)
        await cluster.wait_ready()
        await holds_one(urls(cluster))


async def holds_one(urls_: Sequence[str]) -> None:
    for url in urls_:
        async with Client(url, timeout_s=30) as client:
            found = await client.get("kept")
            assert found is not None
            assert found.value == b"1"


@pytest.mark.parametrize("named", ["127.0.0.1", "localhost"])
async def test_a_node_joins_by_naming_one_live_member(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path, named: str
) -> None:
    """By address or by name, and whether or not that member leads."""
    async with start() as cluster, Client(urls(cluster), timeout_s=30) as client:
        await fill(client, range(30))
        known = cluster.nodes[await follower(cluster)]
        port = free_base_port(1, 13500 + os.getpid() % 900 * 10)
        raft, url = f"127.0.0.1:{port + 1000}", f"http://127.0.0.1:{port}"
        own = {
            "NODE_ID": "n4",
            "HTTP_PORT": str(port),
            "ADVERTISED_URL": url,
            "RAFT_ADDRESS": raft,
            "MEMBERS": f"{known.id}={named}:{known.raft_address.rpartition(':')[2]}"
            f",n4={raft}/observer",
            "DATA_DIR": str(tmp_path / "n4"),
        }
        environ = known.environ | {f"ACORDO_{name}": value for name, value in own.items()}
        with (tmp_path / "n4.log").open("wb") as log:
            joining = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "node"),
                env=environ,
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        try:
            await client.add_member("n4", raft_address=raft, url=url)

            async def votes() -> bool:
                with contextlib.suppress(AcordoError):
                    await client.promote_member("n4")
                    return True
                return False

            await until(votes, "n4 votes")
            await holds([url], range(30))
            await client.remove_member("n4")
        finally:
            if joining.returncode is None:
                joining.terminate()
            await joining.wait()
            print((tmp_path / "n4.log").read_text()[-3000:])
