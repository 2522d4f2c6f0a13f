"""Measure a local three-node cluster beside three etcd members and their HTTP gateway.

`make bench-peers`. Both run on this machine together with the load, both with their default
settings (time-outs, fsync). Rounds alternate, and medians are shown; the ratio is what counts.
Bodies have the form of each API: bytes here, JSON with base64 there. It is bounded in time and
asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol

import uvloop
from rich.console import Console
from rich.table import Table

from bench.load import LoadResult, load, request
from bench.local import cluster, leader_of, pids
from cluster.services.install import ensure

VALUE: Final = b"v" * 100
KEYS: Final = 2_000
CONNECTIONS: Final = 64
ETCD_READY_S: Final = 30
OUTAGE_WRITES: Final = 200
"""Number of writes, which begin 50 ms apart; the leader is killed after a fifth of them."""
JSON: Final = "Content-Type: application/json\r\n"


class Store(Protocol):
    """The store that is measured: three members on loopback, one of which leads."""

    name: str
    urls: list[str]

    def put(self, key: str) -> bytes:
        """Return a request that writes VALUE."""
        ...

    def get(self, key: str) -> bytes:
        """Return a request for a linearizable read."""
        ...

    def leader(self) -> str:
        """Return the URL of the current leader."""
        ...

    def kill(self, url: str) -> None:
        """Kill a member with SIGKILL."""
        ...

    def bring_back(self, url: str) -> None:
        """Make sure that a killed member runs again, and wait until all answer."""
        ...


class Acordo:
    """A cluster with the embedded store, started as by `make run`; its runner restarts nodes."""

    name = "Acordo"

    def __init__(self, urls: list[str], data: str) -> None:
        self.urls, self._data = urls, data

    def put(self, key: str) -> bytes:
        """Return a PUT of VALUE."""
        return request("PUT", f"/v1/kv/{key}", VALUE)

    def get(self, key: str) -> bytes:
        """Return a GET, which is linearizable unless it says otherwise."""
        return request("GET", f"/v1/kv/{key}")

    def leader(self) -> str:
        """Wait for a leader, and return its URL."""
        return _wait(lambda: leader_of(self.urls), "a leader")

    def kill(self, url: str) -> None:
        """Kill the node's process."""
        os.kill(pids(self._data)[url], signal.SIGKILL)

    def bring_back(self, url: str) -> None:
        """Wait until all nodes are ready; the runner restarts the killed one."""
        _answer(f"{each}/readyz" for each in self.urls)


