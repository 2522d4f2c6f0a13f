"""Break the memory store on purpose, one rule at a time: the suite must notice each (one that
cannot fail is none).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from backends.memory import database as memory
from backends.memory.store import MemoryStore
from kv.model import Head
from kv.ports import (
    Store,
)
from tests.contract import test_store, test_store_damage, test_store_pruning
from tests.contract.adapters import OpenStore
from tests.planted import databases  # noqa: F401 (it fills the registry)
from tests.planted.registry import planted

Check: TypeAlias = Callable[[Store], Awaitable[None]]
NOTICED = (AssertionError, pytest.fail.Exception)


def _elsewhere(what: str) -> Check:
    return lambda store: test_store.test_a_group_built_on_anything_but_the_newest_row_is_fenced(
        store, what
    )


def _rank(store: Store) -> Awaitable[None]:
    return test_store.test_rank_decides_who_may_append_and_take_over(store, 2, "n2", False)


PLANTED: list[tuple[str, Check]] = [
    ("no_digest", _elsewhere("another digest")),
    ("no_place", _elsewhere("an earlier place")),
    ("no_rank", _rank),
    (
        "no_row",
        lambda store: (
            test_store.test_taking_over_appends_an_empty_row_that_fences_what_was_in_flight(
                store, store
            )
        ),
    ),
    ("half_only", test_store.test_a_version_never_refers_to_a_value_that_is_gone),
    ("half_only", test_store.test_an_op_id_is_recorded_once_whatever_the_committer_believes),
    ("ops_twice", test_store.test_an_op_id_is_recorded_once_whatever_the_committer_believes),
    ("no_revision", test_store.test_a_read_sees_the_newest_version_at_or_below_the_revision),
    ("no_floor", test_store.test_reads_below_the_floor_are_refused),
    ("tombstones", test_store.test_a_listing_shows_present_keys_in_byte_order),
    ("empty_rows", test_store.test_rows_come_whole_in_pages_without_empty_ones),
    ("superseded_due", test_store.test_due_shows_newest_versions_only_soonest_first),
    ("falling_cursor", lambda store: test_store.test_cursors_only_rise(store, store)),
    ("dangling", test_store.test_a_version_never_refers_to_a_value_that_is_gone),
    (
        "late_floor",
        lambda store: (
            test_store_pruning.test_what_pruning_took_is_below_the_floor_and_never_just_missing(
                store, store
            )
        ),
    ),
    ("serves_damaged", test_store_damage.test_a_value_that_is_not_what_was_written_is_never_served),
    (
        "takes_back_anothers",
        test_store_damage.test_what_is_taken_back_goes_at_once_and_only_what_nobody_else_staged,
    ),
    ("never_full", test_store_damage.test_what_waits_for_its_intent_is_bounded),
    ("keeps_unordered", test_store_damage.test_what_nobody_ordered_goes_after_its_time),
]
HISTORIES: list[str] = [
    "lone_tombstone",
    "late_floor",
    "too_eager",
    "sweeps_used",
    "sweeps_pending",
    "prunes_head",
    "superseded_due",
]


@pytest.mark.parametrize(
    ("name", "check"), PLANTED, ids=[f"{name}-{n}" for n, (name, _) in enumerate(PLANTED)]
)
async def test_the_suite_notices(name: str, check: Check) -> None:
    with planted(name), pytest.raises(NOTICED):
        await check(MemoryStore(memory.MemoryDatabase()))
    await check(MemoryStore(memory.MemoryDatabase()))


@pytest.mark.parametrize("name", HISTORIES)
def test_generated_histories_notice(name: str) -> None:
    @asynccontextmanager
    async def opener(directory: Path) -> AsyncIterator[OpenStore]:
        database = memory.MemoryDatabase()
        yield lambda: MemoryStore(database)

    with planted(name), pytest.raises((*NOTICED, KeyError)):
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
