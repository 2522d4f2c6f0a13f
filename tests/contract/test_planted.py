"""Break the memory store on purpose, one rule at a time: the suite must notice each (one that
cannot fail is none).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from backends.fence import empty_row, outranks
from backends.memory import MemoryDatabase, MemoryStore
from kv.model import Group, Head, LedgerRow, Reference, Version
from kv.ports import (
    Appended,
    Fenced,
    Listing,
    Outranked,
    Pruning,
    Read,
    Retention,
    Store,
    TakenOver,
)
from tests.contract import test_store, test_store_damage, test_store_pruning
from tests.contract.adapters import OpenStore

Check: TypeAlias = Callable[[Store], Awaitable[None]]
NOTICED = (AssertionError, pytest.fail.Exception)


class NoDigest(MemoryDatabase):
    def append(self, group: Group) -> Appended | Fenced:
        base = msgspec.structs.replace(group.base, digest=self.head().digest)
        return super().append(msgspec.structs.replace(group, base=base))


class NoPlace(MemoryDatabase):
    def append(self, group: Group) -> Appended | Fenced:
        head = self.head()
        if (head.last, head.digest) == (group.base.last, group.base.digest):
            row = msgspec.structs.replace(group.row, seq=head.seq + 1)
            group = msgspec.structs.replace(group, base=head, row=row)
        return super().append(group)


class NoRank(MemoryDatabase):
    def append(self, group: Group) -> Appended | Fenced:
        head = self.head()
        base = msgspec.structs.replace(head, term=0)
        if head == group.base and outranks(head, group.row.term, group.row.committer):
            self._rows[-1] = msgspec.structs.replace(self._rows[-1], term=0)
            group = msgspec.structs.replace(group, base=base)
        return super().append(group)


class NoRow(MemoryDatabase):
    """Taking over reads the head and appends nothing."""

    def take_over(
        self, term: int, committer: str, log_time_ms: int, adopt_last: int | None
    ) -> TakenOver | Outranked:
        head = self.head()
        if outranks(head, term, committer):
            return Outranked(head)
        return TakenOver(head, empty_row(head, term, committer, log_time_ms, adopt_last).head)


class HalfOnly(MemoryDatabase):
    """What fails half-way leaves its first half behind."""

    def append(self, group: Group) -> Appended | Fenced:
        if self.head() == group.base:
            for version in group.versions[:1]:
                self._insert(version)
        return super().append(group)


class OpsTwice(MemoryDatabase):
    def append(self, group: Group) -> Appended | Fenced:
        for operation in group.operations:
            self._operations.pop(operation.op_id, None)
        return super().append(group)


class NoRevision(MemoryDatabase):
    def read(self, keys: Sequence[bytes], at: int | None, settled: int) -> Read:
        self._check_floor(at)
        return super().read(keys, None, settled)


class NoFloor(MemoryDatabase):
    def _check_floor(self, at: int | None) -> None:
        return


class Tombstones(MemoryDatabase):
    def list(
        self,
        bounds: tuple[bytes, bytes],
        limit: int,
        at: int | None,
        settled: int,
        *,
        keys_only: bool,
    ) -> Listing:
        found = super().list(bounds, 10**6, at, settled, keys_only=keys_only)
        gone = [
            v
            for key in self._keys
            if (v := self._newest(key, at)) and not v.present and bounds[0] <= key < bounds[1]
        ]
        shown = sorted((*found.versions, *gone), key=lambda version: version.key)
        return msgspec.structs.replace(
            found, versions=tuple(shown[:limit]), more=len(shown) > limit
        )


class EmptyRows(MemoryDatabase):
    def rows(self, after: int, limit: int) -> tuple[LedgerRow, ...]:
        super().rows(after, limit)
        return tuple(row for row in self._rows if row.last > after)[:limit]


class SupersededDue(MemoryDatabase):
    def _insert(self, version: Version) -> None:
        before = self._due.get(version.key)
        super()._insert(version)
        if before is not None:
            self._due.setdefault(version.key, before)


class FallingCursor(MemoryDatabase):
    def move_cursor(self, name: str, to: int) -> None:
        self._cursors[name] = to


class LoneTombstone(MemoryDatabase):
    """Tombstones go without the versions that they hide."""

    def prune(self, retention: Retention) -> Pruning:
        for key in self._keys:
            newest = self._newest(key, retention.revision_below)
            if newest is not None and not newest.present:
                self._versions[key] = [v for v in self._versions[key] if v is not newest] or [
                    newest
                ]
        return super().prune(retention)


class LateFloor(MemoryDatabase):
    """Versions go before the floor is raised."""

    def prune(self, retention: Retention) -> Pruning:
        before = self._floor
        done = super().prune(retention)
        self._floor = before
        return msgspec.structs.replace(done, floor=before)


class TooEager(MemoryDatabase):
    """The version at the floor itself goes too."""

    def prune(self, retention: Retention) -> Pruning:
        done = super().prune(retention)
        for key in list(self._keys):
            self._versions[key] = self._versions[key][-1:]
        return done


class SweepsUsed(MemoryDatabase):
    def _sweepable(self, retention: Retention) -> Iterator[tuple[str, bytes]]:
        yield from (place for place in self._blobs if place[0] in self._recorded)


class SweepsPending(MemoryDatabase):
    def _sweepable(self, retention: Retention) -> Iterator[tuple[str, bytes]]:
        yield from super()._sweepable(
            msgspec.structs.replace(retention, operations_before_ms=2**60)
        )


class ServesDamaged(MemoryDatabase):
    """What the disk holds is taken for what was written."""

    def damage(self, key: bytes, revision: int) -> None:
        self._versions[key][0] = msgspec.structs.replace(self._versions[key][0], value=b"another")


class TakesBackAnothers(MemoryDatabase):
    def unstage(self, reference: Reference) -> None:
        self._blobs.pop((reference.op_id, reference.hash), None)


class NeverFull(MemoryDatabase):
    def stage(self, op_id: str, value: bytes, bytes_max: int = 0) -> Reference:
        return super().stage(op_id, value, 2**60)


class KeepsUnordered(MemoryDatabase):
    def _sweepable(self, retention: Retention) -> Iterator[tuple[str, bytes]]:
        yield from super()._sweepable(msgspec.structs.replace(retention, staged_before_ms=0))


class PrunesHead(MemoryDatabase):
    def prune(self, retention: Retention) -> Pruning:
        done = super().prune(retention)
        if self._rows and self._rows[-1].last <= retention.revision_below:
            self._rows.clear()
        return done


class Dangling(MemoryDatabase):
    def append(self, group: Group) -> Appended | Fenced:
        kept = dict(self._blobs)
        for version in group.versions:
            if isinstance(version.value, msgspec.Struct):
                self.stage(version.value.op_id, b"")
                self._blobs.setdefault(
                    (version.value.op_id, version.value.hash), next(iter(self._blobs.values()))
                )
        try:
            return super().append(group)
        finally:
            self._blobs = kept


def _elsewhere(what: str) -> Check:
    return lambda store: test_store.test_a_group_built_on_anything_but_the_newest_row_is_fenced(
        store, what
    )


def _rank(store: Store) -> Awaitable[None]:
    return test_store.test_rank_decides_who_may_append_and_take_over(store, 2, "n2", False)


PLANTED: list[tuple[type[MemoryDatabase], Check]] = [
    (NoDigest, _elsewhere("another digest")),
    (NoPlace, _elsewhere("an earlier place")),
    (NoRank, _rank),
    (
        NoRow,
        lambda store: (
            test_store.test_taking_over_appends_an_empty_row_that_fences_what_was_in_flight(
                store, store
            )
        ),
    ),
    (HalfOnly, test_store.test_a_version_never_refers_to_a_value_that_is_gone),
    (HalfOnly, test_store.test_an_op_id_is_recorded_once_whatever_the_committer_believes),
    (OpsTwice, test_store.test_an_op_id_is_recorded_once_whatever_the_committer_believes),
    (NoRevision, test_store.test_a_read_sees_the_newest_version_at_or_below_the_revision),
    (NoFloor, test_store.test_reads_below_the_floor_are_refused),
    (Tombstones, test_store.test_a_listing_shows_present_keys_in_byte_order),
    (EmptyRows, test_store.test_rows_come_whole_in_pages_without_empty_ones),
    (SupersededDue, test_store.test_due_shows_newest_versions_only_soonest_first),
    (FallingCursor, lambda store: test_store.test_cursors_only_rise(store, store)),
    (Dangling, test_store.test_a_version_never_refers_to_a_value_that_is_gone),
    (
        LateFloor,
        lambda store: (
            test_store_pruning.test_what_pruning_took_is_below_the_floor_and_never_just_missing(
                store, store
            )
        ),
    ),
    (ServesDamaged, test_store_damage.test_a_value_that_is_not_what_was_written_is_never_served),
    (
        TakesBackAnothers,
        test_store_damage.test_what_is_taken_back_goes_at_once_and_only_what_nobody_else_staged,
    ),
    (NeverFull, test_store_damage.test_what_waits_for_its_intent_is_bounded),
    (KeepsUnordered, test_store_damage.test_what_nobody_ordered_goes_after_its_time),
]
HISTORIES: list[type[MemoryDatabase]] = [
    LoneTombstone,
    LateFloor,
    TooEager,
    SweepsUsed,
    SweepsPending,
    PrunesHead,
    SupersededDue,
]


@pytest.mark.parametrize(
    ("broken", "check"),
    PLANTED,
    ids=[f"{each.__name__}-{n}" for n, (each, _) in enumerate(PLANTED)],
)
async def test_the_suite_notices(broken: type[MemoryDatabase], check: Check) -> None:
    with pytest.raises(NOTICED):
        await check(MemoryStore(broken()))
    await check(MemoryStore(MemoryDatabase()))


@pytest.mark.parametrize("broken", HISTORIES)
def test_generated_histories_notice(broken: type[MemoryDatabase]) -> None:
    @asynccontextmanager
    async def opener(directory: Path) -> AsyncIterator[OpenStore]:
        database = broken()
        yield lambda: MemoryStore(database)

    with pytest.raises((*NOTICED, KeyError)):
        test_store_pruning.check_histories(opener, 150, shrink=False)


def test_heads_compare_by_every_field() -> None:
    """The fence of the memory store leans on it."""
    head = Head(5, 3, "n1", 20, b"\1" * 32)
    for change in (
        {"seq": 6},
        {"term": 4},
        {"committer": "n2"},
        {"last": 21},
        {"digest": b"\2" * 32},
    ):
        assert msgspec.structs.replace(head, **change) != head
