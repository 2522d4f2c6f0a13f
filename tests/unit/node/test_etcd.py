"""A node speaks etcd's gateway when it is told to: failures, bounds, and what is not spoken."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any, cast

import pytest

from kv.branches import within
from kv.errors import BackendUnavailable, NotApplied
from kv.model import KEY_BYTES_MAX, DeleteRange, Version
from node.etcd import call, intents, reading
from node.etcd.answers import key_value
from node.etcd.messages import (
    FROM_KEY,
    DeleteRangeRequest,
    RangeRequest,
    SortOrder,
    SortTarget,
    TxnRequest,
)
from node.etcd.parsing import parsed
from node.etcd.refusals import Refusal
from node.etcd.spans import chosen, common_prefix, covers
from node.http.bodies import Bodies
from node.http.load import LARGE_ANSWERS_MAX, NodeLoad
from node.wire.documents import encode
from tests.peers.corpus import ENDED, ENDS_ETCD, recorded
from tests.peers.differences import KINDS, expected
from tests.peers.requests import corpus
from tests.unit.node.conftest import Api, Open

ROOT = Path(__file__).parents[3]
RECORDED = recorded()


def test_what_was_recorded_is_the_corpus() -> None:
    assert {name: case["steps"] for name, case in RECORDED.items()} == corpus()


def test_the_cases_that_end_etcd_are_named() -> None:
    assert {name for name, case in RECORDED.items() if ENDED in case["answers"]} == ENDS_ETCD


def test_each_difference_has_its_place_and_its_line_for_people() -> None:
    text = (ROOT / "docs/etcd.md").read_text()
    assert len(KINDS) <= 15
    for name, kind in KINDS.items():
        assert f"| {name} | {kind.promise} |" in text
    for name, step in expected(shared=True):
        assert step < len(RECORDED[name]["steps"]), name


async def test_it_is_off_unless_it_is_asked_for(api: Api) -> None:
    for path in ("/v3/kv/range", "/version"):
        (await api.ask("POST", path, json={})).problem(404, "unknown_path")


def ask(key: bytes) -> dict[str, str]:
    return {"key": base64.b64encode(key).decode()}


async def error(api: Api, path: str, body: dict[str, Any]) -> tuple[int, int, str]:
    reply = await api.ask("POST", path, json=body)
    form = reply.json()
    assert form["error"] == form["message"]
    return reply.status, form["code"], form["message"]


async def test_an_unknown_outcome_is_told_as_such_and_nothing_is_sent_again(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        api.consensus.lose = True
        status, code, words = await error(api, "/v3/kv/put", ask(b"k"))
        assert (status, code) == (503, 14)
        assert "may have been applied" in words
        assert len(api.consensus.submits) == 1


async def test_what_was_not_applied_is_not_told_as_unknown(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        api.consensus.no_leader = "no_leader"
        assert await error(api, "/v3/kv/put", ask(b"k")) == (503, 14, "etcdserver: no leader")


async def test_a_transaction_of_reads_is_no_intent(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        body = {"success": [{"request_range": ask(b"k")}]}
        assert (await api.ask("POST", "/v3/kv/txn", json=body)).json()["succeeded"]
        assert api.consensus.submits == []


async def test_what_is_not_spoken_is_refused_by_its_name(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        for name in ("auth/user/add", "maintenance/defragment", "maintenance/snapshot"):
            status, code, words = await error(api, f"/v3/{name}", {})
            assert (status, code) == (501, 12)
            assert name in words


async def test_a_page_of_another_origin_changes_nothing(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        headers = {"Origin": "http://evil.example"}
        reply = await api.ask("POST", "/v3/kv/put", json=ask(b"k"), headers=headers)
        assert (reply.status, reply.json()["code"]) == (403, 7)
        assert api.consensus.submits == []


async def test_nodes_and_members_are_told_in_etcd_s_words(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        status = (await api.ask("POST", "/v3/maintenance/status", json={})).json()
        assert status["leader"] == status["header"]["member_id"]
        assert status["version"].startswith("3.4")
        version = (await api.ask("GET", "/version")).json()
        assert version["etcdserver"] == status["version"]
        assert (await api.ask("GET", "/health")).json()["health"] == "true"


@pytest.mark.parametrize(
    ("begin", "end", "inside", "outside"),
    [
        (b"a", b"", [b"a"], [b"aa", b"b"]),
        (b"a", b"c", [b"a", b"ab", b"b\xff"], [b"c", b"", b"Z"]),
        (b"a", FROM_KEY, [b"a", b"\xff"], [b"Z"]),
        (b"ab", b"ac", [b"ab", b"abz"], [b"ac", b"aa"]),
        (b"k\xff", b"l", [b"k\xff", b"k\xff\xff"], [b"l", b"k\xfe"]),
    ],
)
def test_the_prefix_of_a_range_covers_it(
    begin: bytes, end: bytes, inside: list[bytes], outside: list[bytes]
) -> None:
    prefix = common_prefix(begin, end)
    for key in inside:
        assert covers(begin, end, key)
        assert key.startswith(prefix)
    assert not any(covers(begin, end, key) for key in outside)


def test_requests_are_read_in_camel_case_and_with_numbers_as_text() -> None:
    asked = parsed(
        b'{"key":"Zm9v","rangeEnd":"Zm9w","limit":"7","sortOrder":"DESCEND"}', RangeRequest
    )
    assert (asked.key, asked.range_end, asked.limit, asked.sort_order) == (b"foo", b"fop", 7, 2)


@pytest.mark.parametrize("body", [b'{"success":[{"request_put":7}]}', b"[" * 100_000, b"\xff"])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        parsed(body, TxnRequest)


async def test_what_was_applied_is_not_told_as_refused_when_its_answer_cannot_be_made(
    open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(etcd=True) as api:

        async def away(*_: object, **__: object) -> None:
            raise BackendUnavailable("store", "away")

        monkeypatch.setattr(api.server.services.store, "list", away)
        put = {"request_put": ask(b"k")}
        for path, body in (
            ("kv/put", ask(b"k") | {"prev_kv": True}),
            ("kv/txn", {"success": [put, {"request_range": ask(b"k")}]}),
        ):
            status, code, words = await error(api, f"/v3/{path}", body)
            assert (status, code) == (503, 14)
            assert "it was applied, at revision" in words


async def test_a_range_of_the_future_is_refused_before_anything_is_written(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        future = {"request_range": ask(b"k") | {"revision": 77}}
        body = {"success": [{"request_put": ask(b"k")}, future]}
        said = await error(api, "/v3/kv/txn", body)
        assert said == (400, 11, "etcdserver: mvcc: required revision is a future revision")
        assert api.consensus.submits == []


@pytest.mark.parametrize("path", ["/v3/nope", "/v3/maintenance/snapshot", "/v3/cluster/member/add"])
async def test_a_refusal_before_the_body_closes_or_keeps_the_connection_sound(
    path: str, open_api: Open
) -> None:
    async with open_api(etcd=True) as api:
        for _ in range(3):
            reply = await api.ask("POST", path, data=b"{" * 300_000)
            assert reply.status in {404, 501}


def test_a_request_that_is_nested_too_deep_is_refused() -> None:
    body = b'{"success":[{"requestTxn":' * 200 + b"{}" + b"}]}" * 200
    with pytest.raises(Refusal, match="nested too deep"):
        parsed(body, TxnRequest)


async def test_a_delete_is_told_although_the_values_are_too_large_for_one_answer(
    open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "ANSWER_BYTES_MAX", 2000)
    async with open_api(etcd=True) as api:
        for key in (b"a1", b"a2", b"a3"):
            value = base64.b64encode(b"v" * 1000).decode()
            await api.ask("POST", "/v3/kv/put", json=ask(key) | {"value": value})
        every = ask(b"a") | {"range_end": base64.b64encode(b"b" * 5000).decode()}
        count = {"success": [{"request_range": every | {"count_only": True}}] * 2}
        done = await api.ask("POST", "/v3/kv/txn", json=count)
        assert [each["response_range"]["count"] for each in done.json()["responses"]] == ["3"] * 2
        gone = await api.ask("POST", "/v3/kv/deleterange", json=every)
        assert (gone.status, gone.json()["deleted"]) == (200, "3")


def test_the_end_of_a_range_takes_no_more_than_tells_keys_apart() -> None:
    form = DeleteRangeRequest(b"a", b"b" * 100_000)
    made = intents.delete(form)
    assert isinstance(made, DeleteRange)
    assert len(made.end) == KEY_BYTES_MAX + 1
    assert within(b"b" * KEY_BYTES_MAX, made.key, made.end)


async def test_hashes_are_those_of_the_ledger(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        for _ in range(2):
            await api.ask("POST", "/v3/kv/put", json=ask(b"k"))
        hashes = {}
        for revision in (0, 1, 2):
            reply = await api.ask("POST", "/v3/maintenance/hashkv", json={"revision": revision})
            hashes[revision] = reply.json()["hash"]
        assert hashes[0] == hashes[2] != hashes[1]
        assert (await api.ask("POST", "/v3/maintenance/hash")).json()["hash"] == hashes[0]
        assert (await error(api, "/v3/maintenance/hashkv", {"revision": 3}))[:2] == (400, 11)


@pytest.mark.parametrize(
    ("state", "told"), [("sound", None), ("full", "NOSPACE"), ("diverged", "CORRUPT")]
)
async def test_alarms_tell_of_the_store(open_api: Open, state: str, told: str | None) -> None:
    async with open_api(etcd=True) as api:
        api.consensus.shown = {"store_state": state}
        form = (await api.ask("POST", "/v3/maintenance/alarm", json={})).json()
        assert [each["alarm"] for each in form.get("alarms", ())] == ([told] if told else [])
        assert (await error(api, "/v3/maintenance/alarm", {"action": "ACTIVATE"}))[1] == 12


VERSIONS = [
    Version(b"%05d" % n, n, b"v" * (n % 7), None, n * 7 % 1000, n * 3 % 11) for n in range(1, 9001)
]


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("target", range(5))
async def test_many_keys_are_answered_as_few_are_and_others_get_turns(
    order: int, target: int
) -> None:
    asked = RangeRequest(
        b"a", limit=8000, sort_order=SortOrder(order), sort_target=SortTarget(target),
        min_mod_revision=5,
    )  # fmt: skip
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(others())
    found, more = await reading.in_order(VERSIONS, asked)
    assert turns >= len(VERSIONS) // reading.SLICE_KEYS
    turns = 0
    kvs = await reading.key_values(found, keys_only=False)
    assert turns >= len(found) // reading.SLICE_KEYS - 1
    running.cancel()
    assert (found, more) == chosen(VERSIONS, asked)
    assert encode(kvs) == encode([key_value(each, each.value) for each in found])  # type: ignore[arg-type]  # bytes


async def test_answers_of_one_transaction_have_a_bound_together(
    open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(etcd=True) as api:
        await api.ask("POST", "/v3/kv/put", json=ask(b"k") | {"value": "dg" * 400})
        monkeypatch.setattr(call, "LARGE_BYTES", 100)
        monkeypatch.setattr(call, "ANSWER_BYTES_MAX", 2500)
        ranges = {"success": [{"request_range": ask(b"k")}] * 3}
        assert (await api.ask("POST", "/v3/kv/txn", json=ranges)).status == 200
        ranges = {"success": [{"request_range": ask(b"k")}] * 4}
        assert (await error(api, "/v3/kv/txn", ranges))[:2] == (503, 8)
        ranges["success"].append({"request_put": ask(b"other")})
        assert "it was applied" in (await error(api, "/v3/kv/txn", ranges))[2]


async def test_few_large_answers_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    load = NodeLoad(cast(Bodies, None))
    monkeypatch.setattr(call, "LARGE_BYTES", 100)
    budgets = [call.Budget(load) for _ in range(LARGE_ANSWERS_MAX + 1)]
    *held, late = budgets
    for budget in held:
        for _ in range(3):
            await budget.take(90, left_s=1.0)
    await late.take(1, left_s=0.01)  # it is small yet
    with pytest.raises(NotApplied):
        await late.take(90, left_s=0.01)
    held[0].release()
    held[0].release()
    await late.take(90, left_s=1.0)
