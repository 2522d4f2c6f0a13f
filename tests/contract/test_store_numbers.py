"""What every shared store says of create_revision and version, and of ranges of keys."""

from __future__ import annotations

from typing import Any

import pytest

from kv.model import (
    FROM_KEY,
    GENESIS,
    OPERATIONS_MAX,
    RANGE_KEYS_MAX,
    Delete,
    Put,
    Version,
)
from kv.ports import Appended, Retention, Span, Store
from tests.contract.groups import Step, T, commit, delete, group, numbered, put


async def told(store: Store, *steps: Step) -> dict[tuple[bytes, int], tuple[int, int]]:
    """Append a group; return what the store says of each version, which must be what it keeps."""
    made = group(await store.head(timeout_s=T), steps)
    appended = await store.append(made, timeout_s=T)
    assert isinstance(appended, Appended)
    versions = numbered(made, appended)
    places = [(version.key, version.revision) for version in versions]
    assert await store.versions(places, timeout_s=T) == versions
    return {(v.key, v.revision): (v.create_revision, v.version) for v in versions}


async def test_a_key_begins_with_its_first_put_and_again_after_a_delete(store: Store) -> None:
    assert await told(store, put("1", b"k", b"1")) == {(b"k", 1): (1, 1)}
    assert await told(store, put("2", b"k", b"2"), put("3", b"m", b"1")) == {
        (b"k", 2): (1, 2),
        (b"m", 3): (3, 1),
    }
    assert await told(store, delete("4", b"k")) == {(b"k", 4): (0, 0)}
    assert await told(store, put("5", b"k", b"3")) == {(b"k", 5): (5, 1)}


async def test_puts_and_deletes_of_one_group_are_numbered_in_order(store: Store) -> None:
    await told(store, put("1", b"old", b"1"), put("2", b"old", b"2"))
    assert await told(
        store,
        put("3", b"old", b"3"),
        put("4", b"old", b"4"),
        put("5", b"new", b"1"),
        delete("6", b"old"),
        put("7", b"old", b"5"),
        put("8", b"old", b"6"),
        put("9", b"new", b"2"),
    ) == {
        (b"old", 3): (1, 3),
        (b"old", 4): (1, 4),
        (b"new", 5): (5, 1),
        (b"old", 6): (0, 0),
        (b"old", 7): (7, 1),
        (b"old", 8): (7, 2),
        (b"new", 9): (5, 2),
    }


async def test_keys_of_one_revision_are_told_apart(store: Store) -> None:
    await told(store, put("1", b"b", b"1"))
    step = Step("2", (Put(b"c", b"1"), Put(b"b", b"2"), Put(b"\xff", b"3"), Put(b"a", b"4")))
    assert await told(store, step) == {
        (b"c", 2): (2, 1),
        (b"b", 2): (1, 2),
        (b"\xff", 2): (2, 1),
        (b"a", 2): (2, 1),
    }


async def test_every_way_of_reading_says_the_same(store: Store) -> None:
    await commit(store, [put("1", b"k", b"1"), put("2", b"k", b"2")])
    (read,) = (await store.read([b"k"], timeout_s=T)).versions
    (listed,) = (await store.list(b"", limit=9, timeout_s=T)).versions
    (bare,) = (await store.list(b"", limit=9, keys_only=True, timeout_s=T)).versions
    facts = await store.facts([], [b"k"], [], [], timeout_s=T)
    assert read is not None
    for version in (read, listed, bare, facts.versions[b"k"]):
        assert (version.create_revision, version.version) == (1, 2)


KEYS = (b"\0", b"a", b"ab", b"b", b"b\0", b"c", b"\xff\xff")


