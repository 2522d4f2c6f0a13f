"""Make one attempt of one request over blocking sockets, and report exactly what was seen. Never
retries, follows redirects, or raises for network errors.

One call is one request on the wire: `http.client` repeats nothing by itself. Every wait for a
socket is bounded by what is left of the whole attempt, so an answer that comes byte by byte does
not outlast its time-out. Only the look-up of a host's name may, which no call of the system bounds.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from acordo._calls.attempts import (
    EVENTS,
    RESPONSE_BYTES_MAX,
    Attempt,
    StreamCut,
    described,
    node_time,
)
from acordo._messages import Reply, Request

KEEP_ALIVE_S: Final = 15.0
"""Shorter than the servers' own, so that a reused connection is rarely found closed."""
PIECE_BYTES: Final = 64 * 1024

_FAILURES: Final = (OSError, ValueError, http.client.HTTPException)


class _Headers(dict[str, str]):
    """Headers of an answer, found in any case of their letters."""

    def __init__(self, message: http.client.HTTPMessage) -> None:
        super().__init__({name.lower(): value for name, value in message.items()})

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        """Return a header, or the default."""
        return super().get(name.lower(), default)


class _Deadline:
    """The moment until which a connection may be waited for."""

    def __init__(self) -> None:
        self.at = 0.0

    def within(self, seconds: float) -> None:
        """Let it be so many seconds from now."""
        self.at = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left. Raises TimeoutError."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


class _Incoming(io.RawIOBase):
    """What a socket receives, each time waiting no longer than until the deadline."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Receive something. Raises TimeoutError, OSError."""
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv_into(buffer)


