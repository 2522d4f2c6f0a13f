"""Measure a local three-node cluster through its door for clients of etcd.

`make bench-door`. The very same requests go to Acordo's door and to three etcd members; the first
column asks Acordo natively. Rounds alternate, and medians are shown. Then it measures what 1,000
keep-alives a second cost. It is bounded in time and asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.table import Table

from bench.load import LoadResult, load, request
from bench.local import cluster, pids
from bench.stores import JSON, VALUE, Acordo, Store, cpu_s, etcd

KEYS: Final = 2_000
CONNECTIONS: Final = 64
RENEWED: Final = 1_000
"""Leases that are kept alive, each once a second."""
STREAM: Final = 50
"""Keep-alives of one stream."""


class Door(Acordo):
    """The cluster, asked as etcd is asked."""

    name = "door"

    def put(self, key: str) -> bytes:
        """Return a put of VALUE."""
        return request("POST", "/v3/kv/put", _json(key=_b64(key.encode()), value=_b64(VALUE)), JSON)

    def get(self, key: str) -> bytes:
        """Return a range request, which is linearizable unless it says otherwise."""
        return request("POST", "/v3/kv/range", _json(key=_b64(key.encode())), JSON)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


async def _rates(store: Store, seconds: float) -> dict[str, float]:
    def put(connection: int, number: int) -> bytes:
        return store.put(f"k{(number * CONNECTIONS + connection) % KEYS}")

    def get(connection: int, number: int) -> bytes:
        return store.get(f"k{(number * 7919 + connection * 104729) % KEYS}")

    found = {}
    for name, make in (("writes/s", put), ("linearizable reads/s", get)):
        run = _good(await load(store.urls, make, connections=CONNECTIONS, seconds=seconds))
        found[name] = run.rate
    return found


def _good(run: LoadResult) -> LoadResult:
    if run.refused:
        raise SystemExit(
            f"{run.refused} requests were not answered with 2xx: the figures would mean nothing"
        )
    return run


def _message(lease: int) -> bytes:
    return b'{"ID":"%d"}' % lease


def _grant(lease: int, ttl_s: int) -> bytes:
    return request("POST", "/v3/lease/grant", _json(ID=str(lease), TTL=ttl_s), JSON)


async def _all(urls: list[str], requests: list[bytes]) -> None:
    """Send each request once."""
    left = iter(requests)

    def next_(connection: int, number: int) -> bytes:
        return next(left)

    _good(await load(urls, next_, connections=CONNECTIONS, seconds=120, count=len(requests)))


async def _keep_alives(urls: list[str], data: str, per_request: int, seconds: float) -> list[float]:
    """Keep RENEWED leases alive, each once a second, so many in one request; return the percentage
    of a core that each node takes beyond what it takes at rest, the highest first.
    """
    groups = [
        range(first, min(first + per_request, RENEWED + 1))
        for first in range(1, RENEWED + 1, per_request)
    ]
    bodies = [b"".join(map(_message, group)) for group in groups]
    asks = [request("POST", "/v3/lease/keepalive", body, JSON) for body in bodies]

    async def second() -> None:
        """Spread the requests of one second over it."""
        parts = 10
        for part in range(parts):
            began = time.monotonic()
            await _all(urls, asks[part::parts])
            await asyncio.sleep(max(0.0, began + 1 / parts - time.monotonic()))

    async def spent(work: Callable[[], Any]) -> dict[str, float]:
        before = {url: cpu_s([pid]) for url, pid in pids(data).items()}
        began = time.monotonic()
        await work()
        took = time.monotonic() - began
        return {url: (cpu_s([pid]) - before[url]) / took for url, pid in pids(data).items()}

    async def busy() -> None:
        for _ in range(max(1, int(seconds))):
            await second()

    rest, load_ = await spent(lambda: asyncio.sleep(seconds)), await spent(busy)
    return sorted(((load_[url] - rest[url]) * 100 for url in load_), reverse=True)


def main(argv: list[str]) -> int:
    """Run and print tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.door")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base-port", type=int, default=28801)
    options = parser.parse_args(argv)
    os.environ |= {"ACORDO_STORE": "replicated", "ACORDO_ETCD": "true"}
    before = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="acordo-bench-") as data,
        etcd(options.base_port + 50, data) as theirs,
        cluster(options.base_port, data) as urls,
    ):
        uvloop.run(_measure([Acordo(urls, data), Door(urls, data), theirs], data, options))
    print(
        f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, load average {before:.1f} "
        f"before, {os.getloadavg()[0]:.1f} after"
    )
    return 0


async def _measure(stores: list[Store], data: str, options: Any) -> None:
    rounds: list[list[dict[str, float]]] = []
    for store in stores[1:]:
        keys = [store.put(f"k{n}") for n in range(KEYS)]
        await _all(store.urls, keys)
    for number in range(options.rounds):
        order = stores if number % 2 == 0 else stores[::-1]
        found = {store.name: await _rates(store, options.seconds) for store in order}
        rounds.append([found[store.name] for store in stores])
    table = Table("", "native", "door", "etcd", "door / native", "door / etcd")
    for name in rounds[0][0]:
        native, door, theirs = (
            [each[place][name] for each in rounds] for place in range(len(stores))
        )
        ratios = [
            statistics.median([a / b for a, b in zip(door, other, strict=True)])
            for other in (native, theirs)
        ]
        medians = [f"{statistics.median(side):,.0f}" for side in (native, door, theirs)]
        table.add_row(name, *medians, *(f"{ratio:.2f}" for ratio in ratios))
    Console(width=120).print(table)
    door_ = stores[1]
    assert isinstance(door_, Door)
    await _all(door_.urls, [_grant(lease, 600) for lease in range(1, RENEWED + 1)])
    spread = await _keep_alives(door_.urls, data, STREAM, options.seconds)
    alone = await _keep_alives(door_.urls[:1], data, 1, options.seconds)
    print(f"{RENEWED} keep-alives/s, in streams over three nodes, % of a core: {_shown(spread)}")
    print(f"{RENEWED} keep-alives/s, one in each request to one node: {_shown(alone)}")


def _shown(percentages: list[float]) -> str:
    return ", ".join(f"{each:.1f}" for each in percentages)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