class Etcd:
    """Three members of etcd with default settings. Each is used through its own gateway."""

    name = "etcd"

    def __init__(self, program: str, base_port: int, data: str) -> None:
        self.urls = [f"http://127.0.0.1:{base_port + 2 * n}" for n in range(3)]
        peers = [f"http://127.0.0.1:{base_port + 2 * n + 1}" for n in range(3)]
        members = ",".join(f"e{n}={peer}" for n, peer in enumerate(peers))
        self._commands = {
            url: [
                *(program, "--name", f"e{n}", "--data-dir", f"{data}/e{n}"),
                *("--initial-cluster", members, "--log-level", "error"),
                *("--listen-client-urls", url, "--advertise-client-urls", url),
                *("--listen-peer-urls", peers[n], "--initial-advertise-peer-urls", peers[n]),
            ]
            for n, url in enumerate(self.urls)
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log = Path(data, "etcd.log")

    def start(self, url: str) -> None:
        """Start one member, or start it again."""
        with self._log.open("ab") as log:
            self._processes[url] = subprocess.Popen(
                self._commands[url], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def put(self, key: str) -> bytes:
        """Return a put of VALUE."""
        return request("POST", "/v3/kv/put", _json(key=key.encode(), value=VALUE), JSON)

    def get(self, key: str) -> bytes:
        """Return a range request, which is linearizable unless it says otherwise."""
        return request("POST", "/v3/kv/range", _json(key=key.encode()), JSON)

    def leader(self) -> str:
        """Wait for a leader, and return its URL."""
        return _wait(self._leader, "a leader of etcd")

    def _leader(self) -> str | None:
        for url in self.urls:
            said = json.loads(_ask(f"{url}/v3/maintenance/status", b"{}") or "{}")
            if said and said.get("leader") == said["header"]["member_id"]:
                return url
        return None

    def kill(self, url: str) -> None:
        """Kill the member's process."""
        self._processes[url].kill()
        self._processes[url].wait()

    def bring_back(self, url: str) -> None:
        """Start the member again, and wait until all answer."""
        self.start(url)
        _answer(f"{each}/health" for each in self.urls)

    def stop(self) -> None:
        """End every member."""
        for process in self._processes.values():
            process.kill()
            process.wait()


@contextmanager
def etcd(base_port: int, data: str) -> Iterator[Etcd]:
    """Run three members of etcd until the block ends."""
    ensure("etcd")
    store = Etcd("/usr/bin/etcd", base_port, data)
    try:
        for url in store.urls:
            store.start(url)
        _answer(f"{url}/health" for url in store.urls)
        yield store
    finally:
        store.stop()


def _json(**fields: bytes) -> bytes:
    return json.dumps(
        {name: base64.b64encode(content).decode() for name, content in fields.items()}
    ).encode()


def _ask(url: str, body: bytes | None = None) -> str | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def _answer(urls: Iterable[str]) -> None:
    """Wait until each URL answers 200."""
    for url in urls:
        _wait(partial(_ask, url), url)


def _wait(found: Callable[[], str | None], what: str) -> str:
    deadline = time.monotonic() + ETCD_READY_S
    while time.monotonic() < deadline:
        result = found()
        if result:
            return result
        time.sleep(0.1)
    raise SystemExit(f"waited {ETCD_READY_S} s in vain for {what}")


async def _outage(store: Store) -> float:
    """Kill the leader while a write starts every 50 ms; return the longest time in s without an
    acknowledgement.

    Each write has a connection of its own, so one that hangs does not delay the others.
    """
    leader = store.leader()
    others = [url for url in store.urls if url != leader]
    writes: list[asyncio.Task[LoadResult]] = []

    def put(connection: int, number: int) -> bytes:
        return store.put("outage")

    for number in range(OUTAGE_WRITES):
        if number == OUTAGE_WRITES // 5:
            store.kill(leader)
        writes.append(
            asyncio.create_task(load([others[number % 2]], put, connections=1, seconds=9, count=1))
        )
        await asyncio.sleep(0.05)
    at = sorted(moment for run in await asyncio.gather(*writes) for moment in run.acknowledged)
    if not at or at[-1] < time.monotonic() - 5:
        raise SystemExit(f"{store.name}: no write was acknowledged after the leader was killed")
    store.bring_back(leader)
    return max(b - a for a, b in pairwise(at))


async def _round(store: Store, seconds: float) -> dict[str, float]:
    """Measure each figure once."""

    def put(connection: int, number: int) -> bytes:
        return store.put(f"k{(number * CONNECTIONS + connection) % KEYS}")

    def get(connection: int, number: int) -> bytes:
        return store.get(f"k{(number * 7919 + connection * 104729) % KEYS}")

    one, all_ = store.urls[:1], store.urls
    return {
        "writes/s": _good(await load(all_, put, connections=CONNECTIONS, seconds=seconds)).rate,
        "reads/s, one node": _good(
            await load(one, get, connections=CONNECTIONS, seconds=seconds)
        ).rate,
        "reads/s, three nodes": _good(
            await load(all_, get, connections=CONNECTIONS, seconds=seconds)
        ).rate,
        "one write, ms": _good(
            await load(one, put, connections=1, seconds=seconds / 2)
        ).percentile_ms(0.5),
        "one read, ms": _good(
            await load(one, get, connections=1, seconds=seconds / 2)
        ).percentile_ms(0.5),
        "outage, s": await _outage(store),
    }


def _good(run: LoadResult) -> LoadResult:
    if run.refused:
        raise SystemExit(
            f"{run.refused} requests were not answered with 2xx: the figures would mean nothing"
        )
    return run


NAMES: Final = {
    "writes/s": f"acknowledged writes, {CONNECTIONS} connections over three nodes, /s",
    "reads/s, one node": f"linearizable reads, {CONNECTIONS} connections, one node, /s",
    "reads/s, three nodes": f"linearizable reads, {CONNECTIONS} connections over three nodes, /s",
    "one write, ms": "one write at a time, p50, ms",
    "one read, ms": "one linearizable read at a time, p50, ms",
    "outage, s": "no write acknowledged after kill -9 of the leader, s",
}


async def _measure(
    stores: list[Store], rounds: int, seconds: float
) -> list[dict[str, tuple[float, float]]]:
    found = []
    for number in range(rounds):
        pair = [
            await _round(store, seconds) for store in (stores if number % 2 == 0 else stores[::-1])
        ]
        ours, theirs = pair if number % 2 == 0 else pair[::-1]
        found.append({name: (ours[name], theirs[name]) for name in ours})
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return found


def main(argv: list[str]) -> int:
    """Run and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base-port", type=int, default=28701)
    options = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory(prefix="acordo-bench-") as data,
        etcd(options.base_port + 50, data) as theirs,
        cluster(options.base_port, data) as urls,
    ):
        version = str(json.loads(_ask(f"{theirs.urls[0]}/version") or "{}").get("etcdserver"))
        found = uvloop.run(_measure([Acordo(urls, data), theirs], options.rounds, options.seconds))
    table = Table(
        "median of " + str(options.rounds),
        "Acordo",
        f"etcd {version}, HTTP gateway",
        "Acordo / etcd",
    )
    for name, shown in NAMES.items():
        ours, others = [r[name][0] for r in found], [r[name][1] for r in found]
        ratio = statistics.median(a / b for a, b in zip(ours, others, strict=True))
        digits = 0 if "/s" in name else 2
        table.add_row(
            shown, *(f"{statistics.median(x):,.{digits}f}" for x in (ours, others)), f"{ratio:.2f}"
        )
    console = Console(width=120)
    console.print(table)
    console.print(
        f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
