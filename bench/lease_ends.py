"""Measure what it does to writes when many leases end at once: `make bench-leases`.

10,000 leases with a key each are granted on three nodes, kept alive together, and left alone. It
runs on members' own stores and on a private PostgreSQL, is bounded in time, and asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from typing import Final

import uvloop

from acordo import Client, Intent, put
from bench.local import cluster
from cluster.services.postgres import PostgresServer

TTL_S: Final = 120.0
GRANTERS: Final = 64
BATCH: Final = 100
KEPT: Final = 1_000
"""Leases in one keep-alive."""
WRITERS: Final = 4
BEFORE_S: Final = 5.0
"""How long before the end of the leases writes are measured, to compare with."""
GONE_WITHIN_S: Final = 120.0
PREFIX: Final = b"leased/"


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.lease_ends")
    parser.add_argument("--leases", type=int, default=10_000)
    parser.add_argument("--kinds", default="replicated,shared")
    parser.add_argument("--base-port", type=int, default=28951)
    options = parser.parse_args(argv)
    for kind in options.kinds.split(","):
        with tempfile.TemporaryDirectory(prefix="acordo-bench-") as data:
            if kind == "shared":
                with PostgresServer() as server:
                    os.environ["ACORDO_STORE"] = server.url
                    _run(kind, options, data)
            else:
                os.environ["ACORDO_STORE"] = "replicated"
                _run(kind, options, data)
    print(
        f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f}"
    )
    return 0


def _run(kind: str, options: argparse.Namespace, data: str) -> None:
    with cluster(options.base_port, data) as urls:
        uvloop.run(_measure(kind, urls, options.leases))


async def _measure(kind: str, urls: Sequence[str], count: int) -> None:
    async with Client(list(urls), spread=True, timeout_s=60) as client:
        begun = time.monotonic()
        leases = await _grant(client, count)
        took = time.monotonic() - begun
        if took > TTL_S - BEFORE_S:
            raise SystemExit(f"granting them took {took:.0f} s, longer than they live")
        print(f"{kind}: {count:,} leases with a key each granted in {took:.1f} s", flush=True)
        ends = await _keep(urls[0], leases)
        await asyncio.sleep(max(0.0, ends - BEFORE_S - time.monotonic()))
        acknowledged: list[tuple[float, float]] = []
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number in range(WRITERS):
                tasks.create_task(_write(client, number, acknowledged, over))
            await asyncio.sleep(max(0.0, ends - time.monotonic()))
            await _gone(client)
            gone = time.monotonic()
            over.set()
    for name, begin, end in (("before", 0.0, ends), ("while they end", ends, gone)):
        print(f"  {name}: {_told(acknowledged, begin, end)}")
    print(f"  all had ended {gone - ends:.1f} s after their time", flush=True)


async def _grant(client: Client, count: int) -> list[str]:
    leases = [f"{number + 1:016x}" for number in range(count)]
    gate = asyncio.Semaphore(GRANTERS)

    async def some(part: list[str]) -> None:
        async with gate:
            for lease in part:
                await client.grant_lease(TTL_S, lease=lease)
            writes = [put(PREFIX + each.encode(), b"v", lease=each) for each in part]
            items = await client.batch([Intent(writes=(write,)) for write in writes])
            if not all(item.applied for item in items):
                raise SystemExit("a key could not be attached")

    async with asyncio.TaskGroup() as tasks:
        for n in range(0, count, BATCH):
            tasks.create_task(some(leases[n : n + BATCH]))
    return leases


async def _keep(url: str, leases: Sequence[str]) -> float:
    """Keep all alive; return when the first of them may end, by the monotonic clock."""
    ends = time.monotonic() + TTL_S
    for n in range(0, len(leases), KEPT):
        body = json.dumps({"ids": leases[n : n + KEPT]}).encode()
        asked = urllib.request.Request(
            f"{url}/v1/keep-alive", body, {"Content-Type": "application/json"}, method="POST"
        )
        with await asyncio.to_thread(urllib.request.urlopen, asked, timeout=30) as answer:
            answer.read()
    return ends


async def _write(
    client: Client, number: int, acknowledged: list[tuple[float, float]], over: asyncio.Event
) -> None:
    count = 0
    while not over.is_set():
        count += 1
        begun = time.monotonic()
        await client.put(f"writer{number}/{count % 100}", b"v")
        acknowledged.append((begun, time.monotonic()))


async def _gone(client: Client) -> None:
    async with asyncio.timeout(GONE_WITHIN_S):
        while True:
            async for _ in client.leases():
                break
            else:
                return
            await asyncio.sleep(0.2)


def _told(acknowledged: Sequence[tuple[float, float]], begin: float, end: float) -> str:
    """Return the figures of the writes that were acknowledged between two moments."""
    ends = sorted(each for _, each in acknowledged if begin <= each <= end)
    if len(ends) < 2:
        return "no writes"
    pause = max(b - a for a, b in itertools.pairwise(ends))
    slowest = max(b - a for a, b in acknowledged if begin <= b <= end)
    rate = len(ends) / (ends[-1] - ends[0])
    return f"{rate:,.0f} writes/s, longest pause {pause:.2f} s, slowest write {slowest:.2f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
