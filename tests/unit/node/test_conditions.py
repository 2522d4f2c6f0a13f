"""Preconditions, ttl, op_ids and outcomes of writes to one key."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from kv.model import Intent, Reference
from kv.ports import Retention
from tests.unit.node.conftest import Api, Open


async def test_if_match_and_if_none_match(api: Api) -> None:
    create = {"If-None-Match": "*"}
    assert (await api.ask("PUT", "/v1/kv/a", data=b"1", headers=create)).status == 201
    form = (await api.ask("PUT", "/v1/kv/a", data=b"2", headers=create)).problem(
        412, "precondition_failed"
    )
    assert (form["guard"], form["current"], form["revision"]) == (0, 1, 2)
    assert form["detail"] == "the condition on key 'a' does not hold: it is at revision 1"
    assert (await api.ask("PUT", "/v1/kv/a", data=b"2", headers={"If-Match": '"1"'})).status == 200
    reply = await api.ask("PUT", "/v1/kv/a", data=b"3", headers={"If-Match": '"1"'})
    assert reply.problem(412, "precondition_failed")["current"] == 3
    assert reply.headers["ETag"] == '"3"'
    assert (
        await api.ask("PUT", "/v1/kv/a", data=b"3", headers={"If-Match": '"1", "3" ,"9"'})
    ).status == 200
    assert (await api.ask("PUT", "/v1/kv/a", data=b"4", headers={"If-Match": "*"})).status == 200
    missing = (await api.ask("PUT", "/v1/kv/b", data=b"4", headers={"If-Match": "*"})).problem(
        412, "precondition_failed"
    )
    assert missing["current"] == 0
    (await api.ask("DELETE", "/v1/kv/a", headers={"If-Match": '"1"'})).problem(
        412, "precondition_failed"
    )
    assert (await api.ask("DELETE", "/v1/kv/a", headers={"If-Match": '"6"'})).headers[
        "Acordo-Existed"
    ] == "true"


async def test_repeated_if_match_headers_are_one_list(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/a", data=b"1")
    headers = [("If-Match", '"7"'), ("If-Match", '"1"')]
    assert (await api.ask("PUT", "/v1/kv/a", data=b"2", headers=headers)).status == 200


async def test_if_none_match_of_a_read(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/a", data=b"1")
    same = await api.ask("GET", "/v1/kv/a", headers={"If-None-Match": 'W/"1"'})
    assert (same.status, same.body, same.headers["ETag"]) == (304, b"", '"1"')
    assert (await api.ask("GET", "/v1/kv/a", headers={"If-None-Match": '"2"'})).status == 200
    lines = [("If-None-Match", '"2"'), ("If-None-Match", '"1"')]
    # several lines are one list
    assert (await api.ask("GET", "/v1/kv/a", headers=lines)).status == 304


async def test_head_is_get_without_a_body(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/a", data=b"12345")
    head = await api.ask("HEAD", "/v1/kv/a")
    assert (head.status, head.body, head.headers["ETag"], head.headers["Content-Length"]) == (
        200,
        b"",
        '"1"',
        "5",
    )
    assert (await api.ask("HEAD", "/v1/kv/b")).status == 404


async def test_ttl_is_told(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/a?ttl=1.5", data=b"1")
    version = api.database.read((b"a",), None, 0).versions[0]
    assert version is not None
    assert version.expires_ms is not None
    assert (await api.ask("GET", "/v1/kv/a")).headers["Acordo-Expires"] == str(version.expires_ms)


async def test_large_values_are_staged(api: Api) -> None:
    value = b"v" * 65537
    assert (await api.ask("PUT", "/v1/kv/big", data=value)).status == 201
    version = api.database.read((b"big",), None, 0).versions[0]
    assert version is not None
    assert isinstance(version.value, Reference)
    assert (await api.ask("GET", "/v1/kv/big")).body == value
    small = b"v" * 65536
    await api.ask("PUT", "/v1/kv/small", data=small)
    version = api.database.read((b"small",), None, 0).versions[0]
    assert version is not None
    assert version.value == small


async def test_history(api: Api) -> None:
    for value in (b"1", b"2", b"3"):
        await api.ask("PUT", "/v1/kv/a", data=value)
    await api.ask("DELETE", "/v1/kv/a")
    for revision, value in ((1, b"1"), (2, b"2"), (3, b"3")):
        got = await api.ask("GET", f"/v1/kv/a?revision={revision}")
        assert (got.status, got.body, got.headers["ETag"]) == (200, value, f'"{revision}"')
    (await api.ask("GET", "/v1/kv/a?revision=4")).problem(404, "key_not_found", None)
    api.database.prune(Retention(revision_below=3, operations_before_ms=0))
    gone = (await api.ask("GET", "/v1/kv/a?revision=2")).problem(410, "pruned")
    assert gone["floor"] == 3
    assert (await api.ask("GET", "/v1/kv/a?revision=3")).body == b"3"


async def test_no_leader_is_definite(api: Api) -> None:
    assert (await api.ask("PUT", "/v1/kv/b", data=b"1")).status == 201  # it waits for a round
    for reason in ("no_leader", "no_quorum", "not_leader", "not_taken_over"):
        api.consensus.no_leader = reason
        form = (await api.ask("PUT", "/v1/kv/a", data=b"1")).problem(503, reason)
        assert form["op_id"].startswith("~n1.i1.")
    api.consensus.no_leader = None
    (await api.ask("GET", "/v1/kv/a")).problem(404, "key_not_found", None)


async def test_no_answer_in_time_is_unknown(api: Api) -> None:
    api.consensus.hold = True
    headers = {"Acordo-Timeout": "0.05", "Idempotency-Key": "op-7"}
    # it may be recorded at once: from then on its retention runs
    before_ms = api.consensus.now_ms()
    reply = await api.ask("PUT", "/v1/kv/a", data=b"1", headers=headers)
    form = reply.problem(504, "outcome_unknown", "unknown")
    assert (form["op_id"], form["lookup"]) == ("op-7", "/v1/operations/op-7")
    assert (
        api.consensus.now_ms()
        < form["lookup_until_ms"]
        <= before_ms + api.consensus.operation_retention_ms
    )
    assert reply.headers["Acordo-Op-Id"] == "op-7"
    (intent,) = api.consensus.submits[-1]
    assert isinstance(intent, Intent)
    # log time
    assert api.consensus.now_ms() - 60_000 < intent.deadline_ms <= api.consensus.now_ms() + 50
    api.consensus.hold = False
    api.consensus.commit_held()
    assert (await api.ask("GET", form["lookup"])).json()["outcome"] in ("applied", "expired")


async def test_no_op_id_gives_a_write_a_longer_life(api: Api) -> None:
    """A plain write named `async-…` once had twelve hours to land after its 504: only what is said
    aloud may.
    """
    headers = {"Idempotency-Key": "async-1", "Acordo-Timeout": "1"}
    (await api.ask("PUT", "/v1/kv/a", data=b"1", headers=headers)).problem(400, "bad_op_id")
    assert api.consensus.submits == []
    for given in ({"Acordo-Lifetime": "600"}, {"Acordo-Lifetime": "-1", "Idempotency-Key": "w"}):
        (await api.ask("PUT", "/v1/kv/a", data=b"1", headers=given)).problem(400, "bad_lifetime")
    headers = {"Idempotency-Key": "async-1", "Acordo-Timeout": "1", "Acordo-Lifetime": "600"}
    assert (await api.ask("PUT", "/v1/kv/a", data=b"1", headers=headers)).status == 201
    headers = {"Idempotency-Key": "w", "Acordo-Lifetime": "900000"}
    assert (await api.ask("PUT", "/v1/kv/a", data=b"1", headers=headers)).status == 200
    for (lasting,), most_ms in zip(api.consensus.submits, (600_000, 43_200_000), strict=True):
        assert isinstance(lasting, Intent)
        assert most_ms - 10_000 < lasting.deadline_ms - api.consensus.now_ms() <= most_ms


@pytest.mark.parametrize("op_id", ["~n1.i1.7", "async-1"])
async def test_reserved_op_ids_are_refused_wherever_one_may_be_named(
    open_api: Open, op_id: str
) -> None:
    taken: list[str] = []

    class Broker:
        async def accept(self, op_id: str, transaction: bytes, *, timeout_s: float) -> None:
            taken.append(op_id)

    txn = {"writes": [{"put": "a", "value": "1"}]}
    pair = {"data": {"key": "a", "value": "1"}}
    json = {"Content-Type": "application/json"}
    async with open_api(async_writes=Broker()) as api:
        for method, path, body in (
            ("PUT", "/v1/kv/a", b"1"),
            ("DELETE", "/v1/kv/a", None),
            ("PUT", "/kv", msgspec.json.encode(pair)),
            ("DELETE", "/kv?key=a", None),
            ("POST", "/v1/txn", msgspec.json.encode(txn)),
            ("POST", "/v1/async", msgspec.json.encode(txn)),
        ):
            for how in (
                {"Idempotency-Key": op_id},
                {"Idempotency-Key": f'"{op_id}"'},
                {"Acordo-Op-Id": op_id},
            ):
                (await api.ask(method, path, data=body, headers={**json, **how})).problem(
                    400, "bad_op_id"
                )
            joined = "&" if "?" in path else "?"
            query = f"{path}{joined}op_id={op_id}"
            (await api.ask(method, query, data=body, headers=json)).problem(400, "bad_op_id")
        for path, form in (("/v1/txn", txn), ("/v1/async", txn)):
            (await api.ask("POST", path, json={**form, "op_id": op_id})).problem(400, "bad_op_id")
        (
            await api.ask("POST", "/v1/batch", json={"operations": [{**txn, "op_id": op_id}]})
        ).problem(400, "bad_op_id")
        # whose would it be?
        for how in ({"Idempotency-Key": "b"}, {"Acordo-Op-Id": "b"}, {"Acordo-Lifetime": "5"}):
            (await api.ask("POST", "/v1/batch", json={"operations": [txn]}, headers=how)).problem(
                400, "bad_op_id"
            )
        assert api.consensus.submits == [] and taken == []


async def test_a_lost_answer_is_unknown(api: Api) -> None:
    api.consensus.lose = True
    form = (await api.ask("PUT", "/v1/kv/a", data=b"1")).problem(504, "outcome_unknown", "unknown")
    assert form["op_id"].startswith("~")
    assert (await api.ask("GET", "/v1/kv/a")).body == b"1"


async def test_a_refused_store_refuses_writes_and_reads(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/a", data=b"1")
    api.consensus.refusal = "the store was restored"
    (await api.ask("PUT", "/v1/kv/a", data=b"1")).problem(503, "store_refused")
    (await api.ask("GET", "/v1/kv?prefix=")).problem(503, "store_refused")
    ready = await api.ask("GET", "/readyz")
    assert ready.status == 503
    assert b"[-]ledger failed: the store was restored" in ready.body


async def test_a_client_that_goes_away_does_not_stop_its_write(api: Api) -> None:
    api.consensus.hold = True
    _, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
    while not api.consensus.held:
        await asyncio.sleep(0)
    writer.transport.abort()
    await asyncio.sleep(0)
    api.consensus.hold = False
    api.consensus.commit_held()
    assert (await api.ask("GET", "/v1/kv/a")).body == b"1"
    while api.server.services.load.requests:
        await asyncio.sleep(0)


async def test_drain_finishes_what_it_holds(open_api: Open) -> None:
    async with open_api() as api:
        api.consensus.hold = True
        held = asyncio.create_task(api.ask("PUT", "/v1/kv/a", data=b"1"))
        idle = [await asyncio.open_connection("127.0.0.1", api.server.port) for _ in range(2)]
        while not api.consensus.held:
            await asyncio.sleep(0)
        draining = asyncio.create_task(api.server.drain(timeout_s=10))
        while not api.server.services.load.draining:
            await asyncio.sleep(0)
        reader, writer = idle[0]
        writer.write(b"PUT /v1/kv/b HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'"code":"draining"' in answer
        assert b"Retry-After" in answer
        reader, writer = idle[1]
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"503" in await reader.readline()
        writer.close()
        assert not draining.done()
        api.consensus.commit_held()
        assert (await held).status == 201
        assert await draining is True


@pytest.mark.parametrize("held", [True, False])
async def test_drain_says_when_it_could_not_finish(open_api: Open, held: bool) -> None:
    async with open_api() as api:
        api.consensus.hold = held
        limit = {"Acordo-Timeout": "1"} if held else {}
        asking = asyncio.create_task(api.ask("PUT", "/v1/kv/a", data=b"1", headers=limit))
        while not api.consensus.submits:
            await asyncio.sleep(0)
        # What is not held ends on its own, however slow this machine is just now: only the held one
        # runs out of time.
        assert await api.server.drain(timeout_s=0.01 if held else 60) is not held
        assert (await asking).status == (504 if held else 201)


async def test_headers_of_every_answer(api: Api) -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    for path in ("/v1/kv/a", "/livez", "/nowhere", "/v1/cluster", "/metrics", "/v1/kv"):
        reply = await api.ask("GET", path, headers={"X-Request-Id": "r-1", "traceparent": trace})
        assert reply.headers["Acordo-Node"] == "n1"
        assert reply.headers["Acordo-Revision"] == "0"
        assert (reply.headers["X-Request-Id"], reply.headers["traceparent"]) == ("r-1", trace)
    reply = await api.ask(
        "GET", "/livez", headers={"X-Request-Id": "r" * 300, "traceparent": "nonsense"}
    )
    assert "X-Request-Id" not in reply.headers
    assert "traceparent" not in reply.headers
