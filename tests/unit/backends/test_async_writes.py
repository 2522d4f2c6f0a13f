"""A command is handed to the broker once its queue is sure to keep it, and no caller ends the
connection of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from unittest.mock import Mock

import aiormq
import pytest
from aiormq.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError
from pamqp import commands as spec

from backends.rabbitmq import async_writes
from backends.rabbitmq.async_writes import RabbitAsyncWrites
from kv.errors import BackendUnavailable, OutcomeUnknown

SETTLE_S = 0.2
NACK = DeliveryError(None, spec.Basic.Nack(1))
RETURN = PublishError(Mock(delivery=spec.Basic.Return()), spec.Basic.Return())


class Channel:
    """A channel to a broker that is a set of queues; closing it closes nothing else."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @property
    def is_closed(self) -> bool:
        return self.connection.closed

    async def queue_declare(self, queue: str, *, passive: bool = False, **_: object) -> None:
        queues = self.connection.broker.queues
        if passive and queue not in queues:
            raise ChannelNotFoundEntity
        queues.add(queue)

    async def basic_publish(self, *_: object, **__: object) -> spec.Basic.Ack:
        broker = self.connection.broker
        if broker.refusal is not None:
            raise broker.refusal
        await broker.confirms.wait()
        return spec.Basic.Ack(1)

    async def close(self) -> None:
        pass


class Connection:
    """An aiormq connection to that broker."""

    broker: Broker

    def __init__(self, url: object) -> None:
        self.closed = False

    async def connect(self) -> None:
        self.broker.connections.append(self)

    async def channel(self, **_: object) -> Channel:
        return Channel(self)

    async def close(self) -> None:
        self.closed = True


class Broker:
    """What is behind the connections: queues, and how a publish ends."""

    def __init__(self) -> None:
        self.queues: set[str] = set()
        self.connections: list[Connection] = []
        self.refusal: Exception | None = None
        self.confirms = asyncio.Event()
        self.confirms.set()


@pytest.fixture
async def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    monkeypatch.setattr(aiormq, "Connection", type("Made", (Connection,), {"broker": made}))
    monkeypatch.setattr(async_writes, "SETTLE_S", SETTLE_S)
    monkeypatch.setattr(async_writes, "CONFIRM_S", SETTLE_S)
    return made


@contextlib.asynccontextmanager
async def opened(*, settled: bool = True) -> AsyncIterator[RabbitAsyncWrites]:
    async with RabbitAsyncWrites("amqp://guest:guest@127.0.0.1:1/") as writes:
        if settled:
            await writes.accept("first", b"{}", timeout_s=60)
        yield writes


async def test_nothing_goes_into_a_queue_that_is_new(broker: Broker) -> None:
    """RabbitMQ 3.10 loses what a queue confirmed in its first second if it is killed then."""
    broker.refusal = AssertionError("too early")
    async with opened(settled=False) as writes:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(BackendUnavailable, match="the queue is new"):
            await writes.accept("hurried", b"{}", timeout_s=SETTLE_S / 2)
        assert loop.time() - began < SETTLE_S / 2, "it waits for nothing that comes too late"
        waiting = asyncio.create_task(writes.accept("patient", b"{}", timeout_s=60))
        await asyncio.sleep(SETTLE_S / 2)
        broker.refusal = None
        await waiting
        assert loop.time() - began >= SETTLE_S


async def test_the_queues_are_declared_before_anything_is_published(broker: Broker) -> None:
    async with opened(settled=False):
        async with asyncio.timeout(60):
            while len(broker.queues) < 2:
                await asyncio.sleep(0)


async def test_a_queue_that_was_there_before_is_used_at_once_after_a_reconnect(
    broker: Broker,
) -> None:
    async with opened() as writes:
        broker.connections[-1].closed = True
        await writes.accept("again", b"{}", timeout_s=SETTLE_S / 2)
        assert len(broker.connections) == 2


async def test_a_queue_that_was_deleted_is_declared_and_is_new_again(broker: Broker) -> None:
    async with opened() as writes:
        broker.queues.clear()
        broker.refusal = RETURN
        with pytest.raises(BackendUnavailable, match="gone"):
            await writes.accept("lost", b"{}", timeout_s=60)
        broker.refusal = None
        with pytest.raises(BackendUnavailable, match="the queue is new"):
            await writes.accept("hurried", b"{}", timeout_s=SETTLE_S / 2)
        await writes.accept("patient", b"{}", timeout_s=60)
        assert len(broker.queues) == 2


async def test_a_caller_in_a_hurry_does_not_end_the_connection_of_the_others(
    broker: Broker,
) -> None:
    async with opened() as writes:
        broker.confirms.clear()
        patient = asyncio.create_task(writes.accept("patient", b"{}", timeout_s=60))
        with pytest.raises(OutcomeUnknown):
            await writes.accept("hurried", b"{}", timeout_s=0.01)
        gone = asyncio.create_task(writes.accept("gone", b"{}", timeout_s=60))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert writes.trouble() is None
        broker.confirms.set()
        await patient
        assert len(broker.connections) == 1


async def test_a_broker_that_confirms_nothing_is_named_until_it_does(broker: Broker) -> None:
    async with opened() as writes:
        broker.confirms.clear()
        with pytest.raises(OutcomeUnknown):
            await writes.accept("slow", b"{}", timeout_s=SETTLE_S * 1.5)
        assert broker.connections[0].closed, "a broker that hangs is left for another one"
        assert "has the queue acordo" in str(writes.trouble())
        broker.confirms.set()
        await writes.accept("again", b"{}", timeout_s=60)
        assert writes.trouble() is None


async def test_a_refused_command_is_unknown_and_costs_no_connection(broker: Broker) -> None:
    """A nack is no promise that the message is not in the queue."""
    async with opened() as writes:
        broker.refusal = NACK
        with pytest.raises(OutcomeUnknown, match="refused"):
            await writes.accept("refused", b"{}", timeout_s=60)
        assert "has the queue acordo" in str(writes.trouble())
        broker.refusal = None
        await writes.accept("again", b"{}", timeout_s=60)
        assert (writes.trouble(), len(broker.connections)) == (None, 1)
