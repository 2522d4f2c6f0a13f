"""Proxy TCP between two processes, with the ability to cut, delay and break connections.

It needs no special rights. It never drops bytes in the middle of a stream and continues: a cut link
is a black hole until it heals, and then the connections that lost bytes are closed, so that both
sides begin anew. Its counters are the proof that a fault took effect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Final, Self

CHUNK_BYTES: Final = 64 * 1024
QUEUE_CHUNKS_MAX: Final = 64
"""Most chunks in flight in one direction of one connection. When full, nothing more is read from
the sender.
"""
STALL_S: Final = 0.2
"""Delay caused by a lost packet: the shortest retransmission time-out of Linux."""
CONNECT_TIMEOUT_S: Final = 2.0


@dataclass
class Weather:
    """The current behaviour of one direction of a link, with counters of its effects."""

    cut: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    """Fraction of chunks that wait for a retransmission."""
    reset: float = 0.0
    """Fraction of chunks at which the connection breaks."""
    bytes_per_s: float | None = None

    passed: int = 0
    """Bytes passed on."""
    withheld: int = 0
    """Bytes swallowed while cut."""
    refused: int = 0
    """Connections opened while both directions were cut."""
    delayed: int = 0
    lost: int = 0
    resets: int = 0

    def clear(self) -> None:
        """Return to normal behaviour. The counters stay."""
        self.cut = False
        self.delay_s = 0.0
        self.jitter_s = 0.0
        self.loss = 0.0
        self.reset = 0.0
        self.bytes_per_s = None

    @property
    def disturbed(self) -> int:
        """Return the number of all disturbances."""
        return self.withheld + self.refused + self.delayed + self.lost + self.resets


class Link:
    """A TCP proxy from a port of this machine to `host:port`.

    `up` is the direction towards the target, `down` the one back. `async with Link("127.0.0.1",
    9001, Random(1)) as link` listens on `link.port`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        rng: Random,
        *,
        listen_host: str = "127.0.0.1",
        listen_port: int = 0,
    ) -> None:
        self.target = (host, port)
        self.up, self.down = Weather(), Weather()
        self._rng, self._listen = rng, (listen_host, listen_port)
        self._server: asyncio.Server | None = None
        self._streams: set[_Stream] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, *self._listen, limit=CHUNK_BYTES)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """Return the port listened on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def address(self) -> str:
        """Return the address to connect to, as host:port."""
        return f"{self._listen[0]}:{self.port}"

    @property
    def connections(self) -> int:
        """Return the number of open connections."""
        return len(self._streams)

    def heal(self) -> None:
        """Restore both directions, and close every connection that lost bytes."""
        self.up.clear()
        self.down.clear()
        self.close_tainted()

    def close_tainted(self) -> None:
        """Close connections that lost bytes, unless a direction is still cut."""
        for stream in list(self._streams):
            if stream.tainted and not (self.up.cut or self.down.cut):
                stream.close()

    def close_all(self) -> None:
        """Reset every connection."""
        for stream in list(self._streams):
            self.up.resets += 1
            stream.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = _Stream([writer])
        self._streams.add(stream)
        try:
            if self.up.cut and self.down.cut:
                # Behave as if the handshake was lost: the client gets no answer until the link
                # heals.
                self.up.refused += 1
                stream.tainted = True
                await _swallow(reader, self.up)
                return
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                far_reader, far_writer = await asyncio.open_connection(
                    *self.target, limit=CHUNK_BYTES
                )
            stream.writers.append(far_writer)
            async with asyncio.TaskGroup() as tasks:
                for source, sink, weather in (
                    (reader, far_writer, self.up),
                    (far_reader, writer, self.down),
                ):
                    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_CHUNKS_MAX)
                    tasks.create_task(self._take(source, weather, queue, stream))
                    tasks.create_task(_give(sink, queue))
        except* (OSError, TimeoutError, _Broken, asyncio.IncompleteReadError):
            pass
        finally:
            self._streams.discard(stream)
            stream.close()

    async def _take(
        self,
        source: asyncio.StreamReader,
        weather: Weather,
        queue: asyncio.Queue[tuple[float, bytes]],
        stream: _Stream,
    ) -> None:
        """Read chunks, and disturb each or queue it with the time at which it is due.

        Order is kept: a chunk is never due before the one ahead of it.
        """
        loop = asyncio.get_running_loop()
        due = 0.0
        lost = False
        while True:
            chunk = await source.read(CHUNK_BYTES)
            if not chunk and not weather.cut:
                await queue.put((due, b""))
                return
            if weather.cut or lost:
                # After a loss the rest of the stream would not continue where the receiver stands.
                # So nothing more is passed on, and the connection waits to be closed.
                weather.withheld += len(chunk)
                stream.tainted = lost = True
                if not chunk:
                    await stream.closed.wait()
                    return
                continue
            wait_s = 0.0
            if weather.delay_s or weather.jitter_s:
                weather.delayed += 1
                wait_s += max(0.0, self._rng.gauss(weather.delay_s, weather.jitter_s))
            if weather.loss and self._rng.random() < weather.loss:
                weather.lost += 1
                wait_s += STALL_S
            if weather.reset and self._rng.random() < weather.reset:
                weather.resets += 1
                raise _Broken
            if weather.bytes_per_s:
                weather.delayed += 1
                wait_s += len(chunk) / weather.bytes_per_s
            due = max(due, loop.time() + wait_s)
            weather.passed += len(chunk)
            await queue.put((due, chunk))


class _Broken(Exception):
    """Raised to reset the connection."""


@dataclass(eq=False)
class _Stream:
    """One connection through a link."""

    writers: list[asyncio.StreamWriter]
    tainted: bool = False
    """Whether a direction lost bytes, so that it must be closed once the link heals."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self) -> None:
        self.closed.set()
        for writer in self.writers:
            with contextlib.suppress(OSError, RuntimeError):
                transport = writer.transport
                transport.abort()


