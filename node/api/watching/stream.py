"""GET /v1/watch: stream changes under a prefix as server-sent events, or answer with the next
ones (`polling`).

`event: put | delete | progress | error`; `id:` is set on the last event of a revision and on
bookmarks. A client resumes by `Last-Event-ID` (or `after`); 410 when that position is no longer
kept. The stream ends with an `error` event, never silently.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from kv.errors import KvError, NotApplied
from kv.ports import Change
from node.api.watching import polling
from node.api.watching.changes import change_forms
from node.exchange.exchange import Exchange
from node.watching.ring import Portion
from node.watching.watches import WatchEnded, Watcher
from node.wire.byte_forms import checked_prefix
from node.wire.documents import encode
from node.wire.kept_positions import KeptPosition, parse_position
from node.wire.problems import problem_of
from node.wire.text_fields import parse_seconds

WRITE_BUFFER_BYTES: Final = 256 * 1024
"""Bytes that may wait in the socket's buffer for one watcher."""
CUT_LINGER_S: Final = 5.0
"""How long a disconnected watcher may still read what waits for it."""


async def get(x: Exchange) -> web.StreamResponse:
    """Stream changes until the client disconnects or is too slow, or the node stops; with `poll`
    answer with the next ones.
    """
    prefix, kept, poll_s = _asked(x)
    after = None if kept is None else kept.revision
    if kept is not None and not await x.services.reads.reach_kept(kept, "revision", x.deadline):
        raise NotApplied(
            "behind", f"this node has not settled revision {after} yet, where the watch would begin"
        )
    settings = x.services.settings
    async with x.services.watches.open(prefix, after) as watcher:
        x.when_lost(watcher.leave)
        if poll_s is not None:
            return x.json(await polling.answer(x, watcher, 0.0 if after is None else poll_s))
        coming = watcher.portions(idle_s=min(settings.watch_bookmark_s, settings.watch_heartbeat_s))
        first = await _first(watcher, coming)
        response = web.StreamResponse(headers={**x.headers(), **_HEADERS})
        x.begin_stream(WRITE_BUFFER_BYTES)
        await response.prepare(x.request)
        await _Stream(x, response, watcher).send_all(first, coming)
        return response


_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


_HEARTBEAT: Final = b"d\r\n: heartbeat\n\n\r\n"


def _asked(x: Exchange) -> tuple[bytes, KeptPosition | None, float | None]:
    params = x.params("prefix", "after", "poll")
    prefix, poll = checked_prefix(params.get("prefix", b"")), params.get("poll")
    poll_s = (
        None
        if poll is None
        else parse_seconds(poll.decode("ascii", "replace"), "poll", polling.POLL_S_MAX)
    )
    last_id = x.request.headers.get("Last-Event-ID")
    if last_id:
        return prefix, parse_position(last_id.strip(), "Last-Event-ID"), poll_s
    after = params.get("after")
    kept = None if after is None else parse_position(after.decode("ascii", "replace"), "after")
    return prefix, kept, poll_s


async def _first(watcher: Watcher, coming: AsyncIterator[Portion]) -> Portion:
    """Return the first portion to send. A position that is no longer kept is refused before the
    stream begins (410).
    """
    start = watcher.position
    if watcher.behind():
        try:
            return await anext(coming)
        except WatchEnded as exc:
            raise NotApplied(exc.code, exc.detail) from exc
    return Portion((), start)


