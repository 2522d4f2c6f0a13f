"""Drive one connection: its session, what waits to be sent, and when to give it up.

It never decodes a message and never drops one that it took: on overflow it closes, and both ends
start clean.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Final, Protocol, cast

import msgspec

from coordinator.raft.net.frames import FRAME_BYTES_MAX, Event, Proved, Ready, Reply, Session
from coordinator.raft.net.hello import FrameError

QUEUE_BYTES_MAX: Final = 64 << 20
QUEUE_FRAMES_MAX: Final = 20_000
"""What may wait for one peer. One frame more closes the connection."""
WRITE_BYTES_HIGH: Final = 1 << 20
"""What the socket may owe us before we keep frames ourselves."""
JOIN_BYTES_MAX: Final = 256 << 10
"""Small frames are joined into writes of about this size; a larger one is written in its pieces."""


class TransportLimits(msgspec.Struct, frozen=True):
    """The bounds in time and size that a transport and its connections go by."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    handshake_s: float = 2.0
    """From accepting (or beginning to dial) until proved."""
    keepalive_s: float = 0.3
    """A connection that has sent nothing for so long sends an empty frame."""
    dead_after_s: float = 1.5
    """A connection on which nothing came for so long is closed."""
    retry_s: float = 0.05
    """The first pause before dialling again; it doubles with every failure, up to `retry_max_s`,
    and is then multiplied by a random number between 0.5 and 1.
    """
    retry_max_s: float = 1.0
    probe_s: float = 0.25
    """Pause before the higher id dials too: the lower one would have dialled by then, unless it
    does not know where we are.
    """


def host_of(transport: asyncio.BaseTransport) -> str:
    """Return the peer's address, "" when the network has none."""
    peername = transport.get_extra_info("peername")
    return str(peername[0]) if isinstance(peername, (tuple, list)) and peername else ""


class Owner(Protocol):
    """Who a connection reports to. None of these may raise."""

    def on_proved(self, connection: Connection, peer: str) -> None:
        """Judge a peer that has shown who it is: call `admit` or `refuse`, now or later."""
        ...

    def on_ready(self, connection: Connection, peer: str) -> None:
        """Use it from now on: both ends have let each other in."""
        ...

    def on_frame(self, connection: Connection, content: memoryview) -> None:
        """Take one frame; its content is valid until this returns."""
        ...

    def on_read(self, connection: Connection) -> None:
        """Note that all that was there to be read has been given on."""
        ...

    def on_closed(self, connection: Connection, reason: str) -> None:
        """Use it no longer. It is called once, ready or not."""
        ...


