"""Bound the connections of a node: their number, the cost of each, and how long an answer may wait
for its reader.

Nothing is read from a refused connection, so the refusal is definite. No rule here depends on the
request's content.
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

# aiohttp queues this type in place of a message that is not a valid request.
from aiohttp.web_protocol import _ErrInfo

from node.http.acceptor import Acceptor
from node.http.allowances import PerClient
from node.http.direct import DirectConnection
from node.http.tls import certificate_names
from node.http.whole import WholeAnswer, body_bytes
from node.settings import ServerSettings
from node.wire.documents import encode, printable
from node.wire.problems import CONTENT_TYPE, Problem, problem

LINE_BYTES_MAX: Final = 16 * 1024
"""Longest line of a request head: a key of 1 KB takes 3 KB percent-encoded, a page token as much
again.
"""
HEAD_BYTES_MAX: Final = 64 * 1024
"""Largest request head."""
HEADS_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes of all incomplete heads; beyond, the one that grows gets 503."""
LINGER_S: Final = 2.0
"""How long an unwanted body is read and discarded, so that its sender gets to read the answer."""
USER_TIMEOUT_S: Final = 30.0
"""TCP_USER_TIMEOUT (RFC 5482): a connection ends when its peer acknowledges nothing for this long,
because the peer is gone without closing it.
"""
RESERVE_MAX: Final = 256
"""File descriptors reserved for the journal, the store, Raft and the back ends; a quarter of all
where there are few.
"""
TAKEN_BYTES_MIN: Final = 32 * 1024
"""Bytes of a waiting answer that its reader must take per `answer_stall_s`; otherwise the
connection is closed.
"""
LOG_EVERY_S: Final = 10.0
"""Least time between two log lines about refused connections."""

log = structlog.get_logger("acordo.node")


def reserve_of(descriptors: int) -> int:
    """Return how many descriptors are reserved for everything other than HTTP connections."""
    return min(RESERVE_MAX, descriptors // 4)


def connections_within(asked: int, descriptors: int | None) -> int:
    """Return the bound on open connections. `descriptors`: what the process may open; None: not
    known.
    """
    return (
        asked if descriptors is None else max(1, min(asked, descriptors - reserve_of(descriptors)))
    )


class HttpConnections(web.Server):
    """aiohttp's server with bounds on connections, on request heads and on answers that wait for
    their readers.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        settings: ServerSettings,
        per_address: PerClient,
        may_be_direct: Callable[[str, str], bool] = lambda method, target: False,
    ) -> None:
        """`per_address`: how many connections each address may have. `may_be_direct`: whether
        requests with this method and target are served without a task (`direct`).
        """
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
        self._per_address = per_address
        self.most = connections_within(settings.connections_max, settings.descriptors_max)
        """Bound on open connections."""
        self._descriptor_below = (
            None
            if settings.descriptors_max is None
            else settings.descriptors_max - reserve_of(settings.descriptors_max) // 2
        )
        """The kernel gives a connection the lowest free descriptor. A number at or above this one
        means that half of the reserve is in use.
        """
        self.may_be_direct = may_be_direct
        self.head_bytes = 0
        """Bytes of incomplete request heads."""
        self.answer_bytes = 0
        """Bytes of answers that their readers have not taken."""
        self.acceptor: Acceptor | None = None
        """The acceptor of new connections, once the server listens."""
        self.refused_total = 0
        self.of_address_refused_total = 0
        """Connections refused because their address had as many as it may."""
        self.idle_closed_total = 0
        self.stalled_total = 0
        """Answers cut off because nobody read them."""
        self._idle: dict[HttpConnection, None] = {}
        """Connections without a request, the longest idle first."""
        self._lost: dict[HttpConnection, None] = {}
        """Connections that are gone while their request was being served directly."""
        self._logged_at: float | None = None

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return HttpConnection(self, loop=self._loop, **self._kwargs)

    def __len__(self) -> int:
        return len(self._connections)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Admit a connection. At the bound the longest idle one is closed to make room; if none is
        idle the new one is refused.
        """
        super().connection_made(handler, transport)
        assert isinstance(handler, HttpConnection)
        handler.certificate_names = certificate_names(transport)
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if not self._per_address.take(address):
            self.of_address_refused_total += 1
            detail = f"this address has {self._per_address.most} connections"
            transport.write(refusal(self.node_id, problem("rate_limited", detail)))
            handler.force_close()
            return
        handler.address = address
        if self._full(transport) and not self._made_room():
            self.refused_total += 1
            self._log_bound()
            transport.write(refusal(self.node_id, problem("overloaded", "too many connections")))
            handler.force_close()
            return
        # With a limit above 0 aiohttp would treat an answer as written while it still waits in our
        # own memory, and slow readers could hold any number of answers uncounted.
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
            if handler.address is not None:
                self._per_address.give_back(handler.address)
            if handler.serves:
                self._lost[handler] = None

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close every connection, and give up what is still being served for lost clients."""
        await super().shutdown(timeout)
        for handler in list(self._lost):
            handler.give_up()

    def idle(self, connection: HttpConnection) -> None:
        """Mark a connection as idle."""
        self._idle[connection] = None

    def busy(self, connection: HttpConnection) -> None:
        """Mark a connection as busy with a request."""
        self._idle.pop(connection, None)

    def forget(self, connection: HttpConnection) -> None:
        """Forget a lost connection whose request has ended."""
        self._lost.pop(connection, None)

    def has_room(self, answer_bytes: int) -> bool:
        """Return whether an answer of this size may wait for its reader beside those that already
        do.
        """
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
        """Close the longest idle connection; return False if none is idle. Clients must expect idle
        connections to be closed at any time (RFC 9112 section 9.3).
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
    """Make the kernel end a connection whose peer acknowledges nothing for `timeout_s` seconds."""
    sock = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if sock is not None and option is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, option, int(timeout_s * 1000))