class _Stream:
    """The event stream of one watch. `_sent`: the newest position sent to the client as an id."""

    def __init__(self, x: Exchange, response: web.StreamResponse, watcher: Watcher) -> None:
        self._x, self._response, self._watcher = x, response, watcher
        self._settings, self._now = x.services.settings, x.services.clock.monotonic
        self._watches = x.services.watches
        self._chunked = x.request.version >= (1, 1)
        self._sent = -1
        self._written_at = self._now()

    async def send_all(self, first: Portion, coming: AsyncIterator[Portion]) -> None:
        """Write portions until the watch ends. The last event gives the reason, unless the client
        disconnected.
        """
        try:
            await self._response.write(b"retry: 1000\n\n")
            await self._send(first, due=True)
            async for portion in coming:
                await self._send(portion)
        except TimeoutError:
            self._watches.cut_total += 1
            _cut(self._x, _error_event("slow_reader", "events were not taken in time", 503, _ON))
        except WatchEnded as exc:
            _cut(self._x, _error_event(exc.code, exc.detail, 503, _ON))
        except KvError as exc:
            document = problem_of(exc, mutation=False)
            more = {"floor": document.floor, "undone_after": document.undone_after}
            _cut(
                self._x,
                _error_event(
                    document.code, document.detail, document.status, document.advice, **more
                ),
            )
        except ConnectionError:
            return

    async def _send(self, portion: Portion, *, due: bool = False) -> None:
        """Write a portion; if it has no changes, write a bookmark or a heartbeat when one is
        due.
        """
        # now, because the portion is of the log as it is now
        reached = KeptPosition(
            portion.position, self._x.services.consensus.term_of(portion.position)
        )
        for change in portion.changes:
            self._watcher.check_lost()
            await self._write(await self._watches.frames.of(change, self._frame))
            self._sent = change.revision
        silent_s = self._now() - self._written_at
        if portion.position > self._sent and (due or silent_s >= self._settings.watch_bookmark_s):
            self._watcher.check_lost()
            await self._write(_chunk(_bookmark(reached)))
            self._sent = portion.position
        elif silent_s >= self._settings.watch_heartbeat_s:
            await self._write(_HEARTBEAT)

    async def _frame(self, change: Change) -> bytes:
        return _chunk(await _events(self._x, change))

    async def _write(self, chunk: bytes) -> None:
        """Write a chunk in this watcher's turn, and wait while the client reads nothing. All
        watchers share the same bytes.

        Raises TimeoutError, ConnectionError.
        """
        await self._watches.turns.take(len(chunk))
        transport = self._x.request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the watcher went away")
        transport.write(chunk if self._chunked else _unchunked(chunk))
        if transport.get_write_buffer_size() > WRITE_BUFFER_BYTES:
            await self._taken(chunk)
        self._written_at = self._now()

    async def _taken(self, chunk: bytes) -> None:
        unsent = self._watches.unsent
        try:
            if not unsent.hold(chunk):
                raise TimeoutError
            async with asyncio.timeout(self._settings.watch_write_timeout_s):
                await self._x.request.writer.drain()
        finally:
            unsent.let_go(chunk)


def _chunk(data: bytes) -> bytes:
    """Return data in the chunked framing of HTTP/1.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _unchunked(chunk: bytes) -> bytes:
    return chunk[chunk.index(b"\r\n") + 2 : -2]


async def _events(x: Exchange, change: Change) -> bytes:
    """Return the events of one revision together, with the id on the last one."""
    parts: list[bytes] = []
    async for kind, form in change_forms(x, change):
        if len(parts) == len(change.versions) - 1:
            id = KeptPosition(change.revision, change.term).text.encode()
            parts.append(b"id: %s\nevent: %s\ndata: %s\n\n" % (id, kind.encode(), encode(form)))
        else:
            parts.append(b"event: %s\ndata: %s\n\n" % (kind.encode(), encode(form)))
    return b"".join(parts)


def _bookmark(reached: KeptPosition) -> bytes:
    id = reached.text.encode()
    return b'id: %s\nevent: progress\ndata: {"revision":%d}\n\n' % (id, reached.revision)


_ON: Final = "go on at another node, after the position told last"


def _error_event(code: str, detail: str, status: int, advice: str, **more: int | None) -> bytes:
    form = {
        "code": code,
        "detail": detail,
        "status": status,
        "resumable": status != 410,
        "advice": advice,
    }
    form |= {name: value for name, value in more.items() if value is not None}
    return b"event: error\ndata: " + encode(form) + b"\n\n"


def _cut(x: Exchange, last: bytes) -> None:
    """End the stream with a last event, without waiting for a reader that may never read it."""
    transport = x.request.transport
    if transport is None or transport.is_closing():
        return
    if x.request.version >= (1, 1):
        last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last)
    transport.write(last)
    transport.close()
    asyncio.get_running_loop().call_later(CUT_LINGER_S, transport.abort)