class Connection(asyncio.BufferedProtocol):
    """One TCP (or TLS) connection, from its first byte to its last."""

    def __init__(self, owner: Owner, session: Session, *, dialer: bool) -> None:
        self.session, self.dialer = session, dialer
        self.transport: asyncio.Transport | None = None
        self.settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """True once ready, False if it closed before."""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the socket is closed too."""
        self.host = self.detail = ""
        """Where the peer is, and in words why the connection ended, if that is known."""
        self.last_received_s = self.last_sent_s = self.ready_at_s = 0.0
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[bytes, ...]] = deque()
        """Frames, each in its pieces."""
        self._queue_bytes = 0
        self._flushing: asyncio.Handle | None = None
        self._paused = self._over = False
        self.reason = "lost"
        """Why it ended, by name."""

    # --------------------------------------------------------------------------- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with the hello, if we dialled."""
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's are none by name
        self.host = host_of(transport)
        transport.set_write_buffer_limits(high=WRITE_BYTES_HIGH)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._over:
            transport.abort()
            return
        hello = self.session.start()
        if hello:
            transport.write(hello)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes belong."""
        if self._over:
            # asyncio may ask once more between abort and the end; what comes is thrown away.
            return memoryview(bytearray(1024))
        return self.session.get_buffer()

    def buffer_updated(self, count: int) -> None:
        """Take the bytes that have come."""
        if self._over or self.transport is None:
            return
        self.last_received_s = self._loop.time()
        self._take(self.session.received(count))

    def _take(self, events: Iterator[Event]) -> None:
        assert self.transport is not None
        try:
            for event in events:
                match event:
                    case Reply(content):
                        self.transport.write(content)
                    case Proved(peer):
                        self._owner.on_proved(self, peer)
                    case Ready(peer):
                        self.ready_at_s = self.last_sent_s = self.last_received_s
                        self.settled.set_result(True)
                        self._owner.on_ready(self, peer)
                    case _:
                        if event:
                            self._owner.on_frame(self, event)
                if self._over:
                    return
        except FrameError as exc:
            self.detail = str(exc)
            self.close(exc.reason)
            return
        if self.session.ready:
            self._owner.on_read(self)

    def eof_received(self) -> bool:
        """Let the transport close: a peer that sends no more is gone."""
        return False

    def pause_writing(self) -> None:
        """Keep frames here: the socket owes enough."""
        self._paused = True

    def resume_writing(self) -> None:
        """Give the socket what waited."""
        self._paused = False
        self._flush()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End, whoever closed it."""
        self._end()
        if not self.gone.done():
            self.gone.set_result(None)

    # --------------------------------------------------------------------- what the transport calls

    @property
    def queued_bytes(self) -> int:
        """Bytes that the peer has not taken yet, as far as we can see."""
        owed = (
            self.transport.get_write_buffer_size()
            if self.transport is not None and not self._over
            else 0
        )
        return self._queue_bytes + owed

    def send(self, content: bytes) -> bool:
        """Queue one frame; all of one loop iteration are written together.

        False: the connection is over.
        """
        if self._over or not self.session.ready:
            return False
        try:
            pieces = self.session.frame(content)
        except ValueError:
            self.close("frame_too_long")
            return False
        self._queue.append(pieces)
        self._queue_bytes += sum(map(len, pieces))
        if len(self._queue) > QUEUE_FRAMES_MAX or self.queued_bytes > QUEUE_BYTES_MAX:
            self.close("overflow")
            return False
        if self._flushing is None and not self._paused:
            self._flushing = self._loop.call_soon(self._flush)
        return True

    def admit(self) -> None:
        """Let a peer in that has proved itself. A dialer waits for its listener to do so."""
        if not self.dialer and not self._over and self.transport is not None:
            self._take(self.session.proceed())

    def refuse(self, reason: str, detail: str) -> None:
        """End a connection whose peer has proved itself, and tell a dialer why."""
        self.detail = detail
        if not self.dialer and not self._over and self.transport is not None:
            self.transport.write(self.session.refusal(f"{reason}: {detail}" if detail else reason))
        # Aborted at once, the refusal might not arrive, and the dialer would try for ever without
        # a reason to show.
        self.finish(reason)

    def close(self, reason: str) -> None:
        """Give it up at once. Nothing that waits is sent; `on_closed` is called before this
        returns.
        """
        if not self._over:
            self.reason = reason
            if self.transport is not None:
                self.transport.abort()
            self._end()

    def finish(self, reason: str) -> None:
        """Let what waits be sent, if the peer takes it, and end.

        `gone` is done when it has, or when it is abandoned.
        """
        if self._over or self.transport is None:
            self.close(reason)
            return
        if self._queue:
            self.transport.write(b"".join(chain.from_iterable(self._queue)))
        self.transport.close()
        self.reason = reason
        self._end()

    def abandon(self) -> None:
        """Wait no longer for what `finish` lets be sent."""
        if self.transport is not None:
            self.transport.abort()

    def _flush(self) -> None:
        self._flushing = None
        if self._over or self.transport is None or not self._queue:
            return
        self.last_sent_s = self._loop.time()
        while self._queue and not self._paused:
            joined: list[bytes] = []
            size = 0
            while self._queue and (
                not joined or size + sum(map(len, self._queue[0])) <= JOIN_BYTES_MAX
            ):
                frame = self._queue.popleft()
                joined += frame
                size += sum(map(len, frame))
            self._queue_bytes -= size
            if size > JOIN_BYTES_MAX:
                self.transport.writelines(joined)
            else:
                self.transport.write(b"".join(joined))

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        if self._flushing is not None:
            self._flushing.cancel()
        self._queue.clear()
        self._queue_bytes = 0
        if not self.settled.done():
            self.settled.set_result(False)
        self.closed.set_result(None)
        self._owner.on_closed(self, self.reason)
