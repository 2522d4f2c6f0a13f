"""Measure a local three-node cluster beside three etcd members and their HTTP gateway.

`make bench-peers`. Both run on this machine together with the load, both with their default
settings (time-outs, fsync on). Rounds alternate, and medians are shown; the ratio is what counts.
Bodies have the form of each API: bytes here, JSON with base64 there. It is bounded in time and
asserts nothing. Figures and latencies are kept below out/bench, as JSON and as a page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.table import Table

from bench import report
from bench.load import LoadResult, load
from bench.local import cluster
from bench.stores import Acordo, Etcd, Store, ask, cpu_s, etcd

KEYS: Final = 2_000
CONNECTIONS: Final = 64
MANY: Final = 256
OUTAGE_WRITES: Final = 200
"""Number of writes, which begin 50 ms apart; the leader is harmed after a fifth of them."""
STOPPED_S: Final = 3.0
"""How long a process is stopped with SIGSTOP."""


async def _outage(store: Store, number: int) -> float:
    """Send a signal to the leader while a write starts every 50 ms; return the longest time in s
    without an acknowledgement.

    Each write has a connection of its own, so one that hangs does not delay the others.
    """
    leader = store.leader()
    others = [url for url in store.urls if url != leader]
    writes: list[asyncio.Task[LoadResult]] = []

    def put(connection: int, number: int) -> bytes:
        return store.put("outage")

    harmed = OUTAGE_WRITES // 5
    for place in range(OUTAGE_WRITES):
        if place == harmed:
            store.signal(leader, number)
        if number == signal.SIGSTOP and place == harmed + STOPPED_S / 0.05:
            with suppress(ProcessLookupError, KeyError):  # its runner may have replaced it
                store.signal(leader, signal.SIGCONT)
        writes.append(
            asyncio.create_task(load([others[place % 2]], put, connections=1, seconds=9, count=1))
        )
        await asyncio.sleep(0.05)
    at = sorted(moment for run in await asyncio.gather(*writes) for moment in run.acknowledged)
    if not at or at[-1] < time.monotonic() - 5:
        raise SystemExit(f"{store.name}: no write was acknowledged after the leader was harmed")
    store.bring_back(leader)
    return max(b - a for a, b in pairwise(at))


async def fill(store: Store) -> None:
    """Write every key once, so that each read finds one."""
    keys = iter(range(KEYS))

    def put(connection: int, number: int) -> bytes:
        return store.put(f"k{next(keys)}")

    good(await load(store.urls, put, connections=CONNECTIONS, seconds=60, count=KEYS))


Samples = dict[str, dict[str, list[float]]]
"""Latencies in seconds, by figure and store."""


async def _round(store: Store, options: Any, samples: Samples) -> dict[str, float]:
    """Measure each figure once, and keep the latencies of those that are of latencies."""
    seconds, found = options.seconds, {}

    def put(connection: int, number: int) -> bytes:
        return store.put(f"k{(number * CONNECTIONS + connection) % KEYS}")

    def get(connection: int, number: int) -> bytes:
        return store.get(f"k{(number * 7919 + connection * 104729) % KEYS}")

    async def rate(make: Any, urls: list[str], connections: int) -> LoadResult:
        return good(await load(urls, make, connections=connections, seconds=seconds))

    def kept(name: str, run: LoadResult) -> LoadResult:
        samples.setdefault(NAMES[name], {}).setdefault(store.name, []).extend(run.latencies_s)
        return run

    async def one(name: str, make: Any, url: str) -> None:
        run = good(await load([url], make, connections=1, seconds=seconds / 2))
        found[name] = kept(name, run).percentile_ms(0.5)

    for connections in (CONNECTIONS, MANY):
        before = cpu_s(store.processes())
        run = await rate(put, store.urls, connections)
        found[f"writes/s, {connections}"] = kept(f"writes/s, {connections}", run).rate
        spent = cpu_s(store.processes()) - before
        found[f"CPU, {connections}, us"] = spent / len(run.latencies_s) * 1e6
    leader = store.leader()
    follower = next(url for url in store.urls if url != leader)
    found["reads/s, one node"] = (await rate(get, store.urls[:1], CONNECTIONS)).rate
    found["reads/s, three nodes"] = (await rate(get, store.urls, CONNECTIONS)).rate
    await one("one write, leader, ms", put, leader)
    await one("one write, follower, ms", put, follower)
    await one("one read, ms", get, follower)
    if not options.no_outages:
        found["kill, s"] = await _outage(store, signal.SIGKILL)
        found["stop, s"] = await _outage(store, signal.SIGSTOP)
    return found


def good(run: LoadResult) -> LoadResult:
    """Return a run in which every request was answered with 2xx; any other ends the program."""
    if run.refused:
        raise SystemExit(
            f"{run.refused} requests were not answered with 2xx: the figures would mean nothing"
        )
    return run


NAMES: Final = {
    f"writes/s, {CONNECTIONS}": f"acknowledged writes, {CONNECTIONS} connections, three nodes, /s",
    f"writes/s, {MANY}": f"acknowledged writes, {MANY} connections, three nodes, /s",
    f"CPU, {CONNECTIONS}, us": f"CPU per write over all members, {CONNECTIONS} connections, µs",
    f"CPU, {MANY}, us": f"CPU per write over all members, {MANY} connections, µs",
    "one write, leader, ms": "one write at a time, on the leader, p50, ms",
    "one write, follower, ms": "one write at a time, on a follower, p50, ms",
    "reads/s, one node": f"linearizable reads, {CONNECTIONS} connections, one node, /s",
    "reads/s, three nodes": f"linearizable reads, {CONNECTIONS} connections, three nodes, /s",
    "one read, ms": "one linearizable read at a time, on a follower, p50, ms",
    "kill, s": "no write acknowledged after kill -9 of the leader, s",
    "stop, s": f"no write acknowledged after SIGSTOP of the leader ({STOPPED_S:.0f} s), s",
}


async def _measure(
    stores: list[Store], options: Any, samples: Samples
) -> list[dict[str, tuple[float, float]]]:
    found = []
    for store in stores:
        await fill(store)
    for number in range(options.rounds):
        pair = [
            await _round(store, options, samples)
            for store in (stores if number % 2 == 0 else stores[::-1])
        ]
        ours, theirs = pair if number % 2 == 0 else pair[::-1]
        found.append({name: (ours[name], theirs[name]) for name in ours})
        done = f"round {number + 1} of {options.rounds} done, load {os.getloadavg()[0]:.1f}"
        print(done, file=sys.stderr, flush=True)
    return found


def main(argv: list[str]) -> int:
    """Run and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-outages", action="store_true", help="harm no leader")
    parser.add_argument("--store", default="replicated", help="the kind, as in ACORDO_STORE")
    parser.add_argument("--base-port", type=int, default=28701)
    options = parser.parse_args(argv)
    os.environ["ACORDO_STORE"] = options.store
    loads, samples = [os.getloadavg()[0]], Samples()
    with (
        tempfile.TemporaryDirectory(prefix="acordo-bench-") as data,
        etcd(options.base_port + 50, data) as theirs,
        cluster(options.base_port, data) as urls,
    ):
        version = _version(theirs)
        found = uvloop.run(_measure([Acordo(urls, data), theirs], options, samples))
    loads.append(os.getloadavg()[0])
    title = f"Acordo ({options.store})"
    console = Console(width=120)
    head, rows = _rows(found, title, f"etcd {version}, HTTP gateway")
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(
        f"{time.strftime('%Y-%m-%d %H:%M')}, medians of {len(found)} rounds, {os.cpu_count()} "
        f"cores, load average {loads[0]:.1f} before, {loads[1]:.1f} after"
    )
    page = report.write("peers", ("what", *head[1:]), rows, samples)
    console.print(f"kept: {page} and report.json beside it")
    return 0


def _version(theirs: Etcd) -> str:
    return str(json.loads(ask(f"{theirs.urls[0]}/version") or "{}").get("etcdserver"))


def _rows(
    found: list[dict[str, tuple[float, float]]], ours: str, theirs: str
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows = []
    for name, shown in NAMES.items():
        if name not in found[0]:
            continue
        pairs = [each[name] for each in found]
        ratios = sorted(a / b for a, b in pairs)
        digits = 0 if "/s" in shown or "µs" in shown else 2
        medians = (statistics.median(side) for side in zip(*pairs, strict=True))
        rows.append(
            (
                shown,
                *(f"{median:,.{digits}f}" for median in medians),
                f"{statistics.median(ratios):.2f}",
                f"{ratios[0]:.2f} – {ratios[-1]:.2f}",
            )
        )
    return ("", ours, theirs, "ratio", "of the rounds"), rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
