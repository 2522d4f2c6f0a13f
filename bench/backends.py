"""Measure the real back ends: `python -m bench.backends` (make bench-backends).

It uses private servers and is bounded in time. It prints all figures beside their targets, with the
machine's load, and judges none of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.table import Table

from acordo import Client, put
from bench.load import load, request
from cluster.local.runner import LocalCluster
from cluster.ports import free_base_port
from cluster.services.install import ensure
from cluster.services.postgres import PostgresServer
from cluster.services.rabbitmq import RabbitServer
from cluster.services.redis import RedisServer
from cluster.settings.runner import RunnerSettings

CONNECTIONS: Final = 64
BATCH: Final = 100
BATCHES_AT_ONCE: Final = 8
LAG_RATE: Final = 2000
VALUE: Final = b"x" * 100


@asynccontextmanager
async def running(directory: str, **settings: Any) -> AsyncIterator[list[str]]:
    """Run a cluster of three nodes until the block ends; yield the nodes' URLs."""
    base = free_base_port(3, 41000)
    given = RunnerSettings(nodes=3, base_port=base, data=Path(directory) / "data", **settings)
    async with LocalCluster(given) as cluster:
        await cluster.wait_ready()
        yield [node.url for node in cluster.nodes.values()]


async def closed_loop(
    count: int, seconds: float, work: Callable[[int, int], Awaitable[int]]
) -> float:
    """Run `work` in `count` concurrent loops for `seconds`; return the units done per second."""
    began, done = time.monotonic(), 0

    async def one(name: int) -> None:
        nonlocal done
        n = 0
        while time.monotonic() - began < seconds:
            # The await has a line of its own: `done += await …` would read `done` before the wait
            # and lose what other loops add meanwhile.
            came = await work(name, n)
            done += came
            n += 1

    await asyncio.gather(*(one(name) for name in range(count)))
    return done / (time.monotonic() - began)


async def writes(urls: list[str], seconds: float) -> float:
    """Return acknowledged single writes per second, over CONNECTIONS connections spread over the
    nodes.
    """
    run = await load(
        urls,
        lambda name, n: request("PUT", f"/v1/kv/bench/{name}/{n % 500}", VALUE),
        connections=CONNECTIONS,
        seconds=seconds,
    )
    return run.rate


async def batches(urls: list[str], seconds: float) -> float:
    """Return settled operations per second in batches, counted by revisions instead of answers."""
    bodies = [
        json.dumps(
            {
                "operations": [
                    {"writes": [{"put": f"batch/{n}/{i}", "value": VALUE.decode()}]}
                    for i in range(BATCH)
                ]
            }
        )
        for n in range(BATCHES_AT_ONCE * 20)
    ]
    sent = [
        request("POST", "/v1/batch", body.encode(), "Content-Type: application/json\r\n")
        for body in bodies
    ]
    before = await _settled(urls[0])
    run = await load(
        urls, lambda name, n: sent[name * 20 + n % 20], connections=BATCHES_AT_ONCE, seconds=seconds
    )
    done = await _settled(urls[0]) - before
    assert done >= len(run.latencies_s) * BATCH, "an acknowledged batch was not applied as a whole"
    return done / run.seconds


