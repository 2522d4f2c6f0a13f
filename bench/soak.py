"""Run a cluster under a steady load and faults for hours, and say what grows: `make soak HOURS=1`.

In the first half members are killed, paused and made leader; in the last half they are only paused
and made leader, so that no process begins anew. Memory, descriptors, disk and latency of that half
are fitted by a line; each has to grow by no more than GROWTH_MAX of its mean an hour, beyond twice
the line's standard error. What is kept is little and for a short time, so that retention is reached
early; half an hour in all is the least that says something, because before the log is full memory
and disk grow as they should. Bounded in time and rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib as mpl

from acordo import AcordoError, Client
from bench.local import cluster, leader_of, pids, ready

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the choice of what draws

GROWTH_MAX: Final = 0.01
"""Of its mean, an hour."""
WRITES_PER_S: Final = 60
CLIENTS: Final = 6
KEYS: Final = 5_000
VALUE: Final = b"v" * 4096
"""Large enough that Raft's log, of which 128 MiB or an hour are kept, is full after ten minutes."""
SAMPLE_S: Final = 5.0
FAULT_S: Final = 45.0
PAUSE_S: Final = 2.0
PARTS: Final = 20
"""Parts of the last half, of each of which the median is fitted: samples close to each other are
not independent.
"""
KEPT: Final = {
    "ACORDO_STORE": "replicated",
    "ACORDO_HISTORY_RETENTION_S": "60",
    "ACORDO_HISTORY_RETENTION_REVISIONS": "5000",
    "ACORDO_OPERATION_RETENTION_S": "60",
}


class Sample(NamedTuple):
    """What was seen at a time, in seconds from the start; of each member where that differs."""

    at: float
    rss_mb: dict[str, float]
    descriptors: dict[str, float]
    disk_mb: dict[str, float]
    p50_ms: float
    p99_ms: float


class Growth(NamedTuple):
    """How much of its mean a quantity grows in an hour, and the standard error of that."""

    name: str
    an_hour: float
    error: float

    @property
    def is_too_much(self) -> bool:
        """Say whether it grows, for certain enough, by more than is allowed."""
        return self.an_hour - 2 * self.error > GROWTH_MAX


class Soak:
    """One run."""

    def __init__(self, urls: list[str], data: str, seconds: float) -> None:
        self.urls, self.data, self.seconds = urls, data, seconds
        self.began = time.monotonic()
        self.latencies_ms: list[float] = []
        self.acknowledged = self.failed = self.watched = 0
        self.faults: dict[str, int] = {}
        self.samples: list[Sample] = []
        self.rng = random.Random(11)

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    async def run(self) -> None:
        """Load, disturb and sample until the time is over."""
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(self._client(number)) for number in range(CLIENTS)]
            others.append(tasks.create_task(self._watch()))
            others.append(tasks.create_task(self._disturb()))
            while self.passed < self.seconds:
                await asyncio.sleep(SAMPLE_S)
                self.samples.append(self._sample())
            for task in others:
                task.cancel()

    async def _client(self, number: int) -> None:
        rng = random.Random(number)
        pause = CLIENTS / WRITES_PER_S
        async with Client(self.urls, timeout_s=20) as client:
            while True:
                began = time.monotonic()
                try:
                    await self._write(client, rng)
                    self.acknowledged += 1
                    self.latencies_ms.append((time.monotonic() - began) * 1000)
                except AcordoError:
                    self.failed += 1
                await asyncio.sleep(max(pause - (time.monotonic() - began), 0.001))

    async def _write(self, client: Client, rng: random.Random) -> None:
        key = f"soak/{rng.randrange(KEYS)}"
        match rng.randrange(10):
            case 0:
                await client.delete(key)
            case 1:
                await client.put(key, VALUE, ttl_s=5)
            case 2:
                lease = await client.grant_lease(5)
                await client.put(key, VALUE, lease=lease.id)
            case _:
                await client.put(key, VALUE)

    async def _watch(self) -> None:
        async with Client(self.urls, timeout_s=20) as client:
            while True:
                try:
                    async for _ in client.watch(prefix="soak/"):
                        self.watched += 1
                except AcordoError:
                    await asyncio.sleep(0.5)

    async def _disturb(self) -> None:
        while True:
            await asyncio.sleep(FAULT_S)
            kinds = ["kill", "pause", "transfer"] if self.passed < self.seconds / 2 else []
            kind = self.rng.choice(kinds or ["pause", "transfer"])
            if all(ready(url) for url in self.urls):
                self.faults[kind] = self.faults.get(kind, 0) + 1
                await self._do(kind)

    async def _do(self, kind: str) -> None:
        url = self.rng.choice(self.urls)
        pid = pids(self.data).get(url)
        if pid is None:
            return
        if kind == "kill":
            os.kill(pid, signal.SIGKILL)
        elif kind == "pause":
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(PAUSE_S)
            finally:
                os.kill(pid, signal.SIGCONT)
        else:
            leader = leader_of(self.urls)
            to = f"n{self.urls.index(url) + 1}"
            async with Client(self.urls, timeout_s=20) as client:
                try:
                    if url != leader:
                        await client.transfer(to)
                except AcordoError:
                    return

    def _sample(self) -> Sample:
        latencies, self.latencies_ms = sorted(self.latencies_ms), []
        rss, descriptors, disk = {}, {}, {}
        for number, (url, pid) in enumerate(sorted(pids(self.data).items()), 1):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                rss[url] = int(status.partition("VmRSS:")[2].split()[0]) / 1024
                descriptors[url] = float(len(os.listdir(f"/proc/{pid}/fd")))
            except OSError:
                continue
            disk[url] = _size_mb(Path(self.data) / "cluster" / f"n{number}")
        return Sample(
            self.passed, rss, descriptors, disk, _at(latencies, 0.5), _at(latencies, 0.99)
        )

    def growths(self) -> list[Growth]:
        """Return what each quantity of the last half grows by."""
        half = [sample for sample in self.samples if sample.at > self.seconds / 2]
        found = []
        for url in self.urls:
            member = f"n{self.urls.index(url) + 1}"
            for name in ("rss_mb", "descriptors", "disk_mb"):
                points = [(s.at, getattr(s, name)[url]) for s in half if url in getattr(s, name)]
                found.append(fitted(f"{name} of {member}", points))
        for name in ("p50_ms", "p99_ms"):
            points = [(s.at, getattr(s, name)) for s in half]
            found.append(fitted(name, [(at, y) for at, y in points if not math.isnan(y)]))
        return found

    def plot(self, path: Path) -> None:
        """Draw all samples."""
        figure, axes = plt.subplots(4, 1, figsize=(10, 10), sharex=True)
        for axis, name in zip(axes, ("rss_mb", "descriptors", "disk_mb"), strict=False):
            for url in self.urls:
                seen = [(s.at / 60, getattr(s, name)[url]) for s in self.samples
                        if url in getattr(s, name)]  # fmt: skip
                axis.plot(*zip(*seen, strict=True), label=f"n{self.urls.index(url) + 1}")
            axis.set_ylabel(name)
            axis.legend(loc="upper left")
        for name in ("p50_ms", "p99_ms"):
            axes[3].plot([s.at / 60 for s in self.samples],
                         [getattr(s, name) for s in self.samples], label=name)  # fmt: skip
        axes[3].set_yscale("log")
        axes[3].set_xlabel("minutes")
        axes[3].legend(loc="upper left")
        for axis in axes:
            axis.axvline(self.seconds / 120, linestyle=":", color="grey")
            axis.grid(alpha=0.3)
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)


