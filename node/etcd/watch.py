"""/v3/watch: several watches on one stream, each created and cancelled by the client's messages.

Every watch tells the changes of its range in the order of their revisions, none twice, none left
out (INV-6), or is cancelled with a reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web
from msgspec import UNSET

from kv.errors import KvError, NotAllowed, NotApplied, Pruned
from kv.model import Version
from node.etcd.answers import Event, Header, KeyValue, WatchResponse, deleted_key, key_value, number
from node.etcd.call import Call
from node.etcd.messages import FilterType, WatchCreateRequest, WatchRequest
from node.etcd.parsing import Incomplete, as_request, first_value
from node.etcd.reading import span, whole
from node.etcd.refusals import RESOURCE_EXHAUSTED, TOO_LARGE, Refusal
from node.etcd.spans import common_prefix, covers, is_empty, shown
from node.etcd.streams import MessageStream
from node.watching.ring import Portion
from node.watching.watches import WatchEnded, Watcher

MESSAGE_BYTES: Final = 128 * 1024
"""A message is sent once its keys and values take so many bytes; a revision is never split."""
REVISION_BYTES_MAX: Final = 64 * 1024 * 1024
"""Keys and values of one revision, with those before it; a watch that would need more ends."""
REQUEST_BYTES_MAX: Final = 64 * 1024
"""Bytes of one message of the client."""
NO_ID: Final = "-1"


async def watch(call: Call) -> web.StreamResponse:
    """Serve a stream of watches until the client leaves or the node stops."""
    requests = _requests(call)
    try:
        first = await anext(requests, None)
    except (ConnectionError, web.RequestPayloadError) as exc:
        raise NotApplied("timeout", "the client went away") from exc
    stream = _Watches(call)
    await stream.messages.begin()
    try:
        async with asyncio.TaskGroup() as tasks:
            stream.tasks = tasks
            tasks.create_task(stream.take_all(first, requests))
            tasks.create_task(stream.until_lost())
    except* (ConnectionError, TimeoutError):
        stream.messages.response.force_close()
    except* (KvError, WatchEnded) as failures:
        await stream.messages.fail(_first_of(failures))
    return stream.messages.response


def _first_of(group: BaseExceptionGroup[BaseException]) -> Exception:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Exception)
    return found


async def _requests(call: Call) -> AsyncIterator[WatchRequest]:
    """Yield the messages of the client's body, as they arrive. Raises Refusal."""
    text = ""
    while True:
        part = await call.x.request.content.readany()
        text = (text + part.decode("utf-8", "replace")).lstrip()
        while text:
            try:
                value, text = first_value(text)
            except Incomplete:
                if not part:
                    raise
                break
            yield as_request(value, WatchRequest)
        if not part:
            return
        if len(text) > REQUEST_BYTES_MAX:
            raise Refusal(*TOO_LARGE)


class _Watch:
    """One watch of a stream. `begin` and `end` name its range."""

    def __init__(self, id_: int, form: WatchCreateRequest) -> None:
        self.id, self.form = id_, form
        self.begin, self.end = form.key or b"\0", form.range_end
        self.task: asyncio.Task[None] | None = None

    def wants(self, version: Version) -> bool:
        """Return whether it tells of a change."""
        left_out = FilterType.NOPUT if version.present else FilterType.NODELETE
        return (
            covers(self.begin, self.end, version.key)
            and shown(version.key)
            and left_out not in self.form.filters
        )