@pytest.mark.parametrize(
    ("key", "end", "found"),
    [
        (b"a", b"", (b"a",)),
        (b"absent", b"", ()),
        (b"gone", b"", ()),
        (b"a", b"b", (b"a", b"ab")),
        (b"b", FROM_KEY, (b"b", b"b\0", b"c", b"\xff\xff")),
        (b"\0", FROM_KEY, KEYS),
        (b"a", b"a", ()),
        (b"c", b"a", ()),
        (b"aa", b"b\1", (b"ab", b"b", b"b\0")),
    ],
)
async def test_spans(store: Store, key: bytes, end: bytes, found: tuple[bytes, ...]) -> None:
    await commit(store, [put(f"{n}", each, b"v%d" % n) for n, each in enumerate(KEYS)])
    await commit(store, [put("x", b"gone", b""), delete("y", b"gone")])
    spans = [Span(key, end, limit, whole) for limit in (2, 100) for whole in (False, True)]
    facts = await store.facts([], [], [], [], spans=spans, timeout_s=T)
    assert facts.head == await store.head(timeout_s=T)
    for span in spans:
        versions = facts.spans[span]
        assert tuple(version.key for version in versions) == found[: span.limit]
        for version in versions:
            number = KEYS.index(version.key)
            assert (version.revision, version.version) == (number + 1, 1)
            assert version.value == (b"v%d" % number if span.whole else b"")


async def test_spans_are_of_the_snapshot_of_the_other_facts(store: Store) -> None:
    span = Span(b"\0", FROM_KEY, 10, whole=True)
    empty = await store.facts(["1"], [b"k"], [], [], spans=[span], timeout_s=T)
    assert (empty.head, empty.versions, empty.spans) == (GENESIS, {}, {span: ()})
    await commit(store, [put("1", b"k", b"1"), Step("2", (Delete(b"k"), Put(b"m", b"2")))])
    facts = await store.facts(["1"], [b"k"], [], [], spans=[span], timeout_s=T)
    assert facts.spans == {span: (Version(b"m", 2, b"2", None, 2, 1),)}
    assert facts.versions[b"k"].value is None
    assert set(facts.operations) == {"1"}


async def test_a_listing_of_a_range(store: Store) -> None:
    await commit(store, [put(f"{n}", each, b"") for n, each in enumerate(KEYS)])
    await commit(store, [delete("x", b"b")])

    async def keys(key: bytes, end: bytes, **more: Any) -> list[bytes]:
        page = await store.list(key, end=end, limit=9, timeout_s=T, **more)
        return [version.key for version in page.versions]

    assert await keys(b"a", b"c") == [b"a", b"ab", b"b\0"]
    assert await keys(b"a", b"c", at=7) == [b"a", b"ab", b"b", b"b\0"]
    assert await keys(b"", FROM_KEY) == [key for key in KEYS if key != b"b"]
    assert await keys(b"a", FROM_KEY, after=b"ab") == [b"b\0", b"c", b"\xff\xff"]
    assert await keys(b"c", b"a") == await keys(b"c", b"c", after=b"c") == []


async def test_as_many_keys_as_one_revision_may_delete(store: Store) -> None:
    keys = [b"%05d" % n for n in range(RANGE_KEYS_MAX)]
    puts = [
        Step(f"~{n}", tuple(Put(key, b"") for key in keys[n : n + OPERATIONS_MAX]))
        for n in range(0, len(keys), OPERATIONS_MAX)
    ]
    await commit(store, puts)
    span = Span(b"0", FROM_KEY, RANGE_KEYS_MAX + 1, whole=False)
    facts = await store.facts([], [], [], [], spans=[span], timeout_s=T)
    assert [version.key for version in facts.spans[span]] == keys
    await commit(store, [Step("~all", tuple(Delete(key) for key in keys))])
    await commit(store, [put("~new", keys[0], b"1")])
    assert [v.version for v in (await store.list(b"", limit=9, timeout_s=T)).versions] == [1]
    reached, seen, rounds = 0, 0, 0
    while True:
        done = await store.scrub(reached, timeout_s=T)
        reached, seen, rounds = done.reached, seen + done.versions, rounds + 1
        assert not done.damaged and rounds < 1000
        if not done.more:
            break
    assert seen == RANGE_KEYS_MAX + 1
    last = (await store.head(timeout_s=T)).last
    while (await store.prune(Retention(last, 0, rows_max=4000), timeout_s=T)).more:
        pass
    gone = await store.versions([(keys[1], last - 1)], timeout_s=T)
    assert gone == (None,)
