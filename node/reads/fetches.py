"""Fetch keys that memory cannot answer from the shared cache and the store, batching all reads that
wait.

It never serves a cached entry that is not judged to hold (INV-5).
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import Final, NamedTuple

from kv.errors import BackendUnavailable, KvError, NotApplied, StoreDamaged
from kv.model import Entry
from kv.ports import Cache, Clock, Consensus
from node.judging.freshness import age_s, entry_holds, explained, touched_by
from node.reads.levels import Level, Reading
from node.reads.memory import MemoryTier
from node.reads.rounds import ReadIndexRounds
from node.reads.store_reads import StoreReads
from node.settings import ServerSettings

FETCHES_MAX: Final = 2
"""Batches in progress at a time."""
FETCH_KEYS_MAX: Final = 256
OWN_FETCH_KEYS_MAX: Final = 32
"""The same where values of every size are inline (R11): at most 32 MiB."""
WAITING_MAX: Final = 4096
"""Reads that may wait for a batch; beyond: NotApplied("overloaded")."""


class Need(IntEnum):
    """The sources that may answer a fetch."""

    HOLDS = 0
    """A cached entry that holds at this node's own position, otherwise the store."""
    STORE = 1
    """Only the store, because no quorum confirmed a position to judge entries at."""


class WaitingRead(NamedTuple):
    """A read that waits for a batch. Its `result` future never fails: it resolves to a Reading or a
    KvError.
    """

    key: bytes
    need: Need
    level: Level
    deadline: float
    result: asyncio.Future[Reading | KvError]

    def end(self, result: Reading | KvError) -> None:
        """Resolve the future, unless it is already resolved or its waiter was cancelled."""
        if not self.result.done():
            self.result.set_result(result)


class Fetches:
    """The fetches of one node: the reads that wait, and the batches in progress for them."""

    def __init__(
        self,
        consensus: Consensus,
        cache: Cache,
        clock: Clock,
        settings: ServerSettings,
        tasks: asyncio.TaskGroup,
        *,
        memory: MemoryTier,
        rounds: ReadIndexRounds,
        store_reads: StoreReads,
        keys_max: int = FETCH_KEYS_MAX,
    ) -> None:
        self._consensus, self._clock, self._settings = consensus, clock, settings
        self.cache = cache
        self._tasks, self._keys_max = tasks, keys_max
        self._memory, self._rounds, self._store_reads = memory, rounds, store_reads
        self.waiting: list[WaitingRead] = []
        self._under_way = 0
        self._closed = False
        self.batches_total = 0

    def close(self) -> None:
        """Refuse new reads from now on with NotApplied("draining")."""
        self._closed = True

    async def fetch(self, key: bytes, need: Need, level: Level, deadline: float) -> Reading:
        """Read one key, in a batch with the other reads that wait. `deadline` is loop time. Raises
        NotApplied, BackendUnavailable.
        """
        if self._closed:
            raise NotApplied("draining", "this node stops")
        if len(self.waiting) >= WAITING_MAX:
            raise NotApplied("overloaded", f"{len(self.waiting)} reads wait for the store")
        loop = asyncio.get_running_loop()
        waiting = WaitingRead(key, need, level, deadline, loop.create_future())
        timer = loop.call_at(
            deadline, waiting.end, BackendUnavailable("store", "no answer in time")
        )
        self.waiting.append(waiting)
        if self._under_way < FETCHES_MAX:
            self._under_way += 1
            self._tasks.create_task(self._run())
        try:
            result = await waiting.result
        finally:
            timer.cancel()
        if isinstance(result, KvError):
            raise result
        return result

    async def _run(self) -> None:
        """Fetch batches until no read waits."""
        try:
            while self.waiting:
                batch, self.waiting = (
                    self.waiting[: self._keys_max],
                    self.waiting[self._keys_max :],
                )
                batch = [waiting for waiting in batch if not waiting.result.done()]
                if not batch:
                    continue
                self.batches_total += 1
                entries = await self._fetch_batch(batch)
                space = self._consensus.space
                if entries and space is not None and space.namespace == self._memory.namespace:
                    await self.cache.put(space, entries)
        finally:
            self._under_way -= 1

    async def _fetch_batch(self, batch: list[WaitingRead]) -> list[Entry]:
        """Answer a batch from the shared cache and the store; return the entries that were read
        from the store.
        """
        namespace = self._memory.namespace
        left = await self._from_cache(batch, namespace)
        if not left:
            return []
        keys = list(dict.fromkeys(waiting.key for waiting in left))
        began, settled = self._clock.monotonic(), self._consensus.settled
        budget = min(
            max(waiting.deadline for waiting in left) - began, self._settings.store_timeout_s
        )
        try:
            read = await self._store_reads.snapshot(
                keys, settled=settled, timeout_s=max(budget, 0.001)
            )
        except StoreDamaged as exc:
            if len(keys) == 1:
                for waiting in left:
                    waiting.end(exc)
                return []
            # One damaged key must not fail the other reads that happen to share its batch. Read
            # each key on its own, so that only the damaged one fails.
            apart = [
                await self._fetch_batch([each for each in left if each.key == key]) for key in keys
            ]
            return [entry for entries in apart for entry in entries]
        except KvError as exc:
            for waiting in left:
                waiting.end(exc)
            return []
        as_of = read.head.last
        entries = {k: Entry(k, v, as_of) for k, v in zip(keys, read.versions, strict=True)}
        kept = namespace == self._consensus.namespace == self._memory.namespace
        for entry in entries.values():
            if kept:
                self._memory.keep(entry, began)
        position = max(settled.last, as_of)
        for waiting in left:
            version = entries[waiting.key].version
            waiting.end(Reading(version, as_of, position, "linearizable", "store", 0.0))
        return list(entries.values()) if kept else []

    async def _from_cache(self, batch: list[WaitingRead], namespace: int) -> list[WaitingRead]:
        """Answer the reads that the shared cache can serve; return the others."""
        keys = list(dict.fromkeys(waiting.key for waiting in batch if waiting.need is Need.HOLDS))
        if not keys:
            return batch
        consensus = self._consensus
        space = consensus.space
        if space is None or space.namespace != namespace:
            return batch
        got = await self.cache.get(space, keys)
        if namespace != consensus.namespace:
            return batch
        holding = {e.key: e for e in got if e is not None and self._may_serve(e)}
        settled = consensus.settled.last
        left: list[WaitingRead] = []
        for waiting in batch:
            entry = holding.get(waiting.key) if waiting.need is Need.HOLDS else None
            if entry is None:
                left.append(waiting)
                continue
            self._memory.keep(entry, self._rounds.confirmed_at)
            age = (
                age_s(self._clock.monotonic(), True, self._rounds.confirmed_at, None)
                if waiting.level == "stale"
                else None
            )
            position = max(entry.as_of, settled)
            waiting.end(Reading(entry.version, entry.as_of, position, waiting.level, "cache", age))
        return left

    def _may_serve(self, entry: Entry) -> bool:
        """Return whether an entry from the shared cache is the newest version of its key."""
        consensus = self._consensus
        return explained(entry, consensus.ordered) and entry_holds(
            entry, touched_by(consensus.touched, entry)
        )
