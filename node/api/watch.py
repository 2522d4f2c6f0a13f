"""GET /v1/watch: stream changes under a prefix as server-sent events.

`event: put | delete | progress | error`; `id:` is set on the last event of a revision and on
bookmarks. A client resumes by `Last-Event-ID` (or `after`); 410 when that position is no longer
kept. The stream ends with an `error` event, never silently.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from kv.access import plain_op_id
from kv.errors import BackendUnavailable, KvError, NotApplied
from kv.model import Version
from kv.ports import Change
from node.exchange.exchange import Exchange
from node.watching.ring import Portion
from node.watching.watches import WatchEnded, Watcher
from node.wire.byte_forms import checked_prefix, json_form
from node.wire.documents import encode
from node.wire.kept_positions import KeptPosition, parse_position
from node.wire.lease_forms import lease_id
from node.wire.problems import problem_of

WRITE_BUFFER_BYTES: Final = 256 * 1024
"""Bytes that may wait in the socket's buffer for one watcher."""
PIECE_BYTES: Final = 64 * 1024
"""After an event of this many bytes other tasks get a turn: the events of one revision may have 4
MiB together.
"""
CUT_LINGER_S: Final = 5.0
"""How long a disconnected watcher may still read what waits for it."""


async def get(x: Exchange) -> web.StreamResponse:
    """Stream changes until the client disconnects or is too slow, or the node stops."""
    prefix, kept = _asked(x)
    after = None if kept is None else kept.revision
    if kept is not None and not await x.services.reads.reach_kept(kept, "revision", x.deadline):
        raise NotApplied(
            "behind", f"this node has not settled revision {after} yet, where the watch would begin"
        )
    settings = x.services.settings
    async with x.services.watches.open(prefix, after) as watcher:
        x.when_lost(watcher.leave)
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


def _asked(x: Exchange) -> tuple[bytes, KeptPosition | None]:
    params = x.params("prefix", "after")
    prefix = checked_prefix(params.get("prefix", b""))
    last_id = x.request.headers.get("Last-Event-ID")
    if last_id:
        return prefix, parse_position(last_id.strip(), "Last-Event-ID")
    after = params.get("after")
    return prefix, None if after is None else parse_position(
        after.decode("ascii", "replace"), "after"
    )


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
    for place, version in enumerate(change.versions):
        form: dict[str, object] = {"key": json_form(version.key), "revision": change.revision}
        if version.present:
            form["value"] = json_form(await _value(x, version))
        if version.expires_ms is not None:
            form["expires_ms"] = version.expires_ms
        if version.present:
            form["create_revision"] = version.create_revision
            form["version"] = version.version
        if version.lease:
            form["lease"] = lease_id(version.lease)
        form["op_id"] = plain_op_id(change.op_id)
        form["log_time_ms"] = change.log_time_ms
        if place == len(change.versions) - 1:
            parts.append(b"id: %s\n" % KeptPosition(change.revision, change.term).text.encode())
        kind = b"put" if version.present else b"delete"
        parts.append(b"event: " + kind + b"\ndata: " + encode(form) + b"\n\n")
        if len(parts[-1]) >= PIECE_BYTES:
            await asyncio.sleep(0)
    return b"".join(parts)


async def _value(x: Exchange, version: Version) -> bytes:
    deadline = x.services.clock.monotonic() + x.services.settings.store_timeout_s
    value = await x.services.reads.store.value_of(version, deadline=deadline)
    if value is None:
        raise BackendUnavailable("store", "a present version without a value")
    return value


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
