"""Serve reads at their level from the nearest tier that may: memory, shared cache, store.

Linearizable reads that arrived before a ReadIndex round began share it; reads that need the store
are fetched together. It never serves a cached entry that is not judged to hold (INV-5), nor a
snapshot of the store that lacks what this node knows to be settled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self, TypeAlias

from kv.errors import BackendUnavailable, KvError, NotApplied, StoreDamaged, store_refused
from kv.model import Entry, Head, Reference, Version
from kv.ports import Cache, Clock, Consensus, Read, Settled, Store
from node.judging.freshness import age_s, entry_holds, explained, snapshot_serves
from node.judging.positions import check_given, standing
from node.judging.store_identity import check_whose
from node.reads.memory import Memory, Refresher
from node.settings import ServerSettings

Level: TypeAlias = Literal["linearizable", "session", "stale"]
LEVELS: Final[tuple[Level, ...]] = ("linearizable", "session", "stale")
Source: TypeAlias = Literal["memory", "cache", "store"]

FETCHES_MAX: Final = 2
"""Batches on their way to cache and store at a time."""
FETCH_KEYS_MAX: Final = 256
WAITING_MAX: Final = 4096
"""Reads waiting for a batch; beyond: NotApplied("overloaded")."""
RENEW_REVISIONS: Final = 1024
"""An entry this far behind what is settled gets a younger `as_of` when it is judged to hold."""
ROUNDS_REMEMBERED: Final = 16
"""Rounds by which the age of what settles can be bounded."""
STALE_CONFIRM_S: Final = 1.0
"""A stale read starts a ReadIndex round on the side when the last one is older, so that its age can
be told.
"""


class Need(IntEnum):
    """What may answer a fetch."""

    HOLDS = 0
    """An entry that holds at this node's own position, else the store."""
    STORE = 1
    """The store alone: there is no quorum to judge by."""


class Reading(NamedTuple):
    """One key as it was read. `position`: at least everything settled up to here is in it."""

    version: Version | None
    as_of: int
    position: int
    level: Level
    source: Source
    age_s: float | None = None

    @property
    def present(self) -> bool:
        return self.version is not None and self.version.value is not None


class ReadRequest(NamedTuple):
    """How one key is to be read."""

    level: Level = "linearizable"
    min_revision: int = 0
    max_age_s: float | None = None


