"""Hold every Store to its rules of forgetting: by examples, and by generated histories against a
naive model.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kv.errors import Pruned
from kv.model import Put, RecordedOperation, Reference, Refused
from kv.ports import Pruning, Retention, Store
from tests.contract.adapters import EXAMPLES, STORES, StoreOpener
from tests.contract.groups import (
    COMMITTER,
    TERM,
    Step,
    T,
    cancel,
    commit,
    delete,
    first,
    put,
    put_again,
)
from tests.contract.naive import NaiveStore

STEPS_MAX = 1000


async def prune_all(store: Store, retention: Retention) -> Pruning:
    """Prune until there is no more to do; return the sums."""
    versions = ledger_rows = operations = blobs = 0
    for _ in range(STEPS_MAX):
        done = await store.prune(retention, timeout_s=T)
        versions, ledger_rows = versions + done.versions, ledger_rows + done.ledger_rows
        operations, blobs = operations + done.operations, blobs + done.blobs
        if not done.more:
            return Pruning(done.floor, versions, ledger_rows, operations, blobs, False)
    raise AssertionError("pruning does not end")


async def kept(store: Store, key: bytes, last: int) -> list[int]:
    """Return the revisions at which versions of the key are kept."""
    found = await store.versions([(key, revision) for revision in range(1, last + 1)], timeout_s=T)
    return [version.revision for version in found if version is not None]


async def test_superseded_versions_go_and_the_newest_stays(store: Store) -> None:
    await commit(store, [put(f"{n}", b"k", b"%d" % n) for n in range(10)])
    await commit(store, [put("m", b"m", b"1")])
    done = await prune_all(store, Retention(8, 0))
    assert (done.floor, done.versions) == (8, 7)
    assert await kept(store, b"k", 11) == [8, 9, 10]
    assert await kept(store, b"m", 11) == [11]
    for at in (8, 9, 10, 11):
        assert (await store.read([b"k"], at=at, timeout_s=T)).versions == (
            put_again(b"k", min(at, 10), b"%d" % (min(at, 10) - 1), min(at, 10)),
        )


async def test_a_tombstone_goes_only_with_or_after_all_older_versions(store: Store) -> None:
    await commit(
        store, [put("a", b"k", b"1"), put("b", b"k", b"2"), delete("c", b"k"), put("d", b"z", b"1")]
    )
    await prune_all(store, Retention(2, 0))
    assert await kept(store, b"k", 4) == [2, 3]
    await prune_all(store, Retention(3, 0))
    assert await kept(store, b"k", 4) == []
    assert (await store.read([b"k"], timeout_s=T)).versions[0] is None
    assert [version.key for version in (await store.list(b"", limit=9, timeout_s=T)).versions] == [
        b"z"
    ]
    await commit(store, [put("e", b"k", b"3")])
    assert (await store.read([b"k"], timeout_s=T)).versions == (first(b"k", 5, b"3"),)
    await prune_all(store, Retention(5, 0))
    assert await kept(store, b"k", 5) == [5]


async def test_small_steps_are_bounded_and_reads_hold_between_them(store: Store) -> None:
    await commit(
        store,
        [Step(f"{n}", tuple(Put(b"k%d" % m, b"%d" % n) for m in range(5))) for n in range(20)],
    )
    floors = []
    for _ in range(STEPS_MAX):
        done = await store.prune(Retention(20, 0, rows_max=7), timeout_s=T)
        assert done.versions <= 14
        floors.append(done.floor)
        assert await store.floor(timeout_s=T) == done.floor
        for at in range(done.floor, 21):
            read = await store.read([b"k%d" % m for m in range(5)], at=at, timeout_s=T)
            value = b"%d" % (at - 1)
            assert [v.value if v else None for v in read.versions] == [value if at else None] * 5
        if not done.more:
            break
    assert floors == sorted(floors)
    assert len(floors) > 5
    assert floors[-1] == 20


async def test_the_floor_never_falls_and_never_passes_the_head(store: Store) -> None:
    await commit(store, [put(f"{n}", b"k", b"1") for n in range(5)])
    assert (await prune_all(store, Retention(3, 0))).floor == 3
    assert (await prune_all(store, Retention(1, 0))).floor == 3
    assert (await prune_all(store, Retention(10**9, 0))).floor == 5
    assert await store.floor(timeout_s=T) == 5
    assert (await store.read([b"k"], at=5, timeout_s=T)).versions == (put_again(b"k", 5, b"1", 5),)
    await commit(store, [put("next", b"k", b"2")])
    assert (await store.read([b"k"], at=5, timeout_s=T)).versions == (put_again(b"k", 5, b"1", 5),)


async def test_pruning_an_empty_store_does_nothing(store: Store) -> None:
    assert await store.prune(Retention(100, 10**15), timeout_s=T) == Pruning(0, 0, 0, 0, 0, False)


async def test_ledger_rows_go_but_never_the_head(store: Store) -> None:
    for n in range(6):
        await commit(store, [put(f"{n}-{m}", b"k", b"1") for m in range(2)])
    head = await store.head(timeout_s=T)
    assert (await prune_all(store, Retention(6, 0))).ledger_rows == 2
    assert [(row.first, row.last) for row in await store.ledger(0, 99, timeout_s=T)] == [
        (5, 6),
        (7, 8),
        (9, 10),
        (11, 12),
    ]
    assert [row.first for row in await store.rows(4, 99, timeout_s=T)] == [5, 7, 9, 11]
    assert [row.first for row in await store.rows(5, 99, timeout_s=T)] == [5, 7, 9, 11]
    with pytest.raises(Pruned) as refusal:
        await store.rows(3, 99, timeout_s=T)
    assert refusal.value.floor == 5
    assert await store.row_ending(4, timeout_s=T) is None
    await store.take_over(TERM, COMMITTER, 1, timeout_s=T)
    await prune_all(store, Retention(10**9, 0))
    ledger = await store.ledger(0, 99, timeout_s=T)
    assert ledger[-1].seq == head.seq + 1
    assert await store.rows(12, 99, timeout_s=T) == ()
    with pytest.raises(Pruned):
        await store.rows(1, 99, timeout_s=T)
    await commit(store, [put("next", b"k", b"1")])
    assert [row.first for row in await store.rows(12, 99, timeout_s=T)] == [13]


async def test_operations_go_by_log_time(store: Store) -> None:
    for n in range(6):
        await commit(store, [put(f"op{n}", b"k%d" % n, b"1")], log_time_ms=n * 100)
    assert (await prune_all(store, Retention(0, 300, rows_max=2))).operations == 3
    found = await store.operations([f"op{n}" for n in range(6)], timeout_s=T)
    assert [isinstance(each, RecordedOperation) for each in found] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]
    assert (await prune_all(store, Retention(0, 300))).operations == 0
    # after the retention the op_id is free again
    await commit(store, [put("op0", b"k", b"1")], log_time_ms=600)


async def test_staged_values_live_as_long_as_a_version_refers_to_them(store: Store) -> None:
    reference = await store.stage("big", b"x" * 70_000, timeout_s=T)
    assert (await prune_all(store, Retention(0, 0))).blobs == 0, "not recorded yet"
    await commit(
        store, [Step("big", (Put(b"k", reference), Put(b"m", reference))), put("b", b"k", b"1")]
    )
    assert (await prune_all(store, Retention(2, 0))).blobs == 0, "m still refers to it"
    await commit(store, [delete("c", b"m")])
    assert (await prune_all(store, Retention(2, 0))).blobs == 0, (
        "m still refers to it at revision 2"
    )
    assert await store.blob(reference, timeout_s=T) == b"x" * 70_000
    assert (await prune_all(store, Retention(3, 0))).blobs == 1
    assert await store.blob(reference, timeout_s=T) is None


@pytest.mark.parametrize("op_id", ["big", "~n1-9"])
async def test_staged_values_of_intents_without_effect_go_once_recorded(
    store: Store, op_id: str
) -> None:
    reference = await store.stage(op_id, b"x" * 70_000, timeout_s=T)
    other = await store.stage("pending", b"y" * 70_000, timeout_s=T)
    await commit(store, [Step(op_id, (Put(b"k", reference),), Refused(0, 0))])
    assert (await prune_all(store, Retention(0, 0))).blobs == 1
    assert await store.blob(reference, timeout_s=T) is None
    assert await store.blob(other, timeout_s=T) == b"y" * 70_000
    assert (await store.facts([], [], [], [(op_id, reference.hash)], timeout_s=T)).missing == {
        (op_id, reference.hash)
    }


async def test_a_value_staged_after_its_op_id_was_cancelled_goes_too(store: Store) -> None:
    await commit(store, [cancel("late")])
    reference = await store.stage("late", b"x" * 70_000, timeout_s=T)
    assert (await prune_all(store, Retention(0, 0))).blobs == 1
    assert await store.blob(reference, timeout_s=T) is None


async def test_a_value_whose_intent_was_never_ordered_goes_after_the_retention(
    store: Store,
) -> None:
    await commit(store, [put("a", b"k", b"1")], log_time_ms=1000)
    orphan = await store.stage("~n1-3", b"x" * 70_000, timeout_s=T)
    await commit(store, [put("b", b"k", b"1")], log_time_ms=9000)
    assert (await prune_all(store, Retention(0, 9000))).blobs == 0
    assert (await prune_all(store, Retention(0, 9001))).blobs == 1
    assert await store.blob(orphan, timeout_s=T) is None


async def test_a_value_staged_after_long_rest_is_not_old(store: Store) -> None:
    """The head's own log time says nothing of when it was staged: it may be days old."""
    await commit(store, [put("a", b"k", b"1")], log_time_ms=1000)
    fresh = await store.stage("big", b"x" * 70_000, timeout_s=T)
    assert (await prune_all(store, Retention(0, 10**9))).blobs == 0
    await commit(store, [Step("big", (Put(b"m", fresh),))], log_time_ms=10**9 + 1)
    assert await store.blob(fresh, timeout_s=T) == b"x" * 70_000


