"""`python -m cluster autoscaler` on a local cluster: load brings an observer, and its end takes it
away again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import msgspec
import pytest

from cluster.ports import free_port
from cluster.services.prometheus import Prometheus
from tests.e2e.conftest import Start, until

pytestmark = pytest.mark.timeout(300)
READERS = 48


@contextlib.asynccontextmanager
async def autoscaler(settings: Mapping[str, str], log: Path) -> AsyncIterator[None]:
    """Run one, and tell its log; it must end well when it is told to."""
    environ = os.environ | {"ACORDO_AUTOSCALER_" + name: value for name, value in settings.items()}
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cluster", "autoscaler",
            env=environ, stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        code = await process.wait()
        print(log.read_text())
    assert code == 0


@contextlib.asynccontextmanager
async def load(
    http: aiohttp.ClientSession, urls: list[str], failed: list[str]
) -> AsyncIterator[None]:
    """Read from the nodes in turn, many at a time."""
    stop = asyncio.Event()

    async def one(turn: int) -> None:
        while not stop.is_set():
            turn += 1
            if not await found_nothing(http, urls[turn % len(urls)]):
                failed.append(urls[turn % len(urls)])

    async with asyncio.TaskGroup() as tasks:
        for number in range(READERS):
            tasks.create_task(one(number))
        try:
            yield
        finally:
            stop.set()


async def found_nothing(http: aiohttp.ClientSession, url: str) -> bool:
    """Say whether a node answers that the key is absent, which is the truth."""
    try:
        async with http.get(url + "/v1/kv/absent") as response:
            return response.status == 404 and (await response.json())["code"] == "key_not_found"
    except aiohttp.ClientError:
        return False


async def test_load_adds_a_local_observer_and_its_end_removes_it(
    start: Start, tmp_path: Path
) -> None:
    folder, listen = tmp_path / "data" / "observers", f"127.0.0.1:{free_port()}"
    failed: list[str] = []
    async with start() as cluster, contextlib.AsyncExitStack() as stack:
        urls = [node.url for node in cluster.nodes.values()]
        prometheus = await asyncio.to_thread(
            Prometheus({"nodes": [u.removeprefix("http://") for u in urls]}).start
        )
        stack.callback(prometheus.__exit__, None, None, None)
        settings = {
            "DIR": str(folder), "URLS": ",".join(urls), "LISTEN": listen,
            "PROMETHEUS": prometheus.url, "OBSERVERS_MAX": "1", "PERIOD_S": "1", "COOL_DOWN_S": "2",
            "IN_FLIGHT_HIGH": "4", "IN_FLIGHT_LOW": "2",
        }  # fmt: skip
        await stack.enter_async_context(autoscaler(settings, tmp_path / "autoscaler.log"))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )

        def observer() -> str | None:
            """Return where it serves, as a Prometheus would find it."""
            with contextlib.suppress(FileNotFoundError):
                found = msgspec.json.decode((folder / "targets.json").read_bytes())
                return f"http://{found[0]['targets'][0]}" if found else None
            return None

        async def serves() -> bool:
            url = observer()
            return url is not None and await found_nothing(http, url)

        async def voters() -> list[bool]:
            async with http.get(urls[0] + "/v1/cluster") as response:
                return [member["voter"] for member in (await response.json())["members"]]

        async def gone() -> bool:
            return await voters() == [True, True, True]

        async with load(http, urls, failed):
            await until(serves, "an observer answers a linearizable read")
            assert await voters() == [True, True, True, False]
        await until(lambda: observer() is None, "the observer stops")
        await until(gone, "the observer is no member any more")
        async with http.get(f"http://{listen}/metrics") as response:
            shown = await response.text()
    assert failed == []
    for change in ("1", "-1"):
        assert f'acordo_autoscaler_decisions_total{{change="{change}"' in shown
