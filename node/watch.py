"""Tell watchers what changed: in revision order, none twice, none left out (INV-6), whatever this node lived through.

Every watcher has a position of its own: all up to it has been told. What settles is kept in one bounded ring for all
of them; who is behind it reads the ledger. Nothing is buffered per watcher: a slow reader falls behind and is cut.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, NamedTuple, Self

from kv.errors import NotApplied, Pruned
from kv.model import LedgerRow, Version
from kv.ports import Change, Consensus, Settled, Store
from node.settings import Settings

ROWS_MAX: Final = 32
"""Ledger rows read at a time to fill a gap."""
FILL_VERSIONS: Final = 128
"""Versions fetched at a time to fill a gap; the last revision of a portion comes whole."""
PORTION_CHANGES: Final = 256
"""Changes handed to a watcher at a time from the ring."""
CHANGE_OVERHEAD_BYTES: Final = 200
"""What a change, and each version in it, costs beyond key and value (CPython 3.11)."""
FILLS_MAX: Final = 2
"""Watchers that read the ledger at a time: the others wait, so that they do not become the store's main load."""


class Portion(NamedTuple):
    """What comes next for a watcher: changes under its prefix (maybe none), and the position after them."""

    changes: tuple[Change, ...]
    position: int


class Ended(Exception):
    """The node ends this watch; go on elsewhere after the position told last."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class Ring:
    """The newest changes of all keys, without a gap: everything after `begin` up to `end`. Bounded in bytes."""

    def __init__(self, bytes_max: int, at: int) -> None:
        self._bytes_max = bytes_max
        self._changes: deque[Change] = deque()
        self._sizes: deque[int] = deque()
        """Bytes of each of these."""
        self._bytes = 0
        self.begin = self.end = at

    def take(self, event: Settled) -> None:
        """Take what settled. Whatever does not continue what is held, or comes without versions, starts it anew."""
        if event.last <= self.end:
            return
        whole = event.versions is not None and len(event.records) == event.last - event.previous
        if not whole or event.previous != self.end:
            self._changes.clear()
            self._sizes.clear()
            self._bytes = 0
            self.begin = self.end = event.last if not whole else event.previous
        if whole:
            self._append(event)
        self.end = event.last

    def _append(self, event: Settled) -> None:
        by_revision: dict[int, list[Version]] = {}
        for version in event.versions or ():
            by_revision.setdefault(version.revision, []).append(version)
        for n, record in enumerate(event.records):
            revision = event.previous + 1 + n
            versions = by_revision.get(revision)
            if versions:
                change = Change(revision, record.op_id, event.log_time_ms, tuple(versions))
                size = size_of(change)
                self._changes.append(change)
                self._sizes.append(size)
                self._bytes += size
        while self._bytes > self._bytes_max:
            self._bytes -= self._sizes.popleft()
            self.begin = self._changes.popleft().revision

    def after(self, position: int, prefix: bytes) -> Portion:
        """Return the next changes under a prefix after a position that is not below `begin`."""
        changes = self._changes
        found: list[Change] = []
        start = bisect_right(changes, position, key=_revision)
        stop = min(len(changes), start + PORTION_CHANGES)
        for place in range(start, stop):
            change = under(changes[place], prefix)
            if change is not None:
                found.append(change)
        reached = changes[stop - 1].revision if stop < len(changes) else self.end
        return Portion(tuple(found), max(position, reached))


class Watches:
    """All watchers of this node. Bounded in number; beyond: NotApplied("overloaded")."""

    def __init__(self, consensus: Consensus, store: Store, settings: Settings) -> None:
        self._consensus, self._store, self._settings = consensus, store, settings
        self._ring = Ring(settings.watch_ring_bytes, consensus.settled.last)
        self._open: list[Watcher] = []
        self._fills = asyncio.Semaphore(FILLS_MAX)
        self._unlisten = consensus.listen(self._settled)
        self._ending = False
        self.events_total = 0
        self.fills_total = 0
        self.cut_total = 0

    def __len__(self) -> int:
        return len(self._open)

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
        self._ring.take(event)
        for watcher in self._open:
            watcher.moved.set()

    def joined(self, watcher: Watcher) -> None:
        self._open.append(watcher)

    def left(self, watcher: Watcher) -> None:
        self._open.remove(watcher)

    def at_hand(self, watcher: Watcher) -> Portion | None:
        """Return what the ring has for a watcher (no change, same position: it is up to date); None: it is behind.

        Raises Ended when this node is stopping.
        """
        if self._ending:
            raise Ended("draining", "this node is stopping")
        if self.behind(watcher.position):
            return None
        return self._ring.after(watcher.position, watcher.prefix)

    def behind(self, position: int) -> bool:
        """Say whether what follows a position has to come from the ledger."""
        return position < self._ring.begin

    async def fill(self, position: int, prefix: bytes) -> AsyncIterator[Portion]:
        """Yield what the ledger has after a position: some rows of it, in portions.

        Raises Pruned, NotApplied("store_refused"), BackendUnavailable.
        """
        timeout_s = self._settings.store_timeout_s
        async with self._fills:
            self.fills_total += 1
            refusal = self._consensus.refusal
            if refusal is not None:
                raise NotApplied("store_refused", refusal)
            settled = self._consensus.settled
            rows = await self._store.rows(position, ROWS_MAX, timeout_s=timeout_s)
            # A store that was restored has fewer rows, or others: what it lacks must not be taken for "no change".
            if settled.last:
                row = await self._store.row_ending(settled.last, timeout_s=timeout_s)
                if row is None or row.digest != settled.digest:
                    raise NotApplied("store_refused", f"the store is not what was settled up to {settled.last}")
        if not rows:
            yield Portion((), max(position, settled.last))
            return
        for wanted, reached in portions(rows, position, prefix):
            places = [(key, revision) for revision, _, keys, _ in wanted for key in keys]
            found = await self._store.versions(places, timeout_s=timeout_s) if places else ()
            made = dict(zip(places, found, strict=True))
            changes: list[Change] = []
            for revision, op_id, keys, log_time_ms in wanted:
                versions = [made[key, revision] for key in keys]
                whole = tuple(version for version in versions if version is not None)
                if len(whole) < len(versions):
                    raise Pruned(max(await self._store.floor(timeout_s=timeout_s), revision + 1))
                changes.append(Change(revision, op_id, log_time_ms, whole))
            yield Portion(tuple(changes), reached)


class Watcher:
    """One watch. `async with` counts it; `portions` yields what comes, without end."""

    def __init__(self, watches: Watches, prefix: bytes, position: int) -> None:
        self._watches = watches
        self.prefix = prefix
        self.position = position
        """Everything under the prefix up to here has been yielded."""
        self.moved = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._watches.joined(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._watches.left(self)

    def behind(self) -> bool:
        """Say whether what comes next has to be read from the ledger, and may be gone from it."""
        return self._watches.behind(self.position)

    async def portions(self, *, idle_s: float) -> AsyncIterator[Portion]:
        """Yield what changed, and at least every `idle_s` seconds a portion without changes.

        Raises Pruned, Ended, NotApplied("store_refused"), BackendUnavailable.
        """
        while True:
            self.moved.clear()
            portion = self._watches.at_hand(self)
            if portion is None:
                async for filled in self._watches.fill(self.position, self.prefix):
                    yield self._reached(filled)
            elif portion.changes or portion.position > self.position:
                yield self._reached(portion)
            else:
                try:
                    async with asyncio.timeout(idle_s):
                        await self.moved.wait()
                except TimeoutError:
                    yield portion

    def _reached(self, portion: Portion) -> Portion:
        self.position = portion.position
        self._watches.events_total += len(portion.changes)
        return portion


class Wanted(NamedTuple):
    """One revision of a ledger row, with the keys under a prefix that it changed."""

    revision: int
    op_id: str
    keys: tuple[bytes, ...]
    log_time_ms: int


def portions(rows: tuple[LedgerRow, ...], position: int, prefix: bytes) -> list[tuple[list[Wanted], int]]:
    """Cut ledger rows into portions: revisions after a position that changed keys under a prefix, and where each ends.

    The last one ends where the rows do, so that revisions which changed nothing are stepped over.
    """
    cut: list[tuple[list[Wanted], int]] = []
    wanted: list[Wanted] = []
    count = 0
    for row in rows:
        for n, record in enumerate(row.body):
            revision = row.first + n
            keys = tuple(key for key in record.keys if key.startswith(prefix))
            if revision <= position or not keys:
                continue
            if count and count + len(keys) > FILL_VERSIONS:
                cut.append((wanted, wanted[-1].revision))
                wanted, count = [], 0
            wanted.append(Wanted(revision, record.op_id, keys, row.log_time_ms))
            count += len(keys)
    cut.append((wanted, max(position, rows[-1].last)))
    return cut


def under(change: Change, prefix: bytes) -> Change | None:
    """Return the part of a change that lies under a prefix, if any."""
    if not prefix:
        return change
    versions = tuple(version for version in change.versions if version.key.startswith(prefix))
    if len(versions) == len(change.versions):
        return change
    return Change(change.revision, change.op_id, change.log_time_ms, versions) if versions else None


def size_of(change: Change) -> int:
    """Return about how many bytes a change takes in memory."""
    return CHANGE_OVERHEAD_BYTES + sum(
        CHANGE_OVERHEAD_BYTES + len(v.key) + (len(v.value) if isinstance(v.value, bytes) else 0)
        for v in change.versions
    )


def _revision(change: Change) -> int:
    return change.revision
