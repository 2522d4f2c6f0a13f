"""/v1/txn, /v1/batch and /v1/async."""

from __future__ import annotations

from typing import Any

import msgspec

from kv.errors import BackendUnavailable
from kv.model import Intent
from node.writes.staging import inline_bytes
from tests.unit.node.conftest import Api, Open


async def txn(api: Api, **form: Any) -> Any:
    return await api.ask("POST", "/v1/txn", json=form)


async def test_a_transaction_is_one_revision(api: Api) -> None:
    reply = await txn(
        api,
        guards=[{"key": "a", "absent": True}],
        writes=[
            {"put": "a", "value": "1"},
            {"put": {"base64": "/w=="}, "value": {"base64": "AP8="}, "ttl": 60},
        ],
        reads=["a"],
    )
    form = reply.json()
    assert (reply.status, form["revision"], form["branch"], form["again"]) == (
        200,
        1,
        "then",
        False,
    )
    assert form["reads"] == [{"key": "a", "revision": 0, "value": None}]
    assert (await api.ask("GET", "/v1/kv/%ff")).body == b"\x00\xff"
    reply = await txn(
        api,
        guards=[
            {"key": "a", "revision": 1},
            {"key": "a", "exists": True},
            {"key": "a", "value": "1"},
        ],
        writes=[{"put": "a", "value": "2"}, {"delete": {"base64": "/w=="}}],
        reads=["a", {"base64": "/w=="}, "z"],
    )
    form = reply.json()
    numbers = {"create_revision": 1, "version": 1}
    assert form["reads"][0] == {"key": "a", "revision": 1, "value": "1", **numbers}
    assert form["reads"][1]["value"] == {"base64": "AP8="}
    assert form["reads"][2] == {"key": "z", "revision": 0, "value": None}
    assert (await api.ask("GET", "/v1/kv/a")).headers["ETag"] == '"2"'
    (await api.ask("GET", "/v1/kv/%ff")).problem(404, "key_not_found", None)


async def test_a_refused_transaction_names_its_guard(api: Api) -> None:
    await txn(api, writes=[{"put": "a", "value": "1"}])
    reply = await txn(
        api,
        guards=[{"key": "a", "exists": True}, {"key": "a", "revision": [7, 8]}],
        writes=[{"put": "b", "value": "1"}],
    )
    form = reply.problem(409, "refused")
    assert (form["guard"], form["current"], form["revision"]) == (1, 1, 2)
    (await api.ask("GET", "/v1/kv/b")).problem(404, "key_not_found", None)


async def test_otherwise(api: Api) -> None:
    reply = await txn(
        api,
        guards=[{"key": "a", "exists": True}],
        writes=[{"put": "a", "value": "then"}],
        otherwise=[{"put": "a", "value": "otherwise"}],
    )
    assert (reply.status, reply.json()["branch"]) == (200, "otherwise")
    assert (await api.ask("GET", "/v1/kv/a")).body == b"otherwise"
    reply = await txn(
        api, guards=[{"key": "b", "exists": True}], writes=[{"delete": "a"}], otherwise=[]
    )
    assert (reply.status, reply.json()["branch"]) == (200, "otherwise")
    assert (await api.ask("GET", "/v1/kv/a")).status == 200


async def test_reads_alone_are_one_snapshot_and_no_intent(api: Api) -> None:
    await txn(api, writes=[{"put": "a", "value": "1"}, {"put": "b", "value": "2"}])
    api.consensus.no_leader = "no_quorum"
    reply = await txn(api, reads=["a", "b", "c"])
    form = reply.json()
    assert [read["value"] for read in form["reads"]] == ["1", "2", None]
    assert (form["revision"], form["op_id"]) == (1, None)
    assert (reply.headers["Acordo-Level"], reply.headers["Acordo-Revision"]) == (
        "linearizable",
        "1",
    )
    assert len(api.consensus.submits) == 1


async def test_op_id_of_a_transaction(api: Api) -> None:
    first = await txn(api, writes=[{"put": "a", "value": "1"}], op_id="t-1")
    again = await txn(api, writes=[{"put": "a", "value": "1"}], op_id="t-1")
    assert (first.json()["again"], again.json()["again"]) == (False, True)
    assert first.json()["revision"] == again.json()["revision"] == 1
    (await txn(api, writes=[{"put": "a", "value": "2"}], op_id="t-1")).problem(422, "mismatch")


