"""What every member's own store must do with its file as a whole: cut back, put aside, copied,
installed, found damaged.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kv.errors import BackendUnavailable, InvariantViolated
from kv.model import GENESIS_DIGEST
from kv.ports import MemberStore, Note, StateCopy, Step
from tests.contract.groups import T, delete, put
from tests.contract.history import (
    HISTORY,
    History,
    damaged_rows,
    everything,
    made_by,
    settle,
    story,
)
from tests.contract.member_adapters import Disk, copy_of, flip

DAMAGES = ("cut", "flipped", "garbage", "zero bytes")


@pytest.fixture
def other(disk: Disk, tmp_path: Path) -> Disk:
    """The disk of another member."""
    directory = tmp_path / "other"
    directory.mkdir()
    return type(disk)(directory)


# ------------------------------------------------------------------------------------- cutting back


async def test_cut_back_leaves_what_the_commands_up_to_there_made(disk: Disk) -> None:
    steps = story().steps
    for kept in range(1, len(steps) + 1):
        async with disk.store() as store:
            settle(store, *steps)
            await store.wait_written(steps[-1].note.index, timeout_s=T)
            store.cut_back(steps[kept - 1].note.index)
            assert await everything(store) == await made_by(steps[:kept])
            assert store.written == store.note == steps[kept - 1].note
            settle(store, *steps[kept:])
            assert await everything(store) == await made_by(steps)
            await store.make_durable(steps[-1].note.index)
        async with disk.store() as again:
            assert await everything(again) == await made_by(steps)
        disk.delete()


async def test_cut_back_between_commands_notes_that_index(disk: Disk) -> None:
    history = History()
    history.submit(put("c1", b"a", b"1"), term=2)
    history.submit(put("c1", b"a", b"2"), term=5, skip=10, log_time_ms=9000)
    async with disk.store() as store:
        settle(store, *history.steps)
        await store.wait_written(12, timeout_s=T)
        store.cut_back(7)
        assert store.note == Note(HISTORY, 7, 2, history.steps[0].note.digest)
        assert store.newest == history.steps[0].group.row  # type: ignore[union-attr]
        assert store.facts(["c1"], [b"a"], [], recorded_since_ms=0).operations["c1"].revision == 1
        store.cut_back(7)
        store.cut_back(9)
        assert store.note.index == 7
    async with disk.store() as again:
        assert again.note == Note(HISTORY, 7, 2, history.steps[0].note.digest)
        again.cut_back(0)
        assert (again.note, again.newest) == (Note(HISTORY, 0, 0, GENESIS_DIGEST), None)


async def test_cut_back_brings_due_keys_and_values_back(member: MemberStore) -> None:
    history = History()
    history.submit(put("c1", b"a", b"old", expires_ms=5000), put("c2", b"b", b"2"))
    history.submit(put("c3", b"a", b"new"), put("c4", b"b", b"3", expires_ms=6000))
    settle(member, *history.steps)
    await member.wait_written(2, timeout_s=T)
    assert await member.due(10_000, 9, timeout_s=T) == ((b"b", 4),)
    member.cut_back(1)
    assert await member.due(10_000, 9, timeout_s=T) == ((b"a", 1),)


async def test_cut_back_wants_everything_written(member: MemberStore) -> None:
    settle(member, *story().steps)
    with pytest.raises(InvariantViolated):
        member.cut_back(1)
    assert await everything(member) == await made_by(story().steps)


# --------------------------------------------------------------------------------- copies, installs


async def _read_all(state: StateCopy) -> bytes:
    content = b"".join(state.read_now(at, 4096) for at in range(0, state.size, 4096))
    assert len(content) == state.size
    assert state.read_now(state.size, 10) == b""
    return content


async def test_a_copy_is_the_store_as_it_was_at_one_step(disk: Disk, other: Disk) -> None:
    history = story()
    async with disk.store() as source:
        settle(source, *history.steps)
        expected = await everything(source)
        state = await source.copy()
        settle(source, history.submit(put("later", b"z", b"9")))
        await source.wait_written(history.note.index, timeout_s=T)
        content = await _read_all(state)
        state.close()
    async with other.store() as target:
        settle(target, History().submit(put("own", b"q", b"0")))
        await target.install(copy_of(content))
        assert (target.condition, target.damage) == ("sound", "")
        assert target.note == target.written == history.steps[-2].note
        assert await everything(target) == expected
        settle(target, history.steps[-1])
        assert await everything(target) == await made_by(history.steps)
        await disk_survives(other, target, history.steps)


async def disk_survives(disk: Disk, store: MemberStore, steps: list[Step]) -> None:
    """Kill the process once all is durable: everything must be there."""
    await store.make_durable(steps[-1].note.index)
    await disk.kill(store)
    async with disk.store() as again:
        assert await everything(again) == await made_by(steps)


async def test_a_copy_is_readable_whatever_happens_to_the_store(disk: Disk, other: Disk) -> None:
    async with disk.store() as source:
        settle(source, *story().steps)
        state = await source.copy()
        await source.set_aside("it differs")
        settle(source, *story().steps[:2])
    disk.delete()
    async with other.store() as target:
        await target.install(state)
        assert await everything(target) == await made_by(story().steps)
    state.close()


async def test_what_was_installed_is_durable_by_then(disk: Disk, other: Disk) -> None:
    async with disk.store() as source:
        settle(source, *story().steps)
        state = await source.copy()
        async with other.store() as target:
            await target.install(state)
            await other.kill(target)
        state.close()
    async with other.store() as again:
        assert await everything(again) == await made_by(story().steps)


async def test_what_was_installed_is_another_members_until_it_is_confirmed(
    disk: Disk, other: Disk
) -> None:
    async with disk.store() as source:
        settle(source, *story().steps)
        assert not source.fetched
        state = await source.copy()
        async with other.store() as target:
            assert not target.fetched
            with pytest.raises(ValueError):  # noqa: PT011 (it says in its own words why)
                await target.install(copy_of(b"garbage" * 1000))
            assert not target.fetched
            await target.install(state)
            assert target.fetched
            await other.kill(target)
        async with other.store() as again:
            assert again.fetched
            await again.confirm()
            assert not again.fetched
        async with other.store() as again:
            assert not again.fetched
            await again.install(state)
            await again.set_aside("it differs from the others")
            assert not again.fetched, "what is there now is made here"
        state.close()
        assert not source.fetched


@pytest.mark.parametrize("how", ["torn", "empty", "garbage", "flipped", "foreign", "newer"])
async def test_what_is_no_sound_store_is_not_installed(disk: Disk, other: Disk, how: str) -> None:
    if how in {"foreign", "newer"}:
        content = other.file_refused("foreign_store" if how == "foreign" else "newer_schema")
    else:
        async with other.store() as source:
            settle(source, *story().steps)
            state = await source.copy()
            content = await _read_all(state)
            state.close()
    content = {
        "torn": content[:-1000],
        "empty": b"",
        "garbage": b"garbage" * 1000,
        "flipped": flip(content),
    }.get(how, content)
    own = History()
    own.submit(put("own", b"q", b"0"))
    async with disk.store() as target:
        settle(target, *own.steps)
        with pytest.raises(ValueError):  # noqa: PT011 (it says in its own words why)
            await target.install(copy_of(content))
        assert await everything(target) == await made_by(own.steps)
        settle(target, own.submit(put("own2", b"q", b"1")))
        await target.make_durable(2)
    async with disk.store() as again:
        assert await everything(again) == await made_by(own.steps)


async def test_there_is_no_room_for_a_copy(disk: Disk, other: Disk) -> None:
    async with other.store() as source, disk.store() as target:
        settle(source, *story().steps)
        state = await source.copy()
        disk.fill(target)
        with pytest.raises(BackendUnavailable):
            await target.install(state)
        disk.clear(target)
        await target.install(state)
        assert await everything(target) == await made_by(story().steps)


# ---------------------------------------------------------------------------------------- put aside


async def test_a_file_is_put_aside_and_an_empty_one_begun(disk: Disk) -> None:
    history = story()
    async with disk.store() as store:
        settle(store, *history.steps)
        place = await store.set_aside("it differs from the others")
        assert place
        assert (store.condition, store.note, store.newest) == ("empty", Note(), None)
        assert store.unwritten_bytes == 0 and store.written == Note()
        assert await everything(store) == await made_by([])
        settle(store, *history.steps[:2])
        await store.make_durable(history.steps[1].note.index)
        assert await store.set_aside("again") != place
        settle(store, *history.steps)
    async with disk.store() as again:
        assert await everything(again) == await made_by(history.steps)


# ------------------------------------------------------------------------------------------ damaged


@pytest.mark.parametrize("how", DAMAGES)
async def test_a_damaged_file_opens_as_damaged_and_is_replaced(
    disk: Disk, other: Disk, how: str
) -> None:
    async with disk.store() as store:
        settle(store, *story().steps)
    disk.spoil(how)
    async with other.store() as source:
        settle(source, *story().steps[:3])
        state = await source.copy()
        async with disk.store() as store:
            assert store.condition == "damaged" and store.damage
            assert (store.note, store.newest) == (Note(), None)
            await _serves_nothing(store)
            await store.install(state)
            assert await everything(store) == await made_by(story().steps[:3])
        state.close()
    async with disk.store() as again:
        assert await everything(again) == await made_by(story().steps[:3])


async def _serves_nothing(store: MemberStore) -> None:
    with pytest.raises(BackendUnavailable):
        store.facts([], [b"a"], [], recorded_since_ms=0)
    with pytest.raises(BackendUnavailable):
        store.row_at(1)
    with pytest.raises(BackendUnavailable):
        store.settle(story().steps[0])
    with pytest.raises(BackendUnavailable):
        await store.read([b"a"], timeout_s=T)
    with pytest.raises(BackendUnavailable):
        await store.copy()
    with pytest.raises(BackendUnavailable):
        await store.make_durable(0)
    with pytest.raises(BackendUnavailable):
        await store.probe(timeout_s=T)


@pytest.mark.parametrize("how", DAMAGES)
async def test_a_damaged_file_is_put_aside(disk: Disk, how: str) -> None:
    async with disk.store() as store:
        settle(store, *story().steps)
    disk.spoil(how)
    async with disk.store() as store:
        await store.set_aside("damaged")
        assert (store.condition, store.damage) == ("empty", "")
        settle(store, *story().steps)
        assert await everything(store) == await made_by(story().steps)


async def test_a_missing_file_is_an_empty_store(disk: Disk) -> None:
    async with disk.store() as store:
        settle(store, *story().steps)
    disk.delete()
    async with disk.store() as store:
        assert store.condition == "empty"


async def test_the_scrub_names_what_is_not_what_was_written(disk: Disk) -> None:
    history = History()
    for n in range(20):
        history.submit(put(f"c{n}", b"k%d" % n, b"value %d" % n), delete(f"d{n}", b"k%d" % (n - 1)))
    async with disk.store() as store:
        settle(store, *history.steps)
        await store.make_durable(history.note.index)
        assert await damaged_rows(store) == ()
        disk.damage_row(store, 5)
        disk.damage_version(store, b"k11", 23)
        assert await damaged_rows(store) == (5, 12)
        scrubbed = await store.scrub(0, timeout_s=T)
        assert scrubbed.damaged == ((b"k11", 23),)
        with pytest.raises(BackendUnavailable):
            await store.read([b"k11"], at=23, timeout_s=T)