async def test_pruning_while_writes_and_reads_go_on(store: Store, rival: Store) -> None:
    async def write() -> None:
        for n in range(60):
            await commit(
                store,
                [Step(f"{n}", (Put(b"a", b"%d" % n), Put(b"z", b"%d" % n))), delete(f"d{n}", b"b")],
            )

    async def prune() -> None:
        while (await rival.head(timeout_s=T)).last < 120:
            head = await rival.head(timeout_s=T)
            await rival.prune(Retention(head.last - 3, 0, rows_max=5), timeout_s=T)

    async def look() -> None:
        while (await rival.head(timeout_s=T)).last < 120:
            at = (await rival.head(timeout_s=T)).last
            try:
                first, second = (await rival.read([b"a", b"z"], at=at, timeout_s=T)).versions
            except Pruned as exc:
                assert exc.floor > at  # noqa: PT017 - the other branch is asserted too
                continue
            if at:
                assert first is not None
                assert second is not None
                assert first.revision == second.revision == at - (at + 1) % 2

    async with asyncio.TaskGroup() as tasks:
        for work in (write(), prune(), look()):
            tasks.create_task(work)


async def test_what_pruning_took_is_below_the_floor_and_never_just_missing(
    store: Store, rival: Store
) -> None:
    """A watch fills from rows and then versions: a delete between the two is told, or the floor
    says that it is gone.

    etcd#18089 and #19179: a delete at the revision of a compaction was skipped in silence.
    """
    ends = 90

    async def write() -> None:
        for n in range(ends // 3):
            await commit(
                store,
                [put(f"p{n}", b"k", b"%d" % n), delete(f"d{n}", b"k"), put(f"z{n}", b"z", b"1")],
            )

    async def prune() -> None:
        while (last := (await rival.head(timeout_s=T)).last) < ends:
            await rival.prune(Retention(last, 0, rows_max=2), timeout_s=T)

    async def fill() -> None:
        told = 0
        while told < ends:
            try:
                rows = await rival.rows(told, 4, timeout_s=T)
            except Pruned as exc:
                floor = exc.floor
                assert floor > told + 1, "what comes next is there: nothing was pruned for it"
                told = floor - 1
                continue
            places = [
                (key, row.first + n)
                for row in rows
                for n, record in enumerate(row.body)
                for key in record.keys
                if row.first + n > told
            ]
            assert [revision for _, revision in places] == list(
                range(told + 1, told + 1 + len(places))
            )
            await asyncio.sleep(0)  # and whatever pruning does meanwhile
            found = await rival.versions(places, timeout_s=T)
            floor = await rival.floor(timeout_s=T)
            for (key, revision), version in zip(places, found, strict=True):
                if version is None:
                    assert floor >= revision, (
                        f"{key!r} at {revision} is missing, and the floor is {floor}"
                    )
                else:
                    assert (version.key, version.revision) == (key, revision)
                    assert version.present is (revision % 3 != 2), "a delete is told as one"
                told = revision

    try:
        async with asyncio.TaskGroup() as tasks:
            for work in (write(), prune(), fill()):
                tasks.create_task(work)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed


# ---------------------------------------------------------------------------- against a naive model

KEYS = st.sampled_from([b"a", b"a\xff", b"b", b"\xff"])
WRITES = st.dictionaries(
    KEYS, st.sampled_from(["put", "due", "delete", "large"]), min_size=1, max_size=3
)
INTENTS = st.tuples(WRITES, st.booleans(), st.booleans())
"""What it writes, whether it takes effect, whether its op_id is a client's."""
ACTIONS = st.one_of(
    st.tuples(st.just("commit"), st.lists(INTENTS, min_size=1, max_size=4)),
    st.tuples(
        st.just("prune"), st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 6))
    ),
    st.tuples(st.just("stage"), st.booleans()),
    st.tuples(st.just("take over"), st.just(None)),
)