async def test_values_of_reads_are_left_out_when_they_cannot_be_had(
    api: Api, monkeypatch: Any
) -> None:
    await txn(api, writes=[{"put": "a", "value": "1"}])

    async def broken(*_: Any, **__: Any) -> Any:
        raise BackendUnavailable("store", "gone")

    monkeypatch.setattr(api.server.services.store, "versions", broken)
    reply = await txn(api, writes=[{"put": "b", "value": "1"}], reads=["a", "c"])
    assert reply.status == 200
    assert reply.json()["reads"] == [
        {"key": "a", "revision": 1},
        {"key": "c", "revision": 0, "value": None},
    ]


async def test_large_transactions_stay_small_in_the_log(api: Api) -> None:
    writes = [{"put": f"k{n}", "value": chr(97 + n % 26) * 60_000 + str(n)} for n in range(30)]
    assert (await txn(api, writes=writes)).status == 200
    (intent,) = api.consensus.submits[-1]
    assert isinstance(intent, Intent)
    assert 0 < inline_bytes(intent) <= 520 * 1024
    for n in (0, 29):
        assert (await api.ask("GET", f"/v1/kv/k{n}")).body.endswith(str(n).encode())
    again = await txn(api, writes=writes, op_id="large")
    assert again.json()["again"] is False
    assert (await txn(api, writes=writes, op_id="large")).json()["again"] is True


async def test_batch_operations_end_each_for_itself(api: Api) -> None:
    reply = await api.ask(
        "POST",
        "/v1/batch",
        json={
            "operations": [
                {"writes": [{"put": "a", "value": "1"}], "op_id": "b-1"},
                {"guards": [{"key": "a", "absent": True}], "writes": [{"put": "a", "value": "2"}]},
                {"writes": [{"put": "a", "value": "1"}], "op_id": "b-1"},
                {"writes": [{"put": "a", "value": "3"}], "op_id": "b-1"},
                {
                    "guards": [{"key": "x", "exists": True}],
                    "otherwise": [{"put": "x", "value": "1"}],
                    "reads": ["a"],
                },
            ]
        },
    )
    results = reply.json()["results"]
    assert [r["outcome"] for r in results] == [
        "applied",
        "refused",
        "applied",
        "mismatch",
        "applied",
    ]
    assert results[0] == {"op_id": "b-1", "outcome": "applied", "revision": 1}
    assert (results[1]["guard"], results[1]["current"]) == (0, 1)
    assert (results[2]["again"], results[2]["revision"]) == (True, 1)
    assert (results[4]["branch"], results[4]["seen"]) == ("otherwise", [1])
    assert reply.headers["Acordo-Revision"] == "5"
    assert len(api.consensus.submits) == 1  # one Raft command for all


async def test_a_batch_that_cannot_begin_is_refused_as_a_whole(api: Api) -> None:
    operations = {"operations": [{"writes": [{"put": str(n), "value": ""}]} for n in range(3)]}
    api.consensus.no_leader = "no_leader"
    (await api.ask("POST", "/v1/batch", json=operations)).problem(503, "no_leader")
    api.consensus.no_leader = None
    api.consensus.hold = True
    headers = {"Acordo-Timeout": "0.05"}
    (await api.ask("POST", "/v1/batch", json=operations, headers=headers)).problem(
        504, "outcome_unknown", "unknown"
    )


async def test_more_writes_than_admitted(open_api: Open) -> None:
    async with open_api(writes_max=2) as api:
        operations = {"operations": [{"writes": [{"put": str(n), "value": ""}]} for n in range(3)]}
        (await api.ask("POST", "/v1/batch", json=operations)).problem(503, "overloaded")
        assert api.consensus.submits == []


async def test_async_without_a_broker_names_the_setting(api: Api) -> None:
    form = (
        await api.ask("POST", "/v1/async", json={"writes": [{"put": "a", "value": "1"}]})
    ).problem(501, "not_configured")
    assert "ACORDO_BROADCAST" in form["detail"]


