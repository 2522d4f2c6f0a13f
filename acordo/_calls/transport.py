"""Make one attempt of one request, and report exactly what was seen. Never retries, follows
redirects, or raises for network errors.

One call is one request on the wire: aiohttp's own silent retry of idempotent methods is switched
off, redirects are not followed, and no proxy is taken from the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
from yarl import URL

from acordo._calls.attempts import (
    EVENTS,
    RESPONSE_BYTES_MAX,
    Attempt,
    StreamCut,
    described,
    node_time,
)
from acordo._messages import Reply, Request


class Stream:
    """A stream of bytes that a node sends."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over what arrives until the node ends the stream. Raises StreamCut."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise StreamCut(described(exc)) from exc


class Transport:
    """An aiohttp session that sends each request exactly once."""

    def __init__(
        self,
        *,
        connections_max: int,
        connect_timeout_s: float,
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._connections_max, self._connect_timeout_s = connections_max, connect_timeout_s
        self._headers, self._tls = dict(headers), tls
        self._session: aiohttp.ClientSession | None = None
        self.asked_at: float | None = None
        """When the first request began, on the monotonic clock; None: none has."""
        self.answered = False
        """Whether any request was ever answered."""

    async def __aenter__(self) -> Transport:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_mark_sent)
        trace.on_request_start.append(self._mark_asked)
        trace.on_request_end.append(self._mark_answered)
        connector = aiohttp.TCPConnector(
            limit=self._connections_max,
            # Shorter than the servers' own keep-alive time-out, so that a reused connection is
            # rarely found closed.
            keepalive_timeout=15.0,
            ssl=self._tls or True,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            headers={"Accept-Encoding": "identity", "User-Agent": "acordo-client", **self._headers},
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
        )
        # aiohttp repeats GET, PUT and DELETE once after a disconnect and has no public switch for
        # it. With a repeat that is not recorded, "definite" would be wrong.
        # `test_one_call_is_one_request` counts the requests.
        if not hasattr(session, "_retry_connection"):  # pragma: no cover - a future aiohttp
            await session.close()
            raise RuntimeError(
                "this aiohttp cannot be kept from repeating requests: use the locked version"
            )
        session._retry_connection = False
        self._session = session
        return self

    async def __aexit__(self, *exc: object) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _mark_asked(self, *_: object) -> None:
        if self.asked_at is None:
            self.asked_at = time.monotonic()

    async def _mark_answered(self, *_: object) -> None:
        self.answered = True

    @property
    def session(self) -> aiohttp.ClientSession:
        """Return the open session. Raises RuntimeError outside `async with`."""
        if self._session is None:
            raise RuntimeError(
                "the client is not open: use `async with Client(...)`, or `await open()`"
            )
        return self._session

    async def once(
        self, base: str, request: Request, *, timeout_s: float, node_timeout_s: float
    ) -> Reply:
        """Send the request once to `base`. Cancelling the call leaves the outcome unknown.

        `timeout_s`: how long to wait for the answer. `node_timeout_s`: the time given to the node
        (`Acordo-Timeout`).
        """
        attempt = Attempt(base, request)
        try:
            async with self.session.request(
                request.method,
                URL(base + request.path, encoded=True),
                data=request.body,
                headers={**request.headers, **node_time(node_timeout_s)},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=timeout_s, sock_connect=min(timeout_s, self._connect_timeout_s)
                ),
                trace_request_ctx=attempt,
            ) as response:
                attempt.status, attempt.headers = response.status, response.headers
                attempt.body = await _read(response)
                attempt.whole = _framed(response)
                if not attempt.whole:
                    attempt.error = "answer without a length"
        except TimeoutError:
            waited = f"no answer within {timeout_s:.1f} s"
            attempt.error = waited if attempt.sent else "could not connect in time"
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            attempt.error = described(exc)
        return attempt.reply()

    @asynccontextmanager
    async def stream(
        self,
        base: str,
        request: Request,
        *,
        head_timeout_s: float,
        idle_s: float,
        media: str = EVENTS,
    ) -> AsyncIterator[Stream | Reply]:
        """Open a stream of a media type, by default of server-sent events; yield it, or a Reply if
        no stream was opened.
        """
        attempt, opened = Attempt(base, request), False
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=min(head_timeout_s, self._connect_timeout_s), sock_read=idle_s
        )
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(head_timeout_s):
                    response = await stack.enter_async_context(
                        self.session.get(
                            URL(base + request.path, encoded=True),
                            headers=request.headers,
                            allow_redirects=False,
                            timeout=timeout,
                            trace_request_ctx=attempt,
                        )
                    )
                    attempt.status, attempt.headers = response.status, response.headers
                    opened = response.status == 200 and _is_of(response, media)
                    if not opened:
                        attempt.body = await _read(response)
                        attempt.whole = True
            except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as exc:
                opened, attempt.error = False, described(exc)
            if opened:
                yield Stream(response)
            else:
                yield attempt.reply()


def _is_of(response: aiohttp.ClientResponse, media: str) -> bool:
    return media in response.headers.get("Content-Type", "")


async def _mark_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    # aiohttp calls this just before the head is passed to the socket. Marking too early is safe;
    # marking too late would report a sent request as unsent.
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.sent = True


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if response.content_length is not None:
        if response.content_length > RESPONSE_BYTES_MAX:
            raise ValueError(f"answer above {RESPONSE_BYTES_MAX} bytes")
        return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > RESPONSE_BYTES_MAX:
            raise ValueError(f"answer above {RESPONSE_BYTES_MAX} bytes")
    return b"".join(parts)


def _framed(response: aiohttp.ClientResponse) -> bool:
    """Return whether the end of the body was marked. Without a mark, a connection that was cut
    looks like a complete answer.
    """
    return (
        response.status in (204, 304)
        or "Content-Length" in response.headers
        or "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    )
