"""Fail the primary of a shared store over, again and again, and judge the cluster on it: `python -m
tests.failover [--lock acordo|etcd] [--short]`.

The exit code is 1 if an acknowledged write was lost, a checker found an anomaly, a node ended or
refused its store until a person decides, or writes did not go on in time. Everything runs on
loopback, in a temporary directory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Final

from acordo import AcordoError, Client
from chaos.targets.local import LocalTarget
from cluster.ports import free_base_port
from cluster.services.install import Missing, ensure
from cluster.settings.runner import RunnerSettings
from tests.failover.databases import SynchronousDatabases
from tests.failover.scenarios import ALL, SHORT, Acknowledged, Result, Scenario, run
from tests.patroni.__main__ import program
from tests.patroni.stores import STORES
from tests.upgrade.load import SHOWN_MAX, Seen, loaded

BASE_PORT: Final = 25000
STORE_TIMEOUT_S: Final = 2.0
HEALTHY_WITHIN_S: Final = 60.0
WRITES_WITHIN_S: Final = 3.0
"""How long after the new primary itself took a commit the cluster takes a write, where nothing else
is going on.
"""
PATIENCE_S: Final = 60.0
"""How long it is waited for all the same."""


class Faults:
    """What was found to be wrong."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def check(self, held: bool, fault: str) -> None:
        """Note a fault unless it held."""
        if not held:
            self.found.append(fault)
            print(f"  FAULT: {fault}", flush=True)


def is_busy() -> bool:
    """Return whether the machine has more to do than it has processors, beside this."""
    return os.getloadavg()[0] > 2 * (os.cpu_count() or 1)


async def refusals(target: LocalTarget) -> list[str]:
    """Return which nodes refuse writes until a person decides, or do not answer."""
    found = []
    for url in target.direct_urls:
        async with Client(url, retries=False, timeout_s=10) as client:
            try:
                seen = await client.cluster()
            except AcordoError as exc:
                found.append(f"{url}: {exc.detail}")
            else:
                found += [f"{seen.node}: {seen.refusal}"] if seen.refusal else []
    return found


async def measure(
    lock: str, which: str, scenarios: tuple[Scenario, ...], folder: Path, faults: Faults
) -> None:
    """Start everything, run the scenarios under load, and judge."""
    for part in ("lock", "databases"):
        (folder / part).mkdir()
    patroni = program(which, folder)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(STORES[lock](folder / "lock"))
        made = SynchronousDatabases(folder / "databases", patroni, store.ports)
        databases = await stack.enter_async_context(made)
        await databases.new_primary(0)
        await databases.whole()
        await databases.synchronous()
        await databases.make_store()
        settings = RunnerSettings(
            nodes=3,
            base_port=free_base_port(3, BASE_PORT + os.getpid() % 500 * 10),
            data=folder / "nodes",
            store=databases.url,
            store_timeout_s=STORE_TIMEOUT_S,
            drain_timeout_s=3,
            election_timeout_s=1.0,  # what is judged here is the store, on machines that are busy
        )
        target = await stack.enter_async_context(LocalTarget(settings, Random(7)))
        if not await target.healthy(HEALTHY_WITHIN_S):
            raise TimeoutError("the cluster was not healthy in time")
        writes = Acknowledged()
        async with loaded(
            target.urls,
            target.direct_urls,
            folder / "run",
            once=False,
            own_stores=False,
            written=writes.note,
        ) as seen:
            await writes.after(0.0, PATIENCE_S)
            for scenario in scenarios:
                if scenario.needs_disks and not databases.have_disks:
                    print(f"  {scenario.name}: left out, nothing may be mounted here", flush=True)
                    continue
                result = await run(scenario, databases, writes, PATIENCE_S)
                print(row(result), flush=True)
                _judge_result(result, faults)
                if not await target.healthy(HEALTHY_WITHIN_S):
                    faults.check(False, f"{scenario.name}: not healthy afterwards")
                still = await refusals(target)
                faults.check(not still, f"{scenario.name}: {still}")
        _judge(seen, target, faults)


def row(result: Result) -> str:
    """Return a result as the row of a table."""
    times = (result.promoted_s, result.store_s, result.writes_s, result.gap_s)
    return f"| {result.scenario} | {' | '.join(f'{each:.1f} s' for each in times)} |"


def _judge_result(result: Result, faults: Faults) -> None:
    if is_busy():
        print("  (times are not judged: the machine is busy)", flush=True)
        return
    faults.check(
        result.writes_s <= WRITES_WITHIN_S,
        f"{result.scenario}: {result.writes_s:.1f} s from the first commit to the first write",
    )


def _judge(seen: Seen, target: LocalTarget, faults: Faults) -> None:
    print(f"  {seen.requests} requests; judged {seen.judged}", flush=True)
    faults.check(not seen.anomalies, f"anomalies: {seen.anomalies[:SHOWN_MAX]}")
    judged = ("register", "append", "ledger", "convergence")
    faults.check(all(seen.judged.get(name) for name in judged), f"judged only {seen.judged}")
    starts = {node.id: node.starts for node in target.cluster.nodes.values()}
    faults.check(set(starts.values()) == {1}, f"nodes were started anew: {starts}")


def main(argv: list[str]) -> int:
    """Run what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.failover")
    parser.add_argument("--lock", choices=sorted(STORES), default="acordo")
    parser.add_argument("--patroni", choices=("newest", "debian"), default="newest")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default="", help="scenarios whose names have this in them")
    options = parser.parse_args(argv)
    try:
        ensure("postgresql", *(["etcd"] if options.lock == "etcd" else []))
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 1
    faults = Faults()
    print("| done to the primary | promoted | it commits | writes | longest without a write |")
    print("|---|---|---|---|---|", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="acordo-failover-"))
    folder.chmod(0o755)
    scenarios = SHORT if options.short else ALL
    chosen = tuple(each for each in scenarios if options.only in each.name)
    try:
        asyncio.run(measure(options.lock, options.patroni, chosen, folder, faults))
    except* (TimeoutError, RuntimeError, OSError) as group:
        faults.check(False, f"{group.exceptions}")
    if faults.found:
        print(f"what was written is kept in {folder}\n{_tails(folder)}")
    else:
        shutil.rmtree(folder)
    print("\n".join(["", *(f"fault: {fault}" for fault in faults.found)]))
    return 1 if faults.found else 0


def _tails(folder: Path) -> str:
    logs = sorted(folder.glob("**/*.log"))
    return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-2500:]}" for p in logs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
