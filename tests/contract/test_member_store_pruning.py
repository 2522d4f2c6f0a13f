"""How far every member's own store prunes, and that nobody sees it (R8)."""

from __future__ import annotations

import pytest

from kv.errors import Pruned
from kv.ports import LocalRetention, MemberStore, Pruning
from tests.contract.groups import T, delete, put
from tests.contract.history import History, everything, made_by, settle
from tests.contract.member_adapters import Disk


def long_story(rows: int = 30) -> History:
    """One key that is written in each row, one that comes and goes, and floors every ten rows."""
    history = History()
    for n in range(rows):
        comes = delete("~gone", b"g") if n % 2 else put("~come", b"g", b"%d" % n, expires_ms=9999)
        history.submit(put(f"c{n}", b"a", b"%d" % n), comes, log_time_ms=1000 + n)
        if n % 10 == 9:
            history.quiet(floor=history.head.last - 5)
    return history


async def prune_all(store: MemberStore, retention: LocalRetention) -> list[Pruning]:
    done: list[Pruning] = []
    while not done or done[-1].more:
        done.append(await store.prune(retention, timeout_s=T))
        assert len(done) < 1000
    return done


def retention(
    index: int, floor: int, operations_before_ms: int = 0, rows_max: int = 7
) -> LocalRetention:
    return LocalRetention(index, floor, operations_before_ms, rows_max)


async def test_what_is_made_anew_after_a_cut_is_pruned_again(member: MemberStore) -> None:
    history = long_story()
    settle(member, *history.steps)
    end = history.steps[-1].note.index
    first = sum(each.versions for each in await prune_all(member, retention(end, 55)))
    member.cut_back(0)
    settle(member, *history.steps)
    again = sum(each.versions for each in await prune_all(member, retention(end, 55)))
    assert again == first > 0


async def test_pruning_keeps_what_the_dump_needs(member: MemberStore) -> None:
    history = long_story()
    settle(member, *history.steps)
    # the dump: after 11 rows and one floor of 15
    index = history.steps[11].note.index
    done = await prune_all(member, retention(index, 15, 1005))
    assert {each.floor for each in done} == {55}
    ledger = await member.ledger(0, 100, timeout_s=T)
    assert ledger[0].last <= 15 + 2 and ledger[0].index <= index
    assert [row.index for row in ledger if row.index > index] == [
        row.index for row in (step.group.row for step in history.steps if step.group)
        if row.index > index
    ]  # fmt: skip
    places = [(b"a", n) for n in range(1, 60, 2)]
    kept = [version is not None for version in await member.versions(places, timeout_s=T)]
    # the newest at or below 15 is the first that stays
    assert kept == [n >= 15 for n in range(1, 60, 2)]
    assert await member.operations([f"c{n}" for n in range(8)], timeout_s=T) == (
        (None,) * 5 + await member.operations(["c5", "c6", "c7"], timeout_s=T)
    )
    assert member.facts(["c5", "c4"], [], [], recorded_since_ms=0).operations.keys() == {"c5"}
    assert sum(each.versions for each in done) > 0
    assert sum(each.ledger_rows for each in done) > 0
    assert sum(each.operations for each in done) == 5


async def test_no_row_above_the_dump_goes_whatever_its_floor(member: MemberStore) -> None:
    history = long_story()
    settle(member, *history.steps)
    await prune_all(member, retention(history.steps[2].note.index, 15))
    ledger = await member.ledger(0, 100, timeout_s=T)
    assert ledger[0].index == history.steps[2].note.index


async def test_what_was_pruned_can_still_be_cut_back_to_the_dump(disk: Disk) -> None:
    history = long_story()
    upto = history.steps[11].note.index
    async with disk.store() as store:
        settle(store, *history.steps)
        await prune_all(store, retention(upto, 15, 1005))
        store.cut_back(upto)
        assert store.note == history.steps[11].note
        again = [step for step in history.steps if step.note.index > upto]
        settle(store, *again)
        assert await _above(store, 55) == await _above_of(history, 55)
        await store.make_durable(history.note.index)
    async with disk.store() as opened:
        assert await _above(opened, 55) == await _above_of(history, 55)


