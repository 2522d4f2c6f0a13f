"""Every bad input gets a clear problem document, says "not applied" when that is so, and loses
nothing.
"""

from __future__ import annotations

import ast
import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import node
from kv.errors import InvariantViolated
from node.wire.problems import KINDS
from node.wire.text_fields import TTL_S_MAX
from tests.unit.node.conftest import Api, Open, raw_exchange

KB = 1024
J = {"Content-Type": "application/json"}


async def test_what_is_allowed_is_a_plain_number(api: Api) -> None:
    form = (await api.ask("PUT", "/v1/kv/a?ttl=-1", data=b"1")).problem(400, "bad_ttl")
    assert form["allowed"] == f"seconds, up to {TTL_S_MAX}"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/kv/", 400, "key_empty"),
        ("GET", "/v1/kv/" + "k" * 1025, 400, "key_too_long"),
        ("PUT", "/v1/kv/" + "%C3%A9" * 513, 400, "key_too_long"),
        ("GET", "/v1/kv/50%", 400, "bad_percent_encoding"),
        ("GET", "/v1/kv/%zz", 400, "bad_percent_encoding"),
        ("GET", "/v1/kv/a?consistency=strong", 400, "bad_consistency"),
        ("GET", "/v1/kv/a?min_revision=-1", 400, "bad_revision"),
        ("GET", "/v1/kv/a?min_revision=9007199254740992", 400, "bad_revision"),
        ("GET", "/v1/kv/a?min_revision=1e3", 400, "bad_revision"),
        ("GET", "/v1/kv/a?max_age=1", 400, "conflicting_parameters"),
        ("GET", "/v1/kv/a?consistency=stale&max_age=-1", 400, "bad_max_age"),
        ("GET", "/v1/kv/a?revision=0", 400, "bad_revision"),
        ("GET", "/v1/kv/a?revision=99", 400, "future_revision"),
        ("GET", "/v1/kv/a?revision=1&consistency=stale", 400, "conflicting_parameters"),
        ("GET", "/v1/kv/a?what=1", 400, "unknown_parameter"),
        ("GET", "/v1/kv/a?consistency=stale&consistency=session", 400, "duplicate_parameter"),
        ("PUT", "/v1/kv/a?ttl=-1", 400, "bad_ttl"),
        ("PUT", "/v1/kv/a?ttl=0", 400, "bad_ttl"),
        ("PUT", "/v1/kv/a?ttl=99999999999", 400, "bad_ttl"),
        ("PUT", "/v1/kv/a?ttl=nan", 400, "bad_ttl"),
        ("PUT", "/v1/kv/a?ttl=1&ttl=2", 400, "duplicate_parameter"),
        ("PUT", "/v1/kv/a?op_id=", 400, "bad_op_id"),
        ("PUT", "/v1/kv/a?op_id=~n1.x.1", 400, "bad_op_id"),
        ("PUT", "/v1/kv/a?op_id=" + "o" * 129, 400, "bad_op_id"),
        ("PUT", "/v1/kv/a?op_id=%C3%A9", 400, "bad_op_id"),
        ("PUT", "/v1/kv/a?op_id=%FF", 400, "not_utf8"),
        ("GET", "/v1/kv?limit=0", 400, "bad_limit"),
        ("GET", "/v1/kv?limit=-5", 400, "bad_limit"),
        ("GET", "/v1/kv?limit=1000000", 400, "bad_limit"),
        ("GET", "/v1/kv?limit=x", 400, "bad_limit"),
        ("GET", "/v1/kv?prefix=" + "p" * 1025, 400, "key_too_long"),
        ("GET", "/v1/kv?continue=nonsense", 400, "bad_token"),
        ("GET", "/v1/kv?continue=", 400, "bad_token"),
        ("GET", "/v1/kv?consistency=best", 400, "bad_consistency"),
        ("GET", "/v1/watch?after=-1", 400, "bad_revision"),
        ("GET", "/v1/ledger?from=x", 400, "bad_revision"),
        ("GET", "/v1/ledger?limit=0", 400, "bad_limit"),
        ("GET", "/v1/operations/", 400, "bad_op_id"),
        ("GET", "/kv", 400, "missing_parameter"),
        ("GET", "/kv?key=", 400, "key_empty"),
        ("DELETE", "/kv?key=" + "k" * 1025, 400, "key_too_long"),
        ("GET", "/readyz?verbose=perhaps", 400, "bad_flag"),
        ("GET", "/nowhere", 404, "unknown_path"),
        ("GET", "/v1", 404, "unknown_path"),
        ("POST", "/v2/kv/a", 404, "unknown_path"),
    ],
)
async def test_wrong_requests_are_named(
    api: Api, method: str, path: str, status: int, code: str
) -> None:
    (await api.ask(method, path)).problem(status, code)
    assert api.consensus.submits == []


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        ("If-Match", "abc", "bad_if_match"),
        ("If-Match", '"abc"', "bad_if_match"),
        ("If-Match", '"0"', "bad_if_match"),
        ("If-Match", '"-1"', "bad_if_match"),
        ("If-Match", 'W/"1"', "bad_if_match"),
        ("If-Match", '"1",', "bad_if_match"),
        ("If-Match", ",".join(['"1"'] * 65), "bad_if_match"),
        ("If-Match", '"9007199254740992"', "bad_if_match"),
        ("If-None-Match", '"1"', "bad_if_none_match"),
        ("Idempotency-Key", "~mine", "bad_op_id"),
        ("Idempotency-Key", '""', "bad_op_id"),
        ("Acordo-Timeout", "soon", "bad_timeout"),
        ("Acordo-Timeout", "-1", "bad_timeout"),
    ],
)
async def test_wrong_headers_are_named(api: Api, header: str, value: str, code: str) -> None:
    for method in ("PUT", "DELETE"):
        (await api.ask(method, "/v1/kv/a", headers={header: value})).problem(400, code)
    assert api.consensus.submits == []


