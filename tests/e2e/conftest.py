"""Start real clusters for the e2e ring, each in a directory and on ports of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeAlias

import aiohttp
import pytest

from cluster.local.runner import LocalCluster
from cluster.ports import free_base_port
from cluster.settings.runner import RunnerSettings
from tests.kinds_of_store import excuse
from tests.services import fresh_database

Start: TypeAlias = Callable[..., AbstractAsyncContextManager[LocalCluster]]

WAIT_S = 60.0
"""Bound of every wait for a condition: generous, a busy machine is not a failure."""


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Start:
    """Return a function that starts a cluster, ready to be used, and tells each node's log when the
    test fails. The fixture's parameter is the kind of store; the shared one is a new database.
    """
    base_port = free_base_port(3, 21000 + os.getpid() % 900 * 10)
    shared = {}
    if getattr(request, "param", "replicated") == "shared":
        shared["store"] = fresh_database()

    @contextlib.asynccontextmanager
    async def started(
        *,
        nodes: int = 3,
        wait: bool = True,
        overrides: Mapping[str, Mapping[str, str]] | None = None,
        control: bool = False,
        **more: object,
    ) -> AsyncIterator[LocalCluster]:
        given = {"nodes": nodes, "base_port": base_port, "data": tmp_path / "data"} | shared | more
        said: list[str] = []
        settings = RunnerSettings(**given)  # type: ignore[arg-type]
        cluster = LocalCluster(settings, say=said.append, overrides=overrides, control=control)
        try:
            async with cluster:
                if wait:
                    await cluster.wait_ready()
                yield cluster
        except BaseException:
            print("runner said:", *said, sep="\n  ")
            for node in cluster.nodes.values():
                with contextlib.suppress(OSError):
                    print(f"--- end of {node.id}'s log", *_tail(node.log.read_text()), sep="\n")
            raise

    return started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    excuse(items)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition (sync, or returning an awaitable) holds."""
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                got = condition()
                if asyncio.iscoroutine(got):
                    got = await got
                if got:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"never within {WAIT_S:g} s: {what}") from None


def _tail(text: str) -> list[str]:
    return [line[:400] for line in text.splitlines()[-10:]]
