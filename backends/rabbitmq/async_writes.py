"""Keep asynchronous writes in RabbitMQ until a worker has submitted them, with durable quorum
queues, confirms and manual acks.

It never loses a command that it confirmed, and never decides what becomes of one: the worker does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self

import msgspec
import structlog
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import (
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    DeliveryError,
    PublishError,
)
from pamqp import commands as spec
from prometheus_client import Counter

from backends.rabbitmq.amqp import FAILURES, BrokerLink, failing_plainly
from kv.errors import BackendUnavailable, BadRequest, OutcomeUnknown
from kv.names import channels

SCHEMA: Final = 1
COMMAND_TYPE: Final = "acordo.command"
LENGTH_MAX: Final = 1_000_000
"""The number of commands that may wait; beyond it the broker refuses more."""
DELIVERIES_MAX: Final = 50
"""How many deliveries of one command may end with the loss of its worker before the broker itself
moves the command to the dead letters.
"""
BODY_BYTES_MAX: Final = 16 << 20
BACK_OFF_S: Final = (0.2, 5.0)
SETTLE_S: Final = 4.0
"""The age that the queue must have before a command is put into it.

RabbitMQ 3.10 answers the declaration of a quorum queue before the queue's name is on disk: one
second before, or three when others declare queues too (rabbitmq/ra#443). A broker that is killed in
between restarts with an empty queue of that name that never elects a leader: what it had confirmed
is lost, and it confirms nothing from then on.
"""
CONFIRM_S: Final = 1.0
"""A connection on which a command was not confirmed for this long is closed, for all who use it."""
UNCONFIRMED_S: Final = 60.0
"""How long a command that the broker did not confirm counts as trouble."""

_ACCEPTED: Final = Counter(
    "acordo_async_writes", "Asynchronous writes by what came of handing them over", ["result"]
)
_log = structlog.get_logger("acordo.async_writes")


class Command(msgspec.Struct, frozen=True):
    """One message of the queue of asynchronous writes (docs/asyncapi.yaml)."""

    schema: int
    op_id: str
    transaction: msgspec.Raw
    """The JSON of POST /v1/txn."""


class Queues(NamedTuple):
    """The names of the two queues of one cluster."""

    commands: str
    dead: str

    @classmethod
    def of(cls, cluster: str) -> Queues:
        """Return the queues of a cluster_id."""
        names = channels(cluster)
        return cls(names["async"], names["dead"])


class RabbitAsyncWrites:
    """A node's end of the queue of commands. What it has accepted, the broker keeps."""

    def __init__(self, url: str, *, cluster: str = "", rng: random.Random | None = None) -> None:
        """`cluster` is the id in the queues' names."""
        self._queues = Queues.of(cluster)
        self._link = BrokerLink(url, "acordo async writes", self._declare, rng=rng)
        self._keeper: asyncio.Task[None] | None = None
        self._settled_at: float | None = None
        self._unconfirmed_at: float | None = None

    async def __aenter__(self) -> Self:
        """Start declaring the queues in the background, so that they exist when a command comes."""
        self._keeper = asyncio.create_task(self._link.keep(), name="async-writes-keeper")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self._link.drop()

    def trouble(self) -> str | None:
        """Return why commands cannot be accepted; None when no reason is known."""
        now = asyncio.get_running_loop().time()
        if self._unconfirmed_at is not None and now - self._unconfirmed_at < UNCONFIRMED_S:
            return f"the broker confirms nothing: has the queue {self._queues.commands} a leader?"
        return None if self._link.up else "the broker does not answer"

    async def accept(self, op_id: str, transaction: bytes, *, timeout_s: float) -> None:
        """Return once the broker has confirmed the command.

        Raises BackendUnavailable (the broker does not have it) or OutcomeUnknown.
        """
        body = command(op_id, transaction)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            channel = await self._settled_channel(deadline)
        except BackendUnavailable:
            _ACCEPTED.labels("unavailable").inc()
            raise
        sent = loop.time()
        try:
            async with asyncio.timeout(max(deadline - sent, 0.001)):
                confirmed = await publish(channel, self._queues.commands, body, op_id, {})
        except PublishError as exc:  # somebody deleted the queue; a new connection declares it
            await self._link.drop()
            _ACCEPTED.labels("unavailable").inc()
            raise BackendUnavailable("rabbitmq", "its queue is gone, and declared anew") from exc
        except (*FAILURES, ChannelInvalidStateError) as exc:
            await self._unconfirmed(exc, waited_s=loop.time() - sent)
            _ACCEPTED.labels("unknown").inc()
            raise OutcomeUnknown(f"the broker has not confirmed it: {exc!r}", op_id=op_id) from exc
        if not confirmed:  # the queue is full, or has no leader; RabbitMQ does not say which
            self._note_unconfirmed()
            _ACCEPTED.labels("refused").inc()
            raise OutcomeUnknown("the broker refused it: is its queue full?", op_id=op_id)
        self._unconfirmed_at = None
        _ACCEPTED.labels("accepted").inc()

    async def _settled_channel(self, deadline: float) -> AbstractChannel:
        """Return a channel once the queue is old enough to keep what it confirms.

        Raises BackendUnavailable, at once when the queue will not be old enough in time.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                channel = await self._link.channel(timeout_s=max(deadline - loop.time(), 0.001))
            except BadRequest as exc:  # for an operator to repair; to the client the broker is away
                raise BackendUnavailable("rabbitmq", exc.detail) from exc
            assert self._settled_at is not None
            left_s = self._settled_at - loop.time()
            if left_s <= 0:
                return channel
            if self._settled_at >= deadline:
                raise BackendUnavailable(
                    "rabbitmq", f"the queue is new, and used in {left_s:.1f} s"
                )
            await asyncio.sleep(left_s)

    async def _declare(self, channel: AbstractChannel) -> None:
        """Declare the queues, and note when they are old enough.

        A queue that exists may have been made by another node a moment ago. So the first one that
        this node sees counts as new, too.
        """
        if self._settled_at is None or not await _exists(channel, self._queues.commands):
            self._settled_at = None
            await declare(channel, self._queues)
            self._settled_at = asyncio.get_running_loop().time() + SETTLE_S
        else:
            await declare(channel, self._queues)

    async def _unconfirmed(self, exc: Exception, *, waited_s: float) -> None:
        """Drop the connection, unless only this caller was in a hurry: the commands of others are
        in flight on it.
        """
        slow = isinstance(exc, TimeoutError) and self._link.up
        if slow and waited_s < CONFIRM_S:
            return
        if slow:
            self._note_unconfirmed()
        await self._link.drop()

    def _note_unconfirmed(self) -> None:
        if self._unconfirmed_at is None:
            _log.warning("the broker confirms no commands", queue=self._queues.commands)
        self._unconfirmed_at = asyncio.get_running_loop().time()


class Delivery:
    """One command that a worker holds, until it is acknowledged or buried."""

    def __init__(self, channel: AbstractChannel, message: DeliveredMessage, dead: str) -> None:
        self._channel, self._message, self._dead = channel, message, dead

    @property
    def body(self) -> bytes:
        """The message as it was put into the queue."""
        return self._message.body

    async def ack(self) -> None:
        """Acknowledge that the command is done. If the broker is lost it delivers the command
        again, which its op_id makes harmless.
        """
        assert self._message.delivery_tag is not None
        with failing_plainly():
            await self._channel.basic_ack(self._message.delivery_tag)

    async def bury(self, reason: str) -> None:
        """Move the message to the dead letters. It is confirmed there before it is acknowledged
        here.
        """
        name = self._message.header.properties.message_id or ""
        if not await publish(
            self._channel, self._dead, self.body, name, {"x-acordo-reason": reason[:500]}
        ):
            raise BackendUnavailable("rabbitmq", "the broker takes no more dead letters")
        await self.ack()


class Commands:
    """A worker's end of the queue of commands. The worker holds at most `prefetch` of them at once.

    It reconnects for as long as it runs.
    """

    def __init__(
        self, url: str, queues: Queues, *, prefetch: int, rng: random.Random | None = None
    ) -> None:
        self._url, self._queues = url, queues
        self._prefetch = prefetch
        self._rng = rng or random.Random()
        self.connected = False

    async def run(self, take: Callable[[Delivery], Any]) -> None:
        """Call `take` (a coroutine function) for each delivery, up to `prefetch` at a time,
        forever.

        When the broker goes away, the running calls are cancelled: the broker delivers their
        commands again.
        """
        pause_s = BACK_OFF_S[0]
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._while_connected(take)
                reason = "connection closed"
            except* (
                *FAILURES,
                ChannelInvalidStateError,
                BackendUnavailable,
                BadRequest,
            ) as failures:
                reason = repr(first_of(failures))
            self.connected = False
            if asyncio.get_running_loop().time() - began > 10:
                pause_s = BACK_OFF_S[0]
            _log.warning(
                "no broker: commands wait there", reason=reason[:300], again_in_s=round(pause_s, 2)
            )
            await asyncio.sleep(pause_s * (0.5 + self._rng.random() / 2))
            pause_s = min(pause_s * 2, BACK_OFF_S[1])

    async def _while_connected(self, take: Callable[[Delivery], Any]) -> None:
        arrived: asyncio.Queue[DeliveredMessage] = asyncio.Queue()  # bounded by the prefetch

        async def setup(channel: AbstractChannel) -> None:
            await declare(channel, self._queues)
            await channel.basic_qos(prefetch_count=self._prefetch)

            async def put(message: DeliveredMessage) -> None:
                arrived.put_nowait(message)

            await channel.basic_consume(self._queues.commands, put)

        async with BrokerLink(self._url, "acordo worker", setup, rng=self._rng) as link:
            channel = await link.channel(timeout_s=10)
            self.connected = True
            gone = asyncio.ensure_future(channel.closing)
            async with asyncio.TaskGroup() as group:
                while not gone.done():
                    getting = asyncio.ensure_future(arrived.get())
                    await asyncio.wait({getting, gone}, return_when=asyncio.FIRST_COMPLETED)
                    if not getting.done():
                        getting.cancel()
                        break
                    group.create_task(take(Delivery(channel, getting.result(), self._queues.dead)))
                # ends the task group, which cancels the running calls
                raise BackendUnavailable("rabbitmq", "the broker went away")


async def declare(channel: AbstractChannel, queues: Queues) -> None:
    """Declare both queues. Commands that the broker itself gives up (DELIVERIES_MAX) go to the dead
    letters as well.
    """
    await channel.queue_declare(queues.dead, durable=True, arguments=dead_arguments())
    await channel.queue_declare(queues.commands, durable=True, arguments=queue_arguments(queues))


async def _exists(channel: AbstractChannel, queue: str) -> bool:
    # a channel of its own, because the broker closes it when the queue is missing
    probe = await channel.connection.channel()
    try:
        await probe.queue_declare(queue, passive=True)
    except ChannelNotFoundEntity:
        return False
    await probe.close()
    return True


def queue_arguments(queues: Queues) -> dict[str, Any]:
    """Return the arguments of the queue of commands, with which it drops nothing silently."""
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERIES_MAX,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queues.dead,
        "x-dead-letter-strategy": "at-least-once",
        "x-max-length": LENGTH_MAX,
        "x-overflow": "reject-publish",
    }


def dead_arguments() -> dict[str, Any]:
    """Return the arguments of the queue of dead letters.

    Looking at a message returns it to the queue, which counts as a delivery: the limit must never
    be reached.
    """
    return {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}


def command(op_id: str, transaction: bytes) -> bytes:
    """Return the body of a command."""
    return msgspec.json.encode(Command(SCHEMA, op_id, msgspec.Raw(transaction)))


def parse(body: bytes) -> Command:
    """Return the command in a message body. Raises BadRequest("bad_message") for a poison
    message.
    """
    if len(body) > BODY_BYTES_MAX:
        raise BadRequest("bad_message", f"{len(body)} bytes", allowed=f"up to {BODY_BYTES_MAX}")
    try:
        found = msgspec.json.decode(body, type=Command)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BadRequest("bad_message", str(exc), allowed=f"a command of schema {SCHEMA}") from exc
    except UnicodeDecodeError as exc:
        raise BadRequest(
            "bad_message", "not UTF-8", allowed=f"a command of schema {SCHEMA}"
        ) from exc
    if found.schema != SCHEMA:
        raise BadRequest(
            "unknown_schema", f"schema {found.schema}", allowed=f"a command of schema {SCHEMA}"
        )
    return found


async def publish(
    channel: AbstractChannel, queue: str, body: bytes, name: str, headers: dict[str, Any]
) -> bool:
    """Send a persistent message that must reach its queue. Return whether the broker confirmed it.

    A message that the broker refuses may be in the queue all the same. Raises PublishError when
    there is no such queue.
    """
    properties = spec.Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        message_id=name or "-",
        message_type=COMMAND_TYPE,
        app_id="acordo",
        headers={"schema": SCHEMA, **headers},
    )
    try:
        with failing_plainly():
            await channel.basic_publish(
                body, routing_key=queue, properties=properties, mandatory=True
            )
    except PublishError:
        raise
    except DeliveryError:  # the broker sent a nack
        return False
    return True


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first failure of a group that is not a group itself."""
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