async def test_reads_at_the_floor_and_above_see_no_pruning(member: MemberStore) -> None:
    history = long_story()
    settle(member, *history.steps)
    before = await _above(member, 55)
    await prune_all(member, retention(history.note.index, 55, 10**9))
    assert await _above(member, 55) == before
    newest = await member.head(timeout_s=T)
    assert newest == history.head and member.newest is not None
    with pytest.raises(Pruned):
        await member.rows(0, 10, timeout_s=T)
    with pytest.raises(Pruned):
        await member.read([b"a"], at=54, timeout_s=T)


async def test_a_tombstone_goes_with_what_it_hides(member: MemberStore) -> None:
    history = History()
    history.submit(put("~1", b"g", b"1"))
    history.submit(delete("~2", b"g"))
    history.submit(put("~3", b"h", b"3"))
    history.quiet(floor=2)
    settle(member, *history.steps)
    await prune_all(member, retention(history.note.index, 2))
    assert await member.versions([(b"g", 1), (b"g", 2)], timeout_s=T) == (None, None)
    assert (await member.read([b"g"], timeout_s=T)).versions == (None,)


async def test_no_more_is_pruned_than_was_ordered(member: MemberStore) -> None:
    """A dump that says more than the log ordered must not be believed."""
    history = long_story(9)
    settle(member, *history.steps)
    before = await everything(member)
    done = await prune_all(member, retention(history.note.index, 10**6))
    assert [(each.versions, each.ledger_rows) for each in done] == [(0, 0)]
    assert await everything(member) == before == await made_by(history.steps)


async def test_one_step_is_small(member: MemberStore) -> None:
    history = long_story(200)
    settle(member, *history.steps)
    done = await prune_all(member, retention(history.note.index, 10**6, 10**9, rows_max=10))
    assert len(done) > 10
    for each in done:
        assert each.ledger_rows <= 10 and each.operations <= 10 and each.versions <= 20


async def test_an_op_id_recorded_again_survives_its_first_record(member: MemberStore) -> None:
    history = History()
    history.submit(put("c1", b"a", b"1"), log_time_ms=1000)
    history.submit(put("c1", b"a", b"2"), log_time_ms=9000)
    settle(member, *history.steps)
    await prune_all(member, retention(2, 0, 5000))
    facts = member.facts(["c1"], [], [], recorded_since_ms=0)
    assert facts.operations["c1"].revision == 2
    assert await member.operations(["c1"], timeout_s=T) == (facts.operations["c1"],)


async def test_the_scrub_goes_round_what_was_pruned(member: MemberStore) -> None:
    history = long_story()
    settle(member, *history.steps)
    # rows stay from the third on, most of what they made is gone
    await prune_all(member, retention(history.steps[2].note.index, 36))
    assert (await member.ledger(0, 1, timeout_s=T))[0].seq == 3
    assert await member.versions([(b"g", 36)], timeout_s=T) == (None,)
    reached, damaged = await member.damaged_rows(0, timeout_s=T)
    assert (reached, damaged) == (0, ())


async def _above(store: MemberStore, floor: int) -> list[object]:
    """Return all that is read at and above a floor."""
    last = (await store.head(timeout_s=T)).last
    found: list[object] = [await store.rows(floor, 100, timeout_s=T)]
    for at in range(floor, last + 1):
        read = await store.read([b"a", b"g"], at=at, timeout_s=T)
        listing = await store.list(b"", limit=9, at=at, timeout_s=T)
        found.append((read.versions, listing.versions))
    found.append(await store.due(10**9, 9, timeout_s=T))
    return found


async def _above_of(history: History, floor: int) -> list[object]:
    from backends.memory.member_file import MemoryFile
    from backends.memory.member_store import MemoryMemberStore

    async with MemoryMemberStore(MemoryFile()) as store:
        settle(store, *history.steps)
        return await _above(store, floor)
