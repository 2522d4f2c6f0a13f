"""Run `python -m cluster worker`: submit asynchronous writes, deliver webhooks. Any number may run.

It does everything through the HTTP API, with op_ids that make repetition harmless, and never drops
a command that it could not bring to a definite end.
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
from prometheus_client import Counter, start_http_server

from acordo import (
    AcordoError,
    BadRequest,
    Client,
    NotApplied,
    OutcomeUnknown,
    ReadFailed,
    Refused,
    intent_of_json,
)
from backends.async_writes import Commands, Delivery, Queues, parse
from cluster import logs
from cluster.settings.loading import load
from cluster.settings.worker import WorkerSettings
from cluster.workers.webhooks import Limits, Webhooks
from kv import errors as kv_errors

RETRY_S: Final = (0.2, 10.0)
SUBMIT_TIMEOUT_S: Final = 10.0
LIFETIME_S: Final = 12 * 3600.0
"""For how long a command that was accepted may take effect once a node has it; nodes cut this to
half the op_id retention. Its attempts are repeated until one is definite, so the expiry of the
first must not end them all.
"""
GREETING_TIMEOUT_S: Final = 3.0

_DONE: Final = Counter("acordo_worker_commands", "Commands by what became of them", ["result"])
_log = structlog.get_logger("acordo.worker")


class Submitter:
    """Bring one command after another to a definite end."""

    def __init__(self, client: Client, chance: random.Random) -> None:
        self._client, self._chance = client, chance

    async def take(self, delivery: Delivery) -> None:
        """Submit a command until its outcome is definite, then acknowledge it; bury one that can
        never work.
        """
        try:
            found = parse(delivery.body)
            intent = intent_of_json(bytes(found.transaction))
        except (kv_errors.BadRequest, BadRequest) as exc:
            await self._bury(delivery, f"{exc.code}: {exc.detail}")
            return
        pause_s = RETRY_S[0]
        while True:
            try:
                await self._client.txn(
                    guards=intent.guards,
                    writes=intent.writes,
                    otherwise=intent.otherwise,
                    reads=intent.reads,
                    op_id=found.op_id,
                    timeout_s=SUBMIT_TIMEOUT_S,
                    lifetime_s=LIFETIME_S,
                )
                result = "applied"
            except Refused:
                # an outcome: recorded under the op_id, where its client finds it
                result = "refused"
            except BadRequest as exc:
                await self._bury(delivery, f"{exc.code}: {exc.detail}")
                return
            except NotApplied as exc:
                result = "expired" if exc.reason == "expired" else ""
            except (OutcomeUnknown, ReadFailed):
                result = ""
            if result:
                await delivery.ack()
                _DONE.labels(result).inc()
                return
            _DONE.labels("again").inc()
            await asyncio.sleep(pause_s * (0.5 + self._chance.random() / 2))
            pause_s = min(pause_s * 2, RETRY_S[1])

    async def _bury(self, delivery: Delivery, reason: str) -> None:
        await delivery.bury(reason)
        _DONE.labels("buried").inc()
        _log.warning("command buried", reason=reason[:300])


def main(argv: list[str]) -> int:
    """Run a worker until it is told to stop."""
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
    chance = random.Random(secrets.randbits(128))
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(Client(urls, timeout_s=SUBMIT_TIMEOUT_S))
        except AcordoError as exc:
            raise kv_errors.BadRequest("bad_settings", str(exc)) from exc
        webhooks = await stack.enter_async_context(
            Webhooks(client, name, limits_of(settings), chance=chance)
        )
        commands = None
        if settings.broadcast.startswith("amqp"):
            commands = functools.partial(_commands, settings, client, chance)
        _log.info("working", urls=urls, asynchronous_writes=commands is not None)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(webhooks.run(), name="webhooks")]
            running.append(
                tasks.create_task(say_what_is_missing(client, urls, broker=commands is not None))
            )
            if commands is not None:
                running.append(tasks.create_task(commands(), name="commands"))
            await stop.wait()
            for task in running:
                task.cancel()
    _log.info("stopped")


async def _commands(settings: WorkerSettings, client: Client, chance: random.Random) -> None:
    """Submit what waits in the queue of the cluster that is worked for, which says itself what it
    is called: a broker may have those of others beside it.
    """
    pause_s = 0.25
    while True:
        try:
            names = (await client.cluster()).raw.get("channels")
            if isinstance(names, dict):
                break
            _log.warning(
                "the cluster does not say where its asynchronous writes wait: it is of an older version"
            )
        except AcordoError:
            pass  # said once already
        await asyncio.sleep(pause_s * (0.75 + chance.random() / 2))
        pause_s = min(pause_s * 2, 5.0)
    queues = Queues(str(names["async"]), str(names["dead"]))
    commands = Commands(settings.broadcast, queues, prefetch=settings.worker_prefetch, rng=chance)
    await commands.run(Submitter(client, chance).take)


async def say_what_is_missing(client: Client, urls: list[str], *, broker: bool) -> None:
    """Say once, at the start, what this worker cannot do as it is. It goes on trying all
    the same.
    """
    if not broker:
        _log.warning(
            "no broker: asynchronous writes are not submitted, set ACORDO_BROADCAST=amqp://…"
        )
    try:
        await client.leader(timeout_s=GREETING_TIMEOUT_S)
    except AcordoError as exc:
        _log.warning(
            "no cluster answers yet: trying on, check ACORDO_URLS",
            urls=urls,
            error=exc.detail[:300],
        )


def limits_of(settings: WorkerSettings) -> Limits:
    """Return what bounds deliveries."""
    return Limits(
        attempts_max=settings.webhook_attempts_max,
        backoff_s=settings.webhook_backoff_s,
        backoff_max_s=settings.webhook_backoff_max_s,
        timeout_s=settings.webhook_timeout_s,
        lease_s=settings.webhook_lease_s,
        allow_private=settings.webhook_allow_private,
    )
