"""docs/operations.md: its commands, run in their order against real nodes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from acordo import Change, Client, Pruned
from acordo._bulk.backup import backup, verify_file
from cluster.local.runner import LocalCluster
from cluster.ports import free_base_port
from kv.errors import BadRequest
from tests.e2e.conftest import WAIT_S, Start
from tests.services import fresh_database

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
PROGRAMS = {"python": sys.executable, "acordo": f"{sys.executable} -m acordo"}


def commands(heading: str) -> list[str]:
    """Return the commands under a heading of the page."""
    text = PAGE.read_text()
    part = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", part, re.DOTALL | re.MULTILINE)
    found = "".join(blocks).replace("\\\n", " ").splitlines()
    assert found, heading
    return [line for line in found if line and not line.startswith("#")]


async def carried_out(line: str, directory: Path, urls: list[str], *, code: int = 0) -> str:
    """Run a command of the page in a directory of its own; return what it printed. One that starts
    a cluster is stopped once that is ready.
    """
    stays = " -m cluster up " in line
    words = re.sub(r"\.venv/bin/(python|acordo)", lambda found: PROGRAMS[found[1]], line)
    words = words.replace("--base-port 8101", f"--base-port {free_base_port(3, 25000)}")
    process = await asyncio.create_subprocess_shell(
        f"exec {words}" if stays else words,
        cwd=directory,
        env={**os.environ, "ACORDO_URLS": ",".join(urls), "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out = b""
    if stays:
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            while b"stops the cluster; its data is in" not in out:
                piece = await process.stdout.readline()
                assert piece, out.decode()
                out += piece
        process.send_signal(signal.SIGINT)
    out += (await process.communicate())[0]
    assert process.returncode == code, (line, out.decode())
    return out.decode()


async def taken_by_a_worker(line: str, directory: Path, urls: list[str]) -> None:
    """Let a worker run until it has taken a backup and verified it."""
    kept = directory / "kept"
    kept.mkdir()
    words = re.sub(r"\.venv/bin/(python)", lambda found: f"exec {PROGRAMS[found[1]]}", line)
    process = await asyncio.create_subprocess_shell(
        words,
        cwd=directory,
        env={**os.environ, "ACORDO_URLS": ",".join(urls), "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(WAIT_S):
            while not (notes := list(kept.glob("*.backup.json"))):
                assert process.returncode is None
                await asyncio.sleep(0.05)
    finally:
        process.terminate()
        await process.wait()
    with notes[0].with_suffix("").open("rb") as file:
        assert verify_file(file).revision >= 5


def urls_of(cluster: LocalCluster) -> list[str]:
    return [node.url for node in cluster.nodes.values()]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("start", ["replicated", "shared"], indirect=True)
async def test_a_backup_is_taken_and_verified_as_the_page_says(
    start: Start, tmp_path: Path
) -> None:
    async with start(nodes=1) as cluster, Client(urls_of(cluster)) as client:
        await client.put("a", "1")
        await client.put("b", b"v" * 300_000, ttl_s=3600)
        said = [
            await carried_out(line, tmp_path, urls_of(cluster))
            for line in commands("Take a backup")
        ]
        assert "whole: 2 keys as of revision 2" in said[0] and said[0] == said[1]
        await client.put("c", "3")
        await client.delete("a")
        await client.put("d", "4")
        said = [
            await carried_out(line, tmp_path, urls_of(cluster))
            for line in commands("Take what changed since one")
        ]
        assert "what changed after revision 2: 3 keys as of revision 5" in said[0]
        assert said[0] == said[1]
        (line,) = commands("Take backups by schedule")
        await taken_by_a_worker(line, tmp_path, urls_of(cluster))
        (line,) = commands("Collect a bundle for who looks for a fault")
        assert " files of " in await carried_out(line, tmp_path, urls_of(cluster))
    if cluster.settings.store:
        return
    (line,) = commands("Restore one")
    assert "n3: 3 keys as of revision 5" in await carried_out(line, tmp_path, [])


(VERIFY,) = commands("Verify a cluster")


class Told(NamedTuple):
    """What clients of the old cluster keep."""

    positions: list[str]
    token: str
    revision: int
    lease: str
    expires_ms: int


async def old_life(client: Client, target: Path) -> Told:
    """Fill a cluster, take a backup, and go on: what comes then is lost."""
    for n in range(8):
        await client.put(f"k{n}", f"v{n}", op_id=f"op-{n}")
    await client.delete("k0")
    lease = await client.grant_lease(3600)
    await client.put("leased", "1", lease=lease.id)
    await client.put("expires", "1", ttl_s=3600)
    await client.put("large", b"v" * 300_000)
    await backup(client, target)
    kept = await client.put("lost", "1", op_id="lost")
    page = await anext(client.pages(b"k", limit=2))
    assert page.token is not None
    positions = []
    async for event in client.watch("", after=0):
        assert isinstance(event, Change)
        positions += [event.position] if event.position else []
        if event.revision == kept.revision:
            break
    found = await client.get("expires")
    assert found is not None and found.expires_ms is not None
    return Told(positions, page.token, kept.revision, lease.id, found.expires_ms)


async def check_positions(client: Client, told: Told) -> None:
    """No position of the old life is gone on from, in whatever form a client kept it."""
    numbers: list[int | str] = [1, told.revision, told.revision + 50]
    for position in [*told.positions, *numbers]:
        with pytest.raises(Pruned):
            await asyncio.wait_for(anext(client.watch("", after=position)), 20)
    with pytest.raises(Pruned):
        [page async for page in client.pages(b"k", limit=2, token=told.token)]


async def new_life(client: Client, told: Told) -> None:
    """Check that what the backup holds is there, and that nothing of the old life goes on."""
    assert [f.key async for f in client.list("k")] == [b"k%d" % n for n in range(1, 8)]
    assert await client.get("lost") is None and await client.get("k0") is None
    found = await client.get("expires")
    assert found is not None and found.expires_ms == told.expires_ms
    found = await client.get("large")
    assert found is not None and found.value == b"v" * 300_000
    lease = await client.lease(told.lease, keys=True)
    assert lease is not None and lease.keys == (b"leased",) and (lease.left_s or 0) > 3000
    again = await client.put("k3", "v3", op_id="op-3")
    assert again.again and again.revision == 4
    assert (await client.operation("lost")).outcome == "unknown"
    written = await client.put("new", "1", op_id="lost")
    assert written.revision > told.revision + 2**31 and not written.again
    await check_positions(client, told)
    async for event in client.watch("", after=written.revision - 1):
        assert isinstance(event, Change) and event.key == b"new"
        break
    await client.revoke_lease(told.lease)
    assert await client.get("leased") is None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("start", ["replicated", "shared"], indirect=True)
async def test_a_new_cluster_goes_on_from_a_backup_and_nothing_of_the_old_life_does(
    start: Start, tmp_path: Path
) -> None:
    """Out of each kind of store into the other one, whose ways in and out have nothing in common
    (into its own kind: as the page says).
    """
    target = tmp_path / "backup"
    async with start(nodes=1) as cluster, Client(urls_of(cluster)) as client:
        told = await old_life(client, target)
    with pytest.raises(BadRequest) as caught:
        async with start(nodes=1, from_backup=str(target)):
            pass
    assert caught.value.code == "restore_not_empty"
    more = {"data": tmp_path / "restored", "from_backup": str(target)}
    if cluster.settings.store:
        with pytest.raises(BadRequest, match="holds the store of cluster"):
            async with start(**more):
                pass
    more["store"] = "" if cluster.settings.store else fresh_database()
    with pytest.raises(BadRequest, match="not of 'other'"):
        async with start(**more, cluster_id="other"):
            pass
    async with start(**more) as cluster, Client(urls_of(cluster)) as client:
        await new_life(client, told)
        for node in tuple(cluster.nodes):
            cluster.kill(node)
        await cluster.wait_ready()
        again = await backup(client, tmp_path / "again")
        assert again.floor > 2**32 and again.keys == 10
        sound = await carried_out(VERIFY, tmp_path, urls_of(cluster))
        assert sound.count(": sound; 10 keys") == 3 or cluster.settings.store
        assert "nothing was found" in sound
        if not cluster.settings.store:
            await check_that_a_flipped_bit_is_found(cluster, tmp_path)


async def check_that_a_flipped_bit_is_found(cluster: LocalCluster, directory: Path) -> None:
    """Let one member's file say another expiry, which no row of its ledger names any more."""
    follower = next(node for node in cluster.nodes if node != "n1")
    await cluster.stop_node(follower)
    file = cluster.nodes[follower].data_dir / "store.sqlite"
    database = sqlite3.connect(file)
    with database:
        for table in ("versions", "due"):
            sql = f"UPDATE {table} SET expires = expires + 4096 WHERE expires > 0"  # noqa: S608 (of constants)
            assert database.execute(sql).rowcount == 1
    database.close()
    cluster.start_node(follower)
    await cluster.wait_ready()
    found = await carried_out(VERIFY, directory, urls_of(cluster), code=1)
    assert f"{follower} has other keys" in found and found.count("has other keys") == 1