async def act(store: Store, naive: NaiveStore, action: tuple[str, object], number: int) -> None:
    log_time_ms = 100 * number
    match action:
        case ("commit", list(intents)):
            steps = [
                await _step(store, naive, intent, f"{number}-{n}", log_time_ms)
                for n, intent in enumerate(intents)
            ]
            made = await commit(store, steps, log_time_ms=log_time_ms)
            naive.last = made.row.last
            naive.versions += made.versions
            naive.recorded.update((each.op_id, log_time_ms) for each in made.row.body)
        case ("prune", (int(behind), int(age), int(rows_max))):
            head = await store.head(timeout_s=T)
            before = await store.floor(timeout_s=T)
            below = head.last - behind
            before_ms = log_time_ms - 100 * age
            naive.forgot_before_ms = max(naive.forgot_before_ms, before_ms)
            done = await prune_all(store, Retention(below, before_ms, rows_max=rows_max))
            assert done.floor == max(before, min(below, head.last))
        case ("stage", client):
            await _stage(store, naive, f"{'' if client else '~'}orphan{number}", log_time_ms)
        case _:
            await store.take_over(TERM, COMMITTER, log_time_ms, timeout_s=T)


async def _stage(store: Store, naive: NaiveStore, op_id: str, log_time_ms: int) -> Reference:
    reference = await store.stage(op_id, f"value of {op_id}".encode() * 50, timeout_s=T)
    naive.staged[reference] = log_time_ms
    return reference


