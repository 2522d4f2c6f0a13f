"""What the broker's messages become in a history; the broker itself is played by the test."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chaos.records import subscriber
from chaos.records.recorder import Recorder
from chaos.records.saved import load_history
from chaos.records.subscriber import Subscriber, SubscriberFailed
from chaos.runs.plan import without_password


class FakeChannel:
    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.bound: list[tuple[str, ...]] = []
        self.take: Any = None
        self.closing = asyncio.get_running_loop().create_future()

    async def basic_qos(self, **_: object) -> None: ...

    async def exchange_declare(self, name: str, **more: object) -> None:
        assert (name, more) == ("acordo.c1.changes", {"exchange_type": "topic", "durable": True})

    async def queue_declare(self, name: str, *, durable: bool, arguments: object) -> None:
        assert durable, "a broker that is killed must keep it"

    async def queue_bind(self, *where: str) -> None:
        self.bound.append(where)

    async def basic_consume(self, queue: str, take: Any, *, no_ack: bool) -> None:
        assert not no_ack
        self.take = take

    async def basic_ack(self, tag: int) -> None:
        self.acknowledged.append(tag)

    async def queue_delete(self, name: str) -> None:
        self.bound.clear()


class FakeBroker:
    def __init__(self) -> None:
        self.channels: list[FakeChannel] = []

    async def connect(self, url: str) -> FakeBroker:
        assert url.endswith("heartbeat=5")
        return self

    async def channel(self, **_: object) -> FakeChannel:
        self.channels.append(FakeChannel())
        return self.channels[-1]

    async def close(self) -> None: ...


def message(revision: int, tag: int, *changes: dict[str, object]) -> SimpleNamespace:
    body = {"schema": 1, "revision": revision, "op_id": "o", "time_ms": 1, "changes": changes}
    return SimpleNamespace(body=json.dumps(body).encode(), delivery_tag=tag)


class FakeClient:
    async def put(self, key: str, value: str) -> SimpleNamespace:
        return SimpleNamespace(revision=9)


async def test_it_records_what_it_is_told_and_subscribes_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = FakeBroker()
    monkeypatch.setattr("aiormq.connect", broker.connect)
    monkeypatch.setattr(subscriber, "RETRY_S", 0.01)
    client: Any = FakeClient()
    with Recorder(tmp_path / "h.jsonl", clock=count(1).__next__) as recorder:
        async with Subscriber("amqp://h", "acordo.c1.changes", "q", recorder) as told:
            first = broker.channels[0]
            assert first.bound == [("q", "acordo.c1.changes", "change.#")]
            put: dict[str, object] = {"type": "put", "key": "a", "value": "v"}
            gone: dict[str, object] = {"type": "delete", "key": {"base64": "/w=="}}
            await first.take(message(3, 7, put, gone))
            assert first.acknowledged == [7], "only once it is recorded"
            first.closing.set_result(None)
            async with asyncio.timeout(10):
                while len(broker.channels) < 2 or broker.channels[1].take is None:
                    await asyncio.sleep(0.01)
            end = asyncio.create_task(told.reach_end(client, "k"))
            await broker.channels[1].take(message(9, 1, put))
            assert await end
            monkeypatch.setattr(subscriber, "CATCH_UP_S", 0.01)
            told._newest = 3
            assert not await told.reach_end(client, "k")
    kept = load_history(tmp_path / "h.jsonl").watched
    assert [(w.kind, w.revision, w.key, w.value, w.deleted) for w in kept if w.kind == "event"] == [
        ("event", 3, "a", "v", False),
        ("event", 3, "\\xff", None, True),
        ("event", 9, "a", "v", False),
    ]
    assert {w.channel for w in kept} == {"broker"}


async def test_without_a_broker_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriber, "OPEN_WITHIN_S", 0.05)
    with (
        Recorder(tmp_path / "h.jsonl") as recorder,
        pytest.raises(SubscriberFailed, match="no subscription"),
    ):
        async with Subscriber("amqp://127.0.0.1:9/", "acordo.changes", "q", recorder):
            pass


def test_passwords_are_not_shown() -> None:
    assert without_password("amqp://guest:secret@h:5672/v") == "amqp://guest:…@h:5672/v"
    assert without_password("amqp://h/") == "amqp://h/"
