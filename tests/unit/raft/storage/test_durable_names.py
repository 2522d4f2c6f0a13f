"""Names that a later promise relies on are durable first, and want of descriptors ends nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from coordinator.raft.storage.journal import Journal, Policy
from coordinator.raft.storage.real_disk import RealDisk, make_directory_now
from coordinator.raft.storage.snapshot import SnapshotStore
from tests.simulation.disk import Died, SimDisk
from tests.virtual import run

POLICIES: tuple[Policy, ...] = ("always", "interval", "off")
SEEDS = range(40)


def journal(
    disk: SimDisk | RealDisk, policy: Policy = "always", *, segment_bytes_max: int = 1 << 20
) -> Journal:
    return Journal(
        disk=disk, cluster="c", member="m", fsync=policy, segment_bytes_max=segment_bytes_max
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_vote_that_is_answered_by_after_a_restart_is_durable(policy: Policy) -> None:
    """Killed between the rename of the vote file and the directory's sync; the same candidate asks
    again; power cut.
    """
    for seed in SEEDS:
        disk = SimDisk(random.Random(seed))
        journal(disk, policy).setCurrentTerm(5, None)
        disk.crash()
        voter = journal(disk, policy)
        disk.die_at(4)  # create, append, sync, rename | sync the directory
        with pytest.raises(Died, match="sync directory"):
            voter.setCurrentTerm(6, "A")
        disk.crash()
        voter = journal(disk, policy)
        promised = (voter.getCurrentTerm(), voter.getVotedForNodeId())
        voter.setCurrentTerm(*promised)  # granted again: the answer leaves now
        disk.power_cut()
        voter = journal(disk, policy)
        assert (voter.getCurrentTerm(), voter.getVotedForNodeId()) == promised


def test_a_flush_claims_nothing_of_a_segment_whose_name_is_not_durable() -> None:
    """A group's directory sync is under way when it is called."""

    async def story(seed: int) -> None:
        disk = SimDisk(random.Random(seed), sync_s=(0.01, 0.01), slow_share=0)
        log = journal(disk, segment_bytes_max=200)
        log.add(b"a" * 150, 1, 1)
        log.flush()
        log.add(b"b" * 150, 2, 1)
        log.maybe_sync()
        while log._writer.flight is not None or log._task is None or len(disk.names()) < 3:
            await asyncio.sleep(0.0005)
        log.flush()
        claimed = log.synced_index
        disk.power_cut()
        assert journal(disk)._log.last_index >= claimed

    for seed in SEEDS:
        run(partial(story, seed))


def test_a_snapshot_that_a_start_builds_upon_is_durable() -> None:
    """Killed between its rename and the directory's sync; the log is compacted after the restart;
    power cut.
    """

    async def story(seed: int) -> None:
        disk = SimDisk(random.Random(seed))
        store = SnapshotStore(disk, cluster="c")
        await store.save(1, 1, b"", lambda: b"old")
        disk.steps = []
        await store.save(2, 1, b"", lambda: b"new")
        count = [step.operation for step in disk.steps].index("rename")
        disk.die_at(count + 1)
        with contextlib.suppress(Died):
            await store.save(3, 1, b"", lambda: b"newest")
        disk.crash()
        found = SnapshotStore(disk, cluster="c").load_now()
        disk.power_cut()
        again = SnapshotStore(disk, cluster="c").load_now()
        assert found is not None
        assert again is not None
        assert again.body == found.body

    for seed in SEEDS:
        run(partial(story, seed))


def test_a_new_directory_is_durable_with_all_that_was_missing_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def watched(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        sync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    make_directory_now(tmp_path / "a" / "b")
    assert synced == [str(tmp_path / "a"), str(tmp_path)]
    synced.clear()
    make_directory_now(tmp_path / "a" / "b")
    assert not synced


# -------------------------------------------------------------------------------------- descriptors


def test_the_next_segment_waits_for_a_descriptor() -> None:
    async def story() -> None:
        disk = SimDisk(random.Random(1))
        log = journal(disk, segment_bytes_max=200)
        fatal: list[BaseException] = []
        log.on_fatal = fatal.append
        log.add(b"a" * 150, 1, 1)
        log.flush()
        disk.descriptors_out = True
        log.add(b"b" * 150, 2, 1)
        log.maybe_sync()
        while not log.waits_for_room:
            await asyncio.sleep(0.01)
        await asyncio.sleep(5)
        assert log.synced_index == 1, "nothing is acknowledged meanwhile"
        disk.descriptors_out = False
        while log.synced_index < 2:
            await asyncio.sleep(0.01)
        assert not log.waits_for_room
        assert not fatal
        await log.aclose()
        assert journal(disk)._log.last_index == 2

    run(story)


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Take all that this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connections_that_take_every_descriptor_stop_no_vote_no_segment_and_no_snapshot(
    tmp_path: Path,
) -> None:
    disk = RealDisk(tmp_path)
    log = journal(disk, segment_bytes_max=200)
    store = SnapshotStore(disk, cluster="c")
    log.add(b"a" * 150, 1, 1)
    log.maybe_sync()
    while log.synced_index < 1:
        await asyncio.sleep(0.001)
    with no_descriptor_left():
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        log.setCurrentTerm(2, "A")
        log.add(b"b" * 150, 2, 2)
        log.maybe_sync()
        while log.synced_index < 2:
            await asyncio.sleep(0.001)
        await store.save(2, 2, b"", lambda: b"whole")
        log.setCurrentTerm(3, None)
    await log.aclose()
    disk.close()
    disk = RealDisk(tmp_path)
    log = journal(disk)
    assert (log.getCurrentTerm(), log._log.last_index) == (3, 2)
    found = SnapshotStore(disk, cluster="c").load_now()
    assert found is not None
    assert found.body == b"whole"
    await log.aclose()
    disk.close()
