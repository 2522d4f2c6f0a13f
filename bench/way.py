"""Show where one write's time goes, and what the CPU does for many: `make bench-way`.

It runs a local cluster whose nodes are watched from inside (bench/inside/sitecustomize.py). The
watching costs some of what it shows, so the shares count, not the sums. It asserts nothing.
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
from collections import Counter
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.table import Table

from bench.load import LoadResult, load, request
from bench.local import cluster, leader_of, pids
from bench.stores import cpu_s

VALUE: Final = b"v" * 100
WARM_S: Final = 1.0
WAY: Final = (
    ("via", "request", "the node has the request's bytes"),
    ("via", "submit", "… hands it to the log"),
    ("leader", "forwarded", "the leader has it from a follower"),
    ("leader", "append", "the leader appends it"),
    ("leader", "write", "the leader's disk begins"),
    ("leader", "synced", "the leader's disk has it"),
    ("other", "in log", "a follower has it"),
    ("other", "write", "the follower's disk begins"),
    ("other", "synced", "the follower's disk has it"),
    ("leader", "acknowledged", "the leader hears so"),
    ("leader", "commit", "it is committed"),
    ("via", "apply", "the node applies it"),
    ("via", "applied", "… has it settled, and the client's outcome"),
    ("via", "answered", "the answer is written"),
)
"""(node, station, what for people); `via` is the node that the client talks to."""


def main(argv: list[str]) -> int:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.way")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--base-port", type=int, default=28801)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="acordo-bench-") as data:
        out = Path(data, "inside")
        out.mkdir()
        inside = Path(__file__).parent / "inside"
        os.environ["BENCH_OUT"] = str(out)
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(inside), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        with cluster(options.base_port, data) as urls:
            uvloop.run(_measure(urls, data, out, options))
    print(
        f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f}"
    )
    return 0


async def _measure(urls: list[str], data: str, out: Path, options: Any) -> None:
    leader = leader_of(urls) or urls[0]
    processes = pids(data)
    followers = [url for url in urls if url != leader]
    console = Console(width=100)
    run, found = await _watched(urls, options.connections, options.seconds, processes, out)
    console.print(_parts(run, found, leader, followers[0], options.connections))
    for via in (leader, followers[0]):
        run, found = await _watched([via], 1, options.seconds / 2, processes, out)
        others = followers if via == leader else [via]
        console.print(_way(run, found, via, leader, others))


async def _watched(
    urls: list[str], connections: int, seconds: float, processes: dict[str, int], out: Path
) -> tuple[LoadResult, dict[str, Any]]:
    """Return the load's result and, by node, what was seen inside and how much CPU it took."""

    def put(connection: int, number: int) -> bytes:
        return request("PUT", f"/v1/kv/k{(number * 64 + connection) % 2000}", VALUE)

    await load(urls, put, connections=connections, seconds=WARM_S)
    before = {url: cpu_s([pid]) for url, pid in processes.items()}
    for pid in processes.values():
        os.kill(pid, signal.SIGUSR1)
    run = await load(urls, put, connections=connections, seconds=seconds)
    spent = {url: cpu_s([pid]) - before[url] for url, pid in processes.items()}
    for pid in processes.values():
        (out / f"{pid}.json").unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR2)
    await asyncio.sleep(1.5)
    found = {url: json.loads((out / f"{pid}.json").read_text()) for url, pid in processes.items()}
    return run, {url: {**found[url], "cpu": spent[url]} for url in found}


def _parts(
    run: LoadResult, found: dict[str, Any], leader: str, follower: str, connections: int
) -> Table:
    table = Table(
        "µs of CPU for each write", "leader", "a follower", title=_title(run, connections)
    )
    each = len(run.latencies_s)
    columns = []
    for url in (leader, follower):
        samples = Counter(found[url]["samples"])
        whole = found[url]["cpu"] / each * 1e6
        columns.append({p: n / samples.total() * whole for p, n in samples.items()})
    for part in sorted(columns[0], key=lambda p: -columns[0][p]):
        table.add_row(part, *(f"{column.get(part, 0):.0f}" for column in columns))
    table.add_row("together", *(f"{sum(column.values()):.0f}" for column in columns))
    return table


def _way(run: LoadResult, found: dict[str, Any], via: str, leader: str, others: list[str]) -> Table:
    seen = {url: sorted(found[url]["stations"], key=lambda s: s[1]) for url in found}
    places = {"via": [via], "leader": [leader], "other": others}
    offsets: dict[tuple[str, str], list[float]] = {}
    for begin, end in _spans(seen[via]):
        for role, station, _ in WAY:
            first = [_first(seen[url], station, begin, end) for url in places[role]]
            at = min((each for each in first if each is not None), default=None)
            if at is not None:
                offsets.setdefault((role, station), []).append(at - begin)
    who = "leader" if via == leader else "follower"
    table = Table(f"one write at a time, on the {who}: ms since the request", "p50", "p90")
    for role, station, what in WAY:
        times = sorted(offsets.get((role, station), ()))
        if len(times) > len(run.latencies_s) // 2:
            p90 = times[int(len(times) * 0.9)]
            table.add_row(what, f"{statistics.median(times) * 1e3:.2f}", f"{p90 * 1e3:.2f}")
    table.add_row("the client has the answer", f"{run.percentile_ms(0.5):.2f}", "")
    return table


def _spans(seen: list[Any]) -> list[tuple[float, float]]:
    spans, begin = [], None
    for station, at in seen:
        if station == "request":
            begin = at
        elif station == "answered" and begin is not None:
            spans.append((begin, at))
            begin = None
    return spans


def _first(seen: list[Any], station: str, begin: float, end: float) -> float | None:
    low, high = 0, len(seen)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if seen[middle][1] < begin else (low, middle)
    for name, at in seen[low:]:
        if at > end:
            return None
        if name == station:
            return float(at)
    return None


def _title(run: LoadResult, connections: int) -> str:
    return f"{connections} connections over three nodes: {run.rate:,.0f} acknowledged writes/s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