async def test_two_conditions_and_two_op_ids(api: Api) -> None:
    both = {"If-Match": '"1"', "If-None-Match": "*"}
    (await api.ask("PUT", "/v1/kv/a", headers=both)).problem(400, "two_conditions")
    (await api.ask("PUT", "/v1/kv/a?op_id=x", headers={"Idempotency-Key": "y"})).problem(
        400, "bad_op_id"
    )


_DEEP = b'{"guards":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/txn", b"", 400, "malformed_json"),
        ("/v1/txn", b"{", 400, "malformed_json"),
        ("/v1/txn", b'{"writes": []} trailing', 400, "malformed_json"),
        ("/v1/txn", b'{"reads":["\xff"]}', 400, "malformed_json"),
        ("/v1/txn", b'{"reads":["\\ud800"]}', 400, "malformed_json"),
        ("/v1/txn", _DEEP, 400, "invalid_body"),
        ("/v1/txn", b"[" * 100_000, 400, "invalid_body"),
        ("/v1/txn", b"[]", 400, "invalid_body"),
        (
            "/v1/txn",
            b'{"writes":[{"put":"a","value":"b"}],"writes":[{"put":"a","value":"c"}]}',
            400,
            "malformed_json",
        ),
        ("/v1/txn", b'{"writes":[{"put":"a","value":"b","value":"c"}]}', 400, "malformed_json"),
        (
            "/v1/txn",
            b'{"writes":[{"put":"a","value":"b","\\u0076alue":"c"}]}',
            400,
            "malformed_json",
        ),
        (
            "/v1/batch",
            b'{"operations":[{"writes":[{"delete":"a","delete":"b"}]}]}',
            400,
            "malformed_json",
        ),
        ("/v1/txn", b"{}", 400, "empty_transaction"),
        ("/v1/txn", b'{"surprise":1}', 400, "invalid_body"),
        ("/v1/txn", b'{"writes":[{"put":"a","value":"b","more":1}]}', 400, "invalid_body"),
        ("/v1/txn", b'{"writes":[{"put":"","value":"b"}]}', 400, "key_empty"),
        ("/v1/txn", b'{"writes":[{"put":"a"}]}', 400, "bad_write"),
        ("/v1/txn", b'{"writes":[{"value":"a"}]}', 400, "bad_write"),
        ("/v1/txn", b'{"writes":[{"put":"a","value":"b","delete":"a"}]}', 400, "bad_write"),
        ("/v1/txn", b'{"writes":[{"put":"a","value":"b","ttl":-1}]}', 400, "invalid_body"),
        ("/v1/txn", b'{"writes":[{"put":"a","value":"b","ttl":1e300}]}', 400, "invalid_body"),
        ("/v1/txn", b'{"writes":[{"put":"a","value":"b","ttl":0.0000001}]}', 400, "bad_ttl"),
        ("/v1/txn", b'{"writes":[{"put":{"base64":"!"},"value":"b"}]}', 400, "bad_base64"),
        ("/v1/txn", b'{"writes":[{"put":{"base32":"AA"},"value":"b"}]}', 400, "invalid_body"),
        ("/v1/txn", b'{"writes":[{"put":1,"value":"b"}]}', 400, "invalid_body"),
        ("/v1/txn", b'{"writes":[{"delete":"a"},{"put":"a","value":"b"}]}', 400, "duplicate_key"),
        (
            "/v1/txn",
            b'{"writes":[{"delete":"a"},{"delete":{"base64":"YQ=="}}]}',
            400,
            "duplicate_key",
        ),
        (
            "/v1/txn",
            b'{"writes":[{"delete":"a"}],"otherwise":[{"delete":"b"},{"delete":"b"}]}',
            400,
            "duplicate_key",
        ),
        ("/v1/txn", b'{"guards":[{"key":"a"}]}', 400, "bad_guard"),
        ("/v1/txn", b'{"guards":[{"key":"a","absent":true,"exists":true}]}', 400, "bad_guard"),
        ("/v1/txn", b'{"guards":[{"key":"a","absent":false}]}', 400, "invalid_body"),
        ("/v1/txn", b'{"guards":[{"key":"a","revision":-1}]}', 400, "invalid_body"),
        ("/v1/txn", b'{"guards":[{"key":"a","revision":[]}]}', 400, "bad_guard"),
        ("/v1/txn", b'{"guards":[{"key":"a","revision":[0,1]}]}', 400, "bad_guard"),
        ("/v1/txn", b'{"guards":[{"key":"a","revision":9007199254740992}]}', 400, "invalid_body"),
        ("/v1/txn", json.dumps({"reads": ["k"] * 129}).encode(), 400, "too_many_operations"),
        ("/v1/txn", json.dumps({"reads": ["k" * 1025]}).encode(), 400, "key_too_long"),
        (
            "/v1/txn",
            json.dumps(
                {"reads": ["k"] * 64, "writes": [{"delete": str(n)} for n in range(65)]}
            ).encode(),
            400,
            "too_many_operations",
        ),
        ("/v1/txn", b'{"writes":[{"delete":"a"}],"op_id":"~x"}', 400, "bad_op_id"),
        (
            "/v1/txn",
            json.dumps({"writes": [{"put": "a", "value": "v" * 1048577}]}).encode(),
            413,
            "value_too_large",
        ),
        ("/v1/txn", b'{"reads":["' + b"x" * (4 * 1024 * KB) + b'"]}', 413, "body_too_large"),
        ("/v1/batch", b'{"operations":[]}', 400, "invalid_body"),
        (
            "/v1/batch",
            json.dumps({"operations": [{"writes": [{"delete": "a"}]}] * 129}).encode(),
            400,
            "invalid_body",
        ),
        ("/v1/batch", b'{"operations":[{"reads":["a"]}]}', 400, "empty_transaction"),
        (
            "/v1/batch",
            json.dumps(
                {"operations": [{"writes": [{"delete": str(n)} for n in range(100)]}] * 11}
            ).encode(),
            400,
            "too_many_operations",
        ),
        ("/v1/cluster/members", b'{"id":"n2"}', 400, "invalid_body"),
        (
            "/v1/cluster/members",
            b'{"id":"n2","raft_address":"nowhere","url":"http://x"}',
            400,
            "invalid_body",
        ),
        ("/v1/cluster/transfer", b'{"to":7}', 400, "invalid_body"),
    ],
)
async def test_wrong_bodies_are_named(
    api: Api, path: str, body: bytes, status: int, code: str
) -> None:
    (await api.ask("POST", path, data=body, headers=J)).problem(status, code)
    assert api.consensus.submits == []


