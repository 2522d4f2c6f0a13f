"""Serve reads at the requested level from the nearest tier that may answer: memory, shared cache,
store.

It never serves a cached entry that is not judged to hold (INV-5), nor a store snapshot that lacks
what this node knows to be settled. A member's own store is asked for a linearizable read only once
a quorum has confirmed this node's position (R7); a shared one may always be asked (INV-2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from kv.errors import BadRequest, NotApplied, Undone
from kv.model import Entry
from kv.ports import Cache, Clock, Consensus, MemberStore, Read, Settled, Store
from node.http.steps import in_task
from node.judging.freshness import age_s, entry_holds, explained, touched_by
from node.judging.positions import check_given, check_in_force, standing
from node.reads.cache_filler import CacheFiller
from node.reads.fetches import FETCH_KEYS_MAX, OWN_FETCH_KEYS_MAX, Fetches, Need
from node.reads.levels import LEVELS, SOURCES, Level, Reading, ReadOptions, Source
from node.reads.memory import HeldEntry, MemoryTier
from node.reads.rounds import ReadIndexRounds
from node.reads.store_reads import StoreReads
from node.settings import ServerSettings
from node.wire.kept_positions import KeptPosition

RENEW_REVISIONS: Final = 1024
"""An entry that trails the settled revision by more than this gets a newer `as_of` when it is
judged to hold.
"""
STALE_CONFIRM_S: Final = 1.0
"""A stale read starts a ReadIndex round in the background when the last confirmed one is older than
this, so that later reads can report their age.
"""


class Reads:
    """The read service of one node. `async with` runs its background work; a crash in it ends the
    enclosing task.
    """

    def __init__(
        self,
        consensus: Consensus,
        store: Store | None,
        cache: Cache,
        clock: Clock,
        settings: ServerSettings,
        *,
        own: MemberStore | None = None,
    ) -> None:
        self._consensus, self._clock = consensus, clock
        self._settings = settings
        self.own = own is not None
        """Whether the store is this member's own."""
        self._tasks = asyncio.TaskGroup()
        self.memory = MemoryTier(settings.memory_cache_bytes, consensus.namespace)
        self.rounds = ReadIndexRounds(consensus, clock, settings, self._tasks)
        self.store = StoreReads(consensus, store, self.memory, clock, settings, own=own)
        self.fetches = Fetches(
            consensus,
            cache,
            clock,
            settings,
            self._tasks,
            memory=self.memory,
            rounds=self.rounds,
            store_reads=self.store,
            keys_max=OWN_FETCH_KEYS_MAX if self.own else FETCH_KEYS_MAX,
        )
        self._filler = CacheFiller(consensus, cache)
        self._filling: asyncio.Task[None] | None = None
        self._unlisten = consensus.listen(self._settled)
        self.served: dict[tuple[Level, Source], int] = {
            (level, source): 0 for level in LEVELS for source in SOURCES
        }

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._filling = self._tasks.create_task(self._filler.run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.rounds.close()
        self.fetches.close()
        self._unlisten()
        if self._filling is not None:
            self._filling.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    def _settled(self, event: Settled) -> None:
        self.memory.enter(self._consensus.namespace)
        proved_at = self.rounds.newer_than(event.previous)
        self._filler.add(self.memory.settled(event, proved_at))

    async def get(self, key: bytes, asked: ReadOptions, *, deadline: float) -> Reading:
        """Read one key at the requested level. `deadline` is loop time. Raises NotApplied,
        BackendUnavailable, BadRequest("future_revision").
        """
        if self.own:
            # A copy that is not what the log made (R3, R5) leaves nothing right in memory either.
            self.store.check_refusal()
        if not await self.reach(asked.min_revision, "revision", deadline):
            if self.own:
                raise self.behind(asked.min_revision)
            reading = await self.fetches.fetch(key, Need.STORE, asked.level, deadline)
            if reading.position < asked.min_revision:
                raise NotApplied(
                    "behind",
                    f"revision {asked.min_revision} was waited for; this node has settled "
                    f"{self._consensus.settled.last}, and the store ends at {reading.position}",
                )
            return self._counted(reading)
        match asked.level:
            case "linearizable":
                reading = await self.linearizable(key, deadline)
            case "session":
                reading = self._judged(key, "session") or await self.fetches.fetch(
                    key, Need.HOLDS, "session", deadline
                )
            case _:
                reading = await self._stale(key, asked, deadline)
        return self._counted(reading)

    def _counted(self, reading: Reading) -> Reading:
        self.served[reading.level, reading.source] += 1
        return reading

    async def linearizable(self, key: bytes, deadline: float) -> Reading:
        """Read one key linearizably (INV-1)."""
        failed = await self._confirmed(deadline)
        if failed is not None:
            if self.own:
                raise _unconfirmed(failed)
            return await self.fetches.fetch(key, Need.STORE, "linearizable", deadline)
        return self._judged(key, "linearizable") or await self.fetches.fetch(
            key, Need.HOLDS, "linearizable", deadline
        )

    async def confirm_store(self, deadline: float) -> None:
        """Return once a store snapshot that begins now is linearizable: at once for a shared store.
        Raises NotApplied when no quorum confirms the position of a member's own (R7).
        """
        if self.own and (failed := await self._confirmed(deadline)) is not None:
            raise _unconfirmed(failed)

    async def _confirmed(self, deadline: float) -> str | None:
        """Return None once a quorum has confirmed this node's position, or why none did. A shared
        store answers without one, so nothing is waited for there.
        """
        if self.own:
            return await self.rounds.confirmed_over_change(deadline)
        return await self.rounds.confirmed_by(deadline)

    async def snapshot(
        self, keys: Sequence[bytes], *, at: int | None = None, deadline: float
    ) -> Read:
        """Read many keys linearizably in one store snapshot, or as they were at revision `at`.
        `deadline` is loop time.

        Raises NotApplied, BackendUnavailable, Pruned, BadRequest("future_revision").
        """
        if at is None:
            await self.confirm_store(deadline)
        elif self.own and not await self.reach(at, "revision", deadline):
            raise self.behind(at)
        left = deadline - self._clock.monotonic()
        return await self.store.snapshot(keys, at=at, timeout_s=max(left, 0.001))

    def behind(self, revision: int) -> NotApplied:
        """Return the refusal of a read at a position that this node has not reached in time."""
        return NotApplied(
            "behind",
            f"revision {revision} was waited for; this node has settled "
            f"{self._consensus.settled.last}",
        )

    def _judged(self, key: bytes, level: Level) -> Reading | None:
        """Return the entry in memory if it holds at this node's own position."""
        consensus, memory = self._consensus, self.memory
        if consensus.namespace != memory.namespace:
            memory.enter(consensus.namespace)
        held = self._held(key)
        if held is None:
            return None
        entry = held.entry
        if not entry_holds(entry, touched_by(consensus.touched, entry)):
            return None
        memory.used(key)
        settled = consensus.settled.last
        if settled - entry.as_of > RENEW_REVISIONS:
            # No intent up to the settled revision touched the key, so a store snapshot there would
            # return the same version. Without the newer `as_of` the rising floor would overtake
            # entries that are read all the time, and each would be fetched again.
            held.entry = entry = Entry(key, entry.version, settled)
        as_of = entry.as_of
        return Reading(entry.version, as_of, as_of if as_of > settled else settled, level, "memory")

    def _held(self, key: bytes) -> HeldEntry | None:
        """Return the entry in memory, unless it is of a suffix that the log has lost: a member that
        has begun again reaches those revisions only in a later term, whose namespace is another one
        (R12).
        """
        held = self.memory.get(key)
        if held is not None and self.own and not explained(held.entry, self._consensus.ordered):
            return None
        return held

    async def _stale(self, key: bytes, asked: ReadOptions, deadline: float) -> Reading:
        """Serve the entry in memory if it is within `max_age_s`; otherwise read linearizably."""
        now, confirmed_at = self._clock.monotonic(), self.rounds.confirmed_at
        if confirmed_at is None or now - confirmed_at > STALE_CONFIRM_S:
            self.rounds.join()
        self.memory.enter(self._consensus.namespace)
        held = self._held(key)
        if held is not None:
            holds = entry_holds(held.entry, touched_by(self._consensus.touched, held.entry))
            age = age_s(now, holds, confirmed_at, held.proved_at)
            if asked.max_age_s is None or (age is not None and age <= asked.max_age_s):
                self.memory.used(key)
                as_of = held.entry.as_of
                position = max(as_of, self._consensus.settled.last) if holds else as_of
                return Reading(held.entry.version, as_of, position, "stale", "memory", age)
        if asked.max_age_s is not None:
            return await self.linearizable(key, deadline)
        return await self.fetches.fetch(key, Need.HOLDS, "stale", deadline)

    async def reach(self, revision: int, name: str, deadline: float) -> bool:
        """Wait until this node has settled the position that a client names; return False if that
        takes too long.

        Raises BadRequest("future_revision") at once for a position that no quorum has given,
        because waiting for it would be in vain. `name` is the parameter's name in that error.
        """
        if standing(revision, self._consensus.settled.last, None) == "reached":
            return True
        failed = await self._confirmed(deadline)
        newest = None if failed is not None else self._consensus.ordered
        match standing(revision, self._consensus.settled.last, newest):
            case "reached":
                return True
            case "future":
                check_given(revision, self._consensus.ordered, name)
        return await self._wait_settled(revision, deadline)

    async def reach_kept(self, kept: KeptPosition, name: str, deadline: float) -> bool:
        """Wait as `reach` does for a position that a client was given. Raises Undone for one that
        the log has lost (R12), also if no quorum has given its revision again.
        """
        check_in_force(kept, self._consensus.holds_to(*kept))
        try:
            reached = await self.reach(kept.revision, name, deadline)
        except BadRequest as exc:
            if not kept.term:
                raise
            upto = min(self._consensus.ordered, kept.revision)
            raise Undone(upto, upto) from exc
        check_in_force(kept, self._consensus.holds_to(*kept))
        return reached

    async def _wait_settled(self, revision: int, deadline: float) -> bool:
        """Wait until this node has settled `revision`; return False on time-out, when the store may
        already be further.

        Only half of the remaining time is spent here. The rest is for asking the store, which must
        not be blamed for time that was spent waiting.
        """
        await in_task()
        left = min((deadline - self._clock.monotonic()) / 2, self._settings.session_wait_s)
        try:
            await self._consensus.wait_settled(revision, timeout_s=max(left, 0.001))
        except TimeoutError:
            return False
        return True


def _unconfirmed(failed: str) -> NotApplied:
    """Return the refusal of a linearizable read whose ReadIndex round failed."""
    return NotApplied(failed, f"no quorum confirmed this node's position: {failed}")
