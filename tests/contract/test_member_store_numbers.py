"""What every member's own store says of create_revision and version, and of ranges of keys."""

from __future__ import annotations

import pytest

from kv.model import FROM_KEY, OPERATIONS_MAX, RANGE_KEYS_MAX, Delete, Put
from kv.ports import MemberStore, Span
from tests.contract.groups import Step, T, delete, put
from tests.contract.history import History, damaged_rows, settle
from tests.contract.member_adapters import Disk

KEYS = (b"\0", b"a", b"ab", b"b", b"b\0", b"c", b"\xff\xff")


def story() -> History:
    """Some of the keys are put again, and one is deleted, when others are written already."""
    history = History()
    history.submit(*(put(f"~{n}", key, b"v%d" % n) for n, key in enumerate(KEYS)))
    history.submit(put("~x", b"gone", b""), put("~y", b"a", b"again"))
    history.submit(delete("~z", b"gone"), delete("~w", b"b"), put("~v", b"new", b"1"))
    history.submit(put("~u", b"b", b"anew"), delete("~t", b"c"))
    return history


NUMBERS = {
    b"\0": (1, 1),
    b"a": (2, 2),
    b"ab": (3, 1),
    b"b": (13, 1),
    b"b\0": (5, 1),
    b"\xff\xff": (7, 1),
    b"new": (12, 1),
}


async def check(store: MemberStore) -> None:
    assert store.numbers([*NUMBERS, b"gone", b"c", b"never"]) == NUMBERS
    assert store.numbers([]) == {}
    for key, end in (
        (b"a", b""),
        (b"c", b""),
        (b"a", b"c"),
        (b"b", FROM_KEY),
        (b"\0", FROM_KEY),
        (b"c", b"a"),
        (b"gone", b"z"),
    ):
        for limit in (1, 2, 100):
            bare, whole = Span(key, end, limit, whole=False), Span(key, end, limit, whole=True)
            found = store.facts([], [], [], spans=[bare, whole], recorded_since_ms=0).spans
            listing = await store.list(key, end=end, limit=limit, timeout_s=T)
            assert found[whole] == listing.versions
            assert [(v.key, v.value) for v in found[bare]] == [
                (v.key, b"") for v in listing.versions
            ]
            for version in found[bare]:
                assert (version.create_revision, version.version) == NUMBERS[version.key]


@pytest.mark.parametrize("written", range(5))
async def test_what_is_written_and_what_is_not_yet(disk: Disk, written: int) -> None:
    history = story()
    async with disk.store() as store:
        settle(store, *history.steps[:written])
        await store.wait_written(store.note.index, timeout_s=T)
        settle(store, *history.steps[written:])
        await check(store)
        await store.wait_written(history.note.index, timeout_s=T)
        await check(store)
    async with disk.store() as again:  # nothing of it is in memory
        await check(again)
        assert not (await again.damaged_rows(0, timeout_s=T))[1]


async def test_as_many_keys_as_one_revision_may_delete(member: MemberStore) -> None:
    keys = [b"%05d" % n for n in range(RANGE_KEYS_MAX)]
    history = History()
    for n in range(0, len(keys), OPERATIONS_MAX):
        writes = tuple(Put(key, b"") for key in keys[n : n + OPERATIONS_MAX])
        history.submit(Step(f"~{n}", writes))
    history.submit(Step("~all", tuple(Delete(key) for key in keys)))
    history.submit(put("~new", keys[0], b"1"))
    settle(member, *history.steps)
    span = Span(b"0", FROM_KEY, RANGE_KEYS_MAX + 1, whole=False)
    assert len(member.facts([], [], [], spans=[span], recorded_since_ms=0).spans[span]) == 1
    await member.wait_written(history.note.index, timeout_s=T)
    assert len(member.facts([], [], [], spans=[span], recorded_since_ms=0).spans[span]) == 1
    reached, seen, rounds = 0, 0, 0
    while True:
        done = await member.scrub(reached, timeout_s=T)
        reached, seen, rounds = done.reached, seen + done.versions, rounds + 1
        assert not done.damaged and rounds < 1000
        if not done.more:
            break
    assert seen == RANGE_KEYS_MAX + 1
    assert not await damaged_rows(member)
