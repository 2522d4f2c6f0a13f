"""GET /v1/verify: check all of this node's store now, and stream how far that has come.

A line of JSON a step; the last one says `done`. It reads everything, so one at a time on a node.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from kv.errors import KvError, NotApplied
from node.exchange.exchange import Exchange
from node.reads.inspection import Inspection
from node.wire.documents import encode
from node.wire.problems import problem_of
from node.wire.text_fields import parse_revision

LINES: Final = "application/x-ndjson"
WRITE_BUFFER_BYTES: Final = 64 * 1024


async def get(x: Exchange) -> web.StreamResponse:
    """Stream the steps of an inspection as of a revision; without one, as of what is settled."""
    params = x.text_params("revision")
    services = x.services.whole
    asked = parse_revision(params["revision"], "revision") if "revision" in params else None
    if asked is not None and not await services.reads.reach(asked, "revision", x.deadline):
        raise services.reads.behind(asked)
    if services.load.inspections.locked():
        raise NotApplied("overloaded", "this node is being verified already", retry_after_s=10)
    async with services.load.inspections:
        revision = services.consensus.settled.last if asked is None else asked
        inspection = Inspection(
            services.settings.node_id,
            services.store,
            services.own,
            revision,
            services.settings.store_timeout_s,
        )
        headers = {**x.headers(), "Content-Type": LINES, "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        x.begin_stream(WRITE_BUFFER_BYTES)
        await response.prepare(x.request)
        try:
            await _stream(x, inspection, response)
        except (TimeoutError, ConnectionError):
            if x.request.transport is not None:
                x.request.transport.abort()
        return response


async def _stream(x: Exchange, inspection: Inspection, response: web.StreamResponse) -> None:
    patience_s = x.services.settings.watch_write_timeout_s
    try:
        async for found in inspection.steps():
            if x.services.whole.load.draining:  # it raises once the caller may not
                raise NotApplied("draining", "this node is stopping")
            async with asyncio.timeout(patience_s):
                await response.write(encode(found) + b"\n")
    except KvError as exc:
        document = problem_of(exc, mutation=False)
        ended = {"ended": {"code": document.code, "detail": document.detail}}
        async with asyncio.timeout(patience_s):
            await response.write(encode(ended) + b"\n")
    await response.write_eof()