def fitted(name: str, points: Sequence[tuple[float, float]]) -> Growth:
    """Return the growth of a quantity, of medians of PARTS parts: (seconds, value) each."""
    size = max(len(points) // PARTS, 1)
    parts = [points[n : n + size] for n in range(0, len(points) - size + 1, size)]
    xs = [statistics.fmean(at for at, _ in part) / 3600 for part in parts]
    ys = [statistics.median(y for _, y in part) for part in parts]
    if len(xs) < 3 or not any(ys):
        return Growth(name, math.nan, math.nan)
    line = statistics.linear_regression(xs, ys)
    mean, middle = statistics.fmean(ys), statistics.fmean(xs)
    left = sum((y - line.intercept - line.slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    spread = sum((x - middle) ** 2 for x in xs)
    error = math.sqrt(left / (len(xs) - 2) / spread)
    return Growth(name, line.slope / mean, error / mean)


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else math.nan


def _size_mb(folder: Path) -> float:
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_blocks * 512
        except OSError:
            continue
    return size / 1e6


def main(argv: list[str]) -> int:
    """Run, print, draw; return 1 if something grows."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--base-port", type=int, default=28941)
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    options = parser.parse_args(argv)
    os.environ.update(KEPT)
    began = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="acordo-soak-") as data,
        cluster(options.base_port, data) as urls,
    ):
        soak = Soak(urls, data, options.hours * 3600)
        asyncio.run(soak.run())
    growths = soak.growths()
    soak.plot(options.out / "soak.png")
    told = {
        "hours": options.hours,
        "load_average": [began, os.getloadavg()[0]],
        "acknowledged": soak.acknowledged,
        "failed": soak.failed,
        "watched": soak.watched,
        "faults": soak.faults,
        "growths": [each._asdict() for each in growths],
        "samples": [each._asdict() for each in soak.samples],
    }
    (options.out / "soak.json").write_text(json.dumps(told))
    print(
        f"{time.strftime('%Y-%m-%d %H:%M')}, {options.hours:g} h, load average {began:.1f} before: "
        f"{soak.acknowledged:,} writes acknowledged, {soak.failed} failed, "
        f"{soak.watched:,} changes watched, faults {soak.faults}"
    )
    print("| of the last half | grows an hour | ± twice the standard error | |\n|---|---|---|---|")
    for each in growths:
        verdict = "too much" if each.is_too_much else ""
        print(f"| {each.name} | {each.an_hour:+.2%} | {2 * each.error:.2%} | {verdict} |")
    return 1 if any(each.is_too_much for each in growths) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
