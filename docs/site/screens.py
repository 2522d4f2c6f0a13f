"""Take the picture of the page during a fail-over: `make pictures`.

A real cluster, writes, a leader that dies by SIGKILL, and Chromium, which looks at it through
another node.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from playwright.async_api import Page, async_playwright

from acordo import AcordoError, Client
from cluster.local.runner import LocalCluster
from cluster.ports import free_base_port
from cluster.settings.runner import RunnerSettings
from docs.site.pictures import HERE

CHROMIUM: Final = "/usr/bin/chromium"
SIZE: Final = {"width": 1180, "height": 1060}
BEFORE_S: Final = 25
"""Seconds of ordinary writes before the leader dies, so that the chart shows what is usual."""
AFTER_S: Final = 8
"""Seconds after it, so that it shows that writes went on."""


async def write(urls: list[str]) -> None:
    """Write from four tasks until cancelled."""

    async def one(client: Client, n: int) -> None:
        turn = 0
        while True:
            turn += 1
            with contextlib.suppress(AcordoError):
                await client.put(f"orders/{n}/{turn % 40}", f"tea {turn}")
            await asyncio.sleep(0.05)

    async with Client(urls) as client, asyncio.TaskGroup() as tasks:
        for n in range(4):
            tasks.create_task(one(client, n))


async def look(page: Page, cluster: LocalCluster) -> None:
    """Open a follower's page, kill the leader, and take the picture once another one leads."""
    urls = {node.id: node.url for node in cluster.nodes.values()}
    async with Client(list(urls.values())) as client:
        leader = (await client.leader()).id
        follower = next(url for name, url in urls.items() if name != leader)
        await page.goto(follower)
        await asyncio.sleep(BEFORE_S)
        cluster.kill(leader, signal.SIGKILL)
        while (await client.leader()).id == leader:  # noqa: ASYNC110 - another process elects
            await asyncio.sleep(0.2)
        await asyncio.sleep(AFTER_S)
    await page.screenshot(path=HERE / "page.png")


async def main() -> None:
    """Take it into docs/pictures."""
    with tempfile.TemporaryDirectory(prefix="acordo-pictures-") as folder:
        settings = RunnerSettings(
            nodes=3, base_port=free_base_port(3, 24500), data=Path(folder, "data")
        )
        async with LocalCluster(settings, say=print) as cluster, async_playwright() as playwright:
            await cluster.wait_ready()
            browser = await playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
            )
            page = await browser.new_page(viewport=SIZE, locale="en-GB")  # type: ignore[arg-type]
            writing = asyncio.create_task(write([node.url for node in cluster.nodes.values()]))
            try:
                await look(page, cluster)
            finally:
                writing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await writing
                await browser.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
