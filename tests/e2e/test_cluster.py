"""One command gives a cluster that serves through any node and survives the death of its leader."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from acordo import Client
from cluster.local.process import ROOT, NodeState
from cluster.local.runner import LocalCluster
from cluster.ports import free_base_port
from tests.e2e.conftest import Start, until
from tests.kinds_of_store import KINDS
from tests.services import needs


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "start" in metafunc.fixturenames:
        metafunc.parametrize("start", KINDS, indirect=True)


def urls(cluster: LocalCluster, *but: str) -> list[str]:
    return [node.url for node in cluster.nodes.values() if node.id not in but]


async def leader_of(cluster: LocalCluster) -> str:
    found: list[str] = []

    async def known() -> bool:
        leader = await cluster.leader()
        if leader is not None:
            found.append(leader)
        return leader is not None

    await until(known, "a leader is known")
    return found[-1]


async def ledger_of(http: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    async with http.get(url + "/v1/ledger?from=1&limit=500") as response:
        assert response.status == 200, await response.text()
        return list((await response.json())["rows"])


async def test_what_one_node_takes_every_node_serves(
    start: Start, http: aiohttp.ClientSession
) -> None:
    async with start() as cluster:
        for writer in urls(cluster):
            key = f"/v1/kv/written-by-{writer[-1]}"
            async with http.put(writer + key, data=b"\x00value") as response:
                assert response.status == 201, await response.text()
                tag = response.headers["ETag"]
            for reader in urls(cluster):
                async with http.get(reader + key) as response:
                    assert (response.status, await response.read()) == (200, b"\x00value")
                    assert response.headers["ETag"] == tag
            async with http.delete(writer + key) as response:
                assert response.status in (200, 204)
            for reader in urls(cluster):
                async with http.get(reader + key) as response:
                    assert response.status == 404
        for url in urls(cluster):
            async with http.get(url + "/v1/leader") as response:
                said = await response.json()
                assert (said["id"], response.status) == (await leader_of(cluster), 200)


async def test_one_node_alone_works_the_same(start: Start) -> None:
    async with start(nodes=1) as cluster, Client(urls(cluster)) as client:
        await client.put("a", b"1")
        found = await client.get("a")
        assert found is not None
        assert found.value == b"1"
        assert (await client.leader()).id == "n1"


async def test_the_installation_check_passes(start: Start) -> None:
    async with start() as cluster:
        for url in urls(cluster):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "cluster.installation",
                url,
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()
            assert process.returncode == 0, out.decode()
            assert b" passed, 0 failed" in out


async def test_the_original_projects_commands_work(start: Start, tmp_path: Path) -> None:
    """Under their own names (docs/adr/0001), the first with whatever python3 there is."""
    needs("siege", "curl")
    environ = {**os.environ, "HOME": str(tmp_path), "CONCURRENT": "4", "TIME": "2S"}
    async with start() as cluster:
        said = []
        for command in ("python3 -m unitary_tests.run_tests", "load-tests/load-tests-siege.sh all"):
            process = await asyncio.create_subprocess_exec(
                *command.split(), urls(cluster)[0], cwd=ROOT, env=environ,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            said.append((await process.communicate())[0].decode())
            assert process.returncode == 0, said
    assert " passed, 0 failed" in said[0]
    assert re.findall(r"== (\w+)", said[1]) == ["read", "write", "mixed"]
    assert re.findall(r'"failed_transactions":\s+(\d+)', said[1]) == ["0"] * 3
    assert all(int(n) > 10 for n in re.findall(r'"transactions":\s+(\d+)', said[1])), said


async def test_the_cluster_survives_kill_9_of_its_leader(start: Start) -> None:
    async with start() as cluster, Client(urls(cluster), timeout_s=30) as client:
        for number in range(20):
            await client.put(f"before/{number}", str(number).encode())
        dead = await leader_of(cluster)
        await cluster.stop_node(dead, signal.SIGKILL)
        for number in range(20):
            await client.put(f"after/{number}", str(number).encode())
        assert (await client.leader()).id != dead
        for when in ("before", "after"):
            for number in range(20):
                found = await client.get(f"{when}/{number}")
                assert found is not None
                assert found.value == str(number).encode()
        cluster.start_node(dead)
        await cluster.wait_ready()
        async with Client(cluster.nodes[dead].url, timeout_s=30) as returned:
            assert await returned.get("after/19") is not None


async def test_the_leader_is_killed_by_a_command_and_comes_back(
    start: Start, tmp_path: Path
) -> None:
    """As the README says it: one command, and another one leads."""
    async with start() as cluster, Client(urls(cluster), timeout_s=30) as client:
        dead, before = await leader_of(cluster), {n.id: n.pid for n in cluster.nodes.values()}
        killing = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cluster", "kill", "leader"),
            *("--data", str(tmp_path / "data")),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await killing.communicate()
        assert out.decode() == f"killed {dead}, the leader (process {before[dead]})\n"
        await client.put("after", b"1")
        await cluster.wait_ready()
        now = {n.id: n.pid for n in cluster.nodes.values()}
        assert now[dead] not in (None, before[dead])
        assert [id for id in now if now[id] != before[id]] == [dead]


async def test_a_stopped_leader_is_killed_and_replaced(start: Start) -> None:
    async with start() as cluster, Client(urls(cluster), timeout_s=40) as client:
        await client.put("a", b"1")
        frozen = await leader_of(cluster)
        node = cluster.nodes[frozen]
        cluster.kill(frozen, signal.SIGSTOP)
        await client.put("b", b"2")
        await until(
            lambda: node.starts == 2 and node.state is NodeState.ALIVE,
            f"{frozen} was killed and is alive again",
        )
        await cluster.wait_ready()
        found = await client.get("a")
        assert found is not None


async def test_without_a_quorum_writes_are_refused_and_reads_go_on(
    start: Start, http: aiohttp.ClientSession
) -> None:
    """INV-7: nothing that was not ordered before reaches the ledger, and the store still
    answers.
    """
    async with start() as cluster, Client(urls(cluster), timeout_s=30) as client:
        await client.put("kept", b"1")
        survivor = await leader_of(cluster)
        others = [node for node in cluster.nodes if node != survivor]
        await asyncio.gather(*(cluster.stop_node(node, signal.SIGKILL) for node in others))
        url = cluster.nodes[survivor].url

        async def refused() -> bool:
            async with http.put(
                url + "/v1/kv/new", data=b"x", headers={"Acordo-Timeout": "1"}
            ) as response:
                return response.status == 503

        await until(refused, "writes are refused")
        before = await ledger_of(http, url)
        for number in range(5):
            async with http.put(f"{url}/v1/kv/refused-{number}", data=b"x") as response:
                assert response.status == 503
                assert "Retry-After" in response.headers
                problem = await response.json()
                assert problem["outcome"] == "not_applied", problem
            async with http.get(url + "/v1/kv/kept") as response:
                assert (response.status, await response.read()) == (200, b"1")
                assert response.headers["Acordo-Level"] == "linearizable"
        async with http.get(url + "/v1/leader") as response:
            assert response.status == 503
        assert await ledger_of(http, url) == before
        for node in others:
            cluster.start_node(node)
        await cluster.wait_ready()
        await client.put("after", b"2")
        for number in range(5):
            assert await client.get(f"refused-{number}") is None


async def test_a_restart_keeps_the_data(start: Start, tmp_path: Path) -> None:
    async with start() as cluster, Client(urls(cluster), timeout_s=30) as client:
        revisions = [(await client.put(f"k{n}", b"x" * (n * 9000))).revision for n in range(12)]
    async with start() as cluster, Client(urls(cluster), timeout_s=30) as client:
        for number, revision in enumerate(revisions):
            found = await client.get(f"k{number}")
            assert found is not None
            assert (found.value, found.revision) == (b"x" * (number * 9000), revision)
        assert (await client.put("next", b"")).revision > revisions[-1]
    assert (tmp_path / "data" / "secret").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("nodes", [1, 3])
async def test_a_node_that_says_ready_takes_its_first_write(
    start: Start, http: aiohttp.ClientSession, nodes: int
) -> None:
    """At the first start, when nobody has stamped the log yet, and at the next, when its last stamp
    is old.
    """

    async def first_write(url: str) -> tuple[int, str]:
        async def ready() -> bool:
            try:
                async with http.get(url + "/readyz") as response:
                    return response.status == 200
            except aiohttp.ClientError:
                return False

        await until(ready, f"{url} is ready")
        async with http.put(url + "/v1/kv/first", data=b"1") as response:
            return response.status, await response.text()

    for _ in range(2):
        async with start(nodes=nodes, wait=False) as cluster:
            told = await asyncio.gather(*(first_write(url) for url in urls(cluster)))
        assert [answer for answer in told if answer[0] not in {200, 201}] == []


async def test_a_drain_under_load_fails_no_request(start: Start) -> None:
    """Each node in turn is told to stop while clients work: they notice nothing."""
    done, ended = 0, asyncio.Event()

    async def work(name: int, given: list[str]) -> None:
        nonlocal done
        async with Client(given, timeout_s=30) as client:
            number = 0
            while not ended.is_set():
                number += 1
                await client.put(f"drain/{name}", str(number).encode())
                found = await client.get(f"drain/{name}")
                assert found is not None
                assert found.value == str(number).encode()
                done += 1

    async def progress(what: str) -> None:
        wanted = done + 20
        await until(lambda: done >= wanted, what)

    async with start() as cluster, asyncio.TaskGroup() as tasks:
        given = urls(cluster)
        for name in range(6):
            tasks.create_task(work(name, given[name % 3 :] + given[: name % 3]))
        for node in list(cluster.nodes.values()):
            await progress("the load goes on")
            await cluster.stop_node(node.id)
            assert node.process is not None
            assert node.process.returncode == 0, node.last_words()
            await progress(f"the load goes on without {node.id}")
            cluster.start_node(node.id)
            await cluster.wait_ready()
        ended.set()


async def test_a_stopping_node_finishes_what_it_holds(
    start: Start, http: aiohttp.ClientSession
) -> None:
    """A request whose body is half sent when SIGTERM comes is still answered, through the new
    leader.
    """
    async with start() as cluster:
        stopping = await leader_of(cluster)
        node = cluster.nodes[stopping]
        half_sent, drained = asyncio.Event(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b"first half, "
            half_sent.set()
            await drained.wait()
            yield b"second half"

        async def put() -> int:
            async with http.put(node.url + "/v1/kv/held", data=body()) as response:
                return response.status

        held = asyncio.create_task(put())
        await half_sent.wait()
        stopped = asyncio.create_task(cluster.stop_node(stopping))

        async def another_leads() -> bool:
            return await cluster.leader() not in (None, stopping)

        await until(another_leads, "the leadership was handed on")
        drained.set()
        assert await held == 201
        await stopped
        assert node.process is not None
        assert node.process.returncode == 0, node.last_words()
        async with Client(urls(cluster, stopping), timeout_s=30) as client:
            found = await client.get("held")
            assert found is not None
            assert found.value == b"first half, second half"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_up_is_one_command_and_a_signal_ends_it(tmp_path: Path, number: int) -> None:
    port = free_base_port(3, 16600)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster", "up",
        "--base-port", str(port), "--data", str(tmp_path / "data"),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(100):
            rest = await _seen_through(process, process.stdout, port, tmp_path / "data", number)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert rest.decode().rstrip().endswith("stopped")


async def _seen_through(
    process: asyncio.subprocess.Process,
    out: asyncio.StreamReader,
    port: int,
    data: Path,
    number: int,
) -> bytes:
    """Check what `up` says, ask for the status, send the signal; return what it said last."""
    said = []
    while b"Ctrl-C" not in (line := await out.readline()):
        said.append(line.decode())
        assert line, "".join(said)
    for node in range(3):
        assert any(f"http://127.0.0.1:{port + node}" in line for line in said), "".join(said)
    assert any(line.rstrip().endswith("leader") for line in said), "".join(said)
    status = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cluster",
        "status",
        "--data",
        str(data),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    shown, _ = await status.communicate()
    assert status.returncode == 0, shown.decode()
    assert b"leads in term" in shown
    assert all(f"n{n}".encode() in shown for n in (1, 2, 3))
    process.send_signal(number)
    rest = await out.read()
    assert await process.wait() == 0, rest.decode()
    return rest
