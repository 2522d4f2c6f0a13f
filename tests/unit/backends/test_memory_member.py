"""The disk of a member's store in memory: what a power cut and its kin leave there."""

from __future__ import annotations

import pytest

from backends.memory.member_file import MemoryFile
from backends.memory.member_store import MemoryMemberStore
from tests.contract.groups import T
from tests.contract.history import everything, made_by, settle, story


@pytest.mark.parametrize("keep", range(6))
async def test_a_power_cut_leaves_a_prefix_not_below_the_durable_point(keep: int) -> None:
    steps, file = story().steps, MemoryFile()
    store = MemoryMemberStore(file)
    await store.__aenter__()
    settle(store, *steps[:2])
    await store.make_durable(steps[1].note.index)
    for step in steps[2:]:
        store.settle(step)
        await store.wait_written(step.note.index, timeout_s=T)
    assert file.at_risk == 5
    store.power_cut(keep)
    async with MemoryMemberStore(file) as again:
        assert await everything(again) == await made_by(steps[: 2 + keep])
        settle(again, *steps[2 + keep :])
        assert await everything(again) == await made_by(steps)


async def test_a_file_is_deleted_replaced_and_put_aside() -> None:
    steps, file = story().steps, MemoryFile()
    async with MemoryMemberStore(file) as store:
        settle(store, *steps[:3])
    old = file.image()
    async with MemoryMemberStore(file) as store:
        settle(store, *steps[3:])
    file.replace_by(old)
    async with MemoryMemberStore(file) as store:
        assert await everything(store) == await made_by(steps[:3])
    file.replace_by(old[:-1])
    async with MemoryMemberStore(file) as store:
        assert store.condition == "damaged" and store.damage
        await store.set_aside("torn")
        assert not store.damage and len(file.aside) == 1
        settle(store, *steps)
    file.wipe()
    async with MemoryMemberStore(file) as store:
        assert store.condition == "empty"
