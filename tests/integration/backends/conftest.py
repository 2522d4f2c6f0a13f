"""Start clusters on private real servers. A test that hurts a server has one of its own, shared
within its module.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from cluster.local.process import ROOT
from cluster.local.runner import LocalCluster
from cluster.ports import free_base_port
from cluster.settings.runner import RunnerSettings

WAIT_S = 60.0


async def until(condition: Callable[[], object], what: str, *, wait_s: float = WAIT_S) -> None:
    """Wait until a condition (sync, or returning an awaitable) holds."""
    try:
        async with asyncio.timeout(wait_s):
            while True:
                got = condition()
                if asyncio.iscoroutine(got):
                    got = await got
                if got:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"never within {wait_s:g} s: {what}") from None


@contextlib.asynccontextmanager
async def started(
    directory: Path, *, nodes: int = 3, wait: bool = True, **more: object
) -> AsyncIterator[LocalCluster]:
    """Run a cluster in a directory; when the body fails, tell the end of each node's log."""
    base = free_base_port(nodes, 13000 + os.getpid() % 900 * 10)
    given = {"nodes": nodes, "base_port": base, "data": directory / "data", **more}
    said: list[str] = []
    cluster = LocalCluster(RunnerSettings(**given), say=said.append)  # type: ignore[arg-type]
    try:
        async with cluster:
            if wait:
                await cluster.wait_ready()
            yield cluster
    except BaseException:
        print("runner said:", *said, sep="\n  ")
        for node in cluster.nodes.values():
            with contextlib.suppress(OSError):
                print(
                    f"--- end of {node.id}'s log",
                    *node.log.read_text().splitlines()[-20:],
                    sep="\n",
                )
        raise


@contextlib.asynccontextmanager
async def worker(
    directory: Path, name: str, settings: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m cluster worker` with settings by name; kill it at the end if it still runs."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("ACORDO_")}
    environ |= {f"ACORDO_{k.upper()}": v for k, v in settings.items()} | {
        "ACORDO_WORKER_NAME": name
    }
    with (directory / f"{name}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cluster", "worker", env=environ, cwd=ROOT, stdout=log, stderr=log
        )
    try:
        yield process
    except BaseException:
        print(
            f"--- end of {name}'s log",
            *(directory / f"{name}.log").read_text().splitlines()[-20:],
            sep="\n",
        )
        raise
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
