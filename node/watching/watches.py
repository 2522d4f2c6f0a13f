"""Deliver changes to watchers in revision order, none twice, none left out (INV-6), also across
restarts, snapshots and adoptions.

Every watcher has its own position, up to which everything was sent. Settled changes are kept in one
bounded ring for all watchers; a watcher that is behind the ring reads the ledger. Nothing is
buffered per watcher: a slow reader falls behind and is disconnected.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Self

from kv.errors import NotApplied, Undone
from kv.ports import Consensus, MemberStore, Settled, Store, UndoneRange
from node.http.turns import Turns
from node.settings import ServerSettings
from node.watching.frames import Frames, Unsent
from node.watching.ledger_gaps import LedgerGaps
from node.watching.ring import ChangeRing, Portion
from node.watching.views import View, Views

PASS_BYTES: Final = 512 * 1024
"""Bytes written to watchers in one pass of the event loop; then other work gets its turn. A single
write may be larger.
"""
WRITE_COST_BYTES: Final = 4096
"""Least cost of a write, however small, in bytes of a pass."""


class WatchEnded(Exception):
    """An end of a watch that the node caused. The client resumes elsewhere after the last position
    it got.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class Watches:
    """The watchers of one node. Their number is bounded; beyond: NotApplied("overloaded")."""

    def __init__(
        self,
        consensus: Consensus,
        store: Store | None,
        settings: ServerSettings,
        *,
        own: MemberStore | None = None,
    ) -> None:
        self._settings, self._consensus = settings, consensus
        self._own = own is not None
        self._ring = ChangeRing(settings.watch_ring_bytes, consensus.settled.last)
        self._views: Views[Watcher] = Views()
        self._open: set[Watcher] = set()
        self.gaps = LedgerGaps(consensus, store, settings, own=own)
        self.frames = Frames(settings.watch_frames_bytes)
        self.turns = Turns(PASS_BYTES, WRITE_COST_BYTES)
        self.unsent = Unsent(settings.watch_unsent_bytes_max)
        self._unlisten = consensus.listen(self._settled)
        self._ending = False
        self.losses = 0
        """How often it was found that what was told is undone."""
        self.events_total = 0
        self.wakes_total = 0
        self.cut_total = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def end(self) -> int:
        """The newest revision that settled here."""
        return self._ring.end

    def close(self) -> None:
        """Stop listening to consensus, and end every watch with a resumable error."""
        if not self._ending:
            self._unlisten()
            self._ending = True
            for watcher in self._open:
                watcher.moved.set()

    def open(
        self, prefix: bytes, after: int | None, *, within: tuple[bytes, bytes] | None = None
    ) -> Watcher:
        """Open a watch after a revision; None: after the newest revision settled here. `within`:
        the range of the prefix that will be told. Raises NotApplied.
        """
        if self._ending:
            raise NotApplied("draining", "this node is stopping")
        if len(self._open) >= self._settings.watchers_max:
            raise NotApplied("overloaded", f"{len(self._open)} watches are open")
        return Watcher(self, prefix, self._ring.end if after is None else after)

    def _settled(self, event: Settled) -> None:
        told = self._ring.end
        continues = self._ring.take(event)
        for view in self._views.touch(event, continues=continues):
            self.wakes_total += len(view.members)
            for watcher in view.members:
                watcher.moved.set()
        if event.undone_after is not None:
            self.gaps.forget()
            self.frames.forget()
            self.losses += 1
            lost = event.last <= told  # by the log: those revisions are given again
            for watcher in self._open:
                if lost and watcher.position > event.undone_after:
                    watcher.lose(event.undone_after)
                elif not lost:
                    watcher.undone = UndoneRange(event.undone_after, event.last)
                watcher.moved.set()

    def joined(self, watcher: Watcher) -> View[Watcher]:
        """Register a watcher, which is woken from now on; return its view."""
        self._open.add(watcher)
        return self._views.join(watcher, watcher.prefix, self._ring.end)

    def left(self, watcher: Watcher) -> None:
        """Unregister a watcher. Calling it again does nothing."""
        self._open.discard(watcher)
        self._views.leave(watcher, watcher.prefix)

    def check(self, watcher: Watcher) -> None:
        """Raise WatchEnded when the watch cannot continue on this node, Undone when its position
        was given up by an adoption, ConnectionResetError when its client is gone.
        """
        if watcher.gone:
            raise ConnectionResetError("the watcher went away")
        if self._ending:
            raise WatchEnded("draining", "this node is stopping")
        if self._own and (refusal := self._consensus.refusal) is not None:
            raise WatchEnded("starting", f"this member's own store cannot be used now: {refusal}")
        watcher.check_lost()
        for undone in (watcher.undone, self._consensus.undone):
            if undone.after <= watcher.position < undone.to:
                raise Undone(undone.after, undone.to)

    def at_hand(self, watcher: Watcher) -> Portion | None:
        """Return the next portion from memory (without changes if the watcher is up to date); None:
        it has to read the ledger.

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
        """Return whether what follows the watcher's position has to be read from the ledger."""
        if watcher.position < self._consensus.undone.to:
            return True
        known = watcher.view is not None and watcher.position >= watcher.view.touched
        return not known and watcher.position < self._ring.begin


