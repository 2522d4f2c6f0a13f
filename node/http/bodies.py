"""Receive the body of a request, within bounds of size, time, and what all bodies and each client
may hold.

What is announced holds nothing: only what has arrived does. A body is never taken into memory
beyond its bound.
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
"""So much of a body, or the rest of it, arrives in each quarter of the time that a whole
body has.
"""
_BROKEN: Final = ("RequestPayloadError", "ClientPayloadError", "TransferEncodingError")


class Bodies:
    """The bodies of all requests of a node, counted as they arrive."""

    def __init__(self, bytes_max: int, receiving_max: int, timeout_s: float) -> None:
        self.bytes = Shares(bytes_max)
        """Bytes of bodies that arrived, until their requests are answered."""
        self.receiving = Shares(receiving_max)
        """Requests whose bodies have not arrived whole: they are not worked on yet."""
        self._timeout_s = timeout_s

    async def receive(
        self, request: web.BaseRequest, held: HeldBody, most: int, code: str
    ) -> bytes:
        """Return a body. Raises BadRequest (`code`, body_timeout, bad_http) or
        NotApplied("overloaded").
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
    """One request's part of what a node has for bodies. `release` gives it back."""

    __slots__ = ("_bodies", "_count", "address")

    def __init__(self, bodies: Bodies, address: str) -> None:
        self._bodies, self.address = bodies, address
        self._count = 0

    def add(self, count: int) -> None:
        """Count bytes that arrived. Raises NotApplied("overloaded")."""
        if count and not self._bodies.bytes.take(self.address, count):
            held = self._bodies.bytes.held
            raise NotApplied(
                "overloaded",
                f"{held} bytes of bodies are being worked on, or too many of this client",
            )
        self._count += count

    def release(self) -> None:
        """Give all of it back."""
        if self._count:
            self._bodies.bytes.give_back(self.address, self._count)
            self._count = 0


def _too_large(code: str, most: int) -> BadRequest:
    return BadRequest(code, f"the body has more than {most} bytes", allowed=f"up to {most}")