async def test_wrong_legacy_bodies(api: Api) -> None:
    for body, status, code in (
        (b'{"data":{"key":"","value":"v"}}', 400, "key_empty"),
        (b'{"data":{"key":"a"}}', 400, "invalid_body"),
        (b'{"data":{"key":"a","value":1}}', 400, "invalid_body"),
        (b'{"key":"a","value":"v"}', 400, "invalid_body"),
        (json.dumps({"data": {"key": "k" * 1025, "value": ""}}).encode(), 400, "key_too_long"),
        (
            json.dumps({"data": {"key": "k", "value": "v" * 1048577}}).encode(),
            413,
            "value_too_large",
        ),
    ):
        (await api.ask("PUT", "/kv", data=body, headers=J)).problem(status, code)
    (await api.ask("PUT", "/kv", data=b"{}", headers={"Content-Type": "text/csv"})).problem(
        415, "unsupported_media_type"
    )


async def test_unknown_method_names_the_allowed(api: Api) -> None:
    for method, path, allow in (
        ("POST", "/v1/kv/a", "GET, PUT, DELETE, HEAD, OPTIONS"),
        ("PATCH", "/kv", "GET, PUT, DELETE, HEAD, OPTIONS"),
        ("DELETE", "/v1/txn", "POST, OPTIONS"),
        ("PROPFIND", "/livez", "GET, HEAD, OPTIONS"),
    ):
        reply = await api.ask(method, path)
        reply.problem(405, "method_not_allowed")
        assert reply.headers["Allow"] == allow
    options = await api.ask("OPTIONS", "/v1/kv/a")
    assert (options.status, options.headers["Allow"]) == (204, "GET, PUT, DELETE, HEAD, OPTIONS")