class _Received:
    """The one thing that `http.client.HTTPResponse` asks of a socket."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock, self._deadline = sock, deadline

    def makefile(self, *_: object) -> io.BufferedReader:
        """Return what the socket receives, buffered."""
        return io.BufferedReader(_Incoming(self._sock, self._deadline), PIECE_BYTES)


class _Connection:
    """One connection to a node."""

    def __init__(self, base: str, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        """Connect. Raises OSError."""
        parts = urlsplit(base)
        self.base, self.path = base, parts.path
        self._process = os.getpid()
        self.deadline = _Deadline()
        self.idle_since = 0.0
        host, secure = parts.hostname or "", parts.scheme == "https"
        self.deadline.within(timeout_s)
        port = parts.port or (443 if secure else 80)
        self.sock: socket.socket = self._connected(host, port)
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if secure:
                context = tls or ssl.create_default_context()
                self.sock.settimeout(self.deadline.left())
                self.sock = context.wrap_socket(self.sock, server_hostname=host)
        except BaseException:
            self.sock.close()
            raise
        self._host = (host, port)

    def _connected(self, host: str, port: int) -> socket.socket:
        """Return a socket to one of the host's addresses; what is left of the time is shared by
        those that are left. Raises OSError.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for left, (family, kind, protocol, _, address) in zip(
            range(len(found), 0, -1), found, strict=True
        ):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self.deadline.left() / left)
                sock.connect(address)
            except OSError:
                sock.close()
                if left == 1:
                    raise
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise OSError(f"{host} has no address")

    def is_usable(self) -> bool:
        """Return whether it may be used again: it is ours, it is not closed, and nothing waits in
        it.
        """
        if self._process != os.getpid() or time.monotonic() - self.idle_since > KEEP_ALIVE_S:
            return False
        with contextlib.suppress(OSError, ValueError):
            poll = select.poll()
            poll.register(self.sock, select.POLLIN)
            return not poll.poll(0)
        return False

    def ask(self, request: Request, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Send the request and read the head of its answer. Raises OSError, HTTPException."""
        self.sock.settimeout(self.deadline.left())
        sending = http.client.HTTPConnection(*self._host)  # for one request: its state is nobody's
        sending.sock = self.sock
        sending.request(request.method, self.path + request.path, request.body, dict(headers))
        response = http.client.HTTPResponse(
            _Received(self.sock, self.deadline),  # type: ignore[arg-type]  # all that it asks for
            method=request.method,
        )
        response.begin()
        return response

    def close(self) -> None:
        """Close it; whoever waits for it in another thread is told. Of one that was inherited by
        fork only this process' end is let go: the other one goes on with it.
        """
        if self._process != os.getpid():
            self.sock.close()
            return
        with contextlib.suppress(OSError):
            # not that of `ssl`: it lets go of the decryption first, so that whoever reads in
            # another thread would take the bytes of the wire for the answer
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        self.sock.close()


class Stream:
    """A stream of bytes that a node sends."""

    def __init__(
        self, connection: _Connection, response: http.client.HTTPResponse, idle_s: float
    ) -> None:
        self._connection, self._response, self._idle_s = connection, response, idle_s

    def chunks(self) -> Iterator[bytes]:
        """Iterate over what arrives until the node ends the stream. Raises StreamCut."""
        while True:
            self._connection.deadline.within(self._idle_s)
            try:
                piece = self._response.read1(PIECE_BYTES)
            except _FAILURES as exc:
                raise StreamCut(described(exc)) from exc
            if not piece:
                if self._response.length:
                    raise StreamCut("the answer was cut off")
                return
            yield piece


class Transport:
    """Connections to nodes, over each of which one request is sent at a time, exactly once. Any
    number of threads may use it.
    """

    def __init__(
        self,
        *,
        connections_max: int,
        connect_timeout_s: float,
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._connect_timeout_s, self._tls = connect_timeout_s, tls
        self._headers = {
            "Accept-Encoding": "identity",
            "Accept": "*/*",
            "User-Agent": "acordo-client",
            **headers,
        }
        self._places = threading.BoundedSemaphore(connections_max)
        self._lock = threading.Lock()
        self._idle: dict[str, list[_Connection]] = {}
        self._used: set[_Connection] = set()
        self._open = False
        self.asked_at: float | None = None
        """When the first request began, on the monotonic clock; None: none has."""
        self.answered = False
        """Whether any request was ever answered."""

    def __enter__(self) -> Transport:
        self._open = True
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._open = False
            connections = [*self._used, *(each for some in self._idle.values() for each in some)]
            self._idle.clear()
        for each in connections:
            each.close()

    def once(
        self, base: str, request: Request, *, timeout_s: float, node_timeout_s: float
    ) -> Reply:
        """Send the request once to `base`.

        `timeout_s`: how long to wait for the answer. `node_timeout_s`: the time given to the node
        (`Acordo-Timeout`).
        """
        self._check_open()
        attempt = Attempt(base, request)
        headers = {**self._headers, **request.headers, **node_time(node_timeout_s)}
        try:
            with self._connection(base, timeout_s) as (connection, keep):
                attempt.sent = True
                response = connection.ask(request, headers)
                attempt.status, attempt.headers = response.status, _Headers(response.headers)
                attempt.body = _read(response)
                attempt.whole = response.length is not None or response.chunked
                attempt.whole = attempt.whole or response.status in (204, 304)
                if attempt.whole and not response.will_close:
                    keep()
                elif not attempt.whole:
                    attempt.error = "answer without a length"
        except TimeoutError:
            waited = f"no answer within {timeout_s:.1f} s"
            attempt.error = waited if attempt.sent else "could not connect in time"
        except _FAILURES as exc:
            attempt.error = described(exc)
        return attempt.reply()

    @contextmanager
    def stream(
        self,
        base: str,
        request: Request,
        *,
        head_timeout_s: float,
        idle_s: float,
        media: str = EVENTS,
    ) -> Iterator[Stream | Reply]:
        """Open a stream of a media type, by default of server-sent events; yield it, or a Reply if
        no stream was opened.
        """
        self._check_open()
        attempt = Attempt(base, request)
        with contextlib.ExitStack() as stack:
            opened: Stream | None = None
            try:
                connection, _ = stack.enter_context(self._connection(base, head_timeout_s))
                attempt.sent = True
                response = connection.ask(request, {**self._headers, **request.headers})
                attempt.status, attempt.headers = response.status, _Headers(response.headers)
                if response.status == 200 and media in attempt.headers.get("Content-Type", ""):
                    opened = Stream(connection, response, idle_s)
                else:
                    attempt.body, attempt.whole = _read(response), True
            except _FAILURES as exc:
                attempt.error = described(exc)
            yield opened if opened is not None else attempt.reply()

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError("the client is not open: use `with SyncClient(...)`, or `open()`")

    @contextmanager
    def _connection(self, base: str, timeout_s: float) -> Iterator[tuple[_Connection, Any]]:
        """Lend a connection, with a function to call if it may be used again. Raises OSError."""
        if self.asked_at is None:
            self.asked_at = time.monotonic()
        began, kept = time.monotonic(), False
        if not self._places.acquire(timeout=timeout_s):
            raise TimeoutError("no connection became free")
        connection = None
        try:
            connection = self._idle_one(base) or _Connection(
                base, self._tls, min(timeout_s, self._connect_timeout_s)
            )
            connection.deadline.within(timeout_s - (time.monotonic() - began))
            with self._lock:
                self._used.add(connection)

            def keep() -> None:
                nonlocal kept
                kept = True

            yield connection, keep
            self.answered = True
        finally:
            self._places.release()
            if connection is not None:
                self._give_back(connection, kept=kept)

    def _idle_one(self, base: str) -> _Connection | None:
        while True:
            with self._lock:
                idle = self._idle.get(base)
                connection = idle.pop() if idle else None
            if connection is None or connection.is_usable():
                return connection
            connection.close()

    def _give_back(self, connection: _Connection, *, kept: bool) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            self._used.discard(connection)
            if kept and self._open:
                self._idle.setdefault(connection.base, []).append(connection)
                return
        connection.close()


def _read(response: http.client.HTTPResponse) -> bytes:
    if response.length is not None and response.length > RESPONSE_BYTES_MAX:
        raise ValueError(f"answer above {RESPONSE_BYTES_MAX} bytes")
    parts, size = [], 0
    expected = response.length
    while part := response.read1(PIECE_BYTES):
        parts.append(part)
        size += len(part)
        if size > RESPONSE_BYTES_MAX:
            raise ValueError(f"answer above {RESPONSE_BYTES_MAX} bytes")
    if expected is not None and size < expected:
        raise http.client.IncompleteRead(b"", expected - size)
    return b"".join(parts)
