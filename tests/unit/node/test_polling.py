"""GET /v1/watch?poll=: what the stream tells, as documents."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kv.ports import Retention
from node.api.watching import changes, polling
from node.http.load import PAGES_MAX
from tests.unit.node.conftest import Api, Open
from tests.unit.node.test_access import Door, controlled
from tests.unit.node.test_watch import put


async def poll(api: Api, query: str) -> dict[str, Any]:
    answer = await api.ask("GET", f"/v1/watch?{query}")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


async def test_the_changes_after_a_position_come_with_the_next_one(api: Api) -> None:
    await put(api, "a/1", "b", "a/2")
    await api.ask("DELETE", "/v1/kv/a/1")
    first = await poll(api, "prefix=a/&after=0&poll=5")
    told = [(each["event"], each["key"], each.get("value")) for each in first["events"]]
    assert told == [("put", "a/1", "v-a/1"), ("put", "a/2", "v-a/2"), ("delete", "a/1", None)]
    assert (first["next"], first["revision"]) == ("4", 4)
    assert await poll(api, "prefix=a/&after=4&poll=0") == {
        "events": [], "next": "4", "revision": 4,
    }  # fmt: skip


async def test_it_waits_for_the_first_change_and_moves_past_those_of_others(api: Api) -> None:
    begun = await poll(api, "prefix=a/&poll=60")
    assert begun == {"events": [], "next": "0", "revision": 0}
    waiting = asyncio.create_task(poll(api, "prefix=a/&after=0&poll=60"))
    await put(api, "b", "a/1")
    assert [each["revision"] for each in (await waiting)["events"]] == [2]
    await put(api, "b")
    assert (await poll(api, "prefix=a/&after=2&poll=0"))["next"] == "3"


async def test_batches_join_without_a_gap_and_without_a_repetition(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "BATCH_CHANGES", 3)
    writes = [{"put": f"t/{n}", "value": ""} for n in range(5)]
    await put(api, *"abc")
    await api.ask("POST", "/v1/txn", json={"writes": writes})
    await put(api, *"def")
    position, batches = "0", []
    while (found := await poll(api, f"after={position}&poll=0"))["events"]:
        batches.append([each["key"] for each in found["events"]])
        position = found["next"]
    # a revision is never cut
    assert batches == [["a", "b", "c"], [f"t/{n}" for n in range(5)], ["d", "e", "f"]]


async def test_few_answers_are_made_at_a_time_and_none_without_room(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One change may wake all polls there are, and each of them encodes it by itself."""
    making, most = 0, 0
    forms = changes.change_forms

    async def change_forms(x: Any, change: Any) -> Any:
        nonlocal making, most
        making += 1
        most = max(most, making)
        await asyncio.sleep(0.01)
        async for each in forms(x, change):
            yield each
        making -= 1

    monkeypatch.setattr(polling, "change_forms", change_forms)
    waiting = [asyncio.create_task(poll(api, "after=0&poll=15")) for _ in range(12)]
    await asyncio.sleep(0.1)
    await put(api, "a")
    assert [len(each["events"]) for each in await asyncio.gather(*waiting)] == [1] * 12
    assert most <= PAGES_MAX
    connections = api.server.services.load.connections
    assert connections is not None
    monkeypatch.setattr(connections, "has_room", lambda size: size < polling.BATCH_BYTES)
    (await api.ask("GET", "/v1/watch?after=0&poll=1")).problem(503, "overloaded")
    assert (await poll(api, "after=1&poll=0"))["events"] == []


async def test_what_is_no_longer_kept_is_gone(open_api: Open) -> None:
    async with open_api(watch_ring_bytes=1) as api:
        await put(api, *"abcdef")
        api.database.prune(Retention(revision_below=4, operations_before_ms=0))
        form = (await api.ask("GET", "/v1/watch?after=1&poll=5")).problem(410, "pruned")
        assert form["floor"] >= 4
        found = await poll(api, "after=4&poll=5")
        assert [each["key"] for each in found["events"]] == ["e", "f"]


async def test_a_balancer_does_not_take_a_long_wait_for_silence(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "ANSWER_WITHIN_S", 0.01)
    assert (await poll(api, "after=0&poll=60"))["events"] == []


@pytest.mark.parametrize("wait", ["-1", "61", "x", ""])
async def test_a_wait_is_bounded(api: Api, wait: str) -> None:
    form = (await api.ask("GET", f"/v1/watch?after=0&poll={wait}")).problem(400, "bad_poll")
    assert "60" in form["allowed"]


async def test_polls_are_counted_as_the_watches_that_they_are(open_api: Open) -> None:
    async with open_api(watchers_max=1) as api:
        waiting = asyncio.create_task(poll(api, "after=0&poll=60"))
        while not len(api.server.services.watches):
            await asyncio.sleep(0)
        (await api.ask("GET", "/v1/watch?after=0&poll=1")).problem(503, "overloaded")
        await put(api, "a")
        await waiting


async def test_a_poll_is_judged_as_the_stream_is(open_api: Open) -> None:
    async with open_api() as api:
        door: Door = await controlled(api)
        assert (await door.ask("reader", "GET", "/v1/watch?prefix=a/&poll=0")).status == 200
        (await door.ask("reader", "GET", "/v1/watch?prefix=b/&poll=0")).problem(403, "not_allowed")
        at = (await door.ask("reader", "GET", "/v1/watch?prefix=a/&poll=0")).json()["next"]
        path = f"/v1/watch?prefix=a/&after={at}&poll=60"
        waiting = asyncio.create_task(door.ask("reader", "GET", path))
        while not len(api.server.services.watches):
            await asyncio.sleep(0)
        await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['reader']}")
        await door.ask("admin", "PUT", "/v1/kv/a/1", data=b"hidden")
        answer = await waiting
        assert answer.status in (401, 403)
        assert b"hidden" not in answer.body
