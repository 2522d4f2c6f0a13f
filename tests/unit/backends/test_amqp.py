"""What ends a connection under a call of aiormq is a failure of that call, never a message taken or
a node's end.
"""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import Mock

import aiormq
import pytest
from aiormq.abc import ChannelFrame
from aiormq.base import FutureStore
from aiormq.channel import Channel
from aiormq.exceptions import AMQPConnectionError
from pamqp import commands as spec

from backends.rabbitmq.amqp import Gone, failing_plainly
from backends.rabbitmq.broadcast import RabbitBroadcast
from kv.errors import BackendUnavailable
from kv.model import Version
from kv.ports import Change

ENDINGS = [asyncio.CancelledError(), Exception(), AMQPConnectionError("reset"), OSError(104, "x")]
REFUSALS = [*ENDINGS, StopAsyncIteration()]
CHANGES = [Change(n, f"op-{n}", 1, (Version(b"k", n, b"v"),)) for n in range(1, 6)]


class Ending(Channel):
    """aiormq's own channel without a connection: what is written is confirmed, but the third meets
    `ending`.
    """

    def __init__(self, ending: BaseException | None) -> None:
        self.ending, self.reached = ending, asyncio.Event()
        self.tags: list[int] = []
        self.payload = b""
        connector = Mock(write_queue=self, connection_tune=Mock(frame_max=131072), is_closed=False)
        connector._future_store_child = FutureStore(asyncio.get_running_loop()).get_child
        connector.loop = asyncio.get_running_loop()
        super().__init__(connector, 1)

    async def exchange_declare(self, *_: object, **__: object) -> Any:
        pass

    async def put(self, frame: ChannelFrame) -> None:
        """Stand for the connection's queue of writes."""
        self.payload += frame.payload
        for tag, confirm in list(self.confirmations.items()):
            self.tags.append(tag)
            if len(self.tags) % len(CHANGES) != 3:
                self._confirm_delivery(tag, spec.Basic.Ack(tag))
            elif self.ending is not None:
                assert isinstance(confirm, asyncio.Future)
                confirm.set_exception(self.ending)
        self.reached.set()


class Connection:
    """An aiormq connection with that channel; `refusal` is raised instead of connecting."""

    channel_made: Ending
    refusal: BaseException | None = None

    def __init__(self, url: object) -> None:
        pass

    async def connect(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def channel(self, **_: object) -> Ending:
        return self.channel_made

    async def close(self) -> None:
        raise asyncio.CancelledError  # closing twice does


def broadcast(
    monkeypatch: pytest.MonkeyPatch, channel: Ending, refusal: BaseException | None = None
) -> Any:
    made = type("Made", (Connection,), {"channel_made": channel, "refusal": refusal})
    monkeypatch.setattr(aiormq, "Connection", made)
    return RabbitBroadcast("amqp://guest:guest@127.0.0.1:1/")


@pytest.mark.parametrize("ending", ENDINGS, ids=repr)
async def test_a_message_is_not_published_by_the_end_of_its_connection(
    monkeypatch: pytest.MonkeyPatch, ending: BaseException
) -> None:
    """INV-6: a task group drops a child's CancelledError, so it may not count as a confirm."""
    async with broadcast(monkeypatch, Ending(ending)) as published:
        with pytest.raises(BackendUnavailable, match="not confirmed"):
            await published.publish(CHANGES, timeout_s=5)
        assert not published.healthy()


@pytest.mark.parametrize("refusal", REFUSALS, ids=repr)
async def test_no_end_of_a_connection_that_is_being_made_ends_the_node(
    monkeypatch: pytest.MonkeyPatch, refusal: BaseException
) -> None:
    async with broadcast(monkeypatch, Ending(None), refusal) as published:  # opens without a broker
        with pytest.raises(BackendUnavailable, match="no broker of 1"):
            await published.publish(CHANGES, timeout_s=5)


async def test_our_own_cancellation_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Ending(None)
    async with broadcast(monkeypatch, channel) as published:
        publishing = asyncio.create_task(published.publish(CHANGES, timeout_s=60))
        await channel.reached.wait()
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        # too slow: the time-out is the caller's, and known as one
        with pytest.raises(BackendUnavailable):
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


async def test_all_messages_go_out_in_order_and_large_ones_in_frames_that_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel = Ending(None)
    async with broadcast(monkeypatch, channel) as published:
        large = Change(6, "op-6", 1, (Version(b"k", 6, b"v" * 300_000),))
        with pytest.raises(BackendUnavailable):
            await published.publish([*CHANGES, large], timeout_s=0.05)
        assert channel.tags == list(range(1, 7))
        at = [channel.payload.index(b'"op_id":"op-%d"' % n) for n in range(1, 7)]
        assert at == sorted(at)
        frames, place, bodies = channel.payload, 0, 0
        while place < len(frames):
            kind, size = frames[place], int.from_bytes(frames[place + 3 : place + 7], "big")
            bodies += kind == 3
            assert size + 8 <= 131072
            place += size + 8
        assert place == len(frames) and bodies == 5 + 3
