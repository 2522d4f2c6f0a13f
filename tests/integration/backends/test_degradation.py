"""Every cell of docs/degradation.md, against real servers: what clients see when a back end fails,
and that it mends.

One cluster per back end is hurt in one way after another. *Hangs* is SIGSTOP of the server's
processes; *slow* is a proxy that delays. Cells are bounded by what the table promises: no
wall-clock is asserted beyond a call's own limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from acordo import AcordoError, Client, NotApplied
from chaos.targets.proxy import Link
from cluster.local.runner import LocalCluster
from cluster.services.postgres import PostgresServer
from cluster.services.process import Service
from cluster.services.rabbitmq import RabbitCluster, RabbitServer
from cluster.services.redis import RedisServer, SentinelSet
from tests.integration.backends.conftest import started, until
from tests.integration.backends.test_chain import Subscriber
from tests.services import fresh_database, needs

pytestmark = pytest.mark.timeout(300)
SMALL_CACHE = 1 << 20


class Stand:
    """A cluster behind a proxy to one back end."""

    def __init__(
        self, cluster: LocalCluster, link: Link, client: Client, http: aiohttp.ClientSession
    ) -> None:
        self.cluster, self.link, self.client, self.http = cluster, link, client, http
        self.acknowledged: dict[str, str] = {}
        self.revisions: list[int] = []

    async def write(self, key: str, *, timeout_s: float = 20) -> None:
        self.acknowledged[key] = key
        self.revisions.append((await self.client.put(key, key, timeout_s=timeout_s)).revision)

    async def ready(self) -> str:
        """Return what a node says on /readyz?verbose, with the status before it."""
        url = next(iter(self.cluster.nodes.values())).url
        async with self.http.get(url + "/readyz?verbose") as reply:
            return f"{reply.status} {await reply.text()}"

    async def says(self, text: str) -> bool:
        return text in await self.ready()

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over all nodes and labels. Every node has to show it."""
        total, shown = 0.0, set()
        for node in self.cluster.nodes.values():
            async with self.http.get(node.url + "/metrics") as reply:
                for line in (await reply.text()).splitlines():
                    if line.split("{")[0].split(" ")[0] == name:
                        total += float(line.rsplit(" ", 1)[1])
                        shown.add(node.id)
        assert len(shown) == len(self.cluster.nodes), f"{name} is missing on /metrics"
        return total

    async def alive(self) -> bool:
        answers = []
        for node in self.cluster.nodes.values():
            async with self.http.get(node.url + "/livez") as reply:
                answers.append(reply.status == 200)
        return all(answers)

    async def verify(self) -> None:
        """Read back everything that was ever acknowledged, linearizably, through each node."""
        for key, value in self.acknowledged.items():
            found = await self.client.get(key, timeout_s=20)
            assert found is not None and found.text == value, key

    def logged(self, text: str) -> int:
        """Count how often all nodes have logged it."""
        return sum(node.log.read_text().count(text) for node in self.cluster.nodes.values())

    def starts(self) -> int:
        return sum(node.starts for node in self.cluster.nodes.values())


@contextlib.asynccontextmanager
async def standing(
    directory: Path,
    port: int,
    settings: Callable[[str], dict[str, object]],
    *,
    nodes: int = 3,
    wait: bool = True,
) -> AsyncIterator[Stand]:
    async with Link("127.0.0.1", port, random.Random(5)) as link:  # noqa: SIM117 - the inner depends on the outer
        async with (
            started(directory, nodes=nodes, wait=wait, **settings(link.address)) as cluster,
            Client([n.url for n in cluster.nodes.values()], timeout_s=20) as client,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http,
        ):
            yield Stand(cluster, link, client, http)


@contextlib.asynccontextmanager
async def hanging(server: Service) -> AsyncIterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


def delay(link: Link, seconds: float) -> None:
    link.up.delay_s = link.down.delay_s = seconds


# -------------------------------------------------------------------------------------------- store


async def test_store(tmp_path: Path) -> None:
    """PostgreSQL: dead at start, dies, hangs, slow, refuses connections, fails over, restarts
    empty, in this order.
    """
    needs("postgresql")
    with PostgresServer() as server:
        server.kill()

        def settings(address: str) -> dict[str, object]:
            return {
                "store": f"postgresql://acordo:secret@{address}/{server.database}",
                "store_timeout_s": 2.0,
            }

        async with standing(tmp_path, server.port, settings, wait=False) as stand:
            await _store_dead_at_start(stand, server)
            await _store_dies(stand, server)
            await _store_hangs(stand, server)
            await _store_slow(stand)
            await _store_refuses(stand)
            assert stand.starts() == 3, "no node died of any of it"
            await _store_restarts_empty(stand, server)


