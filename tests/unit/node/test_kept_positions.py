"""Positions that clients keep: a revision and the term of the row that gave it (R12)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kv.errors import BadRequest
from kv.ports import Settled
from node.watching.single_flight import SingleFlight
from node.wire.kept_positions import KeptPosition, parse_position
from node.wire.page_tokens import PagePosition, place_of, token_of
from tests.unit.node.conftest import Api, opened


@pytest.fixture
async def own() -> AsyncIterator[Api]:
    async with opened(kind="replicated") as one:
        for key in ("a", "b", "c"):
            assert (await one.ask("PUT", f"/v1/kv/{key}", data=b"v")).status == 201
        one.consensus.terms = {1: 4, 2: 4, 3: 6}
        yield one


@pytest.mark.parametrize(
    ("text", "position"),
    [("7", KeptPosition(7)), ("7.3", KeptPosition(7, 3)), ("0", KeptPosition(0))],
)
def test_positions_are_read_as_they_are_given(text: str, position: KeptPosition) -> None:
    assert parse_position(text, "after") == position
    assert position.text == text


@pytest.mark.parametrize("text", ["", ".", "7.", ".7", "7.0", "7.-1", "7.3.1", "7.x", "x", "7.³"])
def test_other_texts_are_no_positions(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_position(text, "after")


def test_tokens_without_a_term_are_what_older_versions_gave() -> None:
    old = "kpMHxAFrAcQM6FJ3gddcwds8E9SI"
    place = PagePosition(7, b"k")
    assert place_of(token_of(place, b"", keys_only=False), b"", keys_only=False) == place
    assert place_of(old, b"", keys_only=False) == PagePosition(7, b"k")
    termed = PagePosition(7, b"k", term=3)
    assert place_of(token_of(termed, b"", keys_only=False), b"", keys_only=False) == termed


@pytest.mark.parametrize(
    ("position", "undone_after"), [("2.5", 1), ("3.4", 2), ("99.7", 3), ("3.99", 2)]
)
async def test_a_watch_does_not_begin_at_what_the_log_has_lost(
    own: Api, position: str, undone_after: int
) -> None:
    for asked in ({"headers": {"Last-Event-ID": position}}, {}):
        path = "/v1/watch" if asked else f"/v1/watch?after={position}"
        told = (await own.ask("GET", path, **asked)).problem(410, "undone")
        assert (told["undone_after"], told["floor"]) == (undone_after, undone_after)
        assert "a quorum has lost the end of its log" in told["detail"]


@pytest.mark.parametrize("position", ["2", "2.4"])
async def test_a_watch_goes_on_after_a_position_in_force(own: Api, position: str) -> None:
    """A bare one, of an older version, is taken as it is."""
    watch = await own.session.get(f"{own.url}/v1/watch", headers={"Last-Event-ID": position})
    first = await watch.content.readuntil(b"event: progress")
    assert b"id: 2.4\n" in first
    assert b"id: 3" in await watch.content.readuntil(b"event: put")
    watch.close()


async def test_a_page_of_what_the_log_has_lost_is_not_continued(own: Api) -> None:
    page = (await own.ask("GET", "/v1/kv?prefix=&limit=1")).json()
    term = place_of(page["continue"], b"", keys_only=False).term
    assert term > 0
    own.consensus.terms = {3: term}
    path = f"/v1/kv?prefix=&limit=1&continue={page['continue']}"
    assert [item["key"] for item in (await own.ask("GET", path)).json()["items"]] == ["b"]
    own.consensus.terms = {3: term + 1}
    (await own.ask("GET", path)).problem(410, "undone")


async def test_an_open_watch_says_from_where_to_read_again(own: Api) -> None:
    watch = await own.session.get(f"{own.url}/v1/watch?after=3")
    await watch.content.readuntil(b"event: progress")
    own.consensus.tell(Settled(1, 1, b"", (), None, 0, 1))
    ended = await watch.content.read()
    assert b'"code":"undone"' in ended
    assert b'"floor":1,"undone_after":1' in ended


async def test_what_is_read_while_the_log_loses_it_is_read_again(own: Api) -> None:
    """A watcher in front of the lost suffix has been told none of it, and must not be."""
    watches = own.server.services.watches
    gate, right = asyncio.Event(), watches.gaps._store.versions

    async def slow(*asked: object, **more: object) -> object:
        found = await right(*asked, **more)  # type: ignore[arg-type]
        await gate.wait()
        return found

    watches._ring.begin = watches._ring.end
    watches.gaps._store.versions = slow  # type: ignore[method-assign, assignment]
    async with watches.open(b"", 0) as watcher:
        portions = watcher.portions(idle_s=1)
        first = asyncio.ensure_future(anext(portions))
        while not watches.gaps.fetches_total:
            await asyncio.sleep(0)
        own.consensus.tell(Settled(1, 1, b"", (), None, 0, 1))
        gate.set()
        told = await first
        assert watches.gaps.fetches_total == 2
        assert told.changes


async def test_what_was_begun_before_everything_is_dropped_is_not_kept() -> None:
    flight: SingleFlight[str, str] = SingleFlight(9)
    gate = asyncio.Event()

    async def old() -> str:
        await gate.wait()
        return "old"

    async def new() -> str:
        return "new"

    begun = asyncio.ensure_future(flight.get("k", old))
    await asyncio.sleep(0)
    flight.clear()
    assert await flight.get("k", new) == "new"
    gate.set()
    assert await begun == "old"
    assert flight.held("k") == "new"
