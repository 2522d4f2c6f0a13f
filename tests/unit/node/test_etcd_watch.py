"""Several watches on one stream of etcd's gateway: orders, ends, bounds, clients that vanish."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from kv.ports import Retention
from node.etcd import watch as etcd_watch
from tests.unit.node.conftest import Api, Open


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def create(key: bytes, **more: Any) -> bytes:
    return msgspec.json.encode({"create_request": {"key": b64(key), **more}})


class Told:
    """The messages of a stream, one after another."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> Any:
        """Return the next message: a line end alone is none."""
        async with asyncio.timeout(10):
            while not (line := await self.response.content.readline()).strip():
                assert line, "the stream ended"
            return msgspec.json.decode(line)

    async def events(self, count: int) -> list[tuple[str, str, str]]:
        """Return (type, key, revision) of the next events."""
        found: list[tuple[str, str, str]] = []
        while len(found) < count:
            for event in (await self.next())["result"].get("events", ()):
                key = base64.b64decode(event["kv"]["key"]).decode()
                found.append((event.get("type", "PUT"), key, event["kv"]["mod_revision"]))
        return found


@contextlib.asynccontextmanager
async def watching(api: Api, *messages: bytes) -> AsyncIterator[Told]:
    async with api.session.post(f"{api.url}/v3/watch", data=b"".join(messages)) as response:
        assert response.status == 200
        yield Told(response)


async def put(api: Api, key: bytes) -> None:
    reply = await api.ask("POST", "/v3/kv/put", json={"key": b64(key)})
    assert reply.status == 200, reply.body


async def gone(api: Api) -> None:
    """Wait until no watch is open."""
    async with asyncio.timeout(10):
        while len(api.server.services.watches):
            await asyncio.sleep(0.01)


async def test_watches_of_one_stream_tell_each_its_own_range(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        end = b64(b"c")
        async with watching(api, create(b"a"), create(b"b", range_end=end)) as told:
            ids = [(await told.next())["result"].get("watch_id", "0") for _ in range(2)]
            assert ids == ["0", "1"]
            for key in (b"b1", b"a", b"c", b"b2"):
                await put(api, key)
            assert {key for _, key, _ in await told.events(3)} == {"b1", "a", "b2"}


async def test_messages_may_come_one_by_one_and_in_pieces(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        more = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            whole = create(b"a")
            yield whole[:7]
            await asyncio.sleep(0)
            yield whole[7:]
            await more.wait()
            yield b'{"cancel_request":{"watch_id":0}}' + create(b"b")

        async with api.session.post(f"{api.url}/v3/watch", data=body()) as response:
            told = Told(response)
            assert (await told.next())["result"]["created"]
            await put(api, b"a")
            assert await told.events(1) == [("PUT", "a", "1")]
            more.set()
            assert (await told.next())["result"]["canceled"]
            assert (await told.next())["result"]["watch_id"] == "1"
            await put(api, b"a")
            await put(api, b"b")
            assert await told.events(1) == [("PUT", "b", "3")]


async def test_a_client_that_vanishes_frees_its_places_at_once(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        async with watching(api, *(create(b"%d" % n) for n in range(50))) as told:
            for _ in range(50):
                await told.next()
            assert len(api.server.services.watches) == 50
            told.response.close()
        await gone(api)


async def test_more_watches_than_there_are_places_are_cancelled_by_name(open_api: Open) -> None:
    async with open_api(etcd=True, watchers_max=3) as api:
        async with watching(api, *(create(b"%d" % n) for n in range(2000))) as told:
            reasons: list[str] = []
            while len(reasons) < 1997:
                message = (await told.next())["result"]
                if message.get("canceled"):
                    reasons.append(message["cancel_reason"])
            assert all("overloaded" in reason for reason in reasons)
            assert len(api.server.services.watches) == 3
        await gone(api)


async def test_a_position_that_is_no_longer_kept_is_told_with_the_floor(open_api: Open) -> None:
    async with open_api(etcd=True, watch_ring_bytes=1) as api:
        for _ in range(5):
            await put(api, b"a")
        api.database.prune(Retention(revision_below=4, operations_before_ms=0))
        async with watching(api, create(b"a", start_revision=1)) as told:
            assert (await told.next())["result"]["created"]
            ended = (await told.next())["result"]
            assert (ended["canceled"], ended["compact_revision"]) == (True, "4")


async def test_a_node_that_stops_says_so_and_where(open_api: Open) -> None:
    async with open_api(etcd=True) as api, watching(api, create(b"a")) as told:
        await told.next()
        api.server.services.watches.close()
        error = (await told.next())["error"]
        assert (error["grpc_code"], error["http_code"]) == (14, 503)


async def test_a_silent_stream_sends_a_line_end_now_and_then(open_api: Open) -> None:
    async with (
        open_api(etcd=True, watch_heartbeat_s=0.01) as api,
        watching(api, create(b"a")) as told,
        asyncio.timeout(10),
    ):
        await told.next()
        assert await told.response.content.readline() == b"\n"


async def test_a_broken_message_ends_the_stream_with_the_reason(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        async with watching(api, create(b"a"), b"nope") as told:
            await told.next()
            assert (await told.next())["error"]["grpc_code"] == 3
        await gone(api)


async def test_a_revision_that_takes_too_much_ends_its_watch_alone(
    open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_watch, "REVISION_BYTES_MAX", 100)
    async with open_api(etcd=True) as api, watching(api, create(b"big"), create(b"k")) as told:
        assert [(await told.next())["result"].get("created") for _ in range(2)] == [True, True]
        large = {"key": b64(b"big"), "value": b64(b"v" * 200)}
        assert (await api.ask("POST", "/v3/kv/put", json=large)).status == 200
        ended = (await told.next())["result"]
        assert ended["canceled"] and "takes more than 100 bytes" in ended["cancel_reason"]
        await put(api, b"k")
        assert [key for _, key, _ in await told.events(1)] == ["k"]


async def test_a_compaction_takes_the_past_from_reads_and_watches(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        api.consensus.compacts = True
        for _ in range(4):
            await put(api, b"a")
        ask = {"key": b64(b"a")}
        for revision, answer in ((9, 11), (3, None), (3, 11), (2, 11)):
            reply = await api.ask("POST", "/v3/kv/compaction", json={"revision": str(revision)})
            assert reply.json().get("code") == answer
        for revision, code in ((2, 11), (3, None)):
            reply = await api.ask("POST", "/v3/kv/range", json={**ask, "revision": str(revision)})
            assert reply.json().get("code") == code
        creates = create(b"a", start_revision=2), create(b"a", start_revision=3)
        async with watching(api, *creates) as told:
            first = [(await told.next())["result"] for _ in range(2)]
            assert first[1]["compact_revision"] == "3"
            assert first[1]["canceled"]
            await told.next()
            assert [revision for *_, revision in await told.events(2)] == ["3", "4"]