class Reads:
    """The reading side of one node. `async with` runs it; a crash inside ends the enclosing
    task.
    """

    def __init__(
        self,
        consensus: Consensus,
        store: Store,
        cache: Cache,
        clock: Clock,
        settings: ServerSettings,
    ) -> None:
        self._consensus, self._store, self._cache, self._clock = consensus, store, cache, clock
        self._settings = settings
        self.memory = Memory(settings.memory_cache_bytes)
        self._namespace = consensus.namespace
        self._refresher = Refresher(consensus, cache)
        self._tasks = asyncio.TaskGroup()
        self._refreshing: asyncio.Task[None] | None = None
        self._unlisten = consensus.listen(self._settled)
        self._arrived: list[asyncio.Future[str | None]] = []
        self._rounding = False
        self._confirmed_at: float | None = None
        self._confirmed: deque[tuple[float, int]] = deque(maxlen=ROUNDS_REMEMBERED)
        """(when it began, newest revision ordered here when it ended) of successful rounds, newest
        last.
        """
        self._no_quorum_until = 0.0
        self._no_quorum_why = ""
        self._waiting: list[_Waiting] = []
        self._fetches = 0
        self._closed = False
        self.rounds_total = 0
        self.rounds_failed_total = 0
        self.fetches_total = 0
        self.served: dict[tuple[Level, Source], int] = {
            (level, s): 0 for level in LEVELS for s in _SOURCES
        }

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._refreshing = self._tasks.create_task(self._refresher.run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self._unlisten()
        if self._refreshing is not None:
            self._refreshing.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    def _settled(self, event: Settled) -> None:
        self._check_namespace()
        self._refresher.add(self.memory.settled(event, self._newer_than(event.previous)))

    def _newer_than(self, revision: int) -> float | None:
        """Return a time at which nothing above `revision` was acknowledged yet, the latest that is
        known.

        What was acknowledged before a round began is ordered here when it ends. So a version above
        what was ordered then is at least as new as everything that was acknowledged when that round
        began.
        """
        for began, ordered in reversed(self._confirmed):
            if ordered <= revision:
                return began
        return None

    def _check_namespace(self) -> None:
        if self._consensus.namespace != self._namespace:
            # An operator adopted another head: nothing read before it may be judged by the new one.
            self._namespace = self._consensus.namespace
            self.memory.clear()

    # -------------------------------------------------------------------------------------- one key

    async def get(self, key: bytes, ask: ReadRequest, *, deadline: float) -> Reading:
        """Read one key at its level. Raises NotApplied, BackendUnavailable,
        BadRequest("future_revision").
        """
        if not await self.reach(ask.min_revision, "revision", deadline):
            reading = await self._fetch(key, Need.STORE, ask.level, deadline)
            if reading.position < ask.min_revision:
                raise NotApplied(
                    "behind",
                    f"revision {ask.min_revision} was waited for; this node has settled "
                    f"{self._consensus.settled.last}, and the store ends at {reading.position}",
                )
            return self._counted(reading)
        match ask.level:
            case "linearizable":
                reading = await self.linearizable(key, deadline)
            case "session":
                reading = self._judged(key, "session") or await self._fetch(
                    key, Need.HOLDS, "session", deadline
                )
            case _:
                reading = await self._stale(key, ask, deadline)
        return self._counted(reading)

    def _counted(self, reading: Reading) -> Reading:
        self.served[reading.level, reading.source] += 1
        return reading

    async def linearizable(self, key: bytes, deadline: float) -> Reading:
        """Read one key as if there were one copy (INV-1)."""
        if await self._confirmed_by(deadline) is not None:
            return await self._fetch(key, Need.STORE, "linearizable", deadline)
        return self._judged(key, "linearizable") or await self._fetch(
            key, Need.HOLDS, "linearizable", deadline
        )

    def _judged(self, key: bytes, level: Level) -> Reading | None:
        """Return the entry at hand if it holds at this node's own position."""
        consensus = self._consensus
        if consensus.namespace != self._namespace:
            self._check_namespace()
        held = self.memory.get(key)
        if held is None:
            return None
        entry = held.entry
        if not entry_holds(entry, consensus.touched(key)):
            return None
        self.memory.used(key)
        settled = consensus.settled.last
        if settled - entry.as_of > RENEW_REVISIONS:
            # Nothing up to the settled revision touched the key, so a snapshot of the store there
            # would bring the same version: a younger as_of keeps the rising floor from outrunning
            # what is read all the time.
            held.entry = entry = Entry(key, entry.version, settled)
        as_of = entry.as_of
        return Reading(entry.version, as_of, as_of if as_of > settled else settled, level, "memory")

    async def _stale(self, key: bytes, ask: ReadRequest, deadline: float) -> Reading:
        """Serve whatever is at hand within `max_age_s`, else read as if linearizable."""
        now = self._clock.monotonic()
        if self._confirmed_at is None or now - self._confirmed_at > STALE_CONFIRM_S:
            self._join_round()
        self._check_namespace()
        held = self.memory.get(key)
        if held is not None:
            holds = entry_holds(held.entry, self._consensus.touched(key))
            age = age_s(now, holds, self._confirmed_at, held.proved_at)
            if ask.max_age_s is None or (age is not None and age <= ask.max_age_s):
                self.memory.used(key)
                as_of = held.entry.as_of
                position = max(as_of, self._consensus.settled.last) if holds else as_of
                return Reading(held.entry.version, as_of, position, "stale", "memory", age)
        if ask.max_age_s is not None:
            return await self.linearizable(key, deadline)
        return await self._fetch(key, Need.HOLDS, "stale", deadline)

    async def reach(self, revision: int, name: str, deadline: float) -> bool:
        """Wait until this node has settled a position that a client names; False: it takes too
        long.

        Raises BadRequest("future_revision") at once for one that no quorum has given: it would be
        waited for in vain.
        """
        if standing(revision, self._consensus.settled.last, None) == "reached":
            return True
        failed = await self._confirmed_by(deadline)
        newest = None if failed is not None else self._consensus.ordered
        match standing(revision, self._consensus.settled.last, newest):
            case "reached":
                return True
            case "future":
                check_given(revision, self._consensus.ordered, name)
        return await self._wait_settled(revision, deadline)

    async def _wait_settled(self, revision: int, deadline: float) -> bool:
        """Wait until this node has settled so far; False: it takes too long, and the store may know
        more.

        Half of the time is left for asking the store: it must not be blamed for time spent here.
        """
        left = min((deadline - self._clock.monotonic()) / 2, self._settings.session_wait_s)
        try:
            await self._consensus.wait_settled(revision, timeout_s=max(left, 0.001))
        except TimeoutError:
            return False
        return True

    # ------------------------------------------------------------------------------------ ReadIndex

    async def _confirmed_by(self, deadline: float) -> str | None:
        """Return what `confirm` tells. Raises NotApplied("timeout") when the request's own time
        ends before.
        """
        left = deadline - self._clock.monotonic()
        # no two rounds take longer: no timer needed
        if left > 2 * self._settings.read_index_timeout_s:
            return await self.confirm()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                return await self.confirm()
        except TimeoutError as exc:
            raise NotApplied("timeout", "no quorum answered within the time limit") from exc

    def confirm(self) -> asyncio.Future[str | None]:
        """Return a future that tells None once a ReadIndex round that began after this call
        succeeded, else why not.
        """
        if self._no_quorum_until and self._clock.monotonic() < self._no_quorum_until:
            future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
            future.set_result(self._no_quorum_why)
            return future
        return self._join_round()

    def _join_round(self) -> asyncio.Future[str | None]:
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_result("draining")
            return future
        self._arrived.append(future)
        if not self._rounding:
            self._rounding = True
            self._tasks.create_task(self._rounds())
        return future

    async def _rounds(self) -> None:
        """Run one round after the other while reads arrive. Each round covers only who arrived
        before it began.
        """
        try:
            while self._arrived:
                covered, self._arrived = self._arrived, []
                began = self._clock.monotonic()
                failed: str | None = None
                try:
                    await self._consensus.read_index(timeout_s=self._settings.read_index_timeout_s)
                    self._confirmed_at, self._no_quorum_until = began, 0.0
                    self._confirmed.append((began, self._consensus.ordered))
                except NotApplied as exc:
                    failed = exc.reason
                except TimeoutError:
                    failed = "no_quorum"
                self.rounds_total += 1
                if failed is not None:
                    self.rounds_failed_total += 1
                    self._no_quorum_why = failed
                    self._no_quorum_until = self._clock.monotonic() + self._settings.quorum_retry_s
                for future in covered:
                    if not future.done():
                        future.set_result(failed)
        finally:
            self._rounding = False

    # ------------------------------------------------------------------------------------- fetching

    async def _fetch(self, key: bytes, need: Need, level: Level, deadline: float) -> Reading:
        """Read one key together with all that wait. Raises NotApplied, BackendUnavailable."""
        if self._closed:
            raise NotApplied("draining", "this node stops")
        if len(self._waiting) >= WAITING_MAX:
            raise NotApplied("overloaded", f"{len(self._waiting)} reads wait for the store")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(key, need, level, deadline, loop.create_future())
        timer = loop.call_at(
            deadline, waiting.end, BackendUnavailable("store", "no answer in time")
        )
        self._waiting.append(waiting)
        if self._fetches < FETCHES_MAX:
            self._fetches += 1
            self._tasks.create_task(self._fetch_all())
        try:
            result = await waiting.result
        finally:
            timer.cancel()
        if isinstance(result, KvError):
            raise result
        return result

    async def _fetch_all(self) -> None:
        """Fetch batch after batch while reads wait."""
        try:
            while self._waiting:
                batch, self._waiting = (
                    self._waiting[:FETCH_KEYS_MAX],
                    self._waiting[FETCH_KEYS_MAX:],
                )
                batch = [waiting for waiting in batch if not waiting.result.done()]
                if not batch:
                    continue
                self.fetches_total += 1
                entries = await self._fetch_batch(batch)
                space = self._consensus.space
                if entries and space is not None and space.namespace == self._namespace:
                    await self._cache.put(space, entries)
        finally:
            self._fetches -= 1

    async def _fetch_batch(self, batch: list[_Waiting]) -> list[Entry]:
        """Answer a batch from shared cache and store; return the entries read from the store."""
        namespace = self._namespace
        left = await self._from_cache(batch, namespace)
        if not left:
            return []
        keys = list(dict.fromkeys(waiting.key for waiting in left))
        began, settled = self._clock.monotonic(), self._consensus.settled
        budget = min(
            max(waiting.deadline for waiting in left) - began, self._settings.store_timeout_s
        )
        try:
            read = await self.snapshot(keys, settled=settled, timeout_s=max(budget, 0.001))
        except StoreDamaged as exc:
            if len(keys) == 1:
                for waiting in left:
                    waiting.end(exc)
                return []
            # One key's damage is no trouble of the others that happened to wait with it.
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
        kept = namespace == self._consensus.namespace == self._namespace
        for entry in entries.values():
            if kept:
                self.memory.keep(entry, began)
        position = max(settled.last, as_of)
        for waiting in left:
            version = entries[waiting.key].version
            waiting.end(Reading(version, as_of, position, "linearizable", "store", 0.0))
        return list(entries.values()) if kept else []

    def _may_serve(self, entry: Entry) -> bool:
        """Say whether what the shared cache gave is the newest version of its key."""
        consensus = self._consensus
        return explained(entry, consensus.ordered) and entry_holds(
            entry, consensus.touched(entry.key)
        )

    async def _from_cache(self, batch: list[_Waiting], namespace: int) -> list[_Waiting]:
        """Answer what the shared cache can; return the rest."""
        keys = list(dict.fromkeys(waiting.key for waiting in batch if waiting.need is Need.HOLDS))
        if not keys:
            return batch
        consensus = self._consensus
        space = consensus.space
        if space is None or space.namespace != namespace:
            return batch
        got = await self._cache.get(space, keys)
        if namespace != consensus.namespace:
            return batch
        holding = {e.key: e for e in got if e is not None and self._may_serve(e)}
        settled = consensus.settled.last
        left: list[_Waiting] = []
        for waiting in batch:
            entry = holding.get(waiting.key) if waiting.need is Need.HOLDS else None
            if entry is None:
                left.append(waiting)
                continue
            self.memory.keep(entry, self._confirmed_at)
            age = (
                age_s(self._clock.monotonic(), True, self._confirmed_at, None)
                if waiting.level == "stale"
                else None
            )
            position = max(entry.as_of, settled)
            waiting.end(Reading(entry.version, entry.as_of, position, waiting.level, "cache", age))
        return left

    async def snapshot(
        self,
        keys: Sequence[bytes],
        *,
        at: int | None = None,
        settled: Head | None = None,
        timeout_s: float,
    ) -> Read:
        """Read many keys in one snapshot of the store, begun now; linearizable by itself (INV-2).

        Raises NotApplied("store_refused"), BackendUnavailable, Pruned,
        BadRequest("future_revision").
        """
        self.check_refusal()
        settled = settled or self._consensus.settled
        try:
            async with asyncio.timeout(timeout_s):
                read = await self._store.read(
                    keys, at=at, settled=settled.last, timeout_s=timeout_s
                )
        except TimeoutError as exc:
            raise BackendUnavailable("store", f"no answer within {timeout_s:.1f} s") from exc
        check_snapshot(settled, read.head, read.digest_at)
        await check_whose(self._consensus, self._store, settled, timeout_s=timeout_s)
        if at is not None:
            check_given(at, read.head.last, "revision")
        return read

    def check_refusal(self) -> None:
        """Raise NotApplied (store_refused, store_foreign) while the store is not what was
        settled.
        """
        refusal = self._consensus.refusal
        if refusal is not None:
            raise store_refused(refusal)

    async def value_of(self, version: Version, *, deadline: float) -> bytes | None:
        """Return the bytes of a version, fetched when it refers to a large value; None: a
        tombstone.

        Raises BackendUnavailable, also when the value is no longer kept.
        """
        value = version.value
        if not isinstance(value, Reference):
            return value
        held = self.memory.blob(value)
        if held is not None:
            return held
        left = min(deadline - self._clock.monotonic(), self._settings.store_timeout_s)
        fetched = await self._store.blob(value, timeout_s=max(left, 0.001))
        if fetched is None:
            raise BackendUnavailable(
                "store", f"the large value of revision {version.revision} is not there"
            )
        self.memory.keep_blob(value, fetched)
        return fetched


class _Waiting(NamedTuple):
    """A read that waits for a batch. Its `result` never fails: it brings a Reading or an
    KvError.
    """

    key: bytes
    need: Need
    level: Level
    deadline: float
    result: asyncio.Future[Reading | KvError]

    def end(self, result: Reading | KvError) -> None:
        if not self.result.done():
            self.result.set_result(result)


def check_snapshot(settled: Head, head: Head, digest_at: bytes | None) -> None:
    """Raise NotApplied("store_refused") unless the snapshot holds what was settled when it
    began.
    """
    if not snapshot_serves(settled, head, digest_at):
        raise NotApplied(
            "store_refused",
            f"the store ends at revision {head.last} and is not what was settled up to {settled.last}",
            retry_after_s=5,
        )


_SOURCES: Final[tuple[Source, ...]] = ("memory", "cache", "store")
