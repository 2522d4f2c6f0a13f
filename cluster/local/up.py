"""Run `python -m cluster up`: start a local cluster, report its readiness, and keep it alive.

It never stops nodes that serve, or that wait for an operator, because another node is not ready.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from cluster.local.process import ROOT
from cluster.local.readiness import Readiness, advice, news, one_line
from cluster.local.runner import LocalCluster
from cluster.settings.loading import load
from cluster.settings.runner import RunnerSettings

LOOK_EVERY_S: Final = 2.0


def main(argv: list[str]) -> int:
    """Run the cluster until a signal stops it. Raises BadRequest if no node can start."""
    return asyncio.run(_up(load(RunnerSettings, argv, prog="python -m cluster up")))


async def _up(settings: RunnerSettings) -> int:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def stopping() -> None:
        if stop.is_set():
            cluster.kill_all()
        stop.set()

    cluster = LocalCluster(settings, say=say, control=settings.control)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping)
    async with cluster:
        say(f"starting {len(cluster.nodes)} node(s) in {settings.data.absolute()}")
        following = asyncio.ensure_future(_follow(cluster))
        ends = [asyncio.ensure_future(event.wait()) for event in (stop, cluster.all_failed)]
        await asyncio.wait((*ends, following), return_when=asyncio.FIRST_COMPLETED)
        following.cancel()
        if following.done() and not following.cancelled():
            following.result()
        if not stop.is_set():
            raise cluster.failure.result()
        say("stopping; press Ctrl-C again to kill")
    say("stopped")
    return 0


async def _follow(cluster: LocalCluster) -> None:
    """Report once that a quorum is ready, or how long it has been missing; then report changes."""
    data = str(cluster.settings.data)
    ready = asyncio.ensure_future(_wait_closed(cluster))
    try:
        await asyncio.wait((ready,), timeout=cluster.settings.ready_timeout_s)
        if not ready.done():
            say(
                f"no quorum is ready after {cluster.settings.ready_timeout_s:g} s: waiting on; "
                "Ctrl-C stops"
            )
            before = await cluster.look()
            print(*(f"  {line}" for line in advice(before, data)), sep="\n", flush=True)
            await _say_changes(cluster, before, ready)
        announce(cluster, before := ready.result(), data)
        await _say_changes(cluster, before, asyncio.get_running_loop().create_future())
    finally:
        ready.cancel()


async def _wait_closed(cluster: LocalCluster) -> Readiness:
    """Wait until a quorum is ready and, where other machines reach it, access is controlled."""
    found = await cluster.wait_serving()
    if cluster.closes:
        await cluster.control_access(found)
        found = await cluster.wait_serving()
    return found


async def _say_changes(
    cluster: LocalCluster, before: Readiness, until: asyncio.Future[Any]
) -> None:
    """Report changes until the future `until` is done."""
    while not until.done():
        await asyncio.wait((until,), timeout=LOOK_EVERY_S)
        now = await cluster.look()
        for line in news(before, now):
            say(line)
        before = now


def announce(cluster: LocalCluster, found: Readiness, data: str) -> None:
    """Print the nodes' URLs, which nodes are missing, and some commands to try first."""
    for node in cluster.nodes.values():
        note = f"   MISSING: {one_line(found.missing[node.id])}" if node.id in found.missing else ""
        print(f"  {node.id}  {node.url}{'   leader' if node.id == found.leader else ''}{note}")
    first = next(node.url for node in cluster.nodes.values() if node.id not in found.missing)
    some = (
        f", {len(cluster.nodes) - len(found.missing)} of {len(cluster.nodes)} nodes serve"
        if found.missing
        else ""
    )
    print(f"\nready, {found.leader} leads{some}. Open {first}/ in a browser, or try:")
    print(f"  curl -X PUT {first}/v1/kv/hello -d world && curl {first}/v1/kv/hello")
    python = (
        os.path.relpath(sys.executable)
        if Path.cwd() in Path(sys.executable).parents
        else sys.executable
    )
    if (ROOT / "pyproject.toml").exists():  # a source tree: a wheel's modules are on no path
        print(f"  {python} -m cluster.installation {first}     (checks this installation)")
    for line in advice(found, data):
        print(line)
    print(f"Ctrl-C stops the cluster; its data is in {data}.\n", flush=True)


def say(line: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
