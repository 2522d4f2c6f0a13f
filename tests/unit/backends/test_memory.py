"""What the store in memory does beyond its port: faults, and a restored backup."""

from __future__ import annotations

import asyncio

import pytest

from backends.memory.database import MemoryDatabase
from backends.memory.faults import AnswerLost, Fails, Fate, Lands
from backends.memory.store import MemoryStore
from kv.errors import BackendUnavailable, InvariantViolated, OutcomeUnknown
from kv.model import GENESIS, Put, Version
from kv.ports import Appended, Fenced, Retention, TakenOver
from tests.contract.groups import COMMITTER, TERM, Step, T, commit, group, put

# ------------------------------------------------------------------------------------------- faults


class Scripted:
    """Faults that a test writes down."""

    def __init__(
        self, fate: Fate | None = None, *, before_s: float = 0, after_s: float = 0
    ) -> None:
        self.next, self.before_s, self.after_s = fate or Lands(), before_s, after_s
        self.asked: list[tuple[str, str]] = []

    async def before(self, session: str, call: str) -> None:
        await asyncio.sleep(self.before_s)

    def fate(self, session: str, call: str) -> Fate:
        self.asked.append((session, call))
        return self.next

    async def after(self, session: str, call: str) -> None:
        await asyncio.sleep(self.after_s)


def opened(faults: Scripted) -> tuple[MemoryStore, MemoryStore]:
    database = MemoryDatabase()
    return MemoryStore(database, faults=faults, session="n1"), MemoryStore(database)


async def test_a_definite_failure_changes_nothing() -> None:
    faulty, plain = opened(Scripted(Fails()))
    with pytest.raises(BackendUnavailable):
        await faulty.append(group(GENESIS, [put("a", b"k", b"1")]), timeout_s=T)
    assert await plain.head(timeout_s=T) == GENESIS


async def test_a_lost_answer_may_land_at_once_later_or_never() -> None:
    faults = Scripted(AnswerLost(None))
    faulty, plain = opened(faults)
    with pytest.raises(OutcomeUnknown):
        await faulty.append(group(GENESIS, [put("a", b"k", b"1")]), timeout_s=T)
    await asyncio.sleep(0.02)
    assert await plain.head(timeout_s=T) == GENESIS
    for fate in (AnswerLost(0.0), AnswerLost(0.01)):
        faults.next = fate
        made = group(await plain.head(timeout_s=T), [put(f"op{fate}", b"k", b"1")])
        with pytest.raises(OutcomeUnknown):
            await faulty.append(made, timeout_s=T)
        assert await plain.head(timeout_s=T) == (made.base)
        await asyncio.sleep(0.02)
        assert await plain.head(timeout_s=T) == made.row.head
    assert faults.asked == [("n1", "append")] * 3


async def test_what_lands_late_meets_the_fence() -> None:
    faulty, plain = opened(Scripted(AnswerLost(0.01)))
    with pytest.raises(OutcomeUnknown):
        await faulty.append(group(GENESIS, [put("a", b"k", b"1")]), timeout_s=T)
    taken = await plain.take_over(TERM, "n2", 1, timeout_s=T)
    await asyncio.sleep(0.02)
    assert isinstance(taken, TakenOver)
    assert await plain.head(timeout_s=T) == taken.own


async def test_a_late_write_that_breaks_a_rule_is_nobodys_business() -> None:
    faults = Scripted()
    faulty, plain = opened(faults)
    await commit(plain, [put("a", b"k", b"1")])
    faults.next = AnswerLost(0.0)
    with pytest.raises(OutcomeUnknown):
        await faulty.append(
            group(await plain.head(timeout_s=T), [put("a", b"k", b"1")]), timeout_s=T
        )
    await asyncio.sleep(0.01)
    with pytest.raises(InvariantViolated):
        await plain.append(
            group(await plain.head(timeout_s=T), [put("a", b"k", b"1")]), timeout_s=T
        )


async def test_delays_count_against_the_time_out() -> None:
    faults = Scripted(before_s=1)
    faulty, plain = opened(faults)
    made = group(GENESIS, [put("a", b"k", b"1")])
    with pytest.raises(BackendUnavailable):
        await faulty.append(made, timeout_s=0.01)
    with pytest.raises(BackendUnavailable):
        await faulty.read([b"k"], timeout_s=0.01)
    assert await plain.head(timeout_s=T) == GENESIS
    faults.before_s, faults.after_s = 0, 1
    with pytest.raises(OutcomeUnknown):
        await faulty.append(made, timeout_s=0.01)
    with pytest.raises(BackendUnavailable):
        await faulty.read([b"k"], timeout_s=0.01)
    assert await plain.head(timeout_s=T) == made.row.head


# ------------------------------------------------------------------------------------------- backup


async def test_a_restored_backup_is_the_store_of_then() -> None:
    database = MemoryDatabase()
    store = MemoryStore(database)
    early = await store.stage("early", b"x" * 70_000, timeout_s=T)
    first = await commit(store, [put("a", b"k", b"1", expires_ms=9), put("early", b"m", early)])
    late = await store.stage("late", b"y" * 70_000, timeout_s=T)
    await commit(store, [Step("c", (Put(b"k", b"2"), Put(b"n", b"1"))), put("late", b"l", late)])
    await store.move_cursor("publisher", 4, timeout_s=T)
    assert database.lose_rows(1) == first.row.head
    assert await store.head(timeout_s=T) == first.row.head
    assert (await store.read([b"k", b"m", b"n"], timeout_s=T)).versions == (*first.versions, None)
    assert [v.key for v in (await store.list(b"", limit=9, timeout_s=T)).versions] == [b"k", b"m"]
    assert await store.operations(["a", "c"], timeout_s=T) == (first.operations[0], None)
    assert await store.due(9, 9, timeout_s=T) == ((b"k", 1),)
    assert await store.cursor("publisher", timeout_s=T) == 2
    assert await store.blob(early, timeout_s=T) is not None
    assert await store.blob(late, timeout_s=T) is None
    again = group(first.row.head, [put("c", b"k", b"3")])
    assert isinstance(await store.append(again, timeout_s=T), Appended)
    assert await store.append(again, timeout_s=T) == Fenced(again.row.head)
    assert (await store.prune(Retention(3, 0), timeout_s=T)).versions == 1


async def test_a_backup_from_below_the_floor_cannot_be_restored() -> None:
    database = MemoryDatabase()
    store = MemoryStore(database)
    for n in range(4):
        await commit(store, [put(f"{n}", b"k", b"%d" % n)])
    await store.prune(Retention(3, 0), timeout_s=T)
    with pytest.raises(ValueError, match="pruned"):
        database.lose_rows(2)
    database.lose_rows(1)
    assert (await store.read([b"k"], timeout_s=T)).versions == (Version(b"k", 3, b"2", None, 1, 3),)
    assert isinstance(
        await store.take_over(TERM, COMMITTER, 1, adopt_last=4, timeout_s=T), TakenOver
    )


async def test_losing_everything_is_an_empty_store() -> None:
    database = MemoryDatabase()
    await commit(MemoryStore(database), [put("a", b"k", b"1")])
    assert database.lose_rows(5) == GENESIS
    assert isinstance(
        await MemoryStore(database).append(group(GENESIS, [put("a", b"k", b"1")]), timeout_s=T),
        Appended,
    )
