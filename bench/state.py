"""Measure what a member's own store costs when there is much in it: `make bench-state`.

The start of a node with many keys and its memory then, and how fast a new member gets the state in
the place of another one, with the writes' time meanwhile. It is bounded in time and asserts
nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.load import load, request
from bench.local import cluster, leader_of, pids, ready

VALUE: Final = "v" * 100
BATCH: Final = 100
FILL_TIMEOUT_S: Final = 900.0
CONNECTIONS: Final = 16
LARGE_BYTES: Final = 100 * 1024
PROBE_CONNECTIONS: Final = 4
"""Connections that write while a member gets the state."""
JSON: Final = "Content-Type: application/json\r\n"


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.state")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--megabytes", type=int, default=200, help="of large values; 0: none")
    parser.add_argument("--base-port", type=int, default=28901)
    options = parser.parse_args(argv)
    os.environ["ACORDO_STORE"] = "replicated"
    with (
        tempfile.TemporaryDirectory(prefix="acordo-bench-") as data,
        cluster(options.base_port, data) as urls,
    ):
        uvloop.run(_measure(urls, data, options))
    print(
        f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f}"
    )
    return 0


async def _measure(urls: list[str], data: str, options: Any) -> None:
    began = time.monotonic()
    await _fill(urls, options.keys)
    seconds = time.monotonic() - began
    print(
        f"{options.keys:,} keys of 100 bytes in batches of {BATCH}: {options.keys / seconds:,.0f}/s"
    )
    await asyncio.sleep(5)
    leader = leader_of(urls)
    follower = next(url for url in urls if url != leader)
    size = _store_mb(data) / len(urls)
    print(
        f"a member's own store: {size:.0f} MB; RSS of a follower: {_rss_mb(data, follower):.0f} MB"
    )
    print(f"start of a node until it is ready: {_start_s(follower, data):.1f} s")
    print(f"RSS of that node: {_rss_mb(data, follower):.0f} MB")
    if options.megabytes:
        await _large(urls, options.megabytes)
        await _replace(urls, follower, data, options.megabytes + size)


async def _fill(urls: list[str], keys: int) -> None:
    def batch(connection: int, number: int) -> bytes:
        start = (number * CONNECTIONS + connection) * BATCH
        puts = [{"writes": [{"put": f"k{start + n}", "value": VALUE}]} for n in range(BATCH)]
        return request("POST", "/v1/batch", json.dumps({"operations": puts}).encode(), JSON)

    done = await load(
        urls, batch, connections=CONNECTIONS, seconds=FILL_TIMEOUT_S, count=keys // BATCH
    )
    if done.refused:
        print(f"{done.refused} of the batches were refused")


async def _large(urls: list[str], megabytes: int) -> None:
    def put(connection: int, number: int) -> bytes:
        return request("PUT", f"/v1/kv/large{connection}-{number}", os.urandom(LARGE_BYTES))

    count = megabytes * 1_000_000 // LARGE_BYTES
    await load(urls, put, connections=CONNECTIONS, seconds=FILL_TIMEOUT_S, count=count)


def _start_s(url: str, data: str) -> float:
    """Kill a node and return the seconds from its restart by the runner until it is ready."""
    old = pids(data)[url]
    os.kill(old, signal.SIGKILL)
    deadline = time.monotonic() + FILL_TIMEOUT_S
    while pids(data).get(url, old) == old and time.monotonic() < deadline:
        time.sleep(0.02)
    began = time.monotonic()
    while not ready(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    return time.monotonic() - began


async def _replace(urls: list[str], url: str, data: str, megabytes: float) -> None:
    """Give a member's place to a new one, while others write."""
    others = [each for each in urls if each != url]

    def put(connection: int, number: int) -> bytes:
        return request("PUT", f"/v1/kv/p{connection}", b"v" * 100)

    async def writes(seconds: float) -> float:
        run = await load(others, put, connections=PROBE_CONNECTIONS, seconds=seconds)
        return run.percentile_ms(0.99)

    before = await writes(5.0)
    member = f"n{urls.index(url) + 1}"
    command = [sys.executable, "-m", "cluster", "replace", member, "--data", f"{data}/cluster"]
    began = time.monotonic()
    task = asyncio.create_task(writes(10.0))
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    code = await process.wait()
    seconds = time.monotonic() - began
    meanwhile = await task
    print(
        f"a new member in the place of {member} (exit {code}): {seconds:.1f} s, "
        f"{megabytes / seconds:.0f} MB/s of {megabytes:.0f} MB"
    )
    print(f"writes' p99 before {before:.1f} ms, meanwhile {meanwhile:.1f} ms")


def _store_mb(data: str) -> float:
    return sum(place.stat().st_size for place in Path(data).rglob("store.sqlite*")) / 1e6


def _rss_mb(data: str, url: str) -> float:
    status = Path(f"/proc/{pids(data)[url]}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
