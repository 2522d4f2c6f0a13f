"""GET /v1/backup: stream everything that the store holds up to one revision, as a backup's file;
with `since` and `digest`, what changed after an earlier one.

One at a time on a node. A reader that is too slow, or a node that stops, ends it early; the file
says so, and is then no backup.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from kv.errors import BadRequest, NotApplied
from kv.model import GENESIS_DIGEST, REVISION_MAX
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
    since = _since(x.text_params("since", "digest"))
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
            since=since,
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


def _since(given: dict[str, str]) -> tuple[int, bytes] | None:
    """Return where an incremental backup goes on: revision and digest. Raises BadRequest."""
    if not given:
        return None
    try:
        since, digest = int(given["since"]), bytes.fromhex(given["digest"])
    except (KeyError, ValueError):
        since, digest = -1, b""
    if not 0 < since <= REVISION_MAX or len(digest) != len(GENESIS_DIGEST):
        raise BadRequest(
            "bad_parameter",
            "since and digest",
            allowed="both: the revision of an earlier backup, and the digest of the order up to it "
            "as 64 hexadecimal digits",
        )
    return since, digest


async def _write(x: Exchange, response: web.StreamResponse, piece: bytes) -> None:
    """Write a piece as fast as it is read. Raises TimeoutError, ConnectionError."""
    for start in range(0, len(piece), PIECE_BYTES):
        async with asyncio.timeout(x.services.settings.watch_write_timeout_s):
            await response.write(piece[start : start + PIECE_BYTES])
        await asyncio.sleep(0)
