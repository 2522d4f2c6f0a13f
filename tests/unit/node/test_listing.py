"""GET /v1/kv: pages in byte order that all show one revision; their tokens."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv.errors import BadRequest
from kv.ports import Retention
from node.api import listing
from node.api.listing import TURN_BYTES
from node.http.load import PAGES_MAX
from node.reads import orders
from node.wire.documents import encode
from node.wire.page_tokens import PagePosition, place_of, token_of
from tests.unit.node.conftest import Api


async def pages(api: Api, query: str) -> list[Any]:
    found, token = [], ""
    while True:
        reply = await api.ask(
            "GET", f"/v1/kv?{query}" + (f"&continue={quote(token)}" if token else "")
        )
        assert reply.status == 200, reply.body
        found.append(reply.json())
        token = found[-1].get("continue", "")
        if not token:
            return found


async def test_pages_show_one_revision(api: Api) -> None:
    for n in range(7):
        await api.ask("PUT", f"/v1/kv/p%2F{n}", data=str(n).encode())
    await api.ask("PUT", "/v1/kv/q", data=b"")
    first = (await api.ask("GET", "/v1/kv?prefix=p/&limit=3")).json()
    await api.ask("PUT", "/v1/kv/p%2F9", data=b"later")
    await api.ask("DELETE", "/v1/kv/p%2F5")
    await api.ask("PUT", "/v1/kv/p%2F6", data=b"changed")
    second = (await api.ask("GET", f"/v1/kv?prefix=p/&limit=3&continue={first['continue']}")).json()
    third = (await api.ask("GET", f"/v1/kv?prefix=p/&limit=3&continue={second['continue']}")).json()
    assert [page["revision"] for page in (first, second, third)] == [8, 8, 8]
    items = first["items"] + second["items"] + third["items"]
    assert [(i["key"], i["value"], i["revision"]) for i in items] == [
        (f"p/{n}", str(n), n + 1) for n in range(7)
    ]
    assert "continue" not in third


async def test_a_pruned_listing_is_gone(api: Api) -> None:
    for n in range(4):
        await api.ask("PUT", f"/v1/kv/{n}", data=b"")
    token = (await api.ask("GET", "/v1/kv?limit=2")).json()["continue"]
    for _ in range(3):
        await api.ask("PUT", "/v1/kv/0", data=b"x")
    api.database.prune(Retention(revision_below=6, operations_before_ms=0))
    form = (await api.ask("GET", f"/v1/kv?limit=2&continue={token}")).problem(410, "pruned")
    assert form["floor"] == 6


async def test_keys_only_and_binary_keys(api: Api) -> None:
    for key in ("%ff%fe", "%00", "a"):
        await api.ask("PUT", f"/v1/kv/{key}", data=b"v")
    page = (await api.ask("GET", "/v1/kv?keys_only=true")).json()
    assert [item["key"] for item in page["items"]] == ["\x00", "a", {"base64": "//4="}]
    assert all("value" not in item for item in page["items"])
    page = (await api.ask("GET", "/v1/kv?prefix=%ff")).json()
    assert [item["key"] for item in page["items"]] == [{"base64": "//4="}]
    assert (await api.ask("GET", "/v1/kv?prefix=zzz")).json() == {"revision": 3, "items": []}


async def test_large_pages_end_early(api: Api) -> None:
    for n in range(9):
        await api.ask("PUT", f"/v1/kv/{n}", data=bytes([97 + n]) * 1_000_000)
    for n in range(100):
        await api.ask("PUT", f"/v1/kv/s{n:03}", data=b"x" * 50_000)
    found = await pages(api, "limit=1000")
    assert sum(len(page["items"]) for page in found) == 109
    assert all(sum(len(i["value"]) for i in page["items"]) < 6_000_000 for page in found)
    assert len({page["revision"] for page in found}) == 1
    keys = [i["key"] for page in found for i in page["items"]]
    assert keys == sorted(keys)


async def test_a_token_belongs_to_its_query(api: Api) -> None:
    for n in range(4):
        await api.ask("PUT", f"/v1/kv/p{n}", data=b"")
    token = (await api.ask("GET", "/v1/kv?prefix=p&limit=2")).json()["continue"]
    (await api.ask("GET", f"/v1/kv?prefix=q&continue={token}")).problem(400, "bad_token")
    (await api.ask("GET", f"/v1/kv?prefix=p&keys_only=1&continue={token}")).problem(
        400, "bad_token"
    )
    assert (await api.ask("GET", f"/v1/kv?prefix=p&limit=1&continue={token}")).status == 200


@settings(deadline=None)
@given(
    st.integers(0, 2**53 - 1),
    st.binary(min_size=1, max_size=1024),
    st.binary(max_size=64),
    st.booleans(),
)
def test_tokens_round_trip(revision: int, after: bytes, prefix: bytes, keys_only: bool) -> None:
    token = token_of(PagePosition(revision, after), prefix, keys_only=keys_only)
    assert token.isascii()
    assert place_of(token, prefix, keys_only=keys_only) == PagePosition(revision, after)
    with pytest.raises(BadRequest):
        place_of(token, prefix + b"x", keys_only=keys_only)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_nonsense_tokens_are_refused(token: str) -> None:
    with pytest.raises(BadRequest):
        place_of(token, b"", keys_only=False)


async def test_pages_are_made_a_few_at_a_time_and_give_way(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A put between forty pages of 2 MiB is not behind all of them."""
    for n in range(40):
        await api.ask("PUT", f"/v1/kv/big/{n:02}", data=b"v" * 60_000)
    store = api.server.services.store
    under_way = most = 0
    real = store.list

    async def counted(*args: Any, **more: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            await asyncio.sleep(0)
            return await real(*args, **more)
        finally:
            under_way -= 1

    monkeypatch.setattr(store, "list", counted)
    turns: list[int] = []

    def noted(answer: object) -> bytes:
        turns.append(passes)
        return encode(answer)

    monkeypatch.setattr("node.api.listing.encode", noted)
    passes = 0
    asking = [
        asyncio.create_task(api.ask("GET", "/v1/kv?prefix=big/&limit=1000")) for _ in range(12)
    ]
    while not all(task.done() for task in asking):
        passes += 1
        await asyncio.sleep(0)
    assert [len((await task).json()["items"]) for task in asking] == [35] * 12
    assert most <= PAGES_MAX
    values_a_pass = max(turns.count(each) for each in set(turns))
    assert values_a_pass <= PAGES_MAX * (TURN_BYTES // 60_000 + 2)


async def test_a_range_and_a_past_revision(api: Api) -> None:
    for key in "abcde":
        await api.ask("PUT", f"/v1/kv/{key}", data=b"1")
    await api.ask("DELETE", "/v1/kv/b")
    await api.ask("PUT", "/v1/kv/c", data=b"2")

    async def keys(query: str) -> list[str]:
        found: list[str] = []
        more = ""
        while True:
            reply = await api.ask("GET", f"/v1/kv?limit=2&{query}{more}")
            assert reply.status == 200, reply.body
            found += [item["key"] for item in reply.json()["items"]]
            if "continue" not in reply.json():
                return found
            more = f"&continue={reply.json()['continue']}"
            query = query.split("&revision", maxsplit=1)[0]

    assert await keys("start=b&end=e") == ["c", "d"]
    assert await keys("start=b") == ["c", "d", "e"]
    assert await keys("start=b&end=%00") == ["c", "d", "e"]
    assert await keys("end=d") == ["a", "c"]
    assert await keys("start=d&end=b") == []
    assert await keys("start=b&end=e&revision=5") == ["b", "c", "d"]
    assert await keys("prefix=&revision=3") == ["a", "b", "c"]
    (item,) = (await api.ask("GET", "/v1/kv?prefix=c&revision=6")).json()["items"]
    assert (item["value"], item["version"]) == ("1", 1)
    (await api.ask("GET", "/v1/kv?prefix=a&end=b")).problem(400, "conflicting_parameters")
    (await api.ask("GET", "/v1/kv?revision=99")).problem(400, "future_revision")
    token = (await api.ask("GET", "/v1/kv?start=a&limit=1")).json()["continue"]
    (await api.ask("GET", f"/v1/kv?start=b&continue={token}")).problem(400, "bad_token")
    (await api.ask("GET", f"/v1/kv?start=a&revision=3&continue={token}")).problem(
        400, "conflicting_parameters"
    )


async def test_keys_are_put_in_order_within_bounds_and_counted(api: Api) -> None:
    for key in ("c", "a", "b", "a", "d"):
        await api.ask("PUT", f"/v1/kv/{key}", data=key.encode())

    async def keys(query: str) -> list[str]:
        found = await pages(api, f"prefix=&limit=2&{query}")
        assert len({page["revision"] for page in found}) == 1
        assert {page["count"] for page in found} == {sum(len(page["items"]) for page in found)}
        return [item["key"] for page in found for item in page["items"]]

    assert await keys("sort=revision") == ["c", "b", "a", "d"]
    assert await keys("sort=revision&order=desc&keys_only=true") == ["d", "a", "b", "c"]
    assert await keys("sort=create_revision") == ["c", "a", "b", "d"]
    assert await keys("sort=version&order=desc") == ["a", "b", "c", "d"]
    assert await keys("order=desc") == ["d", "c", "b", "a"]
    assert await keys("min_mod_revision=3&max_mod_revision=4") == ["a", "b"]
    assert await keys("max_create_revision=2") == ["a", "c"]
    assert await keys("min_create_revision=3&sort=key") == ["b", "d"]
    past = (await api.ask("GET", "/v1/kv?sort=revision&revision=3")).json()
    assert [item["key"] for item in past["items"]] == ["c", "a", "b"]
    counted = (await api.ask("GET", "/v1/kv?start=b&end=d&count_only=true")).json()
    assert counted == {"revision": 5, "items": [], "count": 2}
    first = (await api.ask("GET", "/v1/kv?prefix=&limit=2&sort=revision")).json()
    other = f"/v1/kv?prefix=&limit=2&sort=version&continue={quote(first['continue'])}"
    assert (await api.ask("GET", other)).status == 400
    for wrong in ("sort=value", "order=up"):
        (await api.ask("GET", f"/v1/kv?{wrong}")).problem(400, "bad_order")


async def test_too_many_keys_are_not_put_in_order(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "KEYS_MAX", 2)
    for key in "abc":
        await api.ask("PUT", f"/v1/kv/{key}", data=b"v" * 1000)
    (await api.ask("GET", "/v1/kv?sort=revision")).problem(400, "listing_too_large")
    assert (await api.ask("GET", "/v1/kv?count_only=true")).json()["count"] == 3
    monkeypatch.setattr(orders, "KEYS_MAX", 3)
    monkeypatch.setattr(listing, "PAGE_BYTES", 1500)
    assert [len(page["items"]) for page in await pages(api, "sort=revision")] == [2, 1]
