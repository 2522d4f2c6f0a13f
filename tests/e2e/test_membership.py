"""`python -m cluster up` with a member that is damaged, lost, removed, or waits for a person;
`replace` and its kin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from acordo import AcordoError, Client, Level
from cluster.local.process import EX_CONFIG, ROOT
from cluster.ports import free_base_port
from tests.e2e.conftest import until
from tests.services import fresh_database, postgres

pytestmark = pytest.mark.timeout(300)


class Up:
    """One `python -m cluster up` and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process, data: Path) -> None:
        self.process, self.data = process, data
        self.said = ""

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.said += line.decode()

    async def says(self, text: str) -> None:
        await until(
            lambda: text in self.said or self.process.returncode is not None,
            f"{text!r} in {self.said}",
        )
        assert text in self.said, self.said

    def url(self, number: int) -> str:
        port = json.loads((self.data / "cluster.json").read_bytes())["base_port"]
        return f"http://127.0.0.1:{port + number - 1}"


@contextlib.asynccontextmanager
async def up(data: Path, *flags: str) -> AsyncIterator[Up]:
    if not (data / "cluster.json").exists():
        flags = ("--base-port", str(free_base_port(6, 25000 + os.getpid() % 500 * 10)), *flags)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster", "up", "--data", str(data), *flags,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    made = Up(process, data)
    reading = asyncio.ensure_future(made.read())
    try:
        yield made
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.wait()
        await reading
        print(made.said)


