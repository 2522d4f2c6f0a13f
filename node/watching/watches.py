"""Notify watchers of what changed: in revision order, none twice, none left out (INV-6), whatever
this node lived through.

Every watcher has a position of its own: everything up to it was sent. What settles is kept in one
bounded ring for all of them; who is behind it reads the ledger. Nothing is buffered per watcher: a
slow reader falls behind and is cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Self

from kv.errors import NotApplied, Undone
from kv.ports import Consensus, Settled, Store, UndoneRange
from node.http.turns import Turns
from node.settings import ServerSettings
from node.watching.frames import Frames, Unsent
from node.watching.ledger_gaps import LedgerGaps
from node.watching.ring import ChangeRing, Portion
from node.watching.views import View, Views

PASS_BYTES: Final = 512 * 1024
"""Written to watchers in one pass of the loop; then everything else has its turn. One write may be
larger.
"""
WRITE_COST_BYTES: Final = 4096
"""What a write costs however small it is, in bytes of a pass."""


class WatchEnded(Exception):
    """An end of a watch by its node; go on elsewhere after the position that was sent last."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class Watches:
    """All watchers of this node. Bounded in number; beyond: NotApplied("overloaded")."""

    def __init__(self, consensus: Consensus, store: Store, settings: ServerSettings) -> None:
        self._settings, self._consensus = settings, consensus
        self._ring = ChangeRing(settings.watch_ring_bytes, consensus.settled.last)
        self._views: Views[Watcher] = Views()
        self._open: set[Watcher] = set()
        self.gaps = LedgerGaps(consensus, store, settings)
        self.frames = Frames(settings.watch_frames_bytes)
        self.turns = Turns(PASS_BYTES, WRITE_COST_BYTES)
        self.unsent = Unsent(settings.watch_unsent_bytes_max)
        self._unlisten = consensus.listen(self._settled)
        self._ending = False
        self.events_total = 0
        self.wakes_total = 0
        self.cut_total = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def end(self) -> int:
        """Newest revision that settled here."""
        return self._ring.end

    def close(self) -> None:
        """Listen no more, and end every watch in a way that can be resumed elsewhere."""
        if not self._ending:
            self._unlisten()
            self._ending = True
            for watcher in self._open:
                watcher.moved.set()

    def open(self, prefix: bytes, after: int | None) -> Watcher:
        """Begin a watch after a revision (None: what is settled here now). Raises NotApplied."""
        if self._ending:
            raise NotApplied("draining", "this node is stopping")
        if len(self._open) >= self._settings.watchers_max:
            raise NotApplied("overloaded", f"{len(self._open)} watches are open")
        return Watcher(self, prefix, self._ring.end if after is None else after)

    def _settled(self, event: Settled) -> None:
        continues = self._ring.take(event)
        for view in self._views.touch(event, continues=continues):
            self.wakes_total += len(view.members)
            for watcher in view.members:
                watcher.moved.set()
        if event.undone_after is not None:
            self.gaps.forget()
            self.frames.forget()
            for watcher in self._open:
                watcher.undone = UndoneRange(event.undone_after, event.last)
                watcher.moved.set()

    def joined(self, watcher: Watcher) -> View[Watcher]:
        """Count a watcher, and wake it from now on."""
        self._open.add(watcher)
        return self._views.join(watcher, watcher.prefix, self._ring.end)

    def left(self, watcher: Watcher) -> None:
        """Count it no more; once is enough."""
        self._open.discard(watcher)
        self._views.leave(watcher, watcher.prefix)

    def check(self, watcher: Watcher) -> None:
        """Raise WatchEnded when a watch cannot go on here, ConnectionResetError when its client is
        gone.
        """
        if watcher.gone:
            raise ConnectionResetError("the watcher went away")
        if self._ending:
            raise WatchEnded("draining", "this node is stopping")
        for undone in (watcher.undone, self._consensus.undone):
            if undone.after <= watcher.position < undone.to:
                raise Undone(undone.after, undone.to)

    def at_hand(self, watcher: Watcher) -> Portion | None:
        """Return what memory has for a watcher (no change: it is up to date); None: it has to read
        the ledger.

        Raises what `check` raises.
        """
        self.check(watcher)
        if watcher.position < self._consensus.undone.to:
            return None
        if watcher.view is not None and watcher.position >= watcher.view.touched:
            return Portion((), max(watcher.position, self._ring.end))
        if self.behind(watcher):
            return None
        return self._ring.after(watcher.position, watcher.prefix)

    def behind(self, watcher: Watcher) -> bool:
        """Say whether what follows a watcher's position has to come from the ledger."""
        if watcher.position < self._consensus.undone.to:
            return True
        known = watcher.view is not None and watcher.position >= watcher.view.touched
        return not known and watcher.position < self._ring.begin


class Watcher:
    """One watch. `async with` counts it; `portions` yields what comes, without end."""

    def __init__(self, watches: Watches, prefix: bytes, position: int) -> None:
        self._watches = watches
        self.prefix = prefix
        self.position = position
        """Everything under the prefix up to here has been yielded."""
        self.moved = asyncio.Event()
        self.view: View[Watcher] | None = None
        self.gone = False
        self.undone = UndoneRange()
        """The newest adoption since it was opened."""

    async def __aenter__(self) -> Self:
        self.view = self._watches.joined(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._watches.left(self)

    def leave(self) -> None:
        """End the watch at once: its client is gone, and its place is free for another."""
        self.gone = True
        self._watches.left(self)
        self.moved.set()

    @property
    def end(self) -> int:
        """Newest revision that settled here."""
        return self._watches.end

    def behind(self) -> bool:
        """Say whether what comes next has to be read from the ledger, and may be gone from it."""
        return self._watches.behind(self)

    async def portions(self, *, idle_s: float) -> AsyncIterator[Portion]:
        """Yield what changed, and at least every `idle_s` seconds a portion without changes.

        Raises Pruned (Undone behind an adoption), WatchEnded, ConnectionResetError,
        NotApplied("store_refused"), BackendUnavailable.
        """
        watches = self._watches
        while True:
            self.moved.clear()
            portion = watches.at_hand(self)
            if portion is None:
                stretch = await watches.gaps.after(self.position, self.prefix)
                for place in range(len(stretch.cuts)):
                    filled = await watches.gaps.portion(stretch, place)
                    watches.check(self)
                    yield self._reached(filled)
            elif portion.changes:
                yield self._reached(portion)
            else:
                self._reached(portion)
                if self.position < watches.end:
                    await asyncio.sleep(0)
                    continue
                try:
                    async with asyncio.timeout(idle_s):
                        await self.moved.wait()
                except TimeoutError:
                    watches.check(self)
                    yield self._reached(watches.at_hand(self) or portion)

    def _reached(self, portion: Portion) -> Portion:
        self.position = portion.position
        self._watches.events_total += len(portion.changes)
        return portion
