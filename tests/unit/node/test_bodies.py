"""Bodies hold what has arrived, not what was announced; no client can have all there is; slow ones
are given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.http.shares import Shares
from tests.unit.node.conftest import Api, Open, raw_exchange

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def promises(
    api: Api, count: int, head: bytes, address: str = "127.0.0.1"
) -> AsyncIterator[list[Peer]]:
    """Open connections that announce a body and send nothing of it."""
    peers = [
        await asyncio.open_connection("127.0.0.1", api.server.port, local_addr=(address, 0))
        for _ in range(count)
    ]
    try:
        for _, writer in peers:
            writer.write(head)
        yield peers
    finally:
        for _, writer in peers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def arriving(api: Api, count: int) -> None:
    while api.server.services.load.bodies.receiving.held != count:
        await asyncio.sleep(0.001)


async def test_announced_bodies_hold_nothing(open_api: Open) -> None:
    large = (
        b"POST /v1/txn HTTP/1.1\r\nHost: x\r\nContent-Type: "
        b"application/json\r\nContent-Length: 4194304\r\n\r\n"
    )
    async with open_api(body_bytes_held_max=8 << 20) as api, promises(api, 16, large):
        await arriving(api, 16)
        assert api.server.services.load.bodies.bytes.held == 0
        assert (await api.ask("PUT", "/v1/kv/a", data=b"v" * 1_000_000)).status == 201


async def test_promised_bodies_are_no_requests_yet(open_api: Open) -> None:
    one = b"PUT /v1/kv/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    async with open_api(requests_max=2) as api:
        assert (await api.ask("PUT", "/v1/kv/a", data=b"0")).status == 201  # it waits for a round
        await _promised(api, one)


async def _promised(api: Api, one: bytes) -> None:
    async with promises(api, 20, one) as peers:
        await arriving(api, 20)
        assert (await api.ask("PUT", "/v1/kv/a", data=b"1")).status == 200
        assert (await api.ask("GET", "/v1/kv/a")).body == b"1"
        api.consensus.hold = True
        for _, writer in peers:  # all at once
            writer.write(b"x")
        firsts = [asyncio.create_task(reader.readline()) for reader, _ in peers]
        while len([task for task in firsts if task.done()]) < 18:
            await asyncio.sleep(0.001)
        assert len(api.consensus.held) == 2
        assert all(b"503" in task.result() for task in firsts if task.done())
        api.consensus.commit_held()
        assert api.server.services.load.requests == 0 or await _none_left(api)


async def _none_left(api: Api) -> bool:
    while api.server.services.load.requests:
        await asyncio.sleep(0.001)
    return True


async def test_no_client_has_all_the_room_for_bodies(open_api: Open) -> None:
    one = b"PUT /v1/kv/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    async with open_api(connections_max=20) as api, promises(api, 10, one, "127.0.0.2"):
        await arriving(api, 10)
        async with promises(api, 1, one, "127.0.0.2") as ((reader, _),):
            assert b" 503 " in await reader.readline()
        async with promises(api, 1, one) as ((reader, writer),):
            await arriving(api, 11)
            writer.write(b"x")
            assert b" 201 " in await reader.readline()


async def test_no_client_has_all_the_bytes_for_bodies(open_api: Open) -> None:
    half = b"PUT /v1/kv/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" + b"v" * 8000
    async with open_api(body_bytes_held_max=20_000) as api, promises(api, 1, half, "127.0.0.2"):
        while api.server.services.load.bodies.bytes.held < 8000:
            await asyncio.sleep(0.001)
        async with promises(api, 1, half, "127.0.0.2") as ((reader, _),):
            assert b" 503 " in await reader.readline()
        assert (await api.ask("PUT", "/v1/kv/a", data=b"v" * 9000)).status == 201


@pytest.mark.parametrize("trickle", [False, True])
async def test_a_body_that_hardly_comes_is_given_up(open_api: Open, trickle: bool) -> None:
    async with open_api(body_timeout_s=0.4) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
        writer.write(b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        answer = asyncio.create_task(reader.readline())
        while not answer.done():
            if trickle:
                writer.write(b"x")
            await asyncio.sleep(0.005)
        assert b" 408 " in answer.result()
        assert api.server.services.load.bodies.receiving.held == 0
        writer.close()


async def test_a_body_in_pieces_arrives(open_api: Open) -> None:
    async with open_api() as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
        writer.write(b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(10):
            writer.write(b"x" * 10_000)
            await writer.drain()
            await asyncio.sleep(0)
        assert b" 201 " in await reader.readline()
        writer.close()


async def test_a_broken_body_gives_back_what_it_held(api: Api) -> None:
    raw = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(raw)
    await arriving(api, 1)
    writer.transport.abort()
    await arriving(api, 0)
    assert await _none_left(api)
    assert api.server.services.load.bodies.bytes.held == 0
    assert (await raw_exchange(api, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200
    assert api.consensus.submits == []
    assert reader is not None


@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60)), max_size=40),
)
def test_shares_are_kept_and_given_back(most: int, asked: list[tuple[str, int]]) -> None:
    shares = Shares(most)
    taken: list[tuple[str, int]] = []
    for n, (address, count) in enumerate(asked):
        before = shares.held
        own = sum(c for a, c in taken if a == address)
        fits = before + count <= most and own + count <= max(1, most // 2)
        assert shares.take(address, count) == fits
        if fits:
            taken.append((address, count))
        elif n % 2 and taken:
            shares.give_back(*taken.pop(0))
        assert shares.held == sum(c for _, c in taken) <= most
    for each in taken:
        shares.give_back(*each)
    assert (shares.held, len(shares)) == (0, 0)