class Watcher:
    """One watch. `async with` registers it; `portions` yields its changes, without end."""

    def __init__(self, watches: Watches, prefix: bytes, position: int) -> None:
        self._watches = watches
        self.prefix = prefix
        self.position = position
        """Everything under the prefix up to here has been yielded."""
        self.moved = asyncio.Event()
        self.view: View[Watcher] | None = None
        self.gone = False
        self.undone = UndoneRange()
        """What the newest adoption since the watch was opened has undone."""
        self.told: Callable[[Portion], Portion] | None = None
        """What of a portion may be told, if not all. It raises when nothing may be any more."""
        self.before: Callable[[], Awaitable[None]] | None = None
        """What to await before a look at what there is to tell, if anything."""
        self._lost_after: int | None = None
        """Of what was told, the log has lost all after this revision; None: nothing."""

    async def __aenter__(self) -> Self:
        self.view = self._watches.joined(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._watches.left(self)

    def lose(self, after: int) -> None:
        """End the watch because the log has lost what was told of revisions above `after` (R12)."""
        self._lost_after = after if self._lost_after is None else min(after, self._lost_after)

    def check_lost(self) -> None:
        """Raise Undone if the log has lost something of what was told."""
        if self._lost_after is not None:
            raise Undone(self._lost_after, self._lost_after)

    def leave(self) -> None:
        """End the watch because its client is gone, and free its place at once."""
        self.gone = True
        self._watches.left(self)
        self.moved.set()

    @property
    def end(self) -> int:
        """The newest revision that settled here."""
        return self._watches.end

    def behind(self) -> bool:
        """Return whether what comes next has to be read from the ledger, where it may be pruned."""
        return self._watches.behind(self)

    async def portions(self, *, idle_s: float) -> AsyncIterator[Portion]:
        """Yield the changes in order, and at least every `idle_s` seconds a portion, if need be
        without changes.

        Raises Pruned (its subclass Undone after an adoption), WatchEnded, ConnectionResetError,
        NotApplied("store_refused"), BackendUnavailable.
        """
        watches = self._watches
        while True:
            self.moved.clear()
            if self.before is not None:
                await self.before()
            portion = watches.at_hand(self)
            if portion is None:
                losses = watches.losses
                stretch = await watches.gaps.after(self.position, self.prefix)
                for place in range(len(stretch.cuts)):
                    filled = await watches.gaps.portion(stretch, place)
                    watches.check(self)
                    if watches.losses != losses:
                        break  # what was read may be undone: read it again
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
        return portion if self.told is None else self.told(portion)
