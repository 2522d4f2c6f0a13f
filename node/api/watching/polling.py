"""GET /v1/watch?poll=SECONDS: the next changes under a prefix as one JSON document, for clients
without server-sent events.

It tells what the stream tells, by the same watcher and the same position: all changes of a
revision together, none twice, none left out. `next` is the position to ask after.
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw, Struct

from kv.errors import NotApplied
from kv.ports import Change
from node.api.watching.changes import change_forms
from node.exchange.exchange import Exchange
from node.watching.ring import Portion
from node.watching.watches import WatchEnded, Watcher
from node.wire.documents import encode
from node.wire.kept_positions import KeptPosition

POLL_S_MAX: Final = 60.0
ANSWER_WITHIN_S: Final = 15.0
"""An answer without changes goes out after so long, whatever was asked for: balancers take a node
that is silent for 20 s for dead (`deploy/nginx`).
"""
BATCH_BYTES: Final = 1 << 20
"""No further revision is added to an answer that has so many bytes; one may have 4 MiB alone."""
BATCH_CHANGES: Final = 1000


class PolledAnswer(Struct, frozen=True):
    """A `ChangesAnswer` whose events are already encoded as JSON."""

    events: list[Raw]
    next: str
    revision: int


async def answer(x: Exchange, watcher: Watcher, wait_s: float) -> PolledAnswer:
    """Return the changes after the watcher's position; wait for the first of them. Raises
    NotApplied, Pruned, and what else ends a watch.
    """
    clock, heartbeat_s = x.services.clock, x.services.settings.watch_heartbeat_s
    ends = clock.monotonic() + min(wait_s, ANSWER_WITHIN_S)
    batch = _Batch(x, watcher)
    try:
        while not batch.changes:
            left = ends - clock.monotonic()
            idle_s = max(min(left, heartbeat_s), 0.001)
            async for portion in watcher.portions(idle_s=idle_s):
                await _take(x, batch, portion)
                break
            if left <= 0:
                break
    except WatchEnded as exc:
        raise NotApplied(exc.code, exc.detail) from exc
    watcher.check_lost()
    term = x.services.consensus.term_of(batch.position)
    return PolledAnswer(batch.changes, KeptPosition(batch.position, term).text, batch.position)


async def _take(x: Exchange, batch: _Batch, portion: Portion) -> None:
    """Encode a portion. Few are encoded at a time, with the pages of listings, as all polls that
    wait may be woken by one change. Raises NotApplied.
    """
    if not portion.changes:
        await batch.take(portion)
        return
    async with x.services.load.pages:
        connections = x.services.load.connections
        if connections is not None and not connections.has_room(BATCH_BYTES):
            raise NotApplied("overloaded", "too many bytes of answers wait for their readers")
        await batch.take(portion)


class _Batch:
    """The changes of one answer, encoded."""

    def __init__(self, x: Exchange, watcher: Watcher) -> None:
        self._x = x
        self.changes: list[Raw] = []
        self.position = watcher.position
        """Everything up to here is in the answer."""
        self._bytes = 0

    async def take(self, portion: Portion) -> None:
        """Take a portion, or as many of its revisions as there is room for."""
        for change in portion.changes:
            if self._bytes >= BATCH_BYTES or len(self.changes) >= BATCH_CHANGES:
                return
            await self._add(change)
            self.position = change.revision
        self.position = portion.position

    async def _add(self, change: Change) -> None:
        async for kind, form in change_forms(self._x, change):
            encoded = encode({"event": kind, **form})
            self.changes.append(Raw(encoded))
            self._bytes += len(encoded)