async def _store_dead_at_start(stand: Stand, server: PostgresServer) -> None:
    """Alive, not ready, saying why; writes are definitely not applied; ready by itself once the
    server is there.
    """
    await until(lambda: _calm(stand.alive), "nodes are alive without their store")
    await until(
        lambda: _calm(lambda: stand.says("[-]store failed")), "a node says what it waits for"
    )
    with pytest.raises(NotApplied):
        await stand.client.put("early", "x", timeout_s=1)
    assert stand.logged("the store does not answer yet")
    server.start()
    await stand.cluster.wait_ready()
    await stand.write("after-start")


async def _store_dies(stand: Stand, server: PostgresServer) -> None:
    """Writes wait or fail, never wrongly; not ready; what is in memory is still served; nothing is
    lost.
    """
    await stand.write("before-death")
    await stand.client.get("before-death")
    failures, troubles = (
        await stand.metric("acordo_store_failures_total"),
        stand.logged("store in trouble"),
    )
    server.kill()
    with pytest.raises(AcordoError):
        await stand.client.put("while-dead", "x", timeout_s=2)
    await until(lambda: stand.logged("store in trouble") > troubles, "the leader tells")
    assert await stand.metric("acordo_store_failures_total") > failures
    await until(lambda: stand.says("503 "), "a node is not ready without its store")
    assert "[-]store failed" in await stand.ready()
    found = await stand.client.get("before-death", level="stale", timeout_s=5)
    assert found is not None and found.text == "before-death"
    assert await stand.alive()
    server.start()
    await stand.write("after-death", timeout_s=60)
    assert stand.logged("store answers again")
    await stand.verify()


async def _store_hangs(stand: Stand, server: PostgresServer) -> None:
    troubles = stand.logged("store in trouble")
    async with hanging(server):
        with pytest.raises(AcordoError):
            await stand.client.put("while-hanging", "x", timeout_s=3)
        await until(lambda: stand.logged("store in trouble") > troubles, "the leader tells")
        assert await stand.alive()
        await until(lambda: stand.says("[-]store failed"), "a node says that the store hangs")
    await stand.write("after-hanging", timeout_s=60)
    await stand.verify()


async def _store_slow(stand: Stand) -> None:
    """Writes are slower, all of them succeed."""
    delay(stand.link, 0.05)
    await asyncio.gather(*(stand.write(f"slow-{n}", timeout_s=60) for n in range(40)))
    assert stand.link.up.delayed > 0
    delay(stand.link, 0)
    await stand.verify()


async def _store_refuses(stand: Stand) -> None:
    """A server that takes no connection is as good as dead, until it takes them again."""
    stand.link.up.cut = stand.link.down.cut = True
    stand.link.close_all()
    troubles = stand.logged("store in trouble")
    with pytest.raises(AcordoError):
        await stand.client.put("while-refusing", "x", timeout_s=3)
    await until(lambda: stand.logged("store in trouble") > troubles, "the leader tells")
    assert stand.link.up.refused + stand.link.up.withheld > 0
    assert await stand.alive()
    stand.link.heal()
    await stand.write("after-refusing", timeout_s=60)
    await stand.verify()


async def _store_restarts_empty(stand: Stand, server: PostgresServer) -> None:
    """An empty store is not taken for an empty cluster: refused, until an operator restores it or
    adopts it.
    """
    server.kill()
    server.wipe()
    server.folder.mkdir(exist_ok=True)
    server._own(str(server.folder))
    server.start()
    with pytest.raises(AcordoError):
        await stand.client.put("into-the-void", "x", timeout_s=5)
    # and makes none
    await until(lambda: stand.says("does not exist"), "a node says that its tables are gone")
    assert server.psql("SELECT count(*) FROM pg_class WHERE relname LIKE 'acordo%'") == "0"
    # A node that starts makes tables, as for a new cluster; its members know better.
    leader = await stand.cluster.leader()
    stand.cluster.kill(next(name for name in stand.cluster.nodes if name != leader))
    await until(
        lambda: _shown(stand, "acordo_store_refused"),
        "the leader refuses a ledger that is not what was settled",
    )
    assert stand.logged("store is not what was settled: refusing")
    assert not server.psql("SELECT key FROM acordo_versions"), "nothing was written there"
    for each in ("into-the-void", "unheard-of"):
        with pytest.raises(AcordoError) as refused:
            await stand.client.get(each, timeout_s=2)
        assert "store" in str(refused.value)
    with pytest.raises(AcordoError, match="gives up") as unsaid:
        await stand.client.adopt(timeout_s=30)
    gives_up = int(str((await stand.client.cluster()).raw["gives_up"]))
    assert f"gives up {gives_up} revisions" in str(unsaid.value)
    await stand.client.adopt(gives_up=gives_up, timeout_s=30)
    stand.acknowledged.clear()  # they are gone with the disk, and the operator has said so
    await stand.write("after-adopting", timeout_s=60)
    await stand.verify()