async def test_limits_are_inclusive(api: Api) -> None:
    key, value = "k" * 1024, b"v" * 1048576
    assert (await api.ask("PUT", f"/v1/kv/{key}", data=value)).status == 201
    assert (await api.ask("GET", f"/v1/kv/{key}")).body == value
    text = {"data": {"key": key, "value": "v" * 1048576}}
    assert (await api.ask("PUT", "/kv", json=text)).status == 200


async def test_too_large_a_value_is_refused_before_its_body(api: Api) -> None:
    head = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n"
    reply = await raw_exchange(api, head)  # not one byte of the body is sent
    reply.problem(413, "value_too_large")
    assert "1048577" in reply.json()["detail"]


async def test_too_large_a_value_without_a_length_is_cut(api: Api) -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b"v" * 64 * KB

    (await api.ask("PUT", "/v1/kv/a", data=chunks())).problem(413, "value_too_large")
    assert api.consensus.submits == []
    assert api.server.services.load.bodies.bytes.held == 0


async def test_a_value_without_a_length_is_taken(api: Api) -> None:
    async def chunks() -> Any:
        for _ in range(4):
            yield b"v" * 64 * KB

    assert (await api.ask("PUT", "/v1/kv/a", data=chunks())).status == 201
    assert (await api.ask("GET", "/v1/kv/a")).body == b"v" * 256 * KB


async def test_expect_continue(api: Api) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    assert (await reader.readline()).startswith(b"HTTP/1.1 201")
    writer.close()
    big = (
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\nExpect: "
        b"100-continue\r\n\r\n"
    )
    (await raw_exchange(api, big)).problem(413, "value_too_large")
    odd = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: miracles\r\n\r\nabc"
    (await raw_exchange(api, odd)).problem(417, "expectation_failed")


async def test_half_sent_body_times_out(open_api: Open) -> None:
    async with open_api(body_timeout_s=0.05) as api:
        head = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
        (await raw_exchange(api, head)).problem(408, "body_timeout")
        assert api.consensus.submits == []
        assert api.server.services.load.bodies.bytes.held == 0


async def test_half_sent_head_is_closed(open_api: Open) -> None:
    async with open_api(keepalive_timeout_s=0.05) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
        writer.write(b"GET /v1/kv/a HTTP/1.1\r\nHos")
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"NONSENSE\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: -3\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_a_problem_too(api: Api, raw: bytes) -> None:
    (await raw_exchange(api, raw)).problem(400, "bad_http")
    assert (await api.ask("GET", "/livez")).status == 200


async def test_too_long_a_head(api: Api) -> None:
    raw = b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 20000 + b"\r\n\r\n"
    (await raw_exchange(api, raw)).problem(431, "header_too_large")