async def _settled(url: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(url + "/v1/cluster") as reply:
        return int((await reply.json())["settled"])


async def lag(urls: list[str], broker: str, rate: int, seconds: float) -> tuple[float, float, int]:
    """Measure the lag from acknowledgement to the subscriber at a steady rate.

    Return its p50 and p99 in ms, and the number of events received.
    """
    import aiormq

    heard: dict[int, float] = {}
    acknowledged: dict[int, float] = {}
    connection = await aiormq.connect(broker)
    channel = await connection.channel()
    declared = await channel.queue_declare("", exclusive=True)
    async with Client(urls) as client:
        names: Any = (await client.cluster()).raw["channels"]
    await channel.queue_bind(declared.queue or "", names["changes"], "change.#")

    async def take(message: Any) -> None:
        heard[json.loads(message.body)["revision"]] = time.monotonic()

    await channel.basic_consume(declared.queue or "", take, no_ack=True)
    per_tick = max(1, rate // 100)
    async with Client(urls, spread=True) as client:

        async def tick(n: int) -> None:
            items = await client.batch([put(f"lag/{n % 50}/{i}", VALUE) for i in range(per_tick)])
            now = time.monotonic()
            acknowledged.update({item.revision: now for item in items if item.applied})

        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            n = 0
            while (now := time.monotonic()) - began < seconds:
                tasks.create_task(tick(n))
                n += 1
                await asyncio.sleep(max(0.0, began + n * per_tick / rate - now))
        give_up = time.monotonic() + 20
        while len(heard) < len(acknowledged) and time.monotonic() < give_up:  # noqa: ASYNC110 - bounded, after the load
            await asyncio.sleep(0.05)
    await connection.close()
    found = sorted((heard[r] - at) * 1000 for r, at in acknowledged.items() if r in heard)
    if not found:
        return 0.0, 0.0, 0
    return found[len(found) // 2], found[len(found) * 99 // 100], len(found)


Row = Callable[[str, str, str], None]
"""A function that adds a line to the table: what was measured, the figure, and the target."""


async def main_async(seconds: float) -> None:
    """Measure each back end, and print the table."""
    console = Console()
    table = Table(
        title=f"Real back ends, {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}"
    )
    for column in ("what", "measured", "target", "load average"):
        table.add_column(column)

    def row(what: str, measured: str, target: str) -> None:
        table.add_row(what, measured, target, f"{os.getloadavg()[0]:.1f}")

    ensure("postgresql", "redis", "rabbitmq")
    with PostgresServer() as postgres:
        await _store(postgres.url, seconds, row)
        await _broker(postgres.fresh_database("lag"), seconds, row)
        await _cache(postgres.fresh_database("cached"), seconds, row)
    console.print(table)


async def _store(url: str, seconds: float, row: Row) -> None:
    with tempfile.TemporaryDirectory(prefix="acordo-bench-") as directory:
        async with running(directory, store=url) as urls:
            await writes(urls, min(2.0, seconds))
            one = await writes(urls, seconds)
            row(f"writes/s, {CONNECTIONS} connections", f"{one:,.0f}", "3,000")
            many = await batches(urls, seconds)
            row(f"operations/s, batches of {BATCH}", f"{many:,.0f}", "15,000")


async def _broker(store: str, seconds: float, row: Row) -> None:
    with (
        RabbitServer() as rabbit,
        tempfile.TemporaryDirectory(prefix="acordo-bench-") as directory,
    ):
        async with running(directory, store=store, broadcast=rabbit.url) as urls:
            half, most, seen = await lag(urls, rabbit.url, LAG_RATE, seconds)
            row(
                f"broadcast behind the acknowledgement at {LAG_RATE}/s, p50 and p99 of {seen}",
                f"{half:.0f} ms, {most:.0f} ms",
                "p99 ≤ 50 ms",
            )


async def _cache(store: str, seconds: float, row: Row) -> None:
    with (
        RedisServer() as redis,
        tempfile.TemporaryDirectory(prefix="acordo-bench-") as directory,
    ):
        async with running(directory, store=store, cache=redis.url) as urls:
            await writes(urls, min(2.0, seconds))
            alive = await writes(urls, seconds)
            redis.kill()
            await writes(urls, min(2.0, seconds))
            dead = await writes(urls, seconds)
            row(
                "writes/s with Redis, then without",
                f"{alive:,.0f}, {dead:,.0f} ({dead / max(alive, 1) - 1:+.0%})",
                "≥ −10 %",
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.backends", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="length of each measurement (default: 6)"
    )
    asyncio.run(main_async(parser.parse_args().seconds))
