"""Broadcast committed changes over RabbitMQ: topic exchange, persistent messages, publisher
confirms.

It sends one message per revision, in revision order (docs/asyncapi.yaml). It never drops, reorders
or skips a message: a failed publish is raised, and the publisher starts again from its cursor.
"""

from __future__ import annotations

import asyncio
import random
from base64 import b64encode
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Final, Literal, Self

import msgspec
import structlog
from aiormq.abc import AbstractChannel, ChannelFrame, DeliveredMessage
from aiormq.channel import Channel
from aiormq.exceptions import ChannelInvalidStateError
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from prometheus_client import Counter

from backends.rabbitmq.amqp import FAILURES, OPEN_TIMEOUT_S, BrokerLink, failing_plainly
from kv.errors import BackendUnavailable, BadRequest
from kv.model import Reference, Version
from kv.names import channels
from kv.ports import Change

SCHEMA: Final = 1
IN_FLIGHT_MAX: Final = 200
"""The number of messages sent before their confirms are awaited."""
BACKLOG_MAX: Final = 10_000
"""The number of messages that may wait in one node's own queue. The oldest ones are dropped first:
they are only hints.
"""

_PUBLISHED: Final = Counter("acordo_broadcast_messages", "Changes confirmed by the broker")

_log = structlog.get_logger("acordo.rabbitmq")
_encode = msgspec.json.Encoder(order="deterministic").encode