async def _shown(stand: Stand, name: str) -> bool:
    with contextlib.suppress(AssertionError, aiohttp.ClientError, TimeoutError):
        return await stand.metric(name) >= 1
    return False


async def test_store_fails_over(tmp_path: Path) -> None:
    """With several hosts in the URL a dead one costs a pause; the one that takes writes is used."""
    needs("postgresql")
    url = fresh_database()
    dead = Service().port  # nobody listens there
    several = url.replace("@", f"@127.0.0.1:{dead},")
    async with started(tmp_path, nodes=1, store=several) as cluster:  # noqa: SIM117 - the inner depends on the outer
        async with Client([n.url for n in cluster.nodes.values()]) as client:
            assert (await client.put("a", "1")).revision > 0


# -------------------------------------------------------------------------------------------- cache


async def test_cache(tmp_path: Path) -> None:
    """Redis: whatever happens to it, reads and writes succeed; the breaker opens, is counted, and
    closes.
    """
    needs("redis")
    with RedisServer() as server:
        server.kill()

        def settings(address: str) -> dict[str, object]:
            return {"cache": f"redis://{address}/0", "memory_cache_bytes": SMALL_CACHE}

        # dead at start: ready all the same
        async with standing(tmp_path, server.port, settings) as stand:
            await stand.write("dead-at-start")
            await stand.verify()
            assert await stand.says("[-]cache degraded")
            server.start()
            await _cache_mends(stand)
            for hurt in ("dies", "hangs", "slow", "refuses", "restarts empty", "garbage"):
                await _cache_hurt(stand, server, hurt)
            assert stand.starts() == 3


async def _cache_hurt(stand: Stand, server: RedisServer, how: str) -> None:
    left_out, answers = stand.logged("redis left out"), stand.logged("redis answers")
    match how:
        case "dies":
            server.kill()
        case "hangs":
            server.pause()
        case "slow":
            delay(stand.link, 0.1)
        case "refuses":
            stand.link.up.cut = stand.link.down.cut = True
            stand.link.close_all()
        case "restarts empty":
            server.kill()
            server.start()
        case _:
            for name in server.cli("KEYS", "acordo:*").split():
                server.cli("SET", name, "garbage")
            await stand.write("in-garbage")
            server.cli("DEL", "acordo:1:0:in-garbage")
            server.cli("RPUSH", "acordo:1:0:in-garbage", "a", "list")
    try:
        await asyncio.gather(*(stand.write(f"{how}-{n}") for n in range(30)))
        await stand.verify()  # 3 failures open the breaker; none of them reaches a client
        assert (await stand.ready()).startswith("200 ")
        if how in ("dies", "hangs", "slow", "refuses"):
            await until(lambda: _exercised(stand), "a breaker opens")
            assert stand.logged("redis left out") > left_out
    finally:
        match how:
            case "dies":
                server.start()
            case "hangs":
                server.resume()
            case "slow":
                delay(stand.link, 0)
            case "refuses":
                stand.link.heal()
    await _cache_mends(stand)
    assert stand.logged("redis answers") > answers or stand.logged("redis left out") == left_out


async def _exercised(stand: Stand) -> bool:
    await stand.write("exercise")
    await stand.verify()
    return await stand.metric("acordo_redis_breaker_open") >= 1


async def _cache_mends(stand: Stand) -> None:
    async def mended() -> bool:
        return await stand.metric("acordo_redis_breaker_open") == 0

    await until(mended, "every breaker closes")
    await stand.verify()


async def test_cache_fails_over(tmp_path: Path) -> None:
    """Sentinel moves the master: clients see nothing of it, and the cache is used again."""
    needs("redis")
    with SentinelSet() as servers:
        async with started(tmp_path, cache=servers.url, memory_cache_bytes=SMALL_CACHE) as cluster:  # noqa: SIM117 - the inner depends on the outer
            async with (
                Client([n.url for n in cluster.nodes.values()]) as client,
                aiohttp.ClientSession() as http,
            ):
                stand = Stand(cluster, Link("127.0.0.1", 1, random.Random(1)), client, http)
                await stand.write("before")
                old = servers.current()
                old.kill()
                await stand.write("during")
                await stand.verify()
                await until(lambda: servers.current() is not old, "sentinels choose another master")
                await _cache_mends(stand)
                ok = await stand.metric("acordo_redis_calls_total")

                async def used() -> bool:
                    await stand.write("after")
                    return await stand.metric("acordo_redis_calls_total") > ok

                await until(used, "the new master is used")


# ---------------------------------------------------------------------------------------- broadcast


