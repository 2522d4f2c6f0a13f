"""Hold the connections of a node: how many, how much each may cost, and how long an answer may wait
for its reader.

Nothing is read from a connection that is refused, so its refusal is definite. No rule here looks at
what is asked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

# aiohttp itself queues this in the place of what came and is no request.
from aiohttp.web_protocol import _ErrInfo

from node.http.acceptor import Acceptor
from node.settings import ServerSettings
from node.wire.documents import encode, printable
from node.wire.problems import CONTENT_TYPE, Problem, problem

LINE_BYTES_MAX: Final = 16 * 1024
"""Of one line of a request's head: a key of 1 KB is 3 KB percent-encoded, a page token as much
again.
"""
HEAD_BYTES_MAX: Final = 64 * 1024
"""Of a request's whole head."""
HEADS_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of all heads that are not whole yet; beyond: 503 to the one that grows."""
LINGER_S: Final = 2.0
"""How long an unwanted body is read and thrown away, so that its sender sees the answer."""
USER_TIMEOUT_S: Final = 30.0
"""What was sent and is not acknowledged for so long ends its connection (RFC 5482): its peer is
gone without a word.
"""
RESERVE_MAX: Final = 256
"""Descriptors that HTTP leaves to the journal, the store, Raft and the back ends; a quarter where
there are few.
"""
TAKEN_BYTES_MIN: Final = 32 * 1024
"""Of an answer that waits, its reader takes so much between two looks (`answer_stall_s`), or is
cut.
"""
LOG_EVERY_S: Final = 10.0
"""Refused connections are logged no more often."""

log = structlog.get_logger("acordo.node")


def reserve_of(descriptors: int) -> int:
    """Return how many of so many descriptors are kept for everything that is no HTTP connection."""
    return min(RESERVE_MAX, descriptors // 4)


def connections_within(asked: int, descriptors: int | None) -> int:
    """Return how many connections are held at most; `descriptors`: what the process may open, None:
    not known.
    """
    return (
        asked if descriptors is None else max(1, min(asked, descriptors - reserve_of(descriptors)))
    )


class HttpConnections(web.Server):
    """aiohttp's server, with a bound on connections, on heads and on answers that wait for their
    readers.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        settings: ServerSettings,
    ) -> None:
        super().__init__(
            handler,
            access_log=None,
            keepalive_timeout=settings.keepalive_timeout_s,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        self.node_id, self.settings = settings.node_id, settings
        self.most = connections_within(settings.connections_max, settings.descriptors_max)
        """Open connections at most."""
        self._descriptor_below = (
            None
            if settings.descriptors_max is None
            else settings.descriptors_max - reserve_of(settings.descriptors_max) // 2
        )
        """A connection's descriptor is the lowest free one: from this number on the reserve itself
        is in use.
        """
        self.head_bytes = 0
        """Bytes of heads that are not whole yet."""
        self.answer_bytes = 0
        """Bytes of answers that their readers have not taken."""
        self.acceptor: Acceptor | None = None
        """What accepts connections, once the server listens."""
        self.refused_total = 0
        self.idle_closed_total = 0
        self.stalled_total = 0
        """Answers cut because nobody read them."""
        self._idle: dict[HttpConnection, None] = {}
        """Connections without a request, the longest idle first."""
        self._logged_at: float | None = None

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of one connection."""
        return HttpConnection(self, loop=self._loop, **self._kwargs)

    def __len__(self) -> int:
        return len(self._connections)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection; at the bound the longest idle one gives way, and if none is idle this
        one is refused.
        """
        super().connection_made(handler, transport)
        assert isinstance(handler, HttpConnection)
        if self._full(transport) and not self._made_room():
            self.refused_total += 1
            self._log_bound()
            transport.write(refusal(self.node_id, problem("overloaded", "too many connections")))
            handler.force_close()
            return
        # With a buffer above 0 aiohttp would call an answer written that waits in our own memory:
        # slow readers could hold any number of them uncounted.
        transport.set_write_buffer_limits(high=0)
        endure_silence(transport)
        self.idle(handler)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Forget a connection."""
        super().connection_lost(handler, exc)
        if isinstance(handler, HttpConnection):
            self._idle.pop(handler, None)

    def idle(self, connection: HttpConnection) -> None:
        """Note that a connection has no request."""
        self._idle[connection] = None

    def busy(self, connection: HttpConnection) -> None:
        """Note that a connection has one."""
        self._idle.pop(connection, None)

    def has_room(self, answer_bytes: int) -> bool:
        """Say whether an answer of so many bytes may wait for its reader beside those that do."""
        return self.answer_bytes + answer_bytes <= self.settings.answer_bytes_held_max

    def _full(self, transport: asyncio.Transport) -> bool:
        if len(self._connections) > self.most:
            return True
        sock = transport.get_extra_info("socket")
        return (
            self._descriptor_below is not None
            and sock is not None
            and sock.fileno() >= self._descriptor_below
        )

    def _made_room(self) -> bool:
        """Close the connection that was idle the longest. Any client may find an idle one closed
        (RFC 9112 9.3).
        """
        longest = next(iter(self._idle), None)
        if longest is None:
            return False
        del self._idle[longest]
        self.idle_closed_total += 1
        self._log_bound()
        self._connections.pop(longest, None)
        longest.force_close()
        return True

    def _log_bound(self) -> None:
        now = self._loop.time()
        if self._logged_at is None or now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.warning(
                "connections at their bound",
                held=len(self._connections), most=self.most,
                refused_total=self.refused_total, idle_closed_total=self.idle_closed_total,
            )  # fmt: skip


def endure_silence(transport: asyncio.Transport, timeout_s: float = USER_TIMEOUT_S) -> None:
    """Let the kernel end a connection whose peer acknowledges nothing for so long."""
    sock = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if sock is not None and option is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, option, int(timeout_s * 1000))


def refusal(node_id: str, document: Problem) -> bytes:
    """Return a whole answer, for a connection that no request was read from."""
    body = encode(document)
    again = "Retry-After: 1\r\n" if document.status == 503 else ""
    head = (
        f"HTTP/1.1 {document.status} Refused\r\nContent-Type: "
        f"{CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
        f"Acordo-Node: {node_id}\r\n{again}Connection: close\r\n\r\n"
    )
    return head.encode() + body


class HttpConnection(web.RequestHandler):
    """One connection: it speaks problem documents also about requests that are no HTTP."""

    __slots__ = ("_head", "_newest", "_stalled", "_when_lost", "connections", "streams")

    def __init__(self, connections: HttpConnections, **more: Any) -> None:
        super().__init__(connections, **more)
        self.connections = connections
        self._when_lost: Callable[[], None] | None = None
        self._head = 0
        self._newest: StreamReader = EMPTY_PAYLOAD
        self._stalled: asyncio.TimerHandle | None = None
        self.streams = False
        """The present answer is a stream, which has a patience of its own."""

    def when_lost(self, callback: Callable[[], None] | None) -> None:
        """Have something called, once, when this connection ends during the present request."""
        self._when_lost = callback

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give back what it held, and notify whoever waits for its end."""
        self._count_head(0)
        self._stop_looking()
        callback, self._when_lost = self._when_lost, None
        super().connection_lost(exc)
        if callback is not None:
            callback()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and count what belongs to a head that is not whole."""
        before = self._request_count
        between = self._newest.is_eof()
        super().data_received(data)
        if self._request_count != before:
            if self._head + len(data) > HEAD_BYTES_MAX:
                self._judge_heads(self._request_count - before)
            self._count_head(0)
            if self._messages:
                self._newest = self._messages[-1][1]
        elif between and data:
            self._count_head(self._head + len(data))
            if self._head > HEAD_BYTES_MAX:
                allowed = f"up to {HEAD_BYTES_MAX} bytes"
                self._refuse(problem("header_too_large", "the head is too large", allowed=allowed))
            elif self.connections.head_bytes > HEADS_BYTES_MAX:
                self._refuse(problem("overloaded", "too many heads are not whole yet"))

    def _count_head(self, count: int) -> None:
        self.connections.head_bytes += count - self._head
        self._head = count

    def _judge_heads(self, new: int) -> None:
        """Put a refusal in the place of those of the newest requests whose whole head is
        too large.
        """
        for place in range(max(0, len(self._messages) - new), len(self._messages)):
            message = self._messages[place][0]
            if isinstance(message, RawRequestMessage):
                size = len(message.path) + sum(
                    len(name) + len(value) for name, value in message.raw_headers
                )
                if size > HEAD_BYTES_MAX:
                    error = HeadTooLarge(
                        message=f"the head has {size} bytes, allowed are {HEAD_BYTES_MAX}"
                    )
                    self._messages[place] = (_ErrInfo(400, error, error.message), EMPTY_PAYLOAD)

    def _refuse(self, document: Problem) -> None:
        """Answer what is no whole request, and close."""
        if self.transport is not None and self._current_request is None:
            self.transport.write(refusal(self.connections.node_id, document))
        self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer, and count it until the kernel has all of it."""
        size = body_bytes(resp)
        self.connections.answer_bytes += size
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self.connections.answer_bytes -= size
            self._when_lost = None
            if self.transport is not None and not self._force_close:
                self.connections.idle(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached a handler; the connection is closed after it."""
        if status >= 500:
            log.error("request failed outside its handler", error=repr(exc))
        too_large = isinstance(exc, LineTooLong | HeadTooLarge)
        if status >= 500:
            code, detail = "internal", "an error inside"
        else:
            code = "header_too_large" if too_large else "bad_http"
            detail = (message or str(exc) or "not HTTP").split("\n")[0][:300]
        document = problem(code, printable(detail))
        headers = {"Acordo-Node": self.connections.node_id, "Content-Type": CONTENT_TYPE}
        response = web.Response(status=document.status, body=encode(document), headers=headers)
        response.force_close()
        return response

    def pause_writing(self) -> None:
        """Begin to look whether the reader takes anything: what was written is more than the kernel
        takes.
        """
        super().pause_writing()
        if not self.streams and self.transport is not None:
            self._look_again(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Stop looking: the kernel took what was written."""
        super().resume_writing()
        self._stop_looking()

    def _look_again(self, waiting: int) -> None:
        self._stalled = self._loop.call_later(
            self.connections.settings.answer_stall_s, self._look, waiting
        )

    def _stop_looking(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _look(self, waited: int) -> None:
        """Cut an answer of which less than the least was taken since the last look."""
        self._stalled = None
        if self.transport is None:
            return
        waiting = self.transport.get_write_buffer_size()
        if waited - waiting >= TAKEN_BYTES_MIN:
            self._look_again(waiting)
            return
        self.connections.stalled_total += 1
        self.transport.abort()


def body_bytes(response: web.StreamResponse) -> int:
    """Return how many bytes of body an answer holds in memory."""
    body = response.body if isinstance(response, web.Response) else None
    return len(body) if isinstance(body, bytes) else 0


class HeadTooLarge(HttpProcessingError):
    """An error about a whole head beyond its bound."""

    code = 431
