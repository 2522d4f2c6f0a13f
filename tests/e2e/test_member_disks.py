"""What clients see when a member's own disk or file is in trouble: docs/degradation.md has the
table. The disk is a library that is loaded into the node (chaos/targets/memberdisk.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest

from acordo import Client
from chaos.targets import memberdisk
from chaos.targets.memberdisk import MemberDisk
from cluster.local.runner import LocalCluster
from tests.e2e.conftest import Start, until
from tests.e2e.test_own_stores import all_hold_the_same, ask, fill, follower, holds, urls

pytestmark = pytest.mark.timeout(300)

BIG = b"b" * 1_000_000
NODES = ("n1", "n2", "n3")


class Disked:
    """A cluster of own stores, each on a disk that can be told to fail."""

    def __init__(self, cluster: LocalCluster, disks: dict[str, MemberDisk]) -> None:
        self.cluster, self.disks = cluster, disks


@pytest.fixture
async def disked(start: Start, tmp_path: Path) -> AsyncIterator[Disked]:
    if why := memberdisk.compiler_missing():
        pytest.skip(why)
    (tmp_path / "disks").mkdir()
    library = memberdisk.build(tmp_path / "disks")
    disks = {
        name: MemberDisk(library, tmp_path / "data" / name, tmp_path / "disks" / name)
        for name in NODES
    }
    environ = {name: disk.environ for name, disk in disks.items()}
    async with start(store="replicated", overrides=environ) as cluster:
        yield Disked(cluster, disks)


async def says(http: aiohttp.ClientSession, url: str, state: str) -> None:
    """Wait until a member says that its own store is in this state."""

    async def said() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            return bool((await ask(http, url + "/v1/cluster"))["store_state"] == state)
        return False

    await until(said, f"{url} says {state}")


async def metric(http: aiohttp.ClientSession, url: str, name: str) -> float:
    async with http.get(url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


async def goes_on(cluster: LocalCluster, name: str, numbers: Sequence[int]) -> None:
    """Write through every member but one, and read it there."""
    others = urls(cluster, name)
    async with Client(others, timeout_s=40) as client:
        await fill(client, numbers)
    await holds(others, numbers)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("whom", ["leader", "follower"])
async def test_a_store_that_takes_no_writes_costs_nothing_until_it_does(
    disked: Disked, http: aiohttp.ClientSession, error: int, whom: str
) -> None:
    """Full, read-only, or dead for the store alone: the member says so, and serves on from memory;
    what it could not write it writes later.
    """
    cluster = disked.cluster
    name = await (cluster.leader() if whom == "leader" else follower(cluster))
    assert name is not None
    url = cluster.nodes[name].url
    disked.disks[name].refuse_writes(error)
    await goes_on(cluster, name, range(40))
    await says(http, url, "full")
    await holds([url], range(40))
    async with http.get(url + "/readyz?verbose") as response:
        assert "own_store" in await response.text()
    disked.disks[name].refuse_writes(0)
    await says(http, url, "sound")
    await goes_on(cluster, name, range(40, 50))
    await all_hold_the_same(http, cluster)


async def test_a_member_that_can_write_nothing_more_applies_nothing_more_and_comes_back(
    disked: Disked, http: aiohttp.ClientSession
) -> None:
    """R9: beyond the bound it waits; the others go on, and it catches up."""
    cluster = disked.cluster
    name = await follower(cluster)
    url = cluster.nodes[name].url
    disked.disks[name].refuse_writes(errno.ENOSPC)
    async with Client(urls(cluster, name), timeout_s=40) as client:
        for n in range(120):
            await client.put(f"big/{n % 10}", BIG)

    async def waits() -> bool:
        return await metric(http, url, "acordo_apply_holds") > 0

    await until(waits, f"{name} applies nothing more")
    await goes_on(cluster, name, range(10))
    disked.disks[name].refuse_writes(0)
    await holds([url], range(10))
    await all_hold_the_same(http, cluster)


async def test_a_slow_store_delays_nobody(disked: Disked, http: aiohttp.ClientSession) -> None:
    cluster = disked.cluster
    for disk in disked.disks.values():
        disk.delay_syncs(1.0)
    async with Client(urls(cluster), timeout_s=40) as client:
        await fill(client, range(100))
    await holds(urls(cluster), range(100))
    for url in urls(cluster):
        assert (await ask(http, url + "/v1/cluster"))["store_state"] == "sound"
    for disk in disked.disks.values():
        disk.delay_syncs(0)
    await all_hold_the_same(http, cluster)


async def test_a_disk_that_takes_nothing_at_all_ends_the_member_and_no_other(
    disked: Disked, http: aiohttp.ClientSession
) -> None:
    """The log cannot be written either: the process ends, and the runner starts it again."""
    cluster = disked.cluster
    name = await cluster.leader()
    assert name is not None
    node = cluster.nodes[name]
    pid, starts = node.pid, node.starts
    assert pid is not None
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    await goes_on(cluster, name, range(40))
    await until(lambda: node.starts > starts, f"{name} is started again")
    await cluster.wait_ready()
    await holds([node.url], range(40))
    await all_hold_the_same(http, cluster)


async def test_the_power_of_all_is_cut_at_once(disked: Disked, http: aiohttp.ClientSession) -> None:
    """What was acknowledged is on a quorum's disks; the files lack their newest rows."""
    cluster = disked.cluster
    async with Client(urls(cluster), timeout_s=40) as client:
        await fill(client, range(100))
    await asyncio.gather(*(cluster.stop_node(name, 9) for name in NODES))
    undone = [disk.cut_power() for disk in disked.disks.values()]
    assert any(undone)
    for name in NODES:
        cluster.start_node(name)
    await cluster.wait_ready()
    await holds(urls(cluster), range(100))
    await all_hold_the_same(http, cluster)


async def test_a_member_comes_back_after_more_than_the_log_keeps(
    disked: Disked, http: aiohttp.ClientSession
) -> None:
    """As after an hour of writes: what it needs is in nobody's log any more, and it fetches a copy
    of another member's store.
    """
    cluster = disked.cluster
    name = await follower(cluster)
    url = cluster.nodes[name].url
    await cluster.stop_node(name)
    others = urls(cluster, name)

    async with Client(others, timeout_s=40) as client:
        for n in range(150):
            await client.put(f"big/{n}", BIG)
        await fill(client, range(20))
    cluster.start_node(name)
    await cluster.wait_ready()
    await holds([url], range(20))
    assert await metric(http, url, "acordo_store_installs") > 0
    await all_hold_the_same(http, cluster)
