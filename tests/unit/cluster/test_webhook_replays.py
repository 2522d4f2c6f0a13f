"""A replay that can never be delivered, or kept, holds up none of those behind it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from acordo import BadRequest
from cluster.workers import served
from cluster.workers.rules import DeadLetter, Subscription
from cluster.workers.sender import DeliveryLimits, WebhookDelivery
from cluster.workers.served import ServedSubscription

NO_SESSION: Any = None


@dataclass(frozen=True)
class Listed:
    key: bytes
    value: bytes
    revision: int


class FakeClient:
    """As much of a client as replays need: a key is bounded as everywhere."""

    def __init__(self, replays: dict[str, DeadLetter]) -> None:
        self.keys = {
            f"acordo/webhooks/replays/{name}": msgspec.json.encode(each)
            for name, each in replays.items()
        }
        self.dead: list[str] = []

    async def list(self, prefix: str, *, limit: int) -> AsyncIterator[Listed]:
        for key, value in sorted(self.keys.items())[:limit]:
            yield Listed(key.encode(), value, 1)

    async def put(self, key: str, value: bytes) -> None:
        if len(key) > 1024:
            raise BadRequest("the key is too long", code="key_too_long")
        self.dead.append(key)

    async def delete(self, key: bytes, *, if_revision: int) -> None:
        del self.keys[key.decode()]


def serve(client: Any, limits: DeliveryLimits) -> ServedSubscription:
    return ServedSubscription(
        client,
        NO_SESSION,
        worker="w",
        name="s",
        subscription=Subscription("http://h", "0" * 16),
        revision=1,
        limits=limits,
        rng=random.Random(1),
    )


@pytest.mark.parametrize("name", ["x" * 2000, "s/1-0\r\nX: y", "s/1", "", "s/1-0/2", "../s/1-0"])
async def test_a_name_that_is_none_blocks_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    bad, good = DeadLetter("s", name, 1, "e30=", "", 1), DeadLetter("s", "s/2-0", 2, "e30=", "", 1)
    client = FakeClient({"s/a": bad, "s/b": good})
    sent: list[str] = []
    monkeypatch.setattr(served, "REPLAYS_EVERY_S", 0.001)
    serving = serve(client, DeliveryLimits(attempts_max=1))

    async def attempt(delivery: WebhookDelivery, number: int) -> str:
        sent.append(delivery.name)
        return "" if delivery.name == "s/2-0" else "refused"

    monkeypatch.setattr(serving.sender, "attempt", attempt)
    monkeypatch.setattr(serving.lease, "check", lambda need_s: None)
    replaying = asyncio.create_task(serving.replay())
    while client.keys:
        assert not replaying.done(), replaying
        await asyncio.sleep(0.001)
    replaying.cancel()
    assert sent == ["s/2-0"]


async def test_a_dead_letter_that_is_never_taken_is_given_up() -> None:
    client = FakeClient({})
    serving = serve(client, DeliveryLimits())
    await serving.sender.keep_dead(WebhookDelivery("s/" + "9" * 2000, 1, b"", b""), "why", 1)
    assert client.dead == []
