"""Levels, tiers, shared rounds and batches, over fakes and without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.local.cache import MemoryCache
from backends.memory.database import MemoryDatabase
from backends.memory.store import MemoryStore
from kv.errors import BackendUnavailable, NotApplied, StoreDamaged
from kv.model import Delete, Entry, Intent, Put, Version
from kv.ports import Read, Space
from node.reads.levels import ReadOptions
from node.reads.reads import RENEW_REVISIONS, Reads
from node.settings import ServerSettings
from tests.unit.node.fakes import FakeClock, FakeConsensus


class CountingStore(MemoryStore):
    """A store that notes which keys are read together, and can be held back or broken."""

    def __init__(self) -> None:
        super().__init__(MemoryDatabase())
        self.batches: list[tuple[bytes, ...]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False

    async def read(
        self, keys: Sequence[bytes], *, at: int | None = None, settled: int = 0, timeout_s: float
    ) -> Read:
        self.batches.append(tuple(keys))
        if self.broken:
            raise BackendUnavailable("store", "gone")
        read = await super().read(keys, at=at, settled=settled, timeout_s=timeout_s)
        await self.gate.wait()
        return read


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.store = CountingStore()
        self.consensus = FakeConsensus(self.store.database)
        self.cache = MemoryCache()
        self.clock = FakeClock()
        chosen = ServerSettings(node_id="n1", advertised_url="", incarnation="1", **settings)
        self.reads = Reads(self.consensus, self.store, self.cache, self.clock, chosen)

    async def get(self, key: bytes, level: Any = "linearizable", **more: Any) -> Any:
        return await self.reads.get(
            key, ReadOptions(level, **more), deadline=self.clock.monotonic() + 5
        )

    async def write(self, key: bytes, value: bytes | None) -> int:
        write = Delete(key) if value is None else Put(key, value)
        intent = Intent(f"o{self.consensus.ordered}", 2**53, writes=(write,))
        return (await self.consensus.submit([intent])[0]).revision


@asynccontextmanager
async def bench(**settings: Any) -> AsyncIterator[Bench]:
    made = Bench(**settings)
    async with made.reads:
        yield made


@pytest.fixture
async def b() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


def value(reading: Any) -> Any:
    return None if reading.version is None else reading.version.value


async def test_tiers_from_store_to_memory(b: Bench) -> None:
    b.consensus.quiet = True  # nothing settles here: memory does not learn of the write by itself
    await b.write(b"a", b"1")
    b.consensus.quiet = False
    b.consensus.jump()
    first = await b.get(b"a")
    assert (value(first), first.source, first.position) == (b"1", "store", 1)
    second = await b.get(b"a")
    assert (value(second), second.source, second.as_of) == (b"1", "memory", 1)
    b.reads.memory.clear()
    third = await b.get(b"a")
    assert (value(third), third.source) == (b"1", "cache")
    assert (await b.get(b"a")).source == "memory"
    assert b.store.batches == [(b"a",)]


async def test_missing_keys_are_kept_too(b: Bench) -> None:
    assert value(await b.get(b"a")) is None
    again = await b.get(b"a")
    assert (value(again), again.source) == (None, "memory")
    await b.write(b"a", b"1")
    assert value(await b.get(b"a")) == b"1"
    await b.write(b"a", None)
    gone = await b.get(b"a")
    assert (gone.present, gone.source) == (False, "memory")


async def test_an_entry_whose_key_was_touched_is_not_served(b: Bench) -> None:
    await b.write(b"a", b"1")
    assert (await b.get(b"a")).source == "memory"
    b.consensus.hold = True
    # ordered, its commit not known here
    b.consensus.submit([Intent("late", 2**53, writes=(Put(b"a", b"2"),))])
    reading = await b.get(b"a")
    assert (value(reading), reading.source) == (b"1", "store")
    assert (await b.get(b"a")).source == "store"  # nor does what was just read hold
    b.consensus.commit_held()
    assert value(await b.get(b"a")) == b"2"


async def test_a_lying_cache_is_judged(b: Bench) -> None:
    await b.write(b"a", b"1")
    await b.write(b"a", b"2")
    b.reads.memory.clear()
    b.cache = b.reads.fetches.cache = MemoryCache()  # it failed over to an old copy
    b.cache.keep(Space(0), Entry(b"a", Version(b"a", 1, b"1", None, 1, 1), 1))
    reading = await b.get(b"a")
    assert (value(reading), reading.source) == (b"2", "store")


async def test_entries_of_another_namespace_are_not_served(b: Bench) -> None:
    await b.write(b"a", b"1")
    assert (await b.get(b"a")).source == "memory"
    b.consensus.namespace = 1
    assert (await b.get(b"a")).source == "store"


async def test_a_fetch_that_began_before_an_adopt_is_not_kept(b: Bench) -> None:
    b.store.gate.clear()
    reading = asyncio.create_task(b.get(b"a"))
    while not b.store.batches:
        await asyncio.sleep(0)
    b.consensus.namespace = 1
    b.store.gate.set()
    await reading
    assert len(b.reads.memory) == 0
    assert b.cache.peek(Space(0), b"a") is None
    assert b.cache.peek(Space(1), b"a") is None


async def test_reads_share_rounds_that_begin_after_them(b: Bench) -> None:
    await b.write(b"a", b"1")
    began: list[asyncio.Event] = []

    async def slow(*, timeout_s: float) -> None:
        began.append(asyncio.Event())
        await began[-1].wait()

    b.consensus.read_index = slow  # type: ignore[method-assign]  # rounds under the test's control
    first = [asyncio.create_task(b.get(b"a")) for _ in range(10)]
    while not began:
        await asyncio.sleep(0)
    late = [asyncio.create_task(b.get(b"a")) for _ in range(10)]
    await asyncio.sleep(0)
    began[0].set()
    await asyncio.gather(*first)
    assert not any(task.done() for task in late)  # a round that had begun does not cover them
    began[1].set()
    await asyncio.gather(*late)
    assert len(began) == 2
    assert b.reads.rounds.rounds_total == 2


async def test_cancelling_one_read_leaves_the_others(b: Bench) -> None:
    await b.write(b"a", b"1")
    release = asyncio.Event()

    async def slow(*, timeout_s: float) -> None:
        await release.wait()

    b.consensus.read_index = slow  # type: ignore[method-assign]  # rounds under the test's control
    tasks = [asyncio.create_task(b.get(b"a")) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    release.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [value(done[0]), value(done[2])] == [b"1", b"1"]
    assert isinstance(done[1], asyncio.CancelledError)


async def test_reads_that_wait_are_fetched_together(b: Bench) -> None:
    b.store.gate.clear()
    keys = [f"k{n}".encode() for n in range(50)]
    tasks = [asyncio.create_task(b.get(key)) for key in keys + keys]
    while len(b.store.batches) < 1 or b.reads.fetches.waiting:
        await asyncio.sleep(0)
    b.store.gate.set()
    await asyncio.gather(*tasks)
    assert len(b.store.batches) <= 3
    assert sorted({key for batch in b.store.batches for key in batch}) == sorted(keys)
    assert all(len(batch) == len(set(batch)) for batch in b.store.batches)


async def test_without_a_quorum_the_store_answers_directly() -> None:
    async with bench(quorum_retry_s=60) as b:
        await b.write(b"a", b"1")
        b.consensus.no_leader = "no_quorum"
        for _ in range(3):
            reading = await b.get(b"a")
            assert (value(reading), reading.source, reading.level) == (
                b"1",
                "store",
                "linearizable",
            )
        assert b.consensus.read_indexes == 1  # the others did not wait for a round that would fail


async def test_a_hanging_quorum_is_given_up() -> None:
    async with bench(read_index_timeout_s=0.01) as b:
        await b.write(b"a", b"1")
        b.consensus.hang = True
        assert (await b.get(b"a")).source == "store"
        b.consensus.hang = False


async def test_a_store_behind_what_was_settled_is_refused(b: Bench) -> None:
    for n in range(3):
        await b.write(b"a", str(n).encode())
    b.reads.memory.clear()
    b.cache = b.reads.fetches.cache = MemoryCache()
    b.store.database.lose_rows(1)
    with pytest.raises(NotApplied, match="is not what was settled") as refused:
        await b.get(b"a")
    assert refused.value.reason == "store_refused"


async def test_a_damaged_value_is_refused_to_who_asks_for_it_alone(b: Bench) -> None:
    await b.write(b"a", b"1")
    await b.write(b"b", b"2")
    b.reads.memory.clear()
    b.cache = b.reads.fetches.cache = MemoryCache()
    b.store.database.damage(b"a", 1)
    found = await asyncio.gather(b.get(b"a"), b.get(b"b"), b.get(b"a"), return_exceptions=True)
    assert isinstance(found[0], StoreDamaged) and isinstance(found[2], StoreDamaged)
    assert not isinstance(found[1], BaseException) and value(found[1]) == b"2"


async def test_a_broken_store_is_said_and_memory_goes_on(b: Bench) -> None:
    await b.write(b"a", b"1")
    b.store.broken = True
    assert value(await b.get(b"a")) == b"1"
    with pytest.raises(BackendUnavailable):
        await b.get(b"b")


async def test_a_hanging_store_costs_no_more_than_the_deadline(b: Bench) -> None:
    b.store.gate.clear()
    with pytest.raises(BackendUnavailable):
        await b.reads.get(b"a", ReadOptions(), deadline=b.clock.monotonic() + 0.02)
    b.store.gate.set()


async def test_session_reads_wait_for_what_they_saw(b: Bench) -> None:
    await b.write(b"a", b"1")
    b.consensus.quiet = True
    await b.write(b"a", b"2")
    waiting = asyncio.create_task(b.get(b"a", "session", min_revision=2))
    await asyncio.sleep(0)
    assert not waiting.done()
    b.consensus.quiet = False
    b.consensus.jump()
    reading = await waiting
    assert (value(reading), reading.position) == (b"2", 2)
    assert b.consensus.read_indexes == 1  # only to know that there is such a revision
    await b.get(b"a", "session", min_revision=2)
    assert b.consensus.read_indexes == 1


async def test_session_reads_of_a_lagging_node_ask_the_store() -> None:
    async with bench(session_wait_s=0.01) as b:
        await b.write(b"a", b"1")
        await b.get(b"a")
        b.consensus.quiet = True
        await b.write(b"a", b"2")
        reading = await b.get(b"a", "session", min_revision=2)
        assert (value(reading), reading.source, reading.position) == (b"2", "store", 2)
        b.consensus.hold = True
        # ordered, and nowhere committed
        b.consensus.submit([Intent("late", 2**53, writes=(Put(b"a", b"3"),))])
        with pytest.raises(NotApplied) as behind:
            await b.get(b"a", "session", min_revision=3)
        assert behind.value.reason == "behind"


async def test_a_revision_of_the_future_is_not_blamed_on_the_store(b: Bench) -> None:
    """The client's time is shorter than the longest wait for a settled revision: the store is still
    asked in it.
    """
    await b.write(b"a", b"1")
    b.consensus.no_leader = "no_quorum"  # nobody can say that there is no such revision
    with pytest.raises(
        NotApplied, match=r"revision 99 was waited for.* settled 1,.* ends at 1"
    ) as behind:
        await b.reads.get(
            b"a", ReadOptions("session", min_revision=99), deadline=b.clock.monotonic() + 0.2
        )
    assert behind.value.reason == "behind"


async def test_stale_reads_serve_what_is_at_hand_and_tell_its_age(b: Bench) -> None:
    await b.write(b"a", b"1")
    await b.get(b"a")  # a round: from now on ages are known
    b.consensus.no_leader = "no_quorum"
    b.store.broken = True
    reading = await b.get(b"a", "stale")
    assert (value(reading), reading.level, reading.source) == (b"1", "stale", "memory")
    assert reading.age_s is not None
    assert reading.age_s >= 0
    with pytest.raises(BackendUnavailable):  # too old for max_age, and nothing fresher can be had
        await b.get(b"a", "stale", max_age_s=0.0)


async def test_stale_reads_beyond_max_age_are_made_fresh(b: Bench) -> None:
    await b.write(b"a", b"1")
    await b.get(b"a")
    reading = await b.get(b"a", "stale", max_age_s=0.0)
    assert (value(reading), reading.level) == (b"1", "linearizable")
    assert (await b.get(b"a", "stale", max_age_s=1000)).level == "stale"


async def test_the_age_of_a_hot_key_is_bounded_too(b: Bench) -> None:
    """An entry that settled after a round, and is being overwritten, is as new as all that round
    knew of.
    """
    await b.write(b"a", b"1")
    await b.get(b"z")
    await b.write(b"a", b"2")
    b.consensus.hold = True
    # so the entry does not hold any more
    b.consensus.submit([Intent("late", 2**53, writes=(Put(b"a", b"3"),))])
    reading = await b.get(b"a", "stale")
    assert (value(reading), reading.source) == (b"2", "memory")
    assert reading.age_s is not None
    assert (await b.get(b"a", "stale", max_age_s=1000)).source == "memory"
    b.consensus.commit_held()


async def test_a_short_time_limit_bounds_the_wait_for_a_quorum(b: Bench) -> None:
    b.consensus.hang = True
    with pytest.raises(NotApplied) as late:
        await b.reads.get(b"a", ReadOptions(), deadline=b.clock.monotonic() + 0.01)
    assert late.value.reason == "timeout"
    b.consensus.hang = False


async def test_an_entry_that_is_read_stays_young(b: Bench) -> None:
    await b.write(b"a", b"1")
    for n in range(RENEW_REVISIONS + 2):
        await b.write(b"b", str(n).encode())
    assert (await b.get(b"a")).as_of == b.consensus.settled.last
    b.consensus.floor = RENEW_REVISIONS  # the machine forgot what touched `a` before
    reading = await b.get(b"a")
    assert (value(reading), reading.source) == (b"1", "memory")


@pytest.mark.parametrize("level", ["linearizable", "session", "stale"])
async def test_a_read_that_comes_while_the_node_stops_is_refused(level: str) -> None:
    """Found by the simulation (seed 1002312): it was an error inside."""
    async with bench() as b:
        pass
    with pytest.raises(NotApplied) as refused:
        await b.get(b"k", level)
    assert refused.value.reason == "draining"
    assert b.store.batches == []


async def test_memory_is_bounded() -> None:
    async with bench(memory_cache_bytes=100_000) as b:
        for n in range(200):
            await b.write(f"k{n}".encode(), b"v" * 1000)
        memory = b.reads.memory
        assert memory.entry_bytes <= 75_000
        assert 40 < len(memory) < 75
        assert (await b.get(b"k199")).source == "memory"
        await b.write(b"huge", b"v" * 60_000)
        # above the whole budget: not kept, and nothing else is lost
        await b.write(b"k0", b"v" * 90_000)
        assert memory.get(b"k0") is None
        assert len(memory) > 0


async def test_the_leader_refreshes_the_shared_cache(b: Bench) -> None:
    await b.write(b"a", b"1")
    while b.cache.peek(Space(0), b"a") is None:
        await asyncio.sleep(0)
    assert b.cache.peek(Space(0), b"a") == Entry(b"a", Version(b"a", 1, b"1", None, 1, 1), 1)