async def _step(
    store: Store,
    naive: NaiveStore,
    intent: tuple[dict[bytes, str], bool, bool],
    name: str,
    log_time_ms: int,
) -> Step:
    writes, lands, client = intent
    op_id = name if client else f"~{name}"
    if not lands:
        return Step(
            op_id, tuple(put(op_id, key, b"x").writes[0] for key in sorted(writes)), Refused(0, 0)
        )
    made = []
    for key, kind in sorted(writes.items()):
        value: bytes | Reference = (
            await _stage(store, naive, op_id, log_time_ms)
            if kind == "large"
            else f"{name}{kind}".encode()
        )
        made.append(delete(op_id, key).writes[0] if kind == "delete" else Put(key, value))
    return Step(op_id, tuple(made), expires_ms=700 if "due" in writes.values() else None)


async def check(store: Store, naive: NaiveStore) -> None:
    head, floor = await store.head(timeout_s=T), await store.floor(timeout_s=T)
    assert head.last == naive.last
    keys = naive.keys_written()
    for at in {floor, floor + 1, *range(head.last, floor, -4)}:
        if at > head.last:
            continue
        read = await store.read(keys, at=at, timeout_s=T)
        assert [v if v and v.present else None for v in read.versions] == [
            naive.shown(key, at) for key in keys
        ]
        for prefix in (b"", b"a"):
            assert (
                await store.list(prefix, at=at, limit=99, timeout_s=T)
            ).versions == naive.listing(prefix, at)
    newest = await store.read(keys, timeout_s=T)
    for key, version in zip(keys, newest.versions, strict=True):
        truth = naive.newest(key, head.last)
        assert truth is not None
        assert version == truth or (
            version is None and not truth.present and truth.revision <= floor
        )
    assert set(await store.due(1000, 999, timeout_s=T)) == naive.due(1000, head.last)
    ledger = await store.ledger(0, 9999, timeout_s=T)
    assert not ledger or ledger[-1].head == head
    assert [row.seq for row in ledger] == list(range(head.seq - len(ledger) + 1, head.seq + 1))
    used = {
        version.value
        for version in naive.needed(floor, head.last)
        if isinstance(version.value, Reference)
    }
    for reference in naive.staged:
        if reference in used:
            assert await store.blob(reference, timeout_s=T) is not None, (
                "a version still refers to it"
            )


