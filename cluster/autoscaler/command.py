"""Run `python -m cluster autoscaler`: wire the loop to a cluster, a Prometheus and a driver.

This module publishes the decisions; it makes none itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from acordo import Client
from cluster import logs
from cluster.autoscaler.docker_driver import DockerDriver
from cluster.autoscaler.driver import Driver
from cluster.autoscaler.local_driver import LocalDriver
from cluster.autoscaler.loop import ASK_TIMEOUT_S, CHANGE_TIMEOUT_S, Autoscaler
from cluster.settings.autoscaler import AutoscalerSettings
from cluster.settings.loading import load
from cluster.settings.values import PREFIX
from cluster.tls import connector
from kv.errors import BadRequest

_log = structlog.get_logger("acordo.autoscaler")


def main(argv: list[str]) -> int:
    """Run the autoscaler until a signal stops it."""
    settings = load(AutoscalerSettings, argv, prog="python -m cluster autoscaler")
    logs.configure(settings.log_format, settings.log_level, node="autoscaler")
    asyncio.run(_serve(settings))
    return 0


async def _serve(settings: AutoscalerSettings) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    driver: Driver
    if settings.autoscaler_driver == "docker":
        driver = DockerDriver(settings.autoscaler_project)
    else:
        driver = LocalDriver(settings.autoscaler_dir, handed_on(settings))
    urls = [url.strip() for url in settings.autoscaler_urls.split(",") if url.strip()]
    timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
    async with (
        Client(urls, timeout_s=CHANGE_TIMEOUT_S) as client,
        aiohttp.ClientSession(timeout=timeout, connector=connector()) as http,
    ):
        _log.info("watching", urls=urls, driver=settings.autoscaler_driver)
        autoscaler = Autoscaler(settings, client, http, driver)
        async with show(autoscaler, settings.autoscaler_listen):
            serving = asyncio.ensure_future(autoscaler.serve())
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
            serving.cancel()
    _log.info("stopped; observers of a compose project go on")


@contextlib.asynccontextmanager
async def show(autoscaler: Autoscaler, listen: str) -> AsyncIterator[None]:
    """Serve `/metrics`, and `/decisions` with the recent decisions as JSON, oldest first.

    Raises BadRequest("port_in_use") if the address cannot be listened on.
    """

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def decisions(_: web.Request) -> web.Response:
        said = [
            {"change": d.change, "reason": d.reason, "because": d.because}
            for d in autoscaler.decisions
        ]
        return web.Response(body=msgspec.json.encode(said), content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/decisions", decisions)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as exc:
            raise BadRequest("port_in_use", f"cannot listen on {listen}: {exc}") from exc
        yield
    finally:
        await runner.cleanup()


def handed_on(settings: AutoscalerSettings) -> dict[str, str]:
    """Return the environment variables for local observers.

    They hold every setting that was given explicitly, except the autoscaler's own.
    """
    return {
        PREFIX + name.upper(): str(getattr(settings, name))
        for name in settings.model_fields_set
        if not name.startswith("autoscaler_") and getattr(settings, name) is not None
    }