class _Watches:
    """The watches of one stream."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.messages = MessageStream(call)
        self.tasks: asyncio.TaskGroup
        self._open: dict[int, _Watch] = {}
        self._next_id = 0

    async def until_lost(self) -> None:
        """Send something now and then, until the client is gone; then end the stream."""
        heartbeat_s = self._call.services.settings.watch_heartbeat_s
        while True:
            try:
                async with asyncio.timeout(heartbeat_s):
                    await self.messages.lost.wait()
            except TimeoutError:
                await self.messages.beat()
            else:
                raise ConnectionResetError("the client went away")

    async def take_all(
        self, first: WatchRequest | None, requests: AsyncIterator[WatchRequest]
    ) -> None:
        """Do what the client asks for, message by message."""
        if first is not None:
            await self._take(first)
        async for request in requests:
            await self._take(request)

    async def _take(self, request: WatchRequest) -> None:
        if request.create_request is not None:
            await self._create(request.create_request)
        elif request.cancel_request is not None:
            await self._cancel(request.cancel_request.watch_id)
        elif request.progress_request is not None:
            await self._progress()

    async def _create(self, form: WatchCreateRequest) -> None:
        header = self._call.header()
        watch = _Watch(form.watch_id, form)
        refusal = ""
        if is_empty(watch.begin, watch.end):
            refusal = "mvcc: watcher range is empty"
        elif not self._may_read(watch):
            refusal = "etcdserver: permission denied"
        elif form.watch_id and form.watch_id in self._open:
            refusal = "mvcc: duplicate watch ID provided on the WatchStream"
        if refusal:
            await self.messages.send(
                WatchResponse(header, NO_ID, True, True, cancel_reason=refusal)
            )
            return
        if not form.watch_id:
            while self._next_id in self._open:
                self._next_id += 1
            watch.id = self._next_id
            self._next_id += 1
        head = await self._head()
        self._open[watch.id] = watch
        await self.messages.send(WatchResponse(self._call.header(head), number(watch.id), True))
        after = form.start_revision - 1 if form.start_revision > 0 else head
        if after > head:
            reason = f"etcdserver: mvcc: required revision is a future revision, after {head}"
            del self._open[watch.id]
            await self._end(watch, reason=reason)
            return
        floor = await self._floor() if form.start_revision > 0 else 0
        if after + 1 < floor:
            del self._open[watch.id]
            await self._end(watch, floor=floor)
            return
        watch.task = self.tasks.create_task(self._tell(watch, after))

    def _may_read(self, watch: _Watch) -> bool:
        try:
            self._call.services.check_read(watch.begin, watch.end)
        except NotAllowed:
            return False
        return True

    async def _head(self) -> int:
        """Return the newest revision that a quorum confirms, or the newest that settled here if
        none does, once it is settled here.
        """
        self._call.renew()
        services, deadline = self._call.services, self._call.x.deadline
        failed = await services.reads.rounds.confirmed_by(deadline)
        if failed is None:
            ordered = services.consensus.ordered
            if await services.reads.reach(ordered, "revision", deadline):
                return ordered
        return services.consensus.settled.last

    async def _floor(self) -> int:
        """Return the revision below which nothing is told: what was given up may still be in memory
        here, and not at another node.
        """
        services = self._call.services
        return await services.store.floor(timeout_s=services.settings.store_timeout_s)

    async def _cancel(self, id_: int) -> None:
        watch = self._open.pop(id_, None)
        if watch is not None:
            if watch.task is not None:
                watch.task.cancel()
            await self._end(watch)

    async def _end(self, watch: _Watch, *, floor: int = 0, reason: str = "") -> None:
        header = self._call.bare_header() if floor else self._call.header()
        await self.messages.send(
            WatchResponse(
                header,
                number(watch.id),
                canceled=True,
                compact_revision=number(floor),
                cancel_reason=reason or UNSET,
            )
        )

    async def _progress(self) -> None:
        """Tell how far all watches have told, if each of them is there."""
        await self.messages.send(WatchResponse(self._call.header(), NO_ID))

    # ------------------------------------------------------------------------------------ one watch

    async def _tell(self, watch: _Watch, after: int) -> None:
        """Tell the changes after a revision, until the watch is cancelled."""
        services, settings = self._call.services, self._call.services.settings
        prefix = common_prefix(watch.begin, watch.end)
        try:
            async with services.watches.open(
                prefix, after, within=(watch.begin, watch.end)
            ) as watcher:
                async for portion in watcher.portions(idle_s=settings.watch_bookmark_s):
                    await self._send(watch, watcher, portion)
        except Pruned as exc:
            self._open.pop(watch.id, None)
            await self._end(watch, floor=exc.floor)
        except NotApplied as exc:
            self._open.pop(watch.id, None)
            await self._end(watch, reason=f"etcdserver: {exc.reason}: {exc.detail}")
        except Refusal as exc:
            self._open.pop(watch.id, None)
            await self._end(watch, reason=exc.message)

    async def _send(self, watch: _Watch, watcher: Watcher, portion: Portion) -> None:
        events: list[Event] = []
        size = 0
        for change in portion.changes:
            for version in change.versions:
                if watch.wants(version):
                    event = await self._event(watch, version)
                    events.append(event)
                    size += len(version.key) + _size(event.kv) + _size(event.prev_kv)
                    if size > REVISION_BYTES_MAX:
                        raise Refusal(
                            RESOURCE_EXHAUSTED,
                            f"etcdserver: revision {change.revision} takes more than "
                            f"{REVISION_BYTES_MAX} bytes here: watch it without previous values",
                        )
            if size >= MESSAGE_BYTES:
                await self._message(watch, change.revision, events)
                events, size = [], 0
        if events:
            await self._message(watch, max(portion.position, 1), events)
        elif watch.form.progress_notify and not portion.changes:
            await self._message(watch, watcher.position, [])

    async def _message(self, watch: _Watch, revision: int, events: list[Event]) -> None:
        if watch.id in self._open:
            header: Header = self._call.header(revision)
            await self.messages.send(
                WatchResponse(header, number(watch.id), events=events or UNSET)
            )

    async def _event(self, watch: _Watch, version: Version) -> Event:
        self._call.renew()
        previous: KeyValue | None = None
        if watch.form.prev_kv:
            previous = await self._previous(version)
        if not version.present:
            return Event("DELETE", deleted_key(version), previous or UNSET)
        told = await whole(self._call, version)
        value = told.value
        assert isinstance(value, bytes)
        return Event(UNSET, key_value(told, value), previous or UNSET)

    async def _previous(self, version: Version) -> KeyValue | None:
        """Return the key as it was before a change; None: absent, or no longer kept."""
        try:
            found = await span(self._call, version.key, b"", version.revision - 1)
        except Pruned:
            return None
        for each in found.versions:
            assert isinstance(each.value, bytes)
            return key_value(each, each.value)
        return None


def _size(kv: KeyValue | object) -> int:
    return len(kv.value) if isinstance(kv, KeyValue) and isinstance(kv.value, bytes) else 0
