"""Feed a whole node's HTTP port with raw bytes: what comes back is HTTP, and never a 500."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Final

from tests.unit.node.conftest import Api, opened

WAIT_S: Final = 1.0
"""How long an answer is waited for; a request that is not whole gets none."""
REFRESH: Final = 5000
"""Inputs after which the node is started again, so that what they wrote does not pile up."""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


class HttpTarget:
    """One node over fakes, on a loop of its own, to which inputs are sent one after the other."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._opened = opened(kind="replicated")
        self.api: Api = self.loop.run_until_complete(self._opened.__aenter__())
        self._left = REFRESH

    def close(self) -> None:
        """End the node."""
        self.loop.run_until_complete(self._opened.__aexit__(None, None, None))
        self.loop.close()

    def feed(self, data: bytes) -> None:
        """Send the bytes over one connection, then end it; judge what came back."""
        if self._left == 0:
            self.close()
            self.__init__()  # type: ignore[misc]  # the same, afresh
        self._left -= 1
        told = self.loop.run_until_complete(self._exchange(data))
        assert not told or told.startswith(b"HTTP/1."), told[:200]
        statuses = _STATUS.findall(told)
        assert b"500" not in statuses, told[:2000]

    async def _exchange(self, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.api.server.port)
        told = b""
        try:
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(WAIT_S):
                while part := await reader.read(65536):
                    told += part
        except (TimeoutError, OSError):
            pass
        finally:
            writer.transport.abort()
        return told


def http_seeds() -> Iterable[bytes]:
    """Return requests of each kind."""
    host = b" HTTP/1.1\r\nHost: x\r\n"
    yield b"GET /v1/kv/a?consistency=stale&max_age=1" + host + b'If-None-Match: "3"\r\n\r\n'
    yield b"PUT /v1/kv/%C3%A9?op_id=o" + host + b"Content-Length: 1\r\n\r\n1GET /v1/kv/a" + host
    yield b"PUT /v1/kv/a" + host + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    body = b'{"writes":[{"put":"a","value":"1"}]}'
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    yield b"POST /v1/txn" + host + head + body
    yield b"GET /v1/watch?prefix=a" + host + b"Last-Event-ID: 1.1\r\n\r\n"
    body = b'{"key":"YQ==","value":"MQ=="}'
    yield b"POST /v3/kv/put" + host + b"Content-Length: %d\r\n\r\n" % len(body) + body
    yield b"GET /v1/kv?prefix=a&limit=3&separator=/" + host + b"\r\n"
