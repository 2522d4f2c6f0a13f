"""What every member's own store must do: settling, facts, reads, and what is written behind."""

from __future__ import annotations

import pytest

from kv.errors import BackendUnavailable, BadRequest, InvariantViolated, Pruned
from kv.model import GENESIS
from kv.ports import MemberStore, Note, Step
from tests.contract.groups import T, put
from tests.contract.history import HISTORY, History, everything, made_by, settle, story
from tests.contract.member_adapters import Disk


async def test_a_new_store_is_empty(member: MemberStore) -> None:
    assert (member.condition, member.damage, member.trouble) == ("empty", "", "")
    assert member.note == member.written == Note()
    assert member.newest is None and member.row_at(1) is None
    assert member.unwritten_bytes == 0
    assert await member.head(timeout_s=T) == GENESIS
    await member.make_durable(0)
    await member.wait_written(0, timeout_s=T)
    await member.probe(timeout_s=T)


async def test_what_was_settled_is_there_at_once(member: MemberStore) -> None:
    history = History()
    step = history.submit(put("c1", b"a", b"1"), put("~2", b"b", b"2", expires_ms=5000), skip=4)
    member.settle(step)
    assert step.group is not None
    assert (member.condition, member.note, member.newest) == ("sound", step.note, step.group.row)
    assert member.row_at(5) == step.group.row
    assert member.row_at(4) is None and member.row_at(6) is None
    facts = member.facts(["c1", "c0", "~2"], [b"a", b"b", b"none"], [b"b"], recorded_since_ms=0)
    assert facts.head == step.group.row.head
    assert facts.operations == {"c1": step.group.operations[0]}
    assert {key: version.revision for key, version in facts.versions.items()} == {b"a": 1, b"b": 2}
    assert facts.hashes == {b"b": step.hashes[1]}
    assert facts.missing == frozenset()
    read = await member.read([b"a", b"b"], settled=2, timeout_s=T)
    assert read.versions == step.group.versions
    assert (read.head, read.digest_at) == (step.group.row.head, step.group.row.digest)
    assert await member.due(5000, 9, timeout_s=T) == ((b"b", 2),)
    assert await member.operations(["c1", "c0"], timeout_s=T) == (step.group.operations[0], None)


async def test_everything_reads_alike_before_and_after_it_is_written(disk: Disk) -> None:
    history = story()
    async with disk.store() as store:
        settle(store, *history.steps)
        before = await everything(store)
        await store.wait_written(history.note.index, timeout_s=T)
        assert store.written == history.note and store.unwritten_bytes == 0
        assert await everything(store) == before
    async with disk.store() as again:
        assert again.condition == "sound"
        assert (again.note, again.written) == (history.note, history.note)
        assert again.newest is not None and again.newest.head == history.head
        assert await everything(again) == before


async def test_a_killed_process_leaves_a_whole_number_of_steps(disk: Disk) -> None:
    history = story()
    async with disk.store() as store:
        settle(store, *history.steps[:3])
        await store.wait_written(history.steps[2].note.index, timeout_s=T)
        settle(store, *history.steps[3:])
        await disk.kill(store)
    async with disk.store() as again:
        kept = again.note.index
        assert kept >= history.steps[2].note.index
        steps = [step for step in history.steps if step.note.index <= kept]
        assert await everything(again) == await made_by(steps)
        settle(again, *history.steps[len(steps) :])
        assert await everything(again) == await made_by(history.steps)


async def test_what_is_durable_survives(disk: Disk) -> None:
    history = story()
    async with disk.store() as store:
        settle(store, *history.steps)
        await store.make_durable(history.note.index)
        assert store.written == history.note
        await disk.kill(store)
    async with disk.store() as again:
        assert await everything(again) == await made_by(history.steps)


async def test_nothing_becomes_durable_that_was_not_settled(member: MemberStore) -> None:
    with pytest.raises(InvariantViolated):
        await member.make_durable(1)


async def test_a_step_comes_after_all_before(member: MemberStore) -> None:
    history = History()
    settle(member, history.submit(put("c1", b"a", b"1"), skip=1), history.quiet())
    before = await everything(member)
    for wrong in (
        Step(Note(HISTORY, 3, 1, history.head.digest)),
        Step(Note(HISTORY, 4, 0, history.head.digest)),
        Step(Note(HISTORY, 4, 1), history.steps[0].group, history.steps[0].hashes),
    ):
        with pytest.raises(InvariantViolated):
            member.settle(wrong)
    assert await everything(member) == before