def refusal(node_id: str, document: Problem) -> bytes:
    """Return a complete HTTP answer for a connection from which no request was read."""
    body = encode(document)
    again = "Retry-After: 1\r\n" if document.status in (429, 503) else ""
    head = (
        f"HTTP/1.1 {document.status} Refused\r\nContent-Type: "
        f"{CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
        f"Acordo-Node: {node_id}\r\n{again}Connection: close\r\n\r\n"
    )
    return head.encode() + body


class HttpConnection(DirectConnection):
    """One HTTP connection. It also answers messages that are not valid HTTP with problem
    documents.
    """

    __slots__ = (
        "_head", "_newest", "_stalled", "_when_lost", "address", "certificate_names", "connections",
        "streams",
    )  # fmt: skip

    def __init__(self, connections: HttpConnections, **more: Any) -> None:
        super().__init__(connections, connections.may_be_direct, **more)
        self.connections = connections
        self._when_lost: Callable[[], None] | None = None
        self._head = 0
        self._newest: StreamReader = EMPTY_PAYLOAD
        self._stalled: asyncio.TimerHandle | None = None
        self.streams = False
        """The current answer is a stream, which has a time-out of its own."""
        self.address: str | None = None
        """Where the connection comes from; None: it was refused, and does not count."""
        self.certificate_names: tuple[str, ...] = ()
        """The names in the certificate that the client has proved to have (`tls`)."""

    def when_lost(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` once if this connection ends during the current request."""
        self._when_lost = callback

    def connection_lost(self, exc: BaseException | None) -> None:
        """Release what the connection holds, and run the callback of `when_lost`."""
        self._count_head(0)
        self._stop_looking()
        callback, self._when_lost = self._when_lost, None
        super().connection_lost(exc)
        if callback is not None:
            callback()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and count those of a head that is still incomplete."""
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
        self.serve_queued()

    def _count_head(self, count: int) -> None:
        self.connections.head_bytes += count - self._head
        self._head = count

    def _judge_heads(self, new: int) -> None:
        """Replace each of the `new` newest requests whose head is too large with a refusal."""
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
        """Answer an incomplete request with a refusal, and close."""
        if self.transport is not None and self._current_request is None:
            self.transport.write(refusal(self.connections.node_id, document))
        self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer; it counts as waiting until the kernel has taken all of it."""
        size = body_bytes(resp)
        self.connections.answer_bytes += size
        try:
            if type(resp) is WholeAnswer:
                whole = None if self._upgraded else resp.on_the_wire(request)
                if whole is not None and self.transport is not None:
                    return resp, not await self._wrote(whole)
                resp = resp.as_response()
            return await super().finish_response(request, resp, start_time)
        finally:
            self.connections.answer_bytes -= size
            self._when_lost = None
            if self.transport is None:
                self.connections.forget(self)
            elif not self._force_close:
                self.connections.idle(self)

    async def _wrote(self, whole: bytes) -> bool:
        """Write an answer; return False if its reader is gone."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        transport.write(whole)
        if self._paused:
            try:
                await self._drain_helper()
            except ConnectionError:
                return False
        return True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that never reached a handler; the connection is closed afterwards."""
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
        """Start checking that the reader makes progress: the kernel's buffer is full and the rest
        waits here.
        """
        super().pause_writing()
        if not self.streams and self.transport is not None:
            self._look_again(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Stop checking: the kernel has taken what was written."""
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
        """Abort the connection if less than TAKEN_BYTES_MIN was taken since the last check."""
        self._stalled = None
        if self.transport is None:
            return
        waiting = self.transport.get_write_buffer_size()
        if waited - waiting >= TAKEN_BYTES_MIN:
            self._look_again(waiting)
            return
        self.connections.stalled_total += 1
        self.transport.abort()


class HeadTooLarge(HttpProcessingError):
    """An error about a request head beyond its bound."""

    code = 431
