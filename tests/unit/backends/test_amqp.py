"""What ends a connection under a call of aiormq is a failure of that call, never a message taken or a node's end."""

from __future__ import annotations

import asyncio
from typing import Any

import aiormq
import pytest
from aiormq.exceptions import AMQPConnectionError
from pamqp import commands as spec

from backends.amqp import Gone, failing_plainly
from backends.rabbitmq import RabbitBroadcast
from kv.errors import BackendUnavailable
from kv.model import Version
from kv.ports import Change

ENDINGS = [asyncio.CancelledError(), StopAsyncIteration(), Exception(), AMQPConnectionError("reset"), OSError(104, "x")]
CHANGES = [Change(n, f"op-{n}", 1, (Version(b"k", n, b"v"),)) for n in range(1, 6)]


class Channel:
    """A channel on which the third message meets the end of the connection, or is never confirmed (None)."""

    is_closed = False

    def __init__(self, ending: BaseException | None) -> None:
        self.ending, self.sent = ending, 0
        self.reached = asyncio.Event()

    async def exchange_declare(self, *_: object, **__: object) -> None:
        pass

    async def basic_publish(self, *_: object, **__: object) -> spec.Basic.Ack:
        self.sent += 1
        if self.sent == 3:
            self.reached.set()
            if self.ending is None:
                await asyncio.Event().wait()
            else:
                raise self.ending
        return spec.Basic.Ack()


class Connection:
    """An aiormq connection with that channel; `refusal` is raised instead of connecting."""

    channel_made: Channel
    refusal: BaseException | None = None

    def __init__(self, url: object) -> None:
        pass

    async def connect(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def channel(self, **_: object) -> Channel:
        return self.channel_made

    async def close(self) -> None:
        raise asyncio.CancelledError  # closing twice does


def broadcast(monkeypatch: pytest.MonkeyPatch, channel: Channel, refusal: BaseException | None = None) -> Any:
    made = type("Made", (Connection,), {"channel_made": channel, "refusal": refusal})
    monkeypatch.setattr(aiormq, "Connection", made)
    return RabbitBroadcast("amqp://guest:guest@127.0.0.1:1/")


@pytest.mark.parametrize("ending", ENDINGS, ids=repr)
async def test_a_message_is_not_published_by_the_end_of_its_connection(
    monkeypatch: pytest.MonkeyPatch, ending: BaseException
) -> None:
    """INV-6: a task group drops a child's CancelledError, so it may not count as a confirm."""
    async with broadcast(monkeypatch, Channel(ending)) as published:
        with pytest.raises(BackendUnavailable, match="not confirmed"):
            await published.publish(CHANGES, timeout_s=5)
        assert not published.healthy()


@pytest.mark.parametrize("refusal", ENDINGS, ids=repr)
async def test_no_end_of_a_connection_that_is_being_made_ends_the_node(
    monkeypatch: pytest.MonkeyPatch, refusal: BaseException
) -> None:
    async with broadcast(monkeypatch, Channel(None), refusal) as published:  # opens without a broker
        with pytest.raises(BackendUnavailable, match="no broker of 1"):
            await published.publish(CHANGES, timeout_s=5)


async def test_our_own_cancellation_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel(None)
    async with broadcast(monkeypatch, channel) as published:
        publishing = asyncio.create_task(published.publish(CHANGES, timeout_s=60))
        await channel.reached.wait()
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        channel.sent = 0
        with pytest.raises(BackendUnavailable):  # too slow: the time-out is the caller's, and known as one
            await published.publish(CHANGES, timeout_s=0.01)


async def test_a_time_out_around_a_call_stays_one() -> None:
    async def wait() -> None:
        async with asyncio.timeout(0.001):
            with failing_plainly():
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await wait()
    with pytest.raises(Gone), failing_plainly():
        raise asyncio.CancelledError
