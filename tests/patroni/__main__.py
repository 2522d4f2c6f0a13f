"""Run Patroni on stores and print what was seen: `python -m tests.patroni --stores
etcd,acordo,acordo-shared --patroni debian,newest` (`--short`: start, elect, kill the store's
leader, kill the primary).

The exit code is 1 if, with Acordo, a primary was replaced that should have stayed, or something did
not come about in time. Everything runs on loopback, in a temporary directory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from cluster.services.install import Missing, ensure
from cluster.services.process import find
from tests.patroni.databases import Databases
from tests.patroni.scenarios import ALL, SHORT, Result, Scenario, run
from tests.patroni.stores import STORES

REQUIREMENTS: Final = Path(__file__).with_name("requirements.lock")
PYTHON: Final = "/usr/bin/python3"
SHOWN_ERRORS: Final = 3


def program(which: str, folder: Path) -> list[str]:
    """Return the command of a Patroni: the distribution's, or the one that is pinned beside this.

    Both run in the distribution's Python, because its user must be able to run it, and another
    may belong to root alone.
    """
    ensure("patroni")
    if which == "debian":
        return [find("patroni")]
    place = folder / "environment"
    install = [sys.executable, "-m", "pip", "--python", PYTHON, "install", "-q", "--no-deps"]
    subprocess.run([*install, "--target", str(place), "-r", str(REQUIREMENTS)], check=True)
    return ["env", f"PYTHONPATH={place}", PYTHON, "-m", "patroni"]


async def measure(name: str, which: str, scenarios: tuple[Scenario, ...]) -> list[Result]:
    """Run the scenarios on one store with one Patroni, and say each result."""
    results = []
    with tempfile.TemporaryDirectory(prefix="acordo-patroni-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        for part in ("store", "databases"):
            (folder / part).mkdir()
        patroni = program(which, folder)
        async with contextlib.AsyncExitStack() as stack:
            store = await stack.enter_async_context(STORES[name](folder / "store"))
            hosts = [f"127.0.0.1:{link.port}" for link in store.links]
            databases = Databases(folder / "databases", patroni, hosts)
            await stack.enter_async_context(databases)
            for scenario in scenarios:
                results.append(await run(scenario, store, databases))
                print(row(name, which, results[-1]), flush=True)
                if results[-1].failure:
                    print(_tails(folder), flush=True)
                    break
    return results


def row(store: str, which: str, result: Result) -> str:
    """Return a result as the row of a table, with the most frequent errors below it."""
    took = "–" if result.new_primary_s is None else f"{result.new_primary_s:.1f} s"
    cells = (store, which, result.scenario, str(result.unwanted), took)
    more = (f"{result.without_s:.1f} s", str(len(result.errors)), result.failure)
    lines = [f"| {' | '.join((*cells, *more))} |"]
    for error, count in Counter(error[:200] for error in result.errors).most_common(SHOWN_ERRORS):
        lines.append(f"    {count} × {error}")
    return "\n".join(lines)


def _tails(folder: Path) -> str:
    logs = sorted(folder.glob("*/*.log"))
    return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-2500:]}" for p in logs)


def main(argv: list[str]) -> int:
    """Run what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.patroni")
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--patroni", default="debian,newest")
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args(argv)
    try:
        ensure("postgresql", *(["etcd"] if "etcd" in options.stores.split(",") else []))
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 1
    print("| store | Patroni | scenario | unwanted | new primary | without one | errors | |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    well = True
    for which in options.patroni.split(","):
        for name in options.stores.split(","):
            scenarios = SHORT if options.short else ALL
            results = asyncio.run(measure(name, which, scenarios))
            if name != "etcd":  # which is measured, not judged
                well = well and all(not r.unwanted and not r.failure for r in results)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
