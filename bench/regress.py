"""Measure a local cluster of this tree beside one of an earlier commit: `make bench-regress`.

Both run at once on this machine, and loads alternate between them; the idle one takes hardly any of
it. CPU is the kernel's account of all members, which other work on the machine disturbs least. It
is bounded in time and asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop
from rich.console import Console
from rich.table import Table

from bench.load import load
from bench.local import cluster
from bench.peers import CONNECTIONS, KEYS, MANY, fill, good
from bench.stores import Acordo, cpu_s

LOADS: Final = (
    ("put", CONNECTIONS, f"writes, {CONNECTIONS} connections over three nodes"),
    ("put", MANY, f"writes, {MANY} connections over three nodes"),
    ("get", CONNECTIONS, f"linearizable reads, {CONNECTIONS} connections over three nodes"),
)


class Figures(NamedTuple):
    """What one load showed of one cluster."""

    rate: float
    """Requests in a second."""
    cpu_us: float
    """CPU for each request, over all members."""


def main(argv: list[str]) -> int:
    """Run and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.regress")
    parser.add_argument("--against", help="a commit; by default the last tag")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base-port", type=int, default=28901)
    options = parser.parse_args(argv)
    os.environ["ACORDO_STORE"] = "replicated"
    against = options.against or _git("describe", "--tags", "--abbrev=0").decode().strip()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="acordo-bench-")))
        earlier = place / "earlier"
        earlier.mkdir()
        subprocess.run(
            ["tar", "-x", "-C", str(earlier)], input=_git("archive", against), check=True
        )
        stores = []
        for number, tree in enumerate((Path.cwd(), earlier)):
            data = place / f"data-{number}"
            data.mkdir()
            port = options.base_port + 20 * number
            urls = stack.enter_context(cluster(port, str(data), tree=tree))
            stores.append(Acordo(urls, str(data)))
        found = uvloop.run(_measure(stores, options))
    Console(width=110).print(_table(found, against))
    print(
        f"{time.strftime('%Y-%m-%d %H:%M')}, medians of {options.rounds} rounds, "
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"
    )
    return 0


async def _measure(stores: list[Acordo], options: Any) -> dict[str, list[list[Figures]]]:
    """Return the figures of each store, in order, for each round of each load."""
    found: dict[str, list[list[Figures]]] = {name: [] for _, _, name in LOADS}
    for store in stores:
        await fill(store)
    for number in range(options.rounds):
        for what, connections, name in LOADS:
            pair = [
                await _loaded(store, what, connections, options.seconds)
                for store in (stores if number % 2 == 0 else stores[::-1])
            ]
            found[name].append(pair if number % 2 == 0 else pair[::-1])
    return found


async def _loaded(store: Acordo, what: str, connections: int, seconds: float) -> Figures:
    request = store.put if what == "put" else store.get

    def make(connection: int, number: int) -> bytes:
        return request(f"k{(number * 7919 + connection * 104729) % KEYS}")

    before = cpu_s(store.processes())
    run = good(await load(store.urls, make, connections=connections, seconds=seconds))
    spent = cpu_s(store.processes()) - before
    return Figures(run.rate, spent / len(run.latencies_s) * 1e6)


def _table(found: dict[str, list[list[Figures]]], against: str) -> Table:
    table = Table("", "this tree", against, "ratio", "of the rounds")
    for name, rounds in found.items():
        for place, unit in enumerate(("/s", "µs of CPU each, over all members")):
            ours, theirs = ([pair[side][place] for pair in rounds] for side in (0, 1))
            ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
            table.add_row(
                f"{name}, {unit}",
                f"{statistics.median(ours):,.0f}",
                f"{statistics.median(theirs):,.0f}",
                f"{statistics.median(ratios):.2f}",
                f"{ratios[0]:.2f} – {ratios[-1]:.2f}",
            )
    return table


def _git(*command: str) -> bytes:
    return subprocess.run(["git", *command], check=True, capture_output=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