async def check_end(store: Store, naive: NaiveStore) -> None:
    """Prune with no retention at all: then exactly what the newest state shows is kept."""
    await store.take_over(TERM, COMMITTER, 10**6, timeout_s=T)
    head = await store.head(timeout_s=T)
    await prune_all(store, Retention(head.last, 0))
    for key in naive.keys_written():
        truth = naive.shown(key, head.last)
        assert await kept(store, key, head.last) == ([truth.revision] if truth else [])
    used = {version.value for version in naive.listing(b"", head.last)}
    for reference, staged_ms in naive.staged.items():
        found = await store.blob(reference, timeout_s=T) is not None
        if reference in used or reference.op_id in naive.recorded:
            assert found == (reference in used)
        elif staged_ms >= naive.forgot_before_ms:
            assert found, "it may still be ordered"
    await prune_all(store, Retention(head.last, 10**6 + 1))
    for reference in naive.staged:
        assert (await store.blob(reference, timeout_s=T) is not None) == (reference in used)
    assert set(await store.operations(list(naive.recorded), timeout_s=T)) <= {None}


def check_histories(opener: StoreOpener, examples: int, *, shrink: bool = True) -> None:
    """Run generated histories, each on a database of its own; raise for the shortest that shows a
    difference.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(actions=st.lists(ACTIONS, max_size=14))
    def holds(actions: list[tuple[str, object]]) -> None:
        async def run() -> None:
            with tempfile.TemporaryDirectory() as directory:
                async with opener(Path(directory)) as opened, opened() as store:
                    naive = NaiveStore()
                    for number, action in enumerate(actions, 1):
                        await act(store, naive, action, number)
                        await check(store, naive)
                    await check_end(store, naive)

        asyncio.run(run())

    holds()


@pytest.mark.parametrize("adapter", STORES)
def test_pruning_never_shows(adapter: str) -> None:
    """Any history of commits, prunings, orphans and take-overs: what is kept reads like a store
    that kept all.
    """
    check_histories(STORES[adapter], EXAMPLES.get(adapter, 20))
