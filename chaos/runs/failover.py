"""Kill the leader repeatedly while clients write, and measure the gaps between acknowledgements."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Final

from acordo import AcordoError, Client
from chaos.targets.local import LocalTarget
from chaos.waiting import until
from cluster.ports import free_base_port
from cluster.settings.runner import RunnerSettings

BASE_PORT: Final = 24000
WITHIN_S: Final = 30.0
STEADY_S: Final = 1.0
"""Quiet time between the recovery of the cluster and the next kill."""
AFTER_KILL_S: Final = 0.2
"""A write acknowledged sooner than this after the kill may have been in flight before it."""
KEPT: Final = 1000
"""Most acknowledgements that are kept between kills."""


@dataclass(frozen=True)
class Gap:
    """The result of one kill: the old leader, the new one, and the time without acknowledged
    writes.
    """

    killed: str
    then: str | None
    gap_s: float
    rate: float
    """Writes acknowledged in the second before the kill. The precision of the gap is about the
    inverse of this rate.
    """


async def measure(
    *, kills: int, nodes: int, writers: int, seed: int, report: Callable[[int, Gap], None]
) -> list[Gap]:
    """Kill `kills` leaders one by one and report each gap. Return fewer gaps if no leader takes
    over.
    """
    acknowledged: list[float] = []
    stop = asyncio.Event()
    gaps: list[Gap] = []
    with tempfile.TemporaryDirectory(prefix="acordo-failover-") as folder:
        settings = RunnerSettings(
            nodes=nodes,
            base_port=free_base_port(nodes, BASE_PORT + os.getpid() % 300 * 10),
            data=Path(folder) / "data",
        )
        async with LocalTarget(settings, Random(seed)) as target, asyncio.TaskGroup() as tasks:
            if not await target.healthy():
                return []
            for n in range(writers):
                tasks.create_task(_write(target.direct_urls, n, acknowledged, stop))
            while len(gaps) < kills:
                await asyncio.sleep(STEADY_S)
                gap = await _kill_leader(target, acknowledged)
                if gap is None:
                    break
                gaps.append(gap)
                report(len(gaps), gap)
                target.start(gap.killed)
                await target.healthy()
                acknowledged[:-KEPT] = []
            stop.set()
    return gaps


async def _kill_leader(target: LocalTarget, acknowledged: list[float]) -> Gap | None:
    """Kill the leader and return the longest gap around it; None if no other leader takes over."""
    leader = await target.leader()
    if leader is None:
        return None
    at = time.monotonic()
    await target.kill(leader)

    async def another() -> bool:
        now = await target.leader()
        return now not in (None, leader) and acknowledged[-1:] > [at + AFTER_KILL_S]

    if not await until(another, WITHIN_S):
        return None
    await asyncio.sleep(STEADY_S)
    # The current time also ends a gap, because writes may have stopped once more.
    around = [*(t for t in acknowledged if t > at - 1.0), time.monotonic()]
    rate = float(sum(t <= at for t in around))
    return Gap(leader, await target.leader(), max(b - a for a, b in pairwise(around)), rate)


async def _write(
    urls: tuple[str, ...], n: int, acknowledged: list[float], stop: asyncio.Event
) -> None:
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
