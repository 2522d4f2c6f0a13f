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
from cluster.workers import webhooks
from cluster.workers.rules import DeadLetter, Subscription
from cluster.workers.webhooks import Limits

SERVED: Any = webhooks._Served


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


@pytest.mark.parametrize("name", ["x" * 2000, "s/1-0\r\nX: y", "s/1", "", "s/1-0/2", "../s/1-0"])
async def test_a_name_that_is_none_blocks_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    bad, good = DeadLetter("s", name, 1, "e30=", "", 1), DeadLetter("s", "s/2-0", 2, "e30=", "", 1)
    client = FakeClient({"s/a": bad, "s/b": good})
    sent: list[str] = []
    monkeypatch.setattr(webhooks, "SCAN_EVERY_S", 0.001)
    serving: Any = SERVED(
        client,
        None,
        "w",
        "s",
        Subscription("http://h", "0" * 16),
        1,
        Limits(attempts_max=1),
        random.Random(1),
    )

    async def attempt(delivery: Any, number: int) -> str:
        sent.append(delivery.name)
        return "" if delivery.name == "s/2-0" else "refused"

    serving._attempt = attempt
    serving._check_lease = lambda need_s: None
    replaying = asyncio.create_task(serving._replays())
    while client.keys:
        assert not replaying.done(), replaying
        await asyncio.sleep(0.001)
    replaying.cancel()
    assert sent == ["s/2-0"]


async def test_a_dead_letter_that_is_never_taken_is_given_up() -> None:
    client = FakeClient({})
    serving: Any = SERVED(
        client, None, "w", "s", Subscription("http://h", "0" * 16), 1, Limits(), random.Random(1)
    )
    await serving._put_dead(webhooks._Delivery("s/" + "9" * 2000, 1, b"", b""), "why", 1)
    assert client.dead == []
