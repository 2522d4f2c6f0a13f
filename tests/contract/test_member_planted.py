"""Break a member's own file on purpose, one rule at a time: the suite must notice each (one that
cannot fail is none).
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from kv.ports import MemberStore
from tests.contract import test_member_store as settling
from tests.contract import test_member_store_files as files
from tests.contract import test_member_store_histories as histories
from tests.contract import test_member_store_pruning as pruning
from tests.contract import test_member_store_reads as reads
from tests.contract.member_adapters import Disk, SqliteDisk
from tests.planted import member_files  # noqa: F401 (it fills the registry)
from tests.planted.registry import planted

Check: TypeAlias = Callable[[Disk, Disk], Awaitable[None]]


def _member(test: Callable[[MemberStore], Awaitable[None]]) -> Check:
    async def check(disk: Disk, other: Disk) -> None:
        async with disk.store() as opened:
            await test(opened)

    return check


def _disk(test: Callable[[Disk], Awaitable[None]]) -> Check:
    return lambda disk, _: test(disk)


PLANTED: list[tuple[str, Check]] = [
    ("file_reads_written", _member(settling.test_what_was_settled_is_there_at_once)),
    ("file_facts_written", _member(settling.test_what_was_settled_is_there_at_once)),
    ("file_operations_written", _member(settling.test_what_was_settled_is_there_at_once)),
    ("file_head_written", _member(settling.test_what_was_settled_is_there_at_once)),
    (
        "file_known_for_ever",
        _member(settling.test_op_ids_are_known_by_log_time_and_not_by_what_is_left),
    ),
    (
        "file_first_record",
        _disk(settling.test_an_op_id_that_was_recorded_twice_is_known_by_its_newest_record),
    ),
    ("file_floor_written", _member(settling.test_a_floor_refuses_reads_as_soon_as_it_is_settled)),
    ("file_drops_what_failed", _disk(settling.test_a_full_disk_loses_nothing)),
    ("file_durable_early", _disk(settling.test_what_is_durable_survives)),
    ("file_note_apart", _disk(settling.test_everything_reads_alike_before_and_after_it_is_written)),
    ("file_shared", _disk(settling.test_a_store_is_open_once)),
    ("file_cut_versions", _disk(files.test_cut_back_leaves_what_the_commands_up_to_there_made)),
    ("file_cut_due", _member(files.test_cut_back_brings_due_keys_and_values_back)),
    ("file_cut_term", _disk(files.test_cut_back_leaves_what_the_commands_up_to_there_made)),
    ("file_term_forgotten", _disk(files.test_cut_back_leaves_what_the_commands_up_to_there_made)),
    (
        "file_installs_unchecked",
        functools.partial(files.test_what_is_no_sound_store_is_not_installed, how="torn"),
    ),
    ("file_serves_damaged", _disk(files.test_the_scrub_names_what_is_not_what_was_written)),
    ("file_scrub_blind", _disk(files.test_the_scrub_names_what_is_not_what_was_written)),
    ("file_scrub_pruned", _member(pruning.test_the_scrub_goes_round_what_was_pruned)),
    ("file_prune_rows", _member(pruning.test_no_row_above_the_dump_goes_whatever_its_floor)),
    ("file_prune_versions", _member(pruning.test_pruning_keeps_what_the_dump_needs)),
    ("file_prune_operations", _member(pruning.test_pruning_keeps_what_the_dump_needs)),
    ("file_prune_at_once", _member(pruning.test_one_step_is_small)),
    ("file_prune_unordered", _member(pruning.test_no_more_is_pruned_than_was_ordered)),
]
RACES: list[str] = ["file_stale_view", "file_reads_written", "file_head_written"]
LIVES: list[str] = [
    "file_reads_written",
    "file_facts_written",
    "file_later_view",
    "file_prune_rows",
    "file_prune_lone_tombstone",
    "file_due_superseded",
    "file_cut_due",
]


@pytest.mark.parametrize(
    ("name", "check"), PLANTED, ids=[f"{name}-{n}" for n, (name, _) in enumerate(PLANTED)]
)
async def test_the_suite_notices(name: str, check: Check, tmp_path: Path) -> None:
    with planted(name), pytest.raises((Exception, pytest.fail.Exception)):
        await check(*_disks(tmp_path / "broken"))
    await check(*_disks(tmp_path / "right"))


def _disks(directory: Path) -> tuple[Disk, Disk]:
    disks = []
    for name in ("one", "other"):
        place = directory / name
        place.mkdir(parents=True)
        disks.append(SqliteDisk(place))
    return disks[0], disks[1]


@pytest.mark.parametrize("name", RACES)
async def test_races_notice(name: str, tmp_path: Path) -> None:
    async def races() -> None:
        for n in range(5):
            directory = tmp_path / str(n)
            directory.mkdir()
            await reads.test_every_read_is_of_one_moment_at_or_after_its_call(SqliteDisk(directory))

    with planted(name), pytest.raises((Exception, pytest.fail.Exception)):
        await races()


@pytest.mark.parametrize("name", LIVES)
async def test_generated_lives_notice(name: str, tmp_path: Path) -> None:
    async def lives() -> None:
        for seed in range(histories.LIVES):
            directory = tmp_path / str(seed)
            directory.mkdir()
            await histories.Life(seed, SqliteDisk(directory), directory).live()

    with planted(name), pytest.raises((Exception, pytest.fail.Exception)):
        await lives()
