"""A link passes, cuts, delays and breaks as it is told, counts it, and never joins a stream that
lost bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from chaos.targets.proxy import Link, Mesh


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """Run a server that sends back what it gets; yield its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1024):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def linked() -> AsyncIterator[Link]:
    async with echo() as port, Link("127.0.0.1", port, Random(1)) as link:
        yield link


async def connect(link: Link) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", link.port)


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bytes:
    writer.write(text)
    async with asyncio.timeout(10):
        return await reader.readexactly(len(text))


async def ended(reader: asyncio.StreamReader) -> bool:
    """Say whether the connection ends without another byte."""
    try:
        async with asyncio.timeout(10):
            return await reader.read() == b""
    except OSError:
        return True


async def test_what_is_not_disturbed_passes_both_ways_whole() -> None:
    async with linked() as link:
        streams = await connect(link)
        assert await ask(*streams, b"x" * 300_000) == b"x" * 300_000
        assert (link.up.passed, link.down.passed) == (300_000, 300_000)
        assert link.up.disturbed + link.down.disturbed == 0
        streams[1].close()
        await until(lambda: link.connections == 0)


async def test_the_end_of_a_stream_passes_too() -> None:
    async with linked() as link:
        reader, writer = await connect(link)
        writer.write(b"last words")
        writer.write_eof()
        async with asyncio.timeout(10):
            assert await reader.read() == b"last words"


async def test_a_cut_link_swallows_and_after_healing_the_connection_is_closed() -> None:
    async with linked() as link:
        reader, writer = await connect(link)
        assert await ask(reader, writer, b"before") == b"before"
        link.up.cut = link.down.cut = True
        writer.write(b"lost")
        await until(lambda: link.up.withheld == 4)
        assert link.connections == 1, "it is a black hole, not a reset"
        link.heal()
        assert await ended(reader), "the stream lost bytes: it must not go on"
        again = await connect(link)
        assert await ask(*again, b"after") == b"after"


async def test_a_connection_made_while_cut_hears_nothing_until_it_heals() -> None:
    async with linked() as link:
        link.up.cut = link.down.cut = True
        reader, writer = await connect(link)
        writer.write(b"hello?")
        await until(lambda: link.up.refused == 1 and link.up.withheld == 6)
        link.heal()
        assert await ended(reader)


async def test_one_direction_alone_can_be_cut() -> None:
    async with echo() as port, Link("127.0.0.1", port, Random(1)) as link:
        reader, writer = await connect(link)
        assert await ask(reader, writer, b"1") == b"1"
        link.down.cut = True
        writer.write(b"22")
        await until(lambda: link.down.withheld == 2)
        assert link.up.passed == 3, "it arrived, and only its answer was lost"
        writer.write(b"333")
        await until(lambda: link.up.passed == 6)
        link.heal()
        assert await ended(reader)


async def test_a_connection_that_lost_nothing_survives_the_cut() -> None:
    async with linked() as link:
        streams = await connect(link)
        assert await ask(*streams, b"before") == b"before"
        link.up.cut = True
        link.heal()
        assert await ask(*streams, b"after") == b"after"


async def test_delays_losses_and_rates_keep_order_and_lose_nothing() -> None:
    async with linked() as link:
        link.up.delay_s, link.up.jitter_s, link.up.loss = 0.002, 0.002, 0.05
        link.down.bytes_per_s = 1e6
        reader, writer = await connect(link)
        sent = b""
        for n in range(40):
            chunk = b"%d," % n
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(0)
            sent += chunk
        async with asyncio.timeout(20):
            assert await reader.readexactly(len(sent)) == sent
        assert link.up.delayed > 0
        assert link.down.delayed > 0


async def test_resets_break_the_connection_and_are_counted() -> None:
    async with linked() as link:
        reader, writer = await connect(link)
        link.up.reset = 1.0
        writer.write(b"x")
        assert await ended(reader)
        assert link.up.resets == 1
        link.heal()
        streams = await connect(link)
        assert await ask(*streams, b"y") == b"y"
        link.close_all()
        assert await ended(streams[0])


async def test_a_target_that_is_not_there_ends_the_connection() -> None:
    async with echo() as port:
        pass
    async with Link("127.0.0.1", port, Random(1)) as link:
        reader, _ = await connect(link)
        assert await ended(reader)
        await until(lambda: link.connections == 0)


@pytest.mark.parametrize("dialler", ["a", "b"])
async def test_a_mesh_cuts_from_node_to_node_whoever_dialled(dialler: str) -> None:
    """b sends to a, but a does not hear it: a cut of b → a, on whichever side of the link
    that is.
    """
    dialled = "b" if dialler == "a" else "a"
    async with echo() as port, Mesh(Random(1)) as mesh:
        link = await mesh.add_peer(dialler, dialled, "127.0.0.1", port)
        mesh.cut("b", "a")
        assert (link.up.cut, link.down.cut) == ((False, True) if dialler == "a" else (True, False))
        reader, writer = await connect(link)
        writer.write(b"x")
        await until(lambda: mesh.disturbed("b", "a") > 0)
        assert mesh.disturbed("a", "b") == 0
        mesh.heal()
        assert await ended(reader)
        assert not link.up.cut
        assert not link.down.cut
