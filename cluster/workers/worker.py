"""Run `python -m cluster worker`: submit asynchronous writes, deliver webhooks, take backups. Any
number may run.

It does everything through the HTTP API, with op_ids that make repetition harmless. It never drops a
command that has no definite outcome.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import secrets
import signal
import socket
from contextlib import AsyncExitStack
from typing import Final

import structlog
from prometheus_client import start_http_server

from acordo import AcordoError, Client
from acordo.backups import place_of
from backends.rabbitmq.async_writes import Commands, Queues
from cluster import logs
from cluster.settings.loading import load
from cluster.settings.worker import WorkerSettings
from cluster.workers.backups import Backups
from cluster.workers.sender import DeliveryLimits
from cluster.workers.submitter import SUBMIT_TIMEOUT_S, Submitter
from cluster.workers.webhooks import Webhooks
from kv import errors as kv_errors

FIRST_ANSWER_TIMEOUT_S: Final = 3.0

_log = structlog.get_logger("acordo.worker")


def main(argv: list[str]) -> int:
    """Run a worker until a signal stops it."""
    settings = load(WorkerSettings, argv, prog="python -m cluster worker")
    name = settings.worker_name or f"{socket.gethostname()[:40]}.{os.getpid()}"
    logs.configure(settings.log_format, settings.log_level, node=name)
    asyncio.run(_serve(settings, name))
    return 0


async def _serve(settings: WorkerSettings, name: str) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if settings.worker_metrics_port:
        start_http_server(settings.worker_metrics_port, settings.worker_metrics_host)
    urls = [url.strip() for url in settings.urls.split(",") if url.strip()]
    rng = random.Random(secrets.randbits(128))
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(Client(urls, timeout_s=SUBMIT_TIMEOUT_S))
            backups = backups_of(settings, client, name, rng)
        except AcordoError as exc:
            raise kv_errors.BadRequest("bad_settings", str(exc)) from exc
        webhooks = await stack.enter_async_context(
            Webhooks(client, name, limits_of(settings), rng=rng)
        )
        commands = None
        if settings.broadcast.startswith("amqp"):
            commands = functools.partial(_commands, settings, client, rng)
        _log.info(
            "working",
            urls=urls,
            asynchronous_writes=commands is not None,
            backups=settings.backup_to or None,
        )
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(webhooks.run(), name="webhooks")]
            running.append(
                tasks.create_task(say_what_is_missing(client, urls, broker=commands is not None))
            )
            if commands is not None:
                running.append(tasks.create_task(commands(), name="commands"))
            if backups is not None:
                running.append(tasks.create_task(backups.run(), name="backups"))
            await stop.wait()
            for task in running:
                task.cancel()
    _log.info("stopped")


async def _commands(settings: WorkerSettings, client: Client, rng: random.Random) -> None:
    """Submit the commands that wait in the cluster's queue.

    The cluster itself gives the name of the queue, because a broker may have the queues of several
    clusters.
    """
    pause_s = 0.25
    while True:
        try:
            names = (await client.cluster()).raw.get("channels")
            if isinstance(names, dict):
                break
            _log.warning(
                "the cluster does not say where its asynchronous writes wait: it is of an older "
                "version"
            )
        except AcordoError:
            pass  # `say_what_is_missing` has already logged that no cluster answers
        await asyncio.sleep(pause_s * (0.75 + rng.random() / 2))
        pause_s = min(pause_s * 2, 5.0)
    queues = Queues(str(names["async"]), str(names["dead"]))
    commands = Commands(settings.broadcast, queues, prefetch=settings.worker_prefetch, rng=rng)
    await commands.run(Submitter(client, rng).take)


async def say_what_is_missing(client: Client, urls: list[str], *, broker: bool) -> None:
    """Log once, at the start, what this worker cannot do. It keeps trying all the same."""
    if not broker:
        _log.warning(
            "no broker: asynchronous writes are not submitted, set ACORDO_BROADCAST=amqp://…"
        )
    try:
        await client.leader(timeout_s=FIRST_ANSWER_TIMEOUT_S)
    except AcordoError as exc:
        _log.warning(
            "no cluster answers yet: trying on, check ACORDO_URLS",
            urls=urls,
            error=exc.detail[:300],
        )


def backups_of(
    settings: WorkerSettings, client: Client, name: str, rng: random.Random
) -> Backups | None:
    """Return what takes the backups that the settings ask for; None: they ask for none. Raises
    acordo.BadRequest.
    """
    if not settings.backup_to:
        return None
    return Backups(
        client,
        place_of(settings.backup_to),
        name,
        every_s=settings.backup_every_s,
        keep=settings.backup_keep,
        rng=rng,
    )


def limits_of(settings: WorkerSettings) -> DeliveryLimits:
    """Return the limits of deliveries that the settings give."""
    return DeliveryLimits(
        attempts_max=settings.webhook_attempts_max,
        backoff_s=settings.webhook_backoff_s,
        backoff_max_s=settings.webhook_backoff_max_s,
        timeout_s=settings.webhook_timeout_s,
        lease_s=settings.webhook_lease_s,
        allow_private=settings.webhook_allow_private,
    )