async def test_op_ids_are_known_by_log_time_and_not_by_what_is_left(member: MemberStore) -> None:
    history = History()
    settle(
        member,
        history.submit(put("c1", b"a", b"1"), log_time_ms=1000),
        history.submit(put("c2", b"a", b"2"), log_time_ms=2000),
        history.submit(put("c1", b"a", b"3"), log_time_ms=9000),
    )

    def known(since_ms: int) -> dict[str, int]:
        facts = member.facts(["c1", "c2"], [], [], recorded_since_ms=since_ms)
        return {op_id: operation.revision for op_id, operation in facts.operations.items()}

    for _ in range(2):
        assert known(0) == {"c1": 3, "c2": 2}
        assert known(2000) == {"c1": 3, "c2": 2}
        assert known(2001) == {"c1": 3}
        assert known(9001) == {}
        await member.wait_written(3, timeout_s=T)


async def test_an_op_id_that_was_recorded_twice_is_known_by_its_newest_record(
    disk: Disk,
) -> None:
    history = History()
    history.submit(put("c1", b"a", b"1"), log_time_ms=1000)
    history.submit(put("c1", b"a", b"3"), put("c2", b"b", b"3"), log_time_ms=9000)
    async with disk.store() as store:
        settle(store, *history.steps)
    async with disk.store() as again:
        for op_ids in (["c1"], ["c2", "c1"]):
            facts = again.facts(op_ids, [], [], recorded_since_ms=0)
            assert facts.operations["c1"].revision == 2
        assert (await again.operations(["c1"], timeout_s=T))[0] == facts.operations["c1"]


async def test_a_floor_refuses_reads_as_soon_as_it_is_settled(member: MemberStore) -> None:
    history = story()
    settle(member, *history.steps)
    assert await member.floor(timeout_s=T) == 3
    with pytest.raises(Pruned):
        await member.read([b"a"], at=2, timeout_s=T)
    with pytest.raises(Pruned):
        await member.list(b"", limit=9, at=2, timeout_s=T)
    assert (await member.read([b"a"], at=3, timeout_s=T)).versions[0] is not None


async def test_a_store_is_open_once(disk: Disk) -> None:
    async with disk.store():
        with pytest.raises(BadRequest) as refused:
            async with disk.store():
                pytest.fail("it opened twice")
        assert refused.value.code == "store_in_use"
    async with disk.store() as again:
        assert again.condition == "empty"


@pytest.mark.parametrize("how", ["foreign_store", "newer_schema"])
async def test_a_file_of_others_is_refused(disk: Disk, how: str) -> None:
    async with disk.store() as store:
        settle(store, *story().steps)
    disk.refuse(how)
    for _ in range(2):
        with pytest.raises(BadRequest) as refused:
            async with disk.store():
                pytest.fail("it opened")
        assert refused.value.code == how


async def test_a_full_disk_loses_nothing(disk: Disk) -> None:
    history = story()
    async with disk.store() as store:
        settle(store, *history.steps[:2])
        await store.wait_written(history.steps[1].note.index, timeout_s=T)
        disk.fill(store)
        settle(store, *history.steps[2:])
        with pytest.raises((TimeoutError, BackendUnavailable)):
            await store.wait_written(history.note.index, timeout_s=0.2)
        assert store.trouble and store.condition == "sound"
        assert store.unwritten_bytes > 0 and store.written == history.steps[1].note
        with pytest.raises(BackendUnavailable):
            await store.make_durable(history.note.index)
        with pytest.raises(BackendUnavailable):
            await store.probe(timeout_s=T)
        assert await everything(store) == await made_by(history.steps)
        disk.clear(store)
        await store.wait_written(history.note.index, timeout_s=T)
        await store.make_durable(history.note.index)
        assert not store.trouble
    async with disk.store() as again:
        assert await everything(again) == await made_by(history.steps)


async def test_what_is_recorded_of_op_ids_is_walked_in_order(disk: Disk) -> None:
    history = History()
    first = history.submit(put("c1", b"a", b"1"), put("~2", b"b", b"2"))
    second = history.submit(put("c3", b"a", b"3"), put("c4", b"c", b"4"))
    async with disk.store() as store:
        settle(store, first, second)
        found = await store.recorded_after(0, 2, timeout_s=T)
        assert [(each.op_id, each.revision) for each in found] == [("c1", 1), ("c3", 3)]
        assert await store.recorded_after(3, 9, timeout_s=T) == second.group.operations[1:]  # type: ignore[union-attr]  # it has one
        assert await store.recorded_after(4, 9, timeout_s=T) == ()
