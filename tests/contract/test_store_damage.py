"""Hold every Store to this: what is not what was written is never served, and what is never ordered
does not stay.
"""

from __future__ import annotations

import pytest

from backends.fence import STAGED_BYTES_MAX
from kv.errors import BackendUnavailable, NotApplied, StoreDamaged
from kv.model import Put, Reference, Version, value_hash
from kv.ports import Pruning, Retention, Scrubbed, Store
from tests.contract.adapters import flip, flip_blob, garble
from tests.contract.groups import Step, T, commit, delete, first, put, put_again
from tests.contract.test_store_pruning import prune_all


async def test_a_value_that_is_not_what_was_written_is_never_served(store: Store) -> None:
    await commit(store, [put("1", b"k", b"bit"), put("2", b"m", b"whole"), put("3", b"z", b"bits")])
    await flip(store, b"k", 1)
    for keys in ([b"k"], [b"m", b"k"]):
        with pytest.raises(StoreDamaged) as told:
            await store.read(keys, timeout_s=T)
        assert isinstance(told.value, BackendUnavailable), (
            "nothing changed: whoever knows no more may go on"
        )
        assert (told.value.key, told.value.revision) == (b"k", 1)
        assert "damaged" in str(told.value)
    with pytest.raises(StoreDamaged):
        await store.read([b"k"], at=1, timeout_s=T)
    with pytest.raises(StoreDamaged):
        await store.list(b"", limit=9, timeout_s=T)
    with pytest.raises(StoreDamaged):
        await store.versions([(b"m", 2), (b"k", 1)], timeout_s=T)
    assert (await store.read([b"m", b"z"], timeout_s=T)).versions == (
        first(b"m", 2, b"whole"),
        first(b"z", 3, b"bits"),
    )
    listing = await store.list(b"", limit=9, keys_only=True, timeout_s=T)
    assert [version.key for version in listing.versions] == [b"k", b"m", b"z"]
    assert len((await store.list(b"m", limit=9, timeout_s=T)).versions) == 1


async def test_facts_go_by_what_was_written(store: Store) -> None:
    """A damaged value stops no committer, and a guard on its value is judged by the hash of what
    was written.
    """
    await commit(store, [put("1", b"k", b"bit")])
    await flip(store, b"k", 1)
    facts = await store.facts(["1"], [b"k"], [b"k"], [], timeout_s=T)
    assert facts.hashes == {b"k": value_hash(b"bit")}
    assert facts.versions[b"k"].present and facts.versions[b"k"].revision == 1


async def test_writing_the_key_anew_heals_it(store: Store) -> None:
    await commit(store, [put("1", b"k", b"bit"), put("2", b"l", b"bit")])
    await flip(store, b"k", 1)
    await flip(store, b"l", 2)
    await commit(store, [put("3", b"k", b"new"), delete("4", b"l")])
    read = await store.read([b"k", b"l"], timeout_s=T)
    assert read.versions == (put_again(b"k", 3, b"new"), Version(b"l", 4, None))
    with pytest.raises(StoreDamaged):
        await store.read([b"k"], at=2, timeout_s=T)
    await prune_all(store, Retention(4, 0))
    assert [v.key for v in (await store.list(b"", limit=9, timeout_s=T)).versions] == [b"k"]


async def test_a_large_value_that_is_not_what_was_staged_is_never_served(store: Store) -> None:
    reference = await store.stage("big", b"b" * 70_000, timeout_s=T)
    await commit(store, [Step("big", (Put(b"k", reference),))])
    assert await store.blob(reference, timeout_s=T) == b"b" * 70_000
    await flip_blob(store, reference)
    with pytest.raises(StoreDamaged, match="big"):
        await store.blob(reference, timeout_s=T)
    assert (await store.read([b"k"], timeout_s=T)).versions == (first(b"k", 1, reference),)