async def command(*argv: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *argv,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@contextlib.asynccontextmanager
async def running(data: Path, *flags: str) -> AsyncIterator[Up]:
    async with up(data, *flags) as made:
        await made.says("Ctrl-C stops the cluster")
        yield made


async def members(url: str) -> dict[str, bool]:
    async with Client(url, timeout_s=30) as client:
        return {m.id: m.voter for m in (await client.cluster()).members}


async def holds(url: str, count: int, level: Level = "linearizable") -> None:
    async with Client(url, timeout_s=30) as client:
        for number in range(count):
            found = await client.get(f"k{number}", level=level)
            assert found is not None
            assert found.value == b"v" * 500


async def fill(data: Path, *flags: str) -> None:
    async with running(data, *flags) as cluster, Client(cluster.url(1), timeout_s=30) as client:
        for number in range(10):
            await client.put(f"k{number}", b"v" * 500)


async def test_a_damaged_member_is_served_without_and_replaced(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await fill(data)
    journal = max(
        (p for p in (data / "n2").rglob("*journal*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    broken = bytearray(journal.read_bytes())
    broken[len(broken) // 3] ^= 0xFF
    journal.write_bytes(broken)
    async with running(data) as cluster:
        assert "2 of 3 nodes serve" in cluster.said
        assert "n2 is missing: cannot start" in cluster.said
        assert f"python -m cluster replace n2 --data {data}" in cluster.said
        await holds(cluster.url(1), 10)
        code, said = await command("cluster", "replace", "n2", "--data", str(data))
        assert code == 0, said
        assert "n4 has taken the place of n2" in said
        assert await members(cluster.url(4)) == {"n1": True, "n3": True, "n4": True}
        code, said = await command("cluster", "replace", "n2", "--data", str(data))
        assert (code, "it was removed" in said) == (EX_CONFIG, True), said
        async with Client(cluster.url(4), timeout_s=30) as client:
            await client.put("k10", b"v" * 500)
    assert journal.read_bytes() == broken
    async with running(data) as cluster:  # the directory remembers
        assert "MISSING" not in cluster.said
        assert "n2 " not in cluster.said
        await holds(cluster.url(4), 11)


async def test_a_lost_directory_is_served_without_and_replaced(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await fill(data)
    shutil.rmtree(data / "n3")
    async with running(data) as cluster:
        assert "n3 is missing" in cluster.said
        await holds(cluster.url(1), 10)
        code, said = await command("cluster", "replace", "n3", "--data", str(data))
        assert code == 0, said
        assert await members(cluster.url(1)) == {"n1": True, "n2": True, "n4": True}
        await holds(cluster.url(4), 10)


async def test_members_come_and_go(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with running(data) as cluster:
        code, said = await command("cluster", "add", "--data", str(data))
        assert code == 0, said
        assert "n4 votes" in said
        leader = next(n for n in (1, 2, 3) if f"n{n} leads" in cluster.said)
        code, said = await command("cluster", "remove", f"n{leader}", "--data", str(data))
        assert code == 0, said
        await cluster.says(f"n{leader} is removed: stopping it")
        left = {f"n{n}": True for n in (1, 2, 3, 4) if n != leader}
        assert await members(cluster.url(4)) == left
        other = next(n for n in (1, 2, 3) if n != leader)
        async with Client(cluster.url(4), timeout_s=30) as client:  # past this command's back
            await client.remove_member(f"n{other}")
        await cluster.says(f"n{other} is not ready: it is no member of the cluster any more")
        for _ in range(2):  # asking again is refused by name, and changes nothing
            code, said = await command("cluster", "remove", f"n{other}", "--data", str(data))
        assert (code, "it was removed" in said) == (EX_CONFIG, True), said
        code, said = await command("cluster", "remove", "n9", "--data", str(data))
        assert (code, "n9 is no member" in said) == (EX_CONFIG, True), said
    async with running(data) as cluster:
        assert "MISSING" not in cluster.said


async def test_without_a_quorum_members_are_not_changed_and_nobody_is_stopped(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    await fill(data)
    for lost in ("n2", "n3"):
        path = data / lost / "node.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"cluster_id": "another"}))
    async with up(data, "--ready-timeout-s", "1") as cluster:
        await cluster.says("no quorum is ready after 1 s")
        for lost in ("n2", "n3"):
            await cluster.says(f"{lost} cannot start")
        before = (data / "cluster.json").read_bytes()
        code, said = await command("cluster", "replace", "n2", "--data", str(data))
        assert (code, "quorum" in said or "no node" in said) == (EX_CONFIG, True), said
        assert (data / "cluster.json").read_bytes() == before
        await holds(cluster.url(1), 10, "session")  # it serves what needs no quorum
        assert cluster.process.returncode is None
    code, said = await command("cluster", "add", "--data", str(data))
    assert (code, "no cluster runs in" in said) == (EX_CONFIG, True), said


async def test_nodes_that_wait_for_a_person_are_left_alone(tmp_path: Path) -> None:
    """A store from a backup: the runner names `acordo adopt` and goes on, for as long as a person
    needs.
    """
    data = tmp_path / "data"
    store = fresh_database()
    await fill(data, "--store", store)
    name = store.rpartition("/")[2]
    postgres().psql(f"CREATE DATABASE {name}_backup TEMPLATE {name}")
    await fill(data, "--store", store)
    shared = ("--store", f"{store}_backup")
    async with up(data, "--ready-timeout-s", "1", *shared) as cluster:
        await cluster.says("no quorum is ready after 1 s")
        await cluster.says("acordo adopt")
        assert cluster.process.returncode is None

        async def adopted() -> bool:
            with contextlib.suppress(AcordoError):
                async with Client([cluster.url(n) for n in (1, 2, 3)], timeout_s=10) as client:
                    leader = (await client.leader()).url
                async with Client(leader or "", timeout_s=10) as client:
                    given_up = (await client.cluster()).raw["gives_up"]
                    if isinstance(given_up, int):
                        await client.adopt(gives_up=given_up)
                        return True
            return False

        await until(adopted, "the store is adopted")
        await cluster.says("Ctrl-C stops the cluster")
        await holds(cluster.url(1), 10)


async def test_a_command_that_was_cut_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with running(data) as cluster:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cluster", "replace", "n2", "--data", str(data), cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert b"starting n4" in await process.stdout.readline()
        process.kill()
        await process.wait()
        code, said = await command("cluster", "replace", "n2", "--data", str(data))
        assert code == 0, said
        assert "going on with n4" in said
        assert await members(cluster.url(4)) == {"n1": True, "n3": True, "n4": True}