async def _give(sink: asyncio.StreamWriter, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due, chunk = await queue.get()
        if (wait_s := due - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        if not chunk:
            if sink.can_write_eof():
                sink.write_eof()
            return
        sink.write(chunk)
        await sink.drain()


async def _swallow(reader: asyncio.StreamReader, weather: Weather) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        weather.withheld += len(chunk)
    await asyncio.Event().wait()


class Mesh:
    """The set of links: one for every ordered pair of nodes that may dial each other, and one per
    node for its clients.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.peers: dict[tuple[str, str], Link] = {}
        """(dialler, dialled) → link."""
        self.clients: dict[str, Link] = {}
        """node → link of its clients."""
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, exc, trace)

    async def add_peer(self, dialler: str, dialled: str, host: str, port: int) -> Link:
        """Add a link between two nodes on a free port."""
        self.peers[dialler, dialled] = link = await self._stack.enter_async_context(
            Link(host, port, self._rng)
        )
        return link

    async def add_client(self, node: str, host: str, port: int) -> Link:
        """Add a link between a node and its clients on a free port."""
        self.clients[node] = link = await self._stack.enter_async_context(
            Link(host, port, self._rng)
        )
        return link

    def towards(self, source: str, sink: str) -> Iterator[Weather]:
        """Yield every direction that carries bytes from `source` to `sink`, whichever of them
        dialled.
        """
        if (source, sink) in self.peers:
            yield self.peers[source, sink].up
        if (sink, source) in self.peers:
            yield self.peers[sink, source].down

    def cut(self, source: str, sink: str) -> None:
        """Cut the direction from one node to another. The other direction stays as it is."""
        for weather in self.towards(source, sink):
            weather.cut = True

    def cut_clients(self, node: str) -> None:
        """Cut both directions between a node and its clients."""
        self.clients[node].up.cut = self.clients[node].down.cut = True

    def disturbed(self, source: str, sink: str) -> int:
        """Return the number of all disturbances so far from one node to another."""
        return sum(w.disturbed for w in self.towards(source, sink))

    def heal(self) -> None:
        """Heal every link."""
        for link in (*self.peers.values(), *self.clients.values()):
            link.heal()