async def test_looking_through_at_rest_finds_every_damage_old_versions_too(store: Store) -> None:
    reference = await store.stage("big", b"b" * 70_000, timeout_s=T)
    await commit(
        store,
        [put("1", b"k", b"bit"), put("2", b"k", b"bits"), Step("big", (Put(b"m", reference),))],
    )
    for n in range(3):
        many = Step(f"many{n}", tuple(Put(b"%d" % m, b"bit") for m in range(100)))
        await commit(store, [many, delete(f"d{n}", b"k")])
    await flip(store, b"k", 1)
    await flip(store, b"7", 6)
    found: list[tuple[bytes, int]] = []
    versions, after, references = 0, 0, list[Reference]()
    while True:
        done = await store.scrub(after, timeout_s=T)
        found += done.damaged
        versions, references = versions + done.versions, references + list(done.references)
        assert done.reached > after
        after = done.reached
        if not done.more:
            break
    assert (found, versions, references) == ([(b"k", 1), (b"7", 6)], 303, [reference])
    assert after == (await store.head(timeout_s=T)).last - 1  # the newest is a tombstone
    assert await store.scrub(after, timeout_s=T) == Scrubbed(after, 0, (), (), False)


async def test_a_damaged_ledger_is_named_and_ends_no_process(store: Store) -> None:
    """InvariantViolated would end the node, be restarted, and meet the same row again, for ever."""
    made = await commit(store, [put("1", b"k", b"1")])
    if not await garble(store):
        return  # it keeps values, not bytes: there is nothing to garble
    for reading in (
        store.rows(0, 9, timeout_s=T),
        store.ledger(0, 9, timeout_s=T),
        store.row_ending(1, timeout_s=T),
        store.operations(["1"], timeout_s=T),
        store.facts(["1"], [], [], [], timeout_s=T),
    ):
        with pytest.raises(StoreDamaged, match="damaged"):
            await reading
    assert await store.head(timeout_s=T) == made.row.head, "the chain's end is read without it"


# ------------------------------------------------------------------------- staged and never ordered


async def test_what_is_taken_back_goes_at_once_and_only_what_nobody_else_staged(
    store: Store,
) -> None:
    reference = await store.stage("op", b"v" * 70_000, timeout_s=T)
    await store.unstage(reference, timeout_s=T)
    assert await store.blob(reference, timeout_s=T) is None
    await store.unstage(reference, timeout_s=T)  # of nothing: nothing
    for _ in range(2):  # two attempts under one op_id, of which one was refused
        await store.stage("op", b"v" * 70_000, timeout_s=T)
    await store.unstage(reference, timeout_s=T)
    assert await store.blob(reference, timeout_s=T) == b"v" * 70_000
    await commit(store, [Step("op", (Put(b"k", reference),))])
    await store.unstage(reference, timeout_s=T)
    assert await store.blob(reference, timeout_s=T) == b"v" * 70_000, (
        "recorded: a version refers to it"
    )


async def test_what_waits_for_its_intent_is_bounded(store: Store) -> None:
    assert STAGED_BYTES_MAX >= 64 * 1024 * 1024
    store.staged_bytes_max = 150_000  # type: ignore[attr-defined]
    first = await store.stage("1", b"1" * 70_000, timeout_s=T)
    second = await store.stage("2", b"2" * 70_000, timeout_s=T)
    with pytest.raises(NotApplied) as refused:
        await store.stage("3", b"3" * 70_000, timeout_s=T)
    assert refused.value.reason == "overloaded" and "140000 bytes" in refused.value.detail
    await commit(store, [Step("1", (Put(b"k", first),))])  # what is recorded waits no longer
    third = await store.stage("3", b"3" * 70_000, timeout_s=T)
    await store.unstage(second, timeout_s=T)
    await store.unstage(third, timeout_s=T)
    await store.stage("4", b"4" * 140_000, timeout_s=T)


async def test_what_nobody_ordered_goes_after_its_time(store: Store) -> None:
    await commit(store, [put("1", b"k", b"1")], log_time_ms=1_000)
    reference = await store.stage("never", b"v" * 70_000, timeout_s=T)
    await commit(store, [put("2", b"k", b"2")], log_time_ms=2_000)
    assert await prune_all(store, Retention(0, 0, staged_before_ms=2_000)) == Pruning(
        0, 0, 0, 0, 0, False
    )
    assert (await prune_all(store, Retention(0, 0, staged_before_ms=2_001))).blobs == 1
    assert await store.blob(reference, timeout_s=T) is None
