"""Connections stay below their bounds: how many, how large their heads, how long an answer waits
for its reader.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from node.http.connections import (
    HEAD_BYTES_MAX,
    RESERVE_MAX,
    USER_TIMEOUT_S,
    connections_within,
    reserve_of,
)
from tests.unit.node.conftest import Api, Open, Reply, raw_exchange

PUT = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1"


async def connected(
    api: Api, raw: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(raw)
    return reader, writer


async def held(api: Api, count: int) -> None:
    """Wait until the server holds so many connections."""
    connections = api.server.services.load.connections
    assert connections is not None
    while len(connections) != count:
        await asyncio.sleep(0.001)


def test_connections_leave_a_reserve() -> None:
    for descriptors in (4, 64, 256, 1024, 4096, 1 << 20):
        most = connections_within(8192, descriptors)
        assert 1 <= most <= min(8192, descriptors - reserve_of(descriptors))
    assert reserve_of(1024) == RESERVE_MAX
    assert connections_within(8192, 1024) == 768
    assert connections_within(8192, None) == 8192


async def test_the_longest_idle_connection_makes_room(open_api: Open) -> None:
    async with open_api(connections_max=3) as api:
        first, second = await connected(api), await connected(api)
        await held(api, 2)
        # now the second was idle for longer
        first[1].write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await first[0].readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
        third = await connected(api)
        await held(api, 3)
        assert (await raw_exchange(api, PUT)).status == 201
        assert await second[0].read() == b""
        first[1].write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await first[0].readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
        body = (await api.ask("GET", "/metrics")).body
        assert b"acordo_http_connections_max 3.0" in body
        for _, writer in (first, third):
            writer.close()


async def test_a_thousand_idle_connections_shut_out_nobody(open_api: Open) -> None:
    async with open_api(connections_max=20) as api:
        flood = [await connected(api, b"GET /livez HTTP/1.1\r\nHos") for _ in range(100)]
        assert (await raw_exchange(api, PUT)).status == 201
        for _, writer in flood:
            writer.close()


async def test_a_connection_is_refused_when_none_is_idle(open_api: Open) -> None:
    async with open_api(connections_max=2) as api:
        api.consensus.hold = True
        busy = [await connected(api, PUT) for _ in range(2)]
        while len(api.consensus.held) < 2:
            await asyncio.sleep(0)
        (await raw_exchange(api, PUT)).problem(503, "overloaded")
        assert len(api.consensus.held) == 2
        api.consensus.commit_held()
        for reader, _ in busy:
            assert (await reader.readline())[:11] == b"HTTP/1.1 20"
        assert (
            b"acordo_http_connections_refused_total 1.0" in (await api.ask("GET", "/metrics")).body
        )
        for _, writer in busy:
            writer.close()


async def test_other_descriptors_count_too(open_api: Open) -> None:
    """The reserve is in use, whoever uses it: a connection is refused although HTTP holds hardly
    any.
    """
    async with open_api(descriptors_max=8) as api:  # this process has more open than that
        (await raw_exchange(api, PUT)).problem(503, "overloaded")
        assert api.consensus.submits == []


async def test_a_silent_peer_is_given_up_by_the_kernel(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, writer = await connected(api)
    await held(api, 1)
    connections = api.server.services.load.connections
    assert connections is not None
    (transport,) = connections._connections.values()
    sock = transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == USER_TIMEOUT_S * 1000
    writer.close()


HEADS = {
    "many lines": b"".join(b"X-%d: " % n + b"a" * 8000 + b"\r\n" for n in range(9)),
    "whole at once": b"".join(b"X-%d: " % n + b"a" * 700 + b"\r\n" for n in range(100)),
}


@pytest.mark.parametrize("how", HEADS)
@pytest.mark.parametrize("ended", [True, False])
async def test_a_head_is_bounded_as_a_whole(api: Api, how: str, ended: bool) -> None:
    head = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\n" + HEADS[how]
    assert len(head) > HEAD_BYTES_MAX
    (await raw_exchange(api, head + (b"\r\n" if ended else b""))).problem(431, "header_too_large")
    assert api.server.services.load.connections is not None
    await held(api, 0)
    assert api.server.services.load.connections.head_bytes == 0
    assert api.consensus.submits == []


async def test_unfinished_heads_are_bounded_together(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.http.connections.HEADS_BYTES_MAX", 10_000)
    half = await connected(api, b"GET /livez HTTP/1.1\r\nX: " + b"a" * 9_000)
    await held(api, 1)
    connections = api.server.services.load.connections
    assert connections is not None
    while not connections.head_bytes:
        await asyncio.sleep(0)
    (await raw_exchange(api, b"GET /livez HTTP/1.1\r\nX: " + b"a" * 2_000)).problem(
        503, "overloaded"
    )
    assert (await api.ask("GET", "/livez")).status == 200
    half[1].close()


def small_socket(api: Api) -> socket.socket:
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(("127.0.0.1", api.server.port))
    return small


async def many_values(api: Api) -> None:
    for n in range(8):
        assert (await api.ask("PUT", f"/v1/kv/big{n}", data=b"v" * 1_000_000)).status == 201


async def test_an_answer_that_nobody_reads_is_cut(open_api: Open) -> None:
    async with open_api(answer_stall_s=0.05) as api:
        await many_values(api)
        connections = api.server.services.load.connections
        assert connections is not None
        with small_socket(api) as small:
            small.sendall(b"GET /v1/kv?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
            while not connections.stalled_total:
                await asyncio.sleep(0.001)
        assert connections.answer_bytes == 0 or await _none_waits(connections)


async def _none_waits(connections: Any) -> bool:
    while connections.answer_bytes:
        await asyncio.sleep(0.001)
    return True


async def test_a_slow_reader_that_goes_on_is_served(open_api: Open) -> None:
    async with open_api(answer_stall_s=0.2) as api:
        await many_values(api)
        with small_socket(api) as small:
            reader, writer = await asyncio.open_connection(sock=small.dup(), limit=2**16)
        writer.write(b"GET /v1/kv?limit=1000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        got = 0
        while part := await reader.read(2**16):
            got += len(part)
            await asyncio.sleep(0.001)
        assert got > 2_000_000
        connections = api.server.services.load.connections
        assert connections is not None
        assert connections.stalled_total == 0
        writer.close()


async def test_answers_are_bounded_together(open_api: Open) -> None:
    async with open_api(answer_bytes_held_max=4_000_000) as api:
        await many_values(api)
        connections = api.server.services.load.connections
        assert connections is not None
        with small_socket(api) as small:
            small.sendall(b"GET /v1/kv?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
            while connections.answer_bytes < 2_000_000:
                await asyncio.sleep(0)
            (await api.ask("GET", "/v1/kv?limit=1000")).problem(503, "overloaded")
            # a write's answer is never withheld
            assert (await api.ask("PUT", "/v1/kv/a", data=b"1")).status == 201
            assert (await api.ask("GET", "/v1/kv/a")).body == b"1"
        assert await _none_waits(connections)
        assert (await api.ask("GET", "/v1/kv?limit=1000")).status == 200


async def test_liveness_is_not_behind_a_flood_of_requests(
    open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three hundred requests at once, not all have begun when the one about liveness after them
    is answered.
    """
    monkeypatch.setattr("node.server.REQUESTS_PER_PASS", 32)
    async with open_api() as api:
        begun = 0
        answered_after = []
        get = api.server.services.reads.get

        async def counted(*args: Any, **more: Any) -> Any:
            nonlocal begun
            begun += 1
            return await get(*args, **more)

        monkeypatch.setattr(api.server.services.reads, "get", counted)
        flood = [await connected(api) for _ in range(300)]
        last = await connected(api)
        await held(api, 301)

        async def live() -> None:
            await last[0].readuntil(b"ok\n")
            answered_after.append(begun)

        waiting = asyncio.create_task(live())
        await asyncio.sleep(0)
        for _, writer in flood:
            writer.write(b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n")
        last[1].write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await waiting
        assert answered_after[0] < 300
        for reader, writer in (*flood, last):
            if reader is not last[0]:
                assert b" 404 " in await reader.readline()
            writer.close()


ODD = bytes(range(0x80, 0x100))


@pytest.mark.parametrize(
    "name",
    [
        b"X-Request-Id",
        b"Idempotency-Key",
        b"Acordo-Op-Id",
        b"Expect",
        b"Content-Type",
        b"If-Match",
        b"If-None-Match",
        b"Content-Encoding",
        b"Acordo-Timeout",
        b"Origin",
        b"Acordo-Revision",
        b"Last-Event-ID",
        b"traceparent",
    ],
)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        (b"PUT", b"/v1/kv/a?x=", b"1"),
        (b"PUT", b"/v1/kv/a", b"1"),
        (b"POST", b"/v1/txn", b"{"),
        (b"PUT", b"/kv", b"{"),
        (b"GET", b"/v1/watch?after=x", b""),
        (b"GET", b"/v1/kv/\xff\xfe", b""),
        (b"DELETE", b"/v1/kv/\xe9%", b""),
    ],
)
async def test_every_refusal_stays_definite(
    api: Api, name: bytes, method: bytes, path: bytes, body: bytes
) -> None:
    """A header (or a path) of bytes that are no UTF-8 never turns a refusal into an unknown
    outcome.
    """
    condition = b"" if name == b"If-Match" else b'If-Match: "7"\r\n'
    for value in (ODD, b"a\xff", b"\xc3\x28", "ã".encode()):
        head = b"%b %b HTTP/1.1\r\nHost: x\r\n%b%b: %b\r\n" % (method, path, condition, name, value)
        raw = b"%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (head, len(body), body)
        reply: Reply = await raw_exchange(api, raw)
        form = reply.json()
        assert 400 <= reply.status < 500, form
        assert form.get("outcome") in ("not_applied", None)
        for header in reply.headers.values():
            header.encode("latin-1").decode("utf-8")  # what comes back is text
