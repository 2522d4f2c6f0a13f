"""A request that is served directly gets the answer that it gets through the connection's task,
header for header, and what is counted comes out right however it ends.
"""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from node.http.direct import DirectConnection
from node.http.steps import Steps, Told, in_task
from node.http.whole import WholeAnswer
from tests.unit.node.conftest import Api, opened

HEAD = b"Host: x\r\n"


def put(key: bytes, value: bytes = b"1", more: bytes = b"", query: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n\r\n" % len(value)
    return b"PUT /v1/kv/" + key + query + b" HTTP/1.1\r\n" + HEAD + more + length + value


def get(key: bytes, more: bytes = b"", query: bytes = b"", method: bytes = b"GET") -> bytes:
    return method + b" /v1/kv/" + key + query + b" HTTP/1.1\r\n" + HEAD + more + b"\r\n"


def etcd(path: bytes, body: bytes) -> bytes:
    head = b"POST /v3/kv/" + path + b" HTTP/1.1\r\n" + HEAD
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


CHUNKED = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
FOREIGN = b"PUT /v1/kv/a HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1\r\n\r\n1"
TRACE = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
TWICE = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12"

DIRECT: dict[str, list[bytes]] = {
    "created": [put(b"a")],
    "replaced, and read": [put(b"a"), put(b"a", b"2"), get(b"a")],
    "absent": [get(b"none")],
    "deleted": [put(b"a"), get(b"a", method=b"DELETE"), get(b"a", method=b"DELETE"), get(b"a")],
    "empty value": [put(b"a", b""), get(b"a")],
    "key with odd bytes": [put(b"%2F..//%00%ff"), get(b"%2F..//%00%ff")],
    "broken key": [put(b"%zz"), get(b"%zz"), get(b"k" * 3000)],
    "If-Match holds": [put(b"a"), put(b"a", more=b'If-Match: "1"\r\n')],
    "If-Match fails": [put(b"a"), put(b"a", more=b'If-Match: "9"\r\n'), get(b"a")],
    "If-None-Match": [put(b"a", more=b"If-None-Match: *\r\n")] * 2,
    "not modified": [put(b"a"), get(b"a", more=b'If-None-Match: "1"\r\n')],
    "other condition": [put(b"a", more=b"If-Modified-Since: now\r\n")],
    "op_id, twice": [put(b"a", query=b"?op_id=mine"), put(b"a", query=b"?op_id=mine")],
    "op_id, another body": [put(b"a", query=b"?op_id=mine"), put(b"b", query=b"?op_id=mine")],
    "two op_ids": [put(b"a", more=b"Acordo-Op-Id: o1\r\n", query=b"?op_id=o2")],
    "unknown parameter": [put(b"a", query=b"?x=1"), get(b"a", query=b"?x=1")],
    "levels": [put(b"a"), *(get(b"a", query=b"?consistency=" + n) for n in (b"session", b"bad"))],
    "at a revision": [put(b"a"), put(b"a", b"2"), get(b"a", query=b"?revision=1")],
    "of the future": [put(b"a"), get(b"a", query=b"?min_revision=99")],
    "own time": [each(b"a", more=b"Acordo-Timeout: 1.5\r\n") for each in (put, get)],
    "bad time": [put(b"a", more=b"Acordo-Timeout: soon\r\n")],
    "echoes": [get(b"a", more=b"X-Request-Id: r7\r\ntraceparent: " + TRACE + b"\r\n")],
    "foreign host": [FOREIGN],
    "foreign page": [put(b"a", more=b"Sec-Fetch-Site: cross-site\r\n")],
    "encoded body": [put(b"a", more=b"Content-Encoding: gzip\r\n")],
    "Expect, body with it": [put(b"a", more=b"Expect: 100-continue\r\n")],
    "Expect what is not": [put(b"a", more=b"Expect: miracles\r\n")],
    "HTTP/1.0 that stays": [b"GET /v1/kv/a HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"],
    "etcd": [etcd(b"put", b'{"key":"YQ==","value":"MQ=="}'), etcd(b"range", b'{"key":"YQ=="}')],
    "etcd, more": [
        etcd(b"put", b'{"key":"YQ==","value":"MQ=="}'),
        etcd(b"put", b'{"key":"YQ==","value":"Mg==","prev_kv":true}'),
        etcd(b"range", b'{"key":"AA==","range_end":"AA=="}'),
        etcd(b"range", b"no json"),
    ],
    "whole head, then body": [put(b"a")[:-1] + b"1", get(b"a")],
    "etcd, a large value": [put(b"a", b"v" * 600_000), etcd(b"range", b'{"key":"YQ=="}')],
    "large value": [put(b"a", b"v" * 600_000), get(b"a")],
}  # fmt: skip
"""Requests of one connection, each sent once the one before is answered; some are served directly.
"""
OTHERS: dict[str, list[bytes]] = {
    "HEAD": [put(b"a"), get(b"a", method=b"HEAD")],
    "no such method": [get(b"a", method=b"PATCH"), get(b"a", method=b"OPTIONS")],
    "HTTP/1.0": [b"GET /v1/kv/a HTTP/1.0\r\nHost: x\r\n\r\n"],
    "closes": [get(b"a", more=b"Connection: close\r\n")],
    "upgrades": [get(b"a", more=b"Connection: Upgrade\r\nUpgrade: h2c\r\n")],
    "absolute form": [b"GET http://x/v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n"],
    "chunked": [CHUNKED + b"1\r\nx\r\n0\r\n\r\n", get(b"a")],
    "chunked, twice": [CHUNKED.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n"],
    "two lengths": [TWICE],
    "no host": [b"GET /v1/kv/a HTTP/1.1\r\n\r\n"],
    "no HTTP": [b"hello\r\n\r\n"],
    "more than announced": [put(b"a") + b"rest of it\r\n\r\n"],
    "pipelined": [put(b"a") + get(b"a") + put(b"a", b"2") + get(b"a")],
    "elsewhere": [b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"],
}
"""The same; what of them is served directly does not matter."""
PIECES = {
    "head split": [put(b"a")[:20], put(b"a")[20:]],
    "body later": [put(b"a", b"12")[:-2], b"12"],
    "body in pieces": [put(b"a", b"123")[:-3], b"1", b"23"],
    "next head begun": [put(b"a") + get(b"a")[:9], get(b"a")[9:]],
}
"""Pieces that are sent one by one."""


@asynccontextmanager
async def asked(api: Api) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader, *, bodiless: bool = False) -> bytes:
    """Read one answer; empty: the connection was closed."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        return exc.partial
    if head.startswith(b"HTTP/1.1 100"):
        return head + await answer(reader)
    length = re.search(rb"(?i)content-length: (\d+)", head)
    body = b"" if bodiless or length is None else await reader.readexactly(int(length[1]))
    return re.sub(rb"\r\nDate: [^\r]*", b"", head) + body


async def answers(api: Api, requests: list[bytes]) -> list[bytes]:
    """Send requests one by one, and what follows them, and return the answers until the end."""
    found = []
    async with asked(api) as (reader, writer):
        for request in requests:
            writer.write(request)
            bodiless = request.startswith(b"HEAD")
            count = request.count(b" HTTP/1.1\r\n") or 1
            found += [await answer(reader, bodiless=bodiless) for _ in range(count)]
            if not found[-1]:
                return found
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return [*found, await answer(reader), await reader.read()]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets of requests that were served directly."""
    targets: list[str] = []
    right = DirectConnection._serve_directly

    def noted(self: DirectConnection, message: Any, payload: Any) -> None:
        targets.append(message.path)
        right(self, message, payload)

    monkeypatch.setattr(DirectConnection, "_serve_directly", noted)
    return targets


@asynccontextmanager
async def node(kind: str, *, direct: bool = True, **settings: Any) -> AsyncIterator[Api]:
    async with opened(kind=kind, etcd=True, **settings) as api:
        connections = api.server.services.load.connections
        assert connections is not None
        if not direct:
            connections.may_be_direct = lambda method, target: False
        yield api
        assert (connections.head_bytes, connections.answer_bytes) == (0, 0)
        assert api.server.services.load.requests == 0
        assert api.server.services.writes.held == 0


@pytest.mark.parametrize("case", [*DIRECT, *OTHERS])
async def test_answers_are_the_same_either_way(
    case: str, store_kind: str, served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = (DIRECT | OTHERS)[case]
    async with node(store_kind) as api:
        direct = await answers(api, requests)
        intents = submitted(api)
    assert served or case not in DIRECT
    served.clear()
    async with node(store_kind, direct=False) as api:
        assert await answers(api, requests) == direct
        assert submitted(api) == intents
    monkeypatch.setattr(WholeAnswer, "on_the_wire", lambda self, request: None)
    async with node(store_kind, direct=False) as api:  # as aiohttp writes them
        assert [sorted_head(each) for each in await answers(api, requests)] == [
            sorted_head(each) for each in direct
        ]
    assert served == []


def submitted(api: Api) -> list[Any]:
    """Return the intents without their deadlines."""
    each = [intent for group in api.consensus.submits for intent in group]
    return [msgspec.structs.replace(intent, deadline_ms=0) for intent in each]


def sorted_head(whole: bytes) -> tuple[list[bytes], bytes]:
    head, _, body = whole.partition(b"\r\n\r\n")
    return sorted(head.split(b"\r\n")), body


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("case", PIECES)
async def test_requests_may_come_in_pieces(case: str, direct: bool, served: list[str]) -> None:
    async with node("replicated", direct=direct) as api, asked(api) as (reader, writer):
        for piece in PIECES[case]:
            writer.write(piece)
            for _ in range(20):  # let the node read it
                await asyncio.sleep(0)
        assert (await answer(reader)).startswith(b"HTTP/1.1 201")
        if case == "next head begun":
            assert (await answer(reader)).endswith(b"\r\n\r\n1")
    assert len(api.consensus.submits) == 1


async def test_answers_keep_the_order_of_their_requests(served: list[str]) -> None:
    async with node("replicated") as api, asked(api) as (reader, writer):
        api.consensus.hold = True
        writer.write(put(b"a"))
        await _until(lambda: len(api.consensus.held) == 1)
        writer.write(get(b"b"))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        connections = api.server.services.load.connections
        assert connections is not None
        (connection,) = connections._connections
        await _until(lambda: len(connection._messages) == 2)
        api.consensus.commit_held()
        statuses = [(await answer(reader)).split(b" ")[1] for _ in range(3)]
    assert statuses == [b"201", b"404", b"200"]
    assert served == ["/v1/kv/a"]


async def _until(holds: Any) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0)


async def test_a_planted_fault_changes_an_answer(
    served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Served without a look at what comes first, two pipelined requests are answered as they
    end.
    """
    right = DirectConnection.serve_queued

    def at_once(self: DirectConnection) -> None:
        self._steps = None
        right(self)

    monkeypatch.setattr(DirectConnection, "serve_queued", at_once)
    async with node("replicated") as api, asked(api) as (reader, writer):
        api.consensus.hold = True
        writer.write(put(b"a"))
        await _until(lambda: len(api.consensus.held) == 1)
        writer.write(get(b"b"))
        assert (await answer(reader)).startswith(b"HTTP/1.1 404")
        api.consensus.commit_held()
        assert (await answer(reader)).startswith(b"HTTP/1.1 201")


@pytest.mark.parametrize("direct", [True, False])
async def test_a_lost_client_cancels_no_write(direct: bool) -> None:
    async with node("replicated", direct=direct) as api:
        api.consensus.hold = True
        connections = api.server.services.load.connections
        assert connections is not None
        async with asked(api) as (_, writer):
            writer.write(put(b"a"))
            await _until(lambda: len(api.consensus.held) == 1)
            (connection,) = connections._connections
        await _until(lambda: connection.transport is None)
        assert api.server.services.load.requests == 1
        api.consensus.hold = False
        api.consensus.commit_held()
        await _until(lambda: api.server.services.load.requests == 0)
        assert (await api.ask("GET", "/v1/kv/a")).body == b"1"


@pytest.mark.parametrize("direct", [True, False])
async def test_a_drain_waits_for_what_is_served(direct: bool) -> None:
    async with (
        node("replicated", direct=direct) as api,
        asked(api) as (reader, writer),
        asked(api) as (other, late),
    ):
        late.write(get(b"a"))
        await answer(other)
        api.consensus.hold = True
        writer.write(put(b"a"))
        await _until(lambda: len(api.consensus.held) == 1)
        drained = asyncio.create_task(api.server.drain())
        await _until(lambda: api.server.services.load.draining)
        late.write(put(b"b"))
        refused = await answer(other)
        assert (refused.split(b" ")[1], await other.read()) == (b"503", b"")
        assert b'"draining"' in refused
        assert not drained.done()
        api.consensus.commit_held()
        assert (await answer(reader)).startswith(b"HTTP/1.1 201")
        assert await drained


@pytest.mark.parametrize("lost", [True, False])
async def test_a_closed_node_ends_what_it_serves(lost: bool) -> None:
    async with opened(kind="replicated") as api, asked(api) as (reader, writer):
        connections = api.server.services.load.connections
        assert connections is not None
        api.consensus.hold = True
        writer.write(put(b"a"))
        await _until(lambda: len(api.consensus.held) == 1)
        (connection,) = connections._connections
        if lost:
            writer.close()
            await _until(lambda: connection.transport is None)
        assert api.server._runner is not None
        await api.server._runner.cleanup()
        assert await reader.read() == b""
        await _until(lambda: api.server.services.load.requests == 0)
        assert api.server.services.writes.held == 0


@pytest.mark.parametrize("direct", [True, False])
async def test_at_the_bound_requests_are_refused(direct: bool) -> None:
    async with node("replicated", direct=direct, requests_max=1) as api:
        api.consensus.hold = True
        async with asked(api) as (reader, writer), asked(api) as (other, late):
            writer.write(put(b"a"))
            await _until(lambda: len(api.consensus.held) == 1)
            late.write(put(b"b"))
            assert b'"overloaded"' in await answer(other)
            api.consensus.commit_held()
            assert (await answer(reader)).startswith(b"HTTP/1.1 201")
        assert len(api.consensus.submits) == 1


@pytest.mark.parametrize("direct", [True, False])
async def test_an_outcome_that_is_not_heard_is_unknown(direct: bool) -> None:
    async with node("replicated", direct=direct) as api, asked(api) as (reader, writer):
        api.consensus.hold = True
        writer.write(put(b"a", more=b"Acordo-Timeout: 0.02\r\nAcordo-Op-Id: mine\r\n"))
        told = await answer(reader)
        assert told.startswith(b"HTTP/1.1 504")
        assert b"Acordo-Op-Id: mine" in told
        assert b'"unknown"' in told
        writer.write(get(b"a"))
        assert (await answer(reader)).startswith(b"HTTP/1.1 404")


async def test_a_connection_that_serves_is_not_idle() -> None:
    async with node("replicated") as api, asked(api) as (reader, writer):
        api.consensus.hold = True
        writer.write(put(b"a"))
        await _until(lambda: len(api.consensus.held) == 1)
        connections = api.server.services.load.connections
        assert connections is not None
        (connection,) = connections._connections
        assert connections._idle == {}
        connection._next_keepalive_close_time = 0.0
        connection._process_keepalive()
        api.consensus.commit_held()
        assert (await answer(reader)).startswith(b"HTTP/1.1 201")
        assert list(connections._idle) == [connection]
        connection._next_keepalive_close_time = 0.0
        connection._process_keepalive()
        assert await reader.read() == b""


# ---------------------------------------------------------------------------------------- in steps


async def test_steps_begin_at_once_and_go_on_without_a_task() -> None:
    loop = asyncio.get_running_loop()
    seen: list[Any] = []
    future: asyncio.Future[int] = loop.create_future()

    async def work() -> None:
        seen.append("begun")
        seen.append(await future)
        seen.append(asyncio.current_task())

    def begin() -> None:
        Steps(loop, work(), seen.append).start()

    loop.call_soon(begin)
    await asyncio.sleep(0)
    assert seen == ["begun"]
    future.set_result(7)
    await asyncio.sleep(0)
    assert seen == ["begun", 7, None, None]


@pytest.mark.parametrize("before", [False, True])
async def test_what_needs_a_task_gets_one(before: bool) -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[BaseException | None] = loop.create_future()
    tasks: list[Any] = []

    async def work() -> None:
        if before:
            await loop.run_in_executor(None, int)
        await in_task()
        tasks.append(asyncio.current_task())
        await in_task()
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(0.001):
            await loop.create_future()

    loop.call_soon(lambda: Steps(loop, work(), ended.set_result).start())
    assert isinstance(await ended, TimeoutError)
    assert tasks[0] is tasks[1] is not None


@pytest.mark.parametrize("way", ["raised", "of a future", "cancelled", "cancelled in a task"])
async def test_steps_end_with_what_the_coroutine_ends_with(way: str) -> None:
    loop = asyncio.get_running_loop()
    ended: list[BaseException | None] = []
    future: asyncio.Future[None] = loop.create_future()

    async def work() -> None:
        if way == "raised":
            raise ValueError
        if way == "cancelled in a task":
            await in_task()
        await future

    steps = Steps(loop, work(), ended.append)
    loop.call_soon(steps.start)
    await _until(lambda: ended or future._callbacks)
    if way == "of a future":
        future.set_exception(KeyError())
    elif way != "raised":
        steps.cancel()
    await _until(lambda: ended)
    kinds = {"raised": ValueError, "of a future": KeyError}
    assert [type(each) for each in ended] == [kinds.get(way, asyncio.CancelledError)]


async def test_steps_go_on_while_a_result_is_told() -> None:
    loop = asyncio.get_running_loop()
    told: Told[int] = Told()
    seen: list[Any] = []

    async def work() -> None:
        seen.append(await told)
        seen.append(await told)

    def tell() -> None:
        told.set_result(7)
        assert seen == [7, 7, None]

    loop.call_soon(Steps(loop, work(), seen.append).start)
    loop.call_soon(tell)
    await _until(told.done)
    assert seen == [7, 7, None]


async def test_steps_never_go_on_in_a_task_of_others() -> None:
    """Its time-outs would end what the steps do, and theirs would end it."""
    loop = asyncio.get_running_loop()
    told: Told[int] = Told()
    seen: list[Any] = []

    async def work() -> None:
        await told
        seen.append(asyncio.current_task())

    loop.call_soon(Steps(loop, work(), seen.append).start)
    await asyncio.sleep(0)
    told.set_result(7)  # this test is a task
    assert seen == []
    await _until(lambda: seen)
    assert seen == [None, None]


@pytest.mark.parametrize("late", [True, False])
async def test_what_is_cancelled_is_told_nothing(late: bool) -> None:
    loop = asyncio.get_running_loop()
    told: Told[int] = Told()
    ended: list[BaseException | None] = []

    async def work() -> None:
        await told

    steps = Steps(loop, work(), ended.append)
    loop.call_soon(steps.start)
    await asyncio.sleep(0)
    if late:
        told.set_result(7)  # its steps go on in the next pass
    steps.cancel()
    assert [type(each) for each in ended] == [asyncio.CancelledError]
    if not late:
        told.set_result(7)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(ended) == 1


async def test_tasks_wait_for_a_result_too() -> None:
    told: Told[int] = Told()
    lost: Told[int] = Told()

    async def wait(what: Told[int]) -> int:
        async with asyncio.timeout(0.001 if what is lost else 5):
            return await what

    first, second = asyncio.create_task(wait(told)), asyncio.create_task(wait(lost))
    with pytest.raises(TimeoutError):
        await second
    assert lost.done()
    told.set_result(7)
    lost.set_result(8)
    assert await first == await wait(told) == 7


NEVER_IN_STEPS = (
    "api/", "startup/", "watching/", "readiness/", "__main__.py",
    "etcd/streams.py", "etcd/watch.py", "access/access.py Access.load",
    "access/access.py Access.run", "server.py Server.drain",
    "writes/leases.py", "writes/lookups.py", "http/bodies.py", "http/handshakes.py",
)  # fmt: skip
"""What sets time-outs, and no request that is served in steps gets to: other routes' handlers, the
body that is not there as a whole, and work of the node's own.
"""


def test_what_sets_a_time_out_is_in_a_task() -> None:
    """Without a task there is no time-out: the request would end as an error inside."""
    found = []
    for path in sorted(NODE.rglob("*.py")):
        name = path.relative_to(NODE).as_posix()
        for where, function in _coroutines(ast.parse(path.read_text())):
            calls = [
                (each.lineno, ast.unparse(each.func))
                for each in ast.walk(function)
                if isinstance(each, ast.Call)
            ]
            first = min((line for line, call in calls if call in TIMED), default=None)
            if first is not None and not any(c == "in_task" and n < first for n, c in calls):
                found.append(f"{name} {where}")
    assert len(found) > 10
    assert [
        each
        for each in found
        if not each.startswith(NEVER_IN_STEPS) or each.startswith("api/keys.py")
    ] == []


NODE = Path(__file__).parents[3] / "node"
TIMED = {"asyncio.timeout", "asyncio.timeout_at", "asyncio.TaskGroup", "asyncio.wait_for"}


def _coroutines(module: ast.Module) -> Iterator[tuple[str, ast.AsyncFunctionDef]]:
    for each in module.body:
        if isinstance(each, ast.AsyncFunctionDef):
            yield each.name, each
        elif isinstance(each, ast.ClassDef):
            for inner in each.body:
                if isinstance(inner, ast.AsyncFunctionDef):
                    yield f"{each.name}.{inner.name}", inner
