"""Positions that nobody was ever given: refused by name and at once, wherever a client may name
one.

What is merely not settled here yet is waited for, and what nobody can confirm is not called the
future.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.errors import BadRequest
from node.judging.positions import check_given, standing
from node.wire.page_tokens import PagePosition, token_of
from tests.unit.node.conftest import Api, Open
from tests.unit.node.test_watch import put, watching

TOKEN = token_of(PagePosition(1_000_000, b"a"), b"", keys_only=False)
ASKED = [
    ("/v1/watch?after=1000000", {}),
    ("/v1/watch", {"Last-Event-ID": "1000000"}),
    ("/v1/kv/a?min_revision=1000000", {}),
    ("/v1/kv/a?min_revision=1000000&consistency=session", {}),
    ("/v1/kv/a?min_revision=1000000&consistency=stale", {}),
    ("/v1/kv/a", {"Acordo-Revision": "1000000"}),
    ("/v1/kv/a?revision=1000000", {}),
    ("/v1/kv?min_revision=1000000", {}),
    (f"/v1/kv?continue={TOKEN}", {}),
    ("/v1/ledger?from=1000000", {}),
    ("/kv?key=a&min_revision=1000000", {}),
    ("/kv?key=a", {"Acordo-Revision": "1000000"}),
]


@pytest.mark.parametrize(("path", "headers"), ASKED)
async def test_a_position_from_the_future_is_refused(
    open_api: Open, path: str, headers: dict[str, str]
) -> None:
    # One that is waited for instead takes these hours, and the test's own limit ends it.
    async with open_api(session_wait_s=7200.0, request_timeout_s=7200.0) as api:
        await put(api, "a")
        form = (await api.ask("GET", path, headers=headers)).problem(400, "future_revision")
        assert "1000000" in form["detail"] and form["allowed"] in ("up to 1", "up to 2")


async def test_a_watch_ahead_of_its_node_begins_when_it_gets_there(api: Api) -> None:
    await put(api, "a")
    api.consensus.quiet = True
    await put(api, "b")  # settled elsewhere: this node has only ordered it
    asking = asyncio.create_task(api.ask("GET", "/v1/kv/b?min_revision=2"))
    opening = asyncio.create_task(anext(aiter(_first(api, "after=2"))))
    while api.consensus.read_indexes < 1 or api.server.services.load.requests < 1:
        await asyncio.sleep(0)
    assert not opening.done()
    api.consensus.quiet = False
    api.consensus.jump()
    assert await opening == {"event": "progress", "id": "2", "data": {"revision": 2}}
    assert (await asking).body == b"v-b"


async def _first(api: Api, query: str):  # type: ignore[no-untyped-def]
    async with watching(api, query) as stream:
        yield await stream.next()


async def test_a_watch_that_its_node_does_not_reach_is_sent_elsewhere(open_api: Open) -> None:
    async with open_api(session_wait_s=0.01) as api:
        await put(api, "a")
        api.consensus.quiet = True
        await put(api, "b")
        (await api.ask("GET", "/v1/watch?after=2")).problem(503, "behind")


async def test_without_a_quorum_nothing_is_called_the_future(open_api: Open) -> None:
    async with open_api(session_wait_s=0.01) as api:
        await put(api, "a")
        api.consensus.no_leader = "no_quorum"
        (await api.ask("GET", "/v1/watch?after=7")).problem(503, "behind")
        (await api.ask("GET", "/v1/kv/a?min_revision=7")).problem(503, "behind")


async def test_the_next_row_of_the_ledger_may_be_asked_for(api: Api) -> None:
    await put(api, "a")
    assert (await api.ask("GET", "/v1/ledger?from=2")).json() == {"rows": [], "next": None}
    (await api.ask("GET", "/v1/ledger?from=3")).problem(400, "future_revision")


@given(st.integers(0, 50), st.integers(0, 50), st.none() | st.integers(0, 50))
def test_how_a_position_stands(asked: int, reached: int, newest: int | None) -> None:
    found = standing(asked, reached, newest)
    assert (found == "reached") == (asked <= reached)
    assert (found == "future") == (newest is not None and asked > max(reached, newest))
    if newest is not None and asked > newest:
        with pytest.raises(BadRequest, match="has not been given"):
            check_given(asked, newest, "revision")