async def test_encoded_bodies_are_refused(api: Api) -> None:
    reply = await api.ask("PUT", "/v1/kv/a", data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    reply.problem(415, "unsupported_encoding")


@pytest.mark.parametrize(
    "coding",
    ["gzip, chunked", "GZIP,chunked", "identity, chunked", "deflate\r\nTransfer-Encoding: chunked"],
)
@pytest.mark.parametrize("path", ["/v1/kv/a", "/kv", "/nowhere"])
async def test_a_coding_beside_chunked_is_refused(api: Api, coding: str, path: str) -> None:
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n"
    raw = f"{head}3\r\nabc\r\n0\r\n\r\n".encode()
    reply = await raw_exchange(api, raw)
    assert reply.json()["code"] in ("unsupported_encoding", "bad_http")
    # an answer in HTTP/1.0 need not say so
    assert reply.headers.get("Connection", "close") == "close"
    assert api.consensus.submits == []


async def test_http_1_0(api: Api) -> None:
    """Its chunks are refused; it is never told 100, which it would take for the answer."""
    chunks = (
        b"PUT /v1/kv/a HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: "
        b"chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    )
    reply = await raw_exchange(api, chunks)
    reply.problem(400, "bad_http")
    assert reply.headers.get("Connection", "close") == "close"
    assert api.consensus.submits == []
    expecting = b"PUT /v1/kv/a HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\nx"
    assert (await raw_exchange(api, expecting)).status == 201


async def test_more_requests_than_admitted(open_api: Open) -> None:
    async with open_api(requests_max=2) as api:
        api.consensus.hold = True
        held = [asyncio.create_task(api.ask("PUT", f"/v1/kv/{n}", data=b"v")) for n in range(2)]
        while api.server.services.load.requests < 2 or len(api.consensus.held) < 2:
            await asyncio.sleep(0)
        (await api.ask("PUT", "/v1/kv/c", data=b"v")).problem(503, "overloaded")
        (await api.ask("GET", "/v1/kv/c")).problem(503, "overloaded")
        assert (await api.ask("GET", "/livez")).status == 200
        assert (await api.ask("GET", "/metrics")).status == 200
        api.consensus.commit_held()
        assert [reply.status for reply in await asyncio.gather(*held)] == [201, 201]
        assert api.database.read((b"c",), None, 0).versions[0] is None


async def test_an_invariant_violated_ends_the_process(open_api: Open) -> None:
    async def violated(*_: Any, **__: Any) -> Any:
        raise InvariantViolated("two leaders")

    async def main() -> None:
        async with open_api() as api:
            api.server.services.writes.one = violated  # type: ignore[method-assign]  # what can never be
            asking = asyncio.create_task(api.ask("PUT", "/v1/kv/a", data=b"1"))
            try:
                await asyncio.Event().wait()  # broken off by the crash
            finally:
                (await asking).problem(500, "internal", "unknown")

    with pytest.raises(ExceptionGroup) as ended:
        await main()
    assert ended.group_contains(InvariantViolated, depth=1)


async def test_targets_with_scheme_and_host(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/a", data=b"1")
    got = await raw_exchange(
        api, b"GET http://x/v1/kv/a?consistency=stale HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert (got.status, got.body) == (200, b"1")
    (await raw_exchange(api, b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n")).problem(
        404, "unknown_path"
    )


async def test_more_bytes_than_admitted(open_api: Open) -> None:
    async with open_api(body_bytes_held_max=2000) as api:  # one client may have half of it
        (await api.ask("PUT", "/v1/kv/a", data=b"v" * 1001)).problem(503, "overloaded")
        assert (await api.ask("PUT", "/v1/kv/a", data=b"v" * 1000)).status == 201
        assert api.server.services.load.bodies.bytes.held == 0


async def test_op_id_with_another_body(api: Api) -> None:
    key = {"Idempotency-Key": '"op-1"'}
    first = await api.ask("PUT", "/v1/kv/a", data=b"1", headers=key)
    again = await api.ask("PUT", "/v1/kv/a", data=b"1", headers=key)
    assert (first.status, again.status) == (201, 201)
    assert (again.json()["again"], again.headers["ETag"]) == (True, first.headers["ETag"])
    form = (await api.ask("PUT", "/v1/kv/a", data=b"2", headers=key)).problem(422, "mismatch")
    assert form["op_id"] == "op-1"
    assert (await api.ask("GET", "/v1/kv/a")).body == b"1"


async def test_a_bug_inside_is_an_unknown_outcome(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(api.consensus, "now_ms", broken)
    reply = await api.ask("PUT", "/v1/kv/a", data=b"1", headers={"Acordo-Timeout": "0.2"})
    form = reply.problem(503, "timeout")
    assert "secret" not in json.dumps(form)
    monkeypatch.undo()
    monkeypatch.setattr(api.server.services.reads, "get", broken)
    form = (await api.ask("GET", "/v1/kv/a")).problem(500, "internal")
    assert "secret" not in json.dumps(form)
    monkeypatch.setattr(api.server.services.writes, "one", broken)
    form = (await api.ask("PUT", "/v1/kv/a", data=b"1")).problem(500, "internal", "unknown")
    assert form["lookup"].startswith("/v1/operations/~n1") or form["lookup"].startswith(
        "/v1/operations/%7En1"
    )


def test_every_code_that_is_raised_is_described() -> None:
    raised: set[str] = set()
    for file in Path(node.__path__[0]).rglob("*.py"):
        if file.name == "__main__.py" or "startup" in file.parts:
            continue  # what they raise ends the process
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant):
                name = getattr(call.func, "id", getattr(call.func, "attr", ""))
                if name in {"BadRequest", "NotApplied", "problem", "Ended"}:
                    raised.add(str(call.args[0].value))
    assert len(raised) > 30
    assert raised - {"port_in_use", "slow_reader", "certificates_unusable"} <= set(KINDS)