async def test_broadcast(tmp_path: Path) -> None:
    """RabbitMQ: never slows a write; lag is told; everything is published in order once the broker
    is back.
    """
    needs("rabbitmq")
    with RabbitServer() as server:
        server.kill()

        def settings(address: str) -> dict[str, object]:
            return {"broadcast": f"amqp://guest:guest@{address}/"}

        # dead at start: ready all the same
        async with standing(tmp_path, server.port, settings) as stand:
            await stand.write("dead-at-start")
            assert (await stand.ready()).startswith("200 ")
            assert await stand.says("[-]broadcast degraded")
            assert stand.logged("no broker: changes wait in the ledger") == 3
            server.start()
            await _broadcast_mends(stand)
            outside = Subscriber("classic")
            listening = await outside.begin(
                server.url, [node.url for node in stand.cluster.nodes.values()]
            )
            before = set(stand.revisions)  # of these some may be told only now
            stand.revisions.clear()
            for hurt in ("dies", "hangs", "slow", "refuses"):
                await _broadcast_hurt(stand, server, hurt)
                await until(
                    lambda: set(stand.revisions) <= {c.revision for c in outside.heard},
                    f"all told: {hurt}",
                )
            outside.check_order()
            assert {change.revision for change in outside.heard} - before == set(stand.revisions), (
                "nothing unacknowledged is told"
            )
            await _broadcast_hurt(stand, server, "restarts empty")
            await until(lambda: _told_again(stand, outside), "who binds anew is told again")
            listening.cancel()
            assert stand.starts() == 3
            await stand.verify()


async def _told_again(stand: Stand, outside: Subscriber) -> bool:
    await stand.write("after-empty")
    return outside.heard[-1].revision >= stand.revisions[-2]


async def _broadcast_hurt(stand: Stand, server: RabbitServer, how: str) -> None:
    waits, goes_on = stand.logged("broadcast waits"), stand.logged("broadcast goes on")
    match how:
        case "dies":
            server.kill()
        case "hangs":
            server.pause()
        case "slow":
            delay(stand.link, 0.1)
        case "refuses":
            stand.link.up.cut = stand.link.down.cut = True
            stand.link.close_all()
        case _:
            server.kill()
            server.wipe()
            server.start()
    try:
        await asyncio.gather(*(stand.write(f"{how}-{n}", timeout_s=5) for n in range(50)))
        if how in ("dies", "hangs", "refuses"):
            assert (await stand.ready()).startswith("200 ")
            await until(lambda: stand.logged("broadcast waits") > waits, "the lag is logged")
            assert await _lags(stand) > 0
            # there only who publishes has noticed so far; the others miss heartbeats first
            if how != "hangs":
                await until(
                    lambda: stand.says("[-]broadcast degraded"),
                    "a node says that the broker is away",
                )
    finally:
        match how:
            case "dies":
                server.start()
            case "hangs":
                server.resume()
            case "slow":
                delay(stand.link, 0)
            case "refuses":
                stand.link.heal()
    await _broadcast_mends(stand)
    if how in ("dies", "hangs", "refuses"):
        assert stand.logged("broadcast goes on") > goes_on


async def _lags(stand: Stand) -> int:
    lags = []
    for node in stand.cluster.nodes.values():
        async with stand.http.get(node.url + "/v1/cluster") as reply:
            lags.append((await reply.json()).get("broadcast_lag") or 0)
    return max(lags)


async def _broadcast_mends(stand: Stand) -> None:
    async def mended() -> bool:
        return await _lags(stand) == 0 and await stand.says("[+]broadcast ok")

    await until(mended, "everything is published")


async def test_broadcast_fails_over(tmp_path: Path) -> None:
    """One broker of three dies: another is used, and all is published."""
    needs("rabbitmq")
    with RabbitCluster() as brokers:
        async with started(tmp_path, broadcast=brokers.url) as cluster:  # noqa: SIM117 - the inner depends on the outer
            async with (
                Client([n.url for n in cluster.nodes.values()]) as client,
                aiohttp.ClientSession() as http,
            ):
                stand = Stand(cluster, Link("127.0.0.1", 1, random.Random(1)), client, http)
                await stand.write("before")
                for broker in brokers.brokers[:1]:
                    broker.kill()
                await asyncio.gather(*(stand.write(f"during-{n}") for n in range(20)))
                await until(lambda: _none_lag(stand), "all is published through another broker")


async def _none_lag(stand: Stand) -> bool:
    return await _lags(stand) == 0


async def _calm(ask: Callable[[], object]) -> bool:
    """Ask somebody who may not listen yet."""
    try:
        got = ask()
        return bool(await got if asyncio.iscoroutine(got) else got)
    except (aiohttp.ClientError, TimeoutError):
        return False
