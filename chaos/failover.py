"""`python -m chaos failover`: kill the leader again and again; how long does nobody get a write acknowledged?"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Final

from acordo.client import Client
from acordo.errors import AcordoError
from chaos.outages import quantile
from chaos.targets import LocalTarget, until
from cluster.config import RunnerSettings
from cluster.demo import free_base_port

WITHIN_S: Final = 30.0
STEADY_S: Final = 1.0
"""Quiet time between whole again and the next kill."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument("--kills", type=int, default=20, help="leaders to kill (default: %(default)s)")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--writers", type=int, default=6, help="clients that write all the time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)


def main(args: argparse.Namespace) -> int:
    """Print a line per kill and the quantiles; return 0, or 2 when a kill did not lead to a new leader."""
    gaps = asyncio.run(_measure(args))
    if len(gaps) < args.kills:
        print(f"only {len(gaps)} of {args.kills} kills were measured", file=sys.stderr)
        return 2
    print(
        f"{len(gaps)} leader kills: longest gap between acknowledged writes p50 {quantile(gaps, 0.5):.2f} s, "
        f"p90 {quantile(gaps, 0.9):.2f} s, longest {max(gaps):.2f} s"
    )
    return 0


async def _measure(args: argparse.Namespace) -> list[float]:
    acknowledged: list[float] = []
    stop = asyncio.Event()
    gaps: list[float] = []
    with tempfile.TemporaryDirectory(prefix="acordo-failover-") as folder:
        settings = RunnerSettings(
            nodes=args.nodes,
            base_port=free_base_port(args.nodes, 24000 + os.getpid() % 300 * 10),
            data=Path(folder) / "data",
        )
        async with LocalTarget(settings, Random(args.seed)) as target, asyncio.TaskGroup() as tasks:
            if not await target.healthy():
                return []
            for n in range(args.writers):
                tasks.create_task(_write(target.direct_urls, n, acknowledged, stop))
            for kill in range(args.kills):
                await asyncio.sleep(STEADY_S)
                leader = await target.leader()
                if leader is None:
                    break
                at = time.monotonic()
                await target.kill(leader)

                async def another(old: str = leader, since: float = at) -> bool:
                    now = await target.leader()
                    return now not in (None, old) and acknowledged[-1] > since + 0.2

                if not await until(another, WITHIN_S):
                    break
                await asyncio.sleep(STEADY_S)
                around = [t for t in acknowledged if t > at - 1.0]
                gaps.append(max(b - a for a, b in pairwise(around)))
                print(f"kill {kill + 1:>3}: {leader} → {await target.leader()}  {gaps[-1]:.2f} s", flush=True)
                target.start(leader)
                await target.healthy()
                acknowledged[:-1000] = []
            stop.set()
    return gaps


async def _write(urls: tuple[str, ...], n: int, acknowledged: list[float], stop: asyncio.Event) -> None:
    turned = urls[n % len(urls) :] + urls[: n % len(urls)]
    async with Client(turned, timeout_s=10.0, attempt_timeout_s=2.0) as client:
        count = 0
        while not stop.is_set():
            count += 1
            try:
                await client.put(f"failover/{n}/{count % 50}", str(count))
                acknowledged.append(time.monotonic())
            except AcordoError:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.005)