class RabbitBroadcast:
    """The Broadcast port on aiormq. It sends the frames in order on a single channel, so the broker
    receives them in order.
    """

    def __init__(self, url: str, *, cluster: str = "", rng: random.Random | None = None) -> None:
        """`cluster` is the id in the exchange's name."""
        self._url, self._rng = url, rng
        self.exchange: Final = channels(cluster)["changes"]
        self._keeper: asyncio.Task[None] | None = None
        self._link = BrokerLink(url, "acordo publisher", self._declare, rng=rng)

    @classmethod
    def from_url(cls, url: str, cluster: str = "") -> RabbitBroadcast:
        return cls(url, cluster=cluster)

    async def __aenter__(self) -> Self:
        """Connect, or continue without a connection: a broker that is down is tried again. Raises
        BadRequest("broadcast_access").
        """
        try:
            await self._link.channel(timeout_s=OPEN_TIMEOUT_S)
        except BackendUnavailable as exc:
            _log.warning("no broker: changes wait in the ledger", reason=exc.detail)
        self._keeper = asyncio.create_task(self._link.keep(), name="broker-keeper")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self._link.drop()

    def healthy(self) -> bool:
        return self._link.up

    async def publish(self, changes: Sequence[Change], *, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            channel = await self._link.channel(timeout_s=timeout_s)
        except BadRequest as exc:
            # The broker refuses this node while it runs. An operator may repair that on the broker;
            # meanwhile writes go on.
            raise BackendUnavailable("rabbitmq", exc.detail) from exc
        try:
            async with asyncio.timeout(max(deadline - loop.time(), 0.001)):
                for start in range(0, len(changes), IN_FLIGHT_MAX):
                    part = changes[start : start + IN_FLIGHT_MAX]
                    await _confirmed(channel, self.exchange, part)
                    _PUBLISHED.inc(len(part))
        except (*FAILURES, ChannelInvalidStateError, _Refused) as exc:
            await self._link.drop()
            raise BackendUnavailable("rabbitmq", f"not confirmed: {exc!r}") from exc
        except asyncio.CancelledError:
            await self._link.drop()
            raise

    async def _declare(self, channel: AbstractChannel) -> None:
        await channel.exchange_declare(self.exchange, exchange_type="topic", durable=True)

    async def subscribe(self) -> AsyncGenerator[bytes, None]:
        """Yield the message bodies that arrive from now on, from an exclusive queue; end when the
        broker goes away.

        Raises BackendUnavailable when no broker answers.
        """
        arrived: asyncio.Queue[bytes | None] = asyncio.Queue(BACKLOG_MAX)

        async def take(message: DeliveredMessage) -> None:
            if arrived.full():
                arrived.get_nowait()
            arrived.put_nowait(message.body)

        async def setup(channel: AbstractChannel) -> None:
            await self._declare(channel)
            made = await channel.queue_declare(
                "", exclusive=True, auto_delete=True, arguments={"x-max-length": BACKLOG_MAX}
            )
            assert made.queue is not None
            await channel.queue_bind(made.queue, self.exchange, "change.#")
            await channel.basic_consume(made.queue, take, no_ack=True)

        async with BrokerLink(self._url, "acordo subscriber", setup, rng=self._rng) as link:
            channel = await link.channel(timeout_s=10)
            gone = asyncio.ensure_future(channel.closing)
            while True:
                getting = asyncio.ensure_future(arrived.get())
                await asyncio.wait({getting, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    return
                body = getting.result()
                if body is not None:
                    yield body


class _Refused(Exception):
    """A message that the broker did not accept (nack, or returned)."""


async def _confirmed(channel: AbstractChannel, exchange: str, changes: Sequence[Change]) -> None:
    """Send all changes with one write, in order, and return once each is confirmed. Raises for the
    first one that is not.

    The channel's `basic_publish` takes a task, a lock and two futures for each message. That is
    three times the work, and the leader has a single thread for everything.
    `tests/unit/backends/test_amqp.py` checks that the library still has the internals used here.
    """
    assert isinstance(channel, Channel)
    frames: list[Any] = []
    confirms: list[asyncio.Future[Any]] = []
    with failing_plainly():
        # a failure from here on ends the connection, and with it the count of delivery tags
        async with channel.lock:
            for change in changes:
                channel.delivery_tag += 1
                confirm = channel.confirmations[channel.delivery_tag] = channel.create_future()
                confirms.append(confirm)
                frames += _frames(change, exchange, channel.max_content_size)
            await channel.write_queue.put(
                ChannelFrame.marshall(channel_number=channel.number, frames=frames)
            )
        for change, confirm in zip(changes, confirms, strict=True):
            if not isinstance(taken := await confirm, spec.Basic.Ack):
                raise _Refused(f"revision {change.revision}: {taken!r}")


def _frames(
    change: Change, exchange: str, size_max: int
) -> list[spec.Basic.Publish | ContentHeader | ContentBody]:
    payload = body(change)
    properties = spec.Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        message_id=str(change.revision),
        message_type="acordo.change",
        app_id="acordo",
        headers={"schema": SCHEMA, "revision": change.revision},
    )
    return [
        spec.Basic.Publish(exchange=exchange, routing_key=routing_key(change)),
        ContentHeader(properties=properties, body_size=len(payload)),
        *(ContentBody(payload[n : n + size_max]) for n in range(0, len(payload), size_max)),
    ]


def routing_key(change: Change) -> str:
    """Return change.put, change.delete, change.many for a transaction that changed several keys, or
    change.undone.
    """
    if change.undone_after is not None:
        return "change.undone"
    if len(change.versions) != 1:
        return "change.many"
    return "change.put" if change.versions[0].present else "change.delete"


def body(change: Change) -> bytes:
    """Return the JSON of one message (docs/asyncapi.yaml)."""
    return _encode(
        {
            "schema": SCHEMA,
            "revision": change.revision,
            "op_id": change.op_id,
            "time_ms": change.log_time_ms,
            "changes": [_changed(version) for version in change.versions],
            **({} if change.undone_after is None else {"undone_after": change.undone_after}),
            **({"term": change.term} if change.term else {}),
        }
    )


def change_of(raw: bytes) -> Change:
    """Decode the change in a message that `body` made. Raises BadRequest for any other message."""
    try:
        message = msgspec.json.decode(raw, type=_Message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest("bad_message", str(exc), allowed=f"a message of schema {SCHEMA}") from exc
    if message.schema != SCHEMA:
        raise BadRequest(
            "unknown_schema", f"schema {message.schema}", allowed=f"a message of schema {SCHEMA}"
        )
    try:
        versions = tuple(
            Version(_bytes(each.key), message.revision, _value(each), each.expires_ms)
            for each in message.changes
        )
    except ValueError as exc:
        raise BadRequest(
            "bad_message", str(exc), allowed="the hash of a reference in hexadecimal digits"
        ) from exc
    return Change(
        message.revision,
        message.op_id,
        message.time_ms,
        versions,
        message.undone_after,
        message.term,
    )


class _Base64(msgspec.Struct, frozen=True):
    base64: bytes


class _Large(msgspec.Struct, frozen=True):
    size: int
    hash: str
    op_id: str


class _Changed(msgspec.Struct, frozen=True):
    type: Literal["put", "delete"]
    key: str | _Base64
    value: str | _Base64 | None = None
    reference: _Large | None = None
    expires_ms: int | None = None


class _Message(msgspec.Struct, frozen=True):
    schema: int
    revision: int
    op_id: str
    time_ms: int
    changes: tuple[_Changed, ...]
    undone_after: int | None = None
    term: Annotated[int, msgspec.Meta(ge=0)] = 0


def _bytes(text: str | _Base64) -> bytes:
    return text.encode() if isinstance(text, str) else text.base64


def _value(changed: _Changed) -> bytes | Reference | None:
    if changed.reference is not None:
        return Reference(
            changed.reference.op_id, bytes.fromhex(changed.reference.hash), changed.reference.size
        )
    return None if changed.type == "delete" or changed.value is None else _bytes(changed.value)


def _changed(version: Version) -> dict[str, Any]:
    match version.value:
        case None:
            return {"type": "delete", "key": _text(version.key)}
        case Reference() as reference:
            value: Any = {
                "reference": {
                    "size": reference.size,
                    "hash": reference.hash.hex(),
                    "op_id": reference.op_id,
                }
            }
        case inline:
            value = {"value": _text(inline)}
    expiry = {} if version.expires_ms is None else {"expires_ms": version.expires_ms}
    return {"type": "put", "key": _text(version.key), **value, **expiry}


def _text(raw: bytes) -> str | dict[str, str]:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(raw).decode()}
