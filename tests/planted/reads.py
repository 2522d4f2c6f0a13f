"""Break the read path on purpose: what is believed of caches, stores and positions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from backends.seal import AS_OF_BYTES, MAC_BYTES, unseal
from kv.errors import KvError
from kv.model import Entry
from kv.ports import Space
from node.judging.freshness import entry_holds
from node.judging.positions import check_given
from node.reads.fetches import Fetches
from node.reads.levels import Reading
from node.reads.reads import Reads
from node.reads.store_reads import StoreReads
from tests.planted.registry import Patches, fault
from tests.simulation.stores import SimCache


class _Untouched:
    """A Consensus that never heard of any change of any key."""

    def __init__(self, consensus: Any) -> None:
        self._consensus = consensus

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consensus, name)

    def touched(self, key: bytes) -> int:
        return 0


@fault("INV-5")
def trusting_reads() -> Patches:
    """Whatever a cache has is served."""
    right = Reads.__init__

    def init(self: Reads, consensus: Any, *more: Any) -> None:
        right(self, _Untouched(consensus), *more)

    yield Reads, "__init__", init


@fault("INV-1")
def blind_reads() -> Patches:
    """The store is read without a look at what it holds."""

    def check_refusal(self: StoreReads) -> None:
        return

    async def snapshot(
        self: StoreReads, keys: Any, *, at: int | None = None, settled: Any = None, timeout_s: float
    ) -> Any:
        settled = settled or self._consensus.settled
        async with asyncio.timeout(timeout_s):
            return await self._store.read(keys, at=at, settled=settled.last, timeout_s=timeout_s)

    yield StoreReads, "check_refusal", check_refusal
    yield StoreReads, "snapshot", snapshot


@fault("INV-1")
def hasty_reads() -> Patches:
    """A position is called the future by what this node knows, without asking a quorum."""
    right = Reads.reach

    async def reach(self: Reads, revision: int, name: str, deadline: float) -> bool:
        check_given(revision, max(self._consensus.ordered, self._consensus.settled.last), name)
        return await right(self, revision, name, deadline)

    yield Reads, "reach", reach


def _dated(start: Callable[[Fetches], int], as_of: Callable[[Fetches, int], int]) -> Any:
    """Return a way to read the store that gives what it finds another `as_of` than the head of the
    snapshot that it was read from.
    """

    async def fetch_batch(self: Fetches, batch: Any) -> list[Entry]:
        namespace, started = self._memory.namespace, start(self)
        left = await self._from_cache(batch, namespace)
        if not left:
            return []
        keys = list(dict.fromkeys(waiting.key for waiting in left))
        began, settled = self._clock.monotonic(), self._consensus.settled
        try:
            read = await self._store_reads.snapshot(
                keys, settled=settled, timeout_s=self._settings.store_timeout_s
            )
        except KvError as exc:
            for waiting in left:
                waiting.end(exc)
            return []
        dated = as_of(self, started)
        entries = {
            key: Entry(key, version, dated)
            for key, version in zip(keys, read.versions, strict=True)
        }
        for entry in entries.values():
            self._memory.keep(entry, began)
        position = max(settled.last, read.head.last)
        for waiting in left:
            version = entries[waiting.key].version
            waiting.end(Reading(version, dated, position, "linearizable", "store", 0.0))
        return list(entries.values())

    return fetch_batch


@fault("INV-5")
def applied_start() -> Patches:
    """What was read is dated by what was ordered when the read began: the store need not have that
    yet.
    """
    yield (
        Fetches,
        "_fetch_batch",
        _dated(lambda fetches: fetches._consensus.ordered, lambda fetches, started: started),
    )


@fault("INV-5")
def settled_end() -> Patches:
    """What was read is dated by what is settled when the read has ended: more than the snapshot
    had.
    """
    yield (
        Fetches,
        "_fetch_batch",
        _dated(lambda fetches: 0, lambda fetches, started: fetches._consensus.settled.last),
    )


def _believed(raw: bytes) -> Entry:
    return msgspec.msgpack.decode(raw[AS_OF_BYTES + MAC_BYTES :], type=Entry)


@fault("INV-5")
def unsigned() -> Patches:
    """Whatever stands in the cache under our names is taken for ours."""

    def taken(self: SimCache, space: Space, key: bytes, raw: bytes) -> Entry | None:
        return _believed(raw)

    yield SimCache, "taken", taken


@fault("INV-5")
def future_entries() -> Patches:
    """What claims to be from later than all that this node knows is taken for ours, and judged."""

    def taken(self: SimCache, space: Space, key: bytes, raw: bytes) -> Entry | None:
        entry = _believed(raw)
        ours = unseal(space, key, raw) is not None
        return entry if ours or entry.as_of > self.newest + 1 else None

    def may_serve(self: Fetches, entry: Entry) -> bool:
        return entry_holds(entry, self._consensus.touched(entry.key))

    yield SimCache, "taken", taken
    yield Fetches, "_may_serve", may_serve
