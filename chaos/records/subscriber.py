"""Record what the broker delivers to a durable queue of the run's own.

It speaks AMQP as docs/asyncapi.yaml says and imports nothing of the nodes. It never judges. A
message is acknowledged only once it is recorded, so after any failure it is delivered again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from types import TracebackType
from typing import Any, Final, Self

import aiormq
import msgspec
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage

from acordo import AcordoError, Client
from chaos.records.history import Watched
from chaos.records.recorder import Recorder

NAME: Final = "broker"
PREFETCH: Final = 200
OPEN_WITHIN_S: Final = 30.0
RETRY_S: Final = 0.3
CATCH_UP_S: Final = 45.0
"""Longest wait for the broker's stream to reach the end once writing has stopped."""
EXPIRES_MS: Final = 3_600_000
"""Time after which the broker deletes the queue if nobody reads from it."""


class SubscriberFailed(Exception):
    """No broker could be subscribed to."""


class Subscriber:
    """A recorded durable queue: `async with Subscriber(url, exchange, queue, recorder)`.

    Entering subscribes, so enter before the first write. `/v1/cluster` names the `exchange`
    (`channels`).
    """

    def __init__(self, url: str, exchange: str, queue: str, recorder: Recorder) -> None:
        # Runs kill the broker on purpose, and aiormq would log that on the terminal each time.
        logging.getLogger("aiormq").setLevel(logging.CRITICAL)
        self._url = f"{url}{'&' if '?' in url else '?'}heartbeat=5"
        self._exchange, self._queue, self._recorder = exchange, queue, recorder
        self._newest = 0
        self._moved = asyncio.Event()
        self._subscribed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        try:
            async with asyncio.timeout(OPEN_WITHIN_S):
                await self._subscribed.wait()
        except TimeoutError as exc:
            await self.__aexit__(None, None, None)
            raise SubscriberFailed(
                f"no subscription to the broker within {OPEN_WITHIN_S:g} s"
            ) from exc
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        # The queue belongs to this run alone. If it cannot be deleted, it expires.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(3):
                connection = await aiormq.connect(self._url)
                await (await connection.channel()).queue_delete(self._queue)
                await connection.close()

    async def reach_end(self, client: Client, key: str) -> bool:
        """Write a last key and wait until the broker delivers it; return False after CATCH_UP_S."""
        try:
            written = await client.put(key, "end")
            async with asyncio.timeout(CATCH_UP_S):
                while self._newest < (written.revision or 0):
                    self._moved.clear()
                    await self._moved.wait()
        except (AcordoError, TimeoutError):
            return False
        return True

    async def _follow(self) -> None:
        """Subscribe again whenever the connection ends, until cancelled."""
        while True:
            # Whatever error aiormq raises, the broker is unreachable: try again.
            with contextlib.suppress(Exception):
                await self._once()
            await asyncio.sleep(RETRY_S)

    async def _once(self) -> None:
        connection: AbstractConnection = await aiormq.connect(self._url)
        try:
            channel = await connection.channel(publisher_confirms=False)
            await channel.basic_qos(prefetch_count=PREFETCH)
            await channel.exchange_declare(self._exchange, exchange_type="topic", durable=True)
            await channel.queue_declare(
                self._queue, durable=True, arguments={"x-expires": EXPIRES_MS}
            )
            await channel.queue_bind(self._queue, self._exchange, "change.#")

            async def take(message: DeliveredMessage) -> None:
                await self._take(channel, message)

            await channel.basic_consume(self._queue, take, no_ack=False)
            self._record("open")
            self._subscribed.set()
            await asyncio.wait([asyncio.ensure_future(channel.closing)])
            self._record("closed")
        finally:
            with contextlib.suppress(Exception):
                await asyncio.shield(connection.close())

    async def _take(self, channel: AbstractChannel, message: DeliveredMessage) -> None:
        delivered = msgspec.json.decode(message.body)
        for change in delivered["changes"]:
            value = _text(change["value"]) if "value" in change else None
            deleted = change["type"] == "delete"
            self._record(
                "event",
                revision=delivered["revision"],
                key=_text(change["key"]),
                value=value,
                deleted=deleted,
            )
        self._newest = max(self._newest, delivered["revision"])
        self._moved.set()
        if message.delivery_tag is not None:
            await channel.basic_ack(message.delivery_tag)

    def _record(self, kind: Any, **fields: Any) -> None:
        self._recorder.add(Watched(NAME, kind, self._recorder.clock(), channel="broker", **fields))


def _text(given: str | dict[str, str]) -> str:
    """Decode a key or value into the text used in the history."""
    if isinstance(given, str):
        return given
    return base64.b64decode(given["base64"]).decode("utf-8", "backslashreplace")
