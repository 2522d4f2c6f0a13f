"""GET /v1/backup: stream everything that the store holds up to one revision, as a backup's file.

One at a time on a node. A reader that is too slow, or a node that stops, ends it early; the file
says so, and is then no backup.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from kv.errors import NotApplied
from node.exchange.exchange import Exchange
from node.exchange.headers import BYTES
from node.reads.export import Export

WRITE_BUFFER_BYTES: Final = 256 * 1024
"""Bytes that may wait in the socket's buffer for the reader."""
PIECE_BYTES: Final = 64 * 1024
"""Bytes after which other tasks of the loop get a turn."""
RETRY_AFTER_S: Final = 10.0


async def get(x: Exchange) -> web.StreamResponse:
    """Stream a backup of everything that was acknowledged before the request."""
    x.params()
    services = x.services.whole
    if services.load.backups.locked():
        raise NotApplied(
            "overloaded", "this node is giving a backup already", retry_after_s=RETRY_AFTER_S
        )
    async with services.load.backups:
        export = await Export.begun(
            services.consensus,
            services.store,
            services.reads,
            services.clock,
            services.settings,
            deadline=x.deadline,
            stops=lambda: x.services.whole.load.draining,  # it raises once the caller may not
        )
        response = web.StreamResponse(
            headers={
                **x.headers(export.header.revision),
                "Content-Type": BYTES,
                "Cache-Control": "no-store",
            }
        )
        x.begin_stream(WRITE_BUFFER_BYTES)
        await response.prepare(x.request)
        try:
            async for piece in export.pieces():
                await _write(x, response, piece)
            await response.write_eof()
        except (TimeoutError, ConnectionError):
            # the end of the body is missing then: nobody takes it for whole
            if x.request.transport is not None:
                x.request.transport.abort()
        return response


async def _write(x: Exchange, response: web.StreamResponse, piece: bytes) -> None:
    """Write a piece as fast as it is read. Raises TimeoutError, ConnectionError."""
    for start in range(0, len(piece), PIECE_BYTES):
        async with asyncio.timeout(x.services.settings.watch_write_timeout_s):
            await response.write(piece[start : start + PIECE_BYTES])
        await asyncio.sleep(0)
