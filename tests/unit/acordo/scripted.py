"""A server on a raw socket that plays one scripted ending per request, and counts what it
was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Self

import msgspec


class Play(msgspec.Struct, frozen=True):
    """What to do with one request."""

    answer: bytes = b""
    """Bytes to send back."""
    then: str = "keep"
    """keep: wait for the next request; close: end the stream; reset: RST; hang: never say anything
    again.
    """
    head_only: bool = False
    """Act after the first byte of the request, without reading the rest."""


def http(
    status: int,
    body: bytes = b"",
    *,
    node: str | None = "n1",
    kind: str = "application/octet-stream",
    length: int | None = None,
    revision: int = 7,
    headers: dict[str, str] | None = None,
) -> bytes:
    """Return a whole response; `length` lies about the body's."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"Content-Type: {kind}"]
    if node:
        lines += [f"Acordo-Node: {node}", f"Acordo-Revision: {revision}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def problem(
    status: int,
    *,
    node: str | None = "n1",
    headers: dict[str, str] | None = None,
    **members: object,
) -> bytes:
    """Return a problem document as a node sends it."""
    body = msgspec.json.encode({"status": status, **members})
    return http(status, body, node=node, kind="application/problem+json", headers=headers)


class Scripted:
    """Play the script, then `otherwise` for ever."""

    def __init__(self, script: Sequence[Play] = (), otherwise: Play | None = None) -> None:
        self._script, self._otherwise = (
            list(script),
            otherwise or Play(http(200, b"v", headers={"ETag": '"5"'})),
        )
        self.requests: list[bytes] = []
        self.on_request: Callable[[], None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = await reader.readexactly(1)
        play = self._script.pop(0) if self._script else self._otherwise
        request = first
        if not play.head_only:
            request += await reader.readuntil(b"\r\n\r\n")
            for line in request.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    request += await reader.readexactly(int(line.split(b":")[1]))
        self.requests.append(request)
        if self.on_request:
            self.on_request()
        writer.write(play.answer)
        await writer.drain()
        match play.then:
            case "hang":
                await asyncio.Event().wait()
            case "reset":
                writer.transport.abort()
                return False
            case "close":
                return False
        return True


async def closed_port() -> int:
    """Return a port on which nobody listens."""
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port
