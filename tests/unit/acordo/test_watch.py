"""Watching across cut streams: in order, none twice, none left out, whatever the network does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from acordo import BadRequest, Client, OutOfOrder, Pruned, ReadFailed, Undone
from acordo import _results as results
from acordo._watch import Watch
from acordo._wire.sse import Parser, ServerEvent
from tests.unit.acordo.scripted import Play, Scripted, http, problem

pytestmark = pytest.mark.usefixtures("both_forms")

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Acordo-Node: n1\r\nAcordo-Revision: 3\r\n\r\n"
)
EMPTY_PAGE = Play(http(200, b'{"items": [], "revision": 3}', kind="application/json"))


def event(
    kind: str, revision: int, key: str = "k", value: str = "v", *, last: bool = True
) -> bytes:
    data = {"key": key, "revision": revision, "op_id": f"op{revision}"}
    if kind == "put":
        data["value"] = value
    told = b"event: %s\ndata: %s\n" % (kind.encode(), msgspec.json.encode(data))
    return told + (b"id: %d\n\n" % revision if last else b"\n")


def cut(*parts: bytes) -> Play:
    return Play(HEAD + b"".join(parts), then="close")


async def take(events: AsyncIterator[results.Event], count: int) -> list[results.Event]:
    taken = []
    async for each in events:
        taken.append(each)
        if len(taken) == count:
            break
    return taken


def told(events: list[results.Event]) -> list[tuple[str, int]]:
    return [(e.key.decode(), e.revision) for e in events if isinstance(e, results.Change)]


async def test_resumes_after_the_last_whole_revision() -> None:
    script = [
        cut(event("put", 4), event("put", 5, "a", last=False)),  # revision 5 is cut in the middle
        Play(then="reset"),
        Play(problem(503, code="draining", outcome="not_applied")),
        cut(event("put", 5, "a", last=False), event("delete", 5, "b"), event("put", 6)[:20]),
        cut(event("put", 6), event("put", 9)),
    ]
    async with Scripted(script) as server, Client(server.url) as client:
        events = await take(client.watch("", after=3), 5)
        assert told(events) == [("k", 4), ("a", 5), ("b", 5), ("k", 6), ("k", 9)]
        assert [e.last for e in events if isinstance(e, results.Change)] == [
            True,
            False,
            True,
            True,
            True,
        ]
        asked = [r.lower().split(b"last-event-id: ")[1].split(b"\r\n")[0] for r in server.requests]
        assert asked == [b"3", b"4", b"4", b"4", b"5"]


async def test_goes_on_at_another_node() -> None:
    async with (
        Scripted([cut(event("put", 4))], Play(then="hang")) as one,
        Scripted([cut(event("put", 5))], Play(then="hang")) as other,
        Client([one.url, other.url]) as client,
    ):
        assert told(await take(client.watch("", after=3), 2)) == [("k", 4), ("k", 5)]


async def test_without_a_position_begins_after_all_that_was_acknowledged() -> None:
    async with Scripted([EMPTY_PAGE, cut(event("put", 4))]) as server, Client(server.url) as client:
        assert told(await take(client.watch("p"), 1)) == [("k", 4)]
        assert b"GET /v1/kv?prefix=p&limit=1" in server.requests[0]
        assert b"Last-Event-ID: 3" in server.requests[1]


async def test_bookmarks_move_the_position() -> None:
    bookmark = b'id: 8\nevent: progress\ndata: {"revision":8}\n\n'
    async with Scripted([cut(bookmark), cut(b": heartbeat\n\n", event("put", 9))]) as server:
        async with Client(server.url) as client:
            events = await take(client.watch("", after=3, bookmarks=True), 2)
        assert isinstance(events[0], results.Bookmark)
        assert events[0].revision == 8
        assert b"Last-Event-ID: 8" in server.requests[1]


async def test_what_an_adoption_undid_is_told_by_name() -> None:
    refused = problem(410, code="undone", floor=40, undone_after=7)
    async with Scripted(otherwise=Play(refused)) as server, Client(server.url) as client:
        with pytest.raises(Undone) as caught:
            await take(client.watch("", after=30), 1)
        assert (caught.value.after, caught.value.floor, caught.value.code) == (7, 40, "undone")
        assert len(server.requests) == 1
    error = (
        b'event: error\ndata: {"status": 410, "code": "undone", "floor": 40, "undone_after": 7}\n\n'
    )
    async with Scripted([cut(event("put", 4), error)]) as server, Client(server.url) as client:
        with pytest.raises(Undone) as caught:
            await take(client.watch("", after=3), 2)
        assert (caught.value.after, caught.value.floor) == (7, 40)


async def test_pruned_position_is_told_and_not_retried() -> None:
    async with Scripted(otherwise=Play(problem(410, code="pruned", floor=40))) as server:
        async with Client(server.url) as client:
            with pytest.raises(Pruned) as caught:
                await take(client.watch("", after=3), 1)
        assert caught.value.floor == 40
        assert len(server.requests) == 1
    error = b'event: error\ndata: {"status": 410, "code": "pruned", "floor": 40}\n\n'
    async with Scripted([cut(event("put", 4), error)]) as server, Client(server.url) as client:
        with pytest.raises(Pruned):
            await take(client.watch("", after=3), 2)


async def test_a_slow_reader_that_was_cut_resumes() -> None:
    error = b'event: error\ndata: {"code": "slow_reader", "status": 503}\n\n'
    async with (
        Scripted([cut(event("put", 4), error), cut(event("put", 5))]) as server,
        Client(server.url) as client,
    ):
        assert told(await take(client.watch("", after=3), 2)) == [("k", 4), ("k", 5)]


async def test_a_node_that_repeats_is_reported() -> None:
    async with (
        Scripted([cut(event("put", 4), event("put", 4))]) as server,
        Client(server.url) as client,
    ):
        with pytest.raises(OutOfOrder):
            await take(client.watch("", after=3), 2)


async def test_bad_request_is_final() -> None:
    async with (
        Scripted(otherwise=Play(problem(400, code="bad_prefix"))) as server,
        Client(server.url) as client,
    ):
        with pytest.raises(BadRequest):
            await take(client.watch("", after=3), 1)


async def test_gives_up_with_the_position_when_no_node_answers_for_long() -> None:
    async with (
        Scripted([cut(event("put", 4))], Play(then="close")) as server,
        Client(server.url) as client,
    ):
        watch = Watch(client._caller, b"", after=3, bookmarks=False, give_up_s=0.05)
        with pytest.raises(ReadFailed):
            await take(watch.events(), 2)
        assert watch.position == 4


async def test_a_silent_stream_is_left() -> None:
    silent = Play(HEAD + event("put", 4), then="hang")
    async with Scripted([silent, cut(event("put", 5))]) as server, Client(server.url) as client:
        watch = Watch(client._caller, b"", after=3, bookmarks=False, idle_s=0.1)
        assert told(await take(watch.events(), 2)) == [("k", 4), ("k", 5)]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_parser_is_blind_to_how_bytes_arrive(size: int) -> None:
    stream = (
        b": hi\n\nretry: 5\n\nevent: put\r\ndata: a\r\ndata:b\r\nid: 7\r\n\r\n"
        b"data: c\n\nid: 9\n\ndata: cut"
    )
    parser = Parser()
    events = [e for at in range(0, len(stream), size) for e in parser.feed(stream[at : at + size])]
    assert events == [
        ServerEvent("put", b"a\nb", "7"),
        ServerEvent("message", b"c", None),
        ServerEvent("message", b"", "9"),
    ]