async def test_async_takes_a_write_into_the_brokers_hands(open_api: Open) -> None:
    accepted: list[str] = []

    class Broker:
        down = False

        async def accept(self, op_id: str, transaction: bytes, *, timeout_s: float) -> None:
            if self.down:
                raise BackendUnavailable("broker", "no confirm")
            accepted.append(op_id)
            sent = msgspec.json.decode(transaction)
            assert sent["writes"] == [{"put": "a", "value": "1"}] and sent["op_id"] == op_id

    async with open_api(async_writes=Broker()) as api:
        reply = await api.ask(
            "POST", "/v1/async", json={"writes": [{"put": "a", "value": "1"}], "op_id": "x/1"}
        )
        assert (reply.status, reply.headers["Location"]) == (202, "/v1/operations/x%2F1")
        assert reply.json() == {"op_id": "x/1", "operation": "/v1/operations/x%2F1"}
        own = (
            await api.ask("POST", "/v1/async", json={"writes": [{"put": "a", "value": "1"}]})
        ).json()["op_id"]
        assert not own.startswith("~")  # workers may submit it twice: `ops` must record it
        assert accepted == ["x/1", own]
        waiting = await api.ask("GET", "/v1/operations/x%2F1")
        # it waits, and looking cancels nothing
        assert (waiting.status, waiting.json()["code"]) == (200, "not_ordered")
        assert api.consensus.submits == []
        Broker.down = True
        (await api.ask("POST", "/v1/async", json={"writes": [{"put": "a", "value": "1"}]})).problem(
            503, "broker_unavailable"
        )
        (await api.ask("POST", "/v1/async", json={"reads": ["a"]})).problem(
            400, "empty_transaction"
        )


async def test_a_guard_compares_what_its_key_or_every_key_of_a_range_has(api: Api) -> None:
    await txn(api, writes=[{"put": "a", "value": "1"}, {"put": "b", "value": "2"}])
    await txn(api, writes=[{"put": "a", "value": "3"}])

    async def holds(key: str, compare: str, is_: str, to: Any, **more: Any) -> bool:
        guard = {"key": key, "compare": compare, "is": is_, "to": to, **more}
        reply = await txn(api, guards=[guard], writes=[{"put": "w", "value": ""}], otherwise=[])
        return bool(reply.json()["branch"] == "then")

    assert await holds("a", "version", "=", 2)
    assert await holds("a", "create_revision", "<", 2)
    assert not await holds("a", "revision", "!=", 2)
    assert await holds("a", "value", ">", "2")
    assert await holds("absent", "version", "=", 0)
    assert not await holds("absent", "value", "=", "")
    assert await holds("a", "version", ">", 0, end="c")
    assert not await holds("a", "version", ">", 1, end="c")
    for wrong in (
        {"key": "a", "compare": "version", "is": "=", "to": "1"},
        {"key": "a", "compare": "value", "is": "=", "to": 1},
        {"key": "a", "compare": "version", "is": "="},
        {"key": "a", "compare": "lease", "is": "=", "to": 7},
        {"key": "a", "exists": True, "end": "b"},
        {"key": "a", "compare": "version", "is": "=", "to": 1, "exists": True},
    ):
        reply = await txn(api, guards=[wrong], writes=[{"put": "w", "value": ""}])
        assert reply.problem(400, "bad_guard")


async def test_a_range_is_deleted_at_one_revision(api: Api) -> None:
    await txn(api, writes=[{"put": f"k{n}", "value": "v"} for n in range(5)])
    reply = await txn(api, writes=[{"delete": "k1", "end": "k4"}, {"put": "new", "value": "1"}])
    assert (reply.status, reply.json()["revision"]) == (200, 2)
    items = (await api.ask("GET", "/v1/kv?prefix=")).json()["items"]
    assert [item["key"] for item in items] == ["k0", "k4", "new"]
    await txn(api, writes=[{"delete": "k", "end": "\x00"}])
    assert (await api.ask("GET", "/v1/kv?prefix=")).json()["items"] == []
    twice = [{"put": "k2", "value": "1"}, {"delete": "k1", "end": "k4"}]
    assert (await txn(api, writes=twice)).problem(400, "duplicate_key")
    assert (await txn(api, writes=[{"put": "a", "value": "", "end": "b"}])).problem(
        400, "bad_write"
    )
