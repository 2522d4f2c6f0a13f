"""Drive one connection: its session, its send queue, and its end.

It never decodes a message, and never drops a single message that it accepted: on overflow it closes
the connection, and both ends start afresh.
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
"""Bytes and frames that may wait for one peer. Exceeding either closes the connection."""
WRITE_BYTES_HIGH: Final = 1 << 20
"""Bytes in the socket's write buffer above which frames are kept in our own queue."""
JOIN_BYTES_MAX: Final = 256 << 10
"""Bytes up to which small frames are joined into one write; a larger frame is written in pieces."""


class TransportLimits(msgspec.Struct, frozen=True):
    """The limits in time and size of a transport and its connections."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    handshake_s: float = 2.0
    """Time from accepting (or starting to dial) until the peer must have proved itself."""
    keepalive_s: float = 0.3
    """Time without sending after which an empty frame is sent."""
    dead_after_s: float = 1.5
    """Time without receiving after which a connection is closed."""
    retry_s: float = 0.05
    """The first pause before dialling again; it doubles with every failure, up to `retry_max_s`,
    and is then multiplied by a random number between 0.5 and 1.
    """
    retry_max_s: float = 1.0
    probe_s: float = 0.25
    """Pause before the higher id dials too. By then the lower id has dialled, unless it does not
    know our address.
    """


def host_of(transport: asyncio.BaseTransport) -> str:
    """Return the peer's address without port; "" if the network has no addresses."""
    peername = transport.get_extra_info("peername")
    return str(peername[0]) if isinstance(peername, (tuple, list)) and peername else ""


class Owner(Protocol):
    """The receiver of a connection's events. None of these methods may raise."""

    def on_proved(self, connection: Connection, peer: str) -> None:
        """Judge a peer that has proved its id: call `admit` or `refuse`, now or later."""
        ...

    def on_ready(self, connection: Connection, peer: str) -> None:
        """Start to use a connection that both ends have admitted."""
        ...

    def on_frame(self, connection: Connection, content: memoryview) -> None:
        """Handle one frame; its content is valid only until this returns."""
        ...

    def on_closed(self, connection: Connection, reason: str) -> None:
        """Stop using a connection. This is called exactly once, even if it never became ready."""
        ...


class Connection(asyncio.BufferedProtocol):
    """One TCP (or TLS) connection, from its first byte to its last."""

    def __init__(self, owner: Owner, session: Session, *, dialer: bool) -> None:
        self.session, self.dialer = session, dialer
        self.transport: asyncio.Transport | None = None
        self.settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Resolves to True when the connection is ready, False if it is closed before."""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the socket is closed."""
        self.host = self.detail = ""
        """The peer's address, and a message that says why the connection ended, if known."""
        self.last_received_s = self.last_sent_s = self.ready_at_s = 0.0
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[bytes, ...]] = deque()
        """Frames that wait to be sent, each as its pieces."""
        self._queue_bytes = 0
        self._flushing: asyncio.Handle | None = None
        self._paused = self._over = False
        self.reason = "lost"
        """The name of the reason why the connection ended."""

    # --------------------------------------------------------------------------- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Configure the socket, and send our hello if we dialled."""
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
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
        """Return the buffer for the next bytes."""
        if self._over:
            # asyncio may ask once more between the abort and the end; these bytes are discarded.
            return memoryview(bytearray(1024))
        return self.session.get_buffer()

    def buffer_updated(self, count: int) -> None:
        """Process `count` bytes that were read into the buffer."""
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

    def eof_received(self) -> bool:
        """Let the transport close: a peer that has stopped sending is gone."""
        return False

    def pause_writing(self) -> None:
        """Keep frames in our queue, because the socket's write buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """Write the queued frames to the socket."""
        self._paused = False
        self._flush()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Report the end of the connection, whichever side closed it."""
        self._end()
        if not self.gone.done():
            self.gone.set_result(None)

    # --------------------------------------------------------------------- what the transport calls

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait in our queue and in the socket's write buffer."""
        owed = (
            self.transport.get_write_buffer_size()
            if self.transport is not None and not self._over
            else 0
        )
        return self._queue_bytes + owed

    def send(self, content: bytes) -> bool:
        """Queue one frame; all frames of one loop iteration are written together.

        Return False if the connection is not ready or over. A frame that is too long or that does
        not fit in the queue closes the connection.
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

    def hand_to(self, owner: Owner) -> None:
        """Report everything from now on to another owner."""
        self._owner = owner

    def flush(self) -> None:
        """Write the queued frames now; nothing more will be sent in this turn of the loop."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flush()

    def admit(self) -> None:
        """Admit a peer that has proved itself. On a dialer this does nothing: listeners admit."""
        if not self.dialer and not self._over and self.transport is not None:
            self._take(self.session.proceed())

    def refuse(self, reason: str, detail: str) -> None:
        """End a connection whose peer has proved itself; a listener sends the reason first."""
        self.detail = detail
        if not self.dialer and not self._over and self.transport is not None:
            self.transport.write(self.session.refusal(f"{reason}: {detail}" if detail else reason))
        # If the connection were aborted, the refusal might not arrive, and the dialer would retry
        # for ever without being able to show a reason.
        self.finish(reason)

    def close(self, reason: str) -> None:
        """Abort the connection. Queued frames are not sent; `on_closed` is called before this
        returns.
        """
        if not self._over:
            self.reason = reason
            if self.transport is not None:
                self.transport.abort()
            self._end()

    def finish(self, reason: str) -> None:
        """End the connection, but send the queued frames if the peer still reads.

        `gone` is done when they are sent, or after `abandon`.
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
        """Abort a connection that `finish` left open to send its queue."""
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
