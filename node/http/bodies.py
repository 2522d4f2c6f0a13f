"""Receive request bodies within bounds of size, time, and the share of all bodies and of each
client.

A declared Content-Length reserves nothing; only bytes that have arrived count. A body never takes
more memory than its bound.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_exceptions import HTTPException

from kv.errors import BadRequest, NotApplied
from node.http.shares import Shares

LEAST_BYTES: Final = 8 * 1024
"""Least number of bytes (or the rest of the body) that must arrive in each quarter of the body
time-out.
"""
_BROKEN: Final = ("RequestPayloadError", "ClientPayloadError", "TransferEncodingError")


class Bodies:
    """The request bodies of one node, counted as they arrive."""

    def __init__(self, bytes_max: int, receiving_max: int, timeout_s: float) -> None:
        self.bytes = Shares(bytes_max)
        """Bytes of bodies received, until their requests are answered."""
        self.receiving = Shares(receiving_max)
        """Requests whose bodies have not fully arrived; they are not worked on yet."""
        self._timeout_s = timeout_s

    async def receive(
        self, request: web.BaseRequest, held: HeldBody, most: int, code: str
    ) -> bytes:
        """Return the whole body, of at most `most` bytes. Raises BadRequest (`code` if it is
        larger, body_timeout, bad_http) or NotApplied("overloaded").
        """
        content = request.content
        if content.is_eof():
            whole: bytes = content.read_nowait(-1)
            if len(whole) > most:
                raise _too_large(code, most)
            held.add(len(whole))
            return whole
        if not self.receiving.take(held.address, 1):
            raise NotApplied(
                "overloaded", "too many bodies are on their way here, or too many of this client"
            )
        try:
            return await self._whole(request, held, most, code)
        except (HttpProcessingError, HTTPException) as exc:
            raise BadRequest(
                "bad_http", f"the body is broken: {exc}", allowed="a well-formed body"
            ) from exc
        except Exception as exc:
            if type(exc).__name__ in _BROKEN:
                raise BadRequest(
                    "bad_http", f"the body is broken: {exc}", allowed="a well-formed body"
                ) from exc
            raise
        finally:
            self.receiving.give_back(held.address, 1)

    async def _whole(self, request: web.BaseRequest, held: HeldBody, most: int, code: str) -> bytes:
        loop = asyncio.get_running_loop()
        begun, window_s = loop.time(), self._timeout_s / 4
        parts: list[bytes] = []
        size = fresh = 0
        try:
            async with asyncio.timeout_at(begun + window_s) as limit:
                while part := await request.content.readany():
                    size += len(part)
                    fresh += len(part)
                    if size > most:
                        raise _too_large(code, most)
                    held.add(len(part))
                    parts.append(part)
                    if fresh >= LEAST_BYTES:
                        fresh = 0
                        limit.reschedule(min(loop.time() + window_s, begun + self._timeout_s))
        except TimeoutError as exc:
            detail = f"only {size} bytes of the body arrived within {loop.time() - begun:.3g} s"
            allowed = (
                f"{LEAST_BYTES} bytes or the rest each {window_s:g} s, and {self._timeout_s:g} "
                f"s for the whole body"
            )
            raise BadRequest("body_timeout", detail, allowed=allowed) from exc
        return b"".join(parts)


class HeldBody:
    """The bytes that one request's body holds of the node's bound. `release` returns them."""

    __slots__ = ("_bodies", "_count", "address")

    def __init__(self, bodies: Bodies, address: str) -> None:
        self._bodies, self.address = bodies, address
        self._count = 0

    def add(self, count: int) -> None:
        """Count bytes that have arrived. Raises NotApplied("overloaded")."""
        if count and not self._bodies.bytes.take(self.address, count):
            held = self._bodies.bytes.held
            raise NotApplied(
                "overloaded",
                f"{held} bytes of bodies are being worked on, or too many of this client",
            )
        self._count += count

    def release(self) -> None:
        """Return all bytes."""
        if self._count:
            self._bodies.bytes.give_back(self.address, self._count)
            self._count = 0


def _too_large(code: str, most: int) -> BadRequest:
    return BadRequest(code, f"the body has more than {most} bytes", allowed=f"up to {most}")
