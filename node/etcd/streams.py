"""Write streams of messages to clients of etcd, one JSON object a line.

A stream never keeps more for a slow reader than its socket's buffer holds: one that takes nothing
for too long is cut.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from kv.errors import KvError
from node.etcd.answers import ErrorForm, Streamed, StreamedError
from node.etcd.call import Call
from node.etcd.refusals import Refusal
from node.exchange.headers import JSON
from node.watching.watches import WatchEnded
from node.wire.documents import encode
from node.wire.gateway import STATUS, UNAVAILABLE, gateway_problem
from node.wire.problems import problem_of

BUFFER_BYTES: Final = 256 * 1024
"""Bytes that may wait in the socket's buffer for one reader."""


class MessageStream:
    """The answer to one request that goes on. Its head is sent with the first message."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._response: web.StreamResponse | None = None
        self._writing = asyncio.Lock()
        self.lost = asyncio.Event()
        """Set once the client is gone."""
        call.x.when_lost(self.lost.set)

    @property
    def response(self) -> web.StreamResponse:
        """The answer, whose head was sent."""
        assert self._response is not None
        return self._response

    async def begin(self) -> None:
        """Send the head, unless it was."""
        if self._response is None:
            x = self._call.x
            headers = {**x.headers(), "Content-Type": JSON, "X-Accel-Buffering": "no"}
            self._response = web.StreamResponse(headers=headers)
            x.begin_stream(BUFFER_BYTES)
            await self._response.prepare(x.request)

    async def send(self, message: object) -> None:
        """Write a message in this stream's turn. Raises ConnectionError, TimeoutError."""
        await self._write(encode(Streamed(message)) + b"\n")

    async def beat(self) -> None:
        """Write white space, so that the client and proxies see that the node is there. Raises as
        `send` does.
        """
        await self._write(b"\n")

    async def _write(self, line: bytes) -> None:
        services = self._call.services
        async with self._writing:
            await self.begin()
            await services.watches.turns.take(len(line))
            if self.lost.is_set():
                raise ConnectionResetError("the client went away")
            unsent = services.watches.unsent
            try:
                if not unsent.hold(line):
                    raise TimeoutError
                async with asyncio.timeout(services.settings.watch_write_timeout_s):
                    await self.response.write(line)
            finally:
                unsent.let_go(line)

    async def fail(self, error: Exception) -> None:
        """End the stream with the reason as its last message."""
        line = encode(streamed_error(error)) + b"\n"
        try:
            await self._write(line)
        except (ConnectionError, TimeoutError):
            self.response.force_close()


def streamed_error(error: Exception) -> StreamedError:
    """Return the message that tells a stream's client of a failure."""
    code, words = UNAVAILABLE, str(error) or "events were not taken in time"
    if isinstance(error, Refusal):
        code, words = error.code, error.message
    elif isinstance(error, WatchEnded):
        words = error.detail
    elif isinstance(error, KvError):
        words = gateway_problem(problem_of(error, mutation=False))[1].decode()
    return StreamedError(ErrorForm(code, STATUS[code], words))
