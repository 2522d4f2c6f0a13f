"""What the journal promises while it lives, what it refuses to read, and that damage is never taken
for an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pysyncobj.journal import FileJournal, MemoryJournal

from coordinator.raft.storage import writer
from coordinator.raft.storage.disk import SyncError
from coordinator.raft.storage.journal import Journal, Policy
from coordinator.raft.storage.real_disk import RealDisk
from coordinator.raft.storage.records import (
    FORMAT,
    RECORD_HEAD_BYTES,
    SegmentHeader,
    decode_segment,
    encode_segment,
)
from kv.errors import BadRequest
from tests.simulation.disk import SimDisk
from tests.virtual import run


def sim(seed: int = 1, **options: Any) -> SimDisk:
    return SimDisk(random.Random(seed), **options)


def opened(disk: SimDisk, fsync: Policy = "always", **options: Any) -> Journal:
    settings: dict[str, Any] = {"cluster": "c", "member": "n1", "segment_bytes_max": 300} | options
    return Journal(disk=disk, fsync=fsync, **settings)


def filled(disk: SimDisk, last: int = 20, fsync: Policy = "always") -> Journal:
    journal = opened(disk, fsync)
    journal.setCurrentTerm(3, "n2")
    for index in range(1, last + 1):
        journal.add(b"%d" % index * 10, index, 1)
    journal.flush()
    return journal


# -------------------------------------------------------------------------- as the library calls it

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.binary(max_size=60)),
        st.tuples(st.just("from"), st.integers(0, 30)),
        st.tuples(st.just("to"), st.integers(0, 30)),
        st.tuples(st.just("clear"), st.none()),
        st.tuples(st.just("reopen"), st.none()),
        st.tuples(st.just("hint"), st.integers(1, 40)),
        st.tuples(st.just("vote"), st.integers(0, 5)),
    ),
    max_size=60,
)


@given(operations=OPERATIONS, fsync=st.sampled_from(["always", "interval", "off"]))
@example(operations=[("add", b"")] * 11 + [("to", 40)], fsync="always")
@settings(max_examples=150, deadline=None)
def test_it_is_what_the_librarys_own_journal_in_memory_is(
    operations: list[tuple[str, object]], fsync: Policy
) -> None:
    disk, twin = sim(), MemoryJournal()
    ours = opened(disk, fsync)
    following, term = 1, 1
    for name, value in operations:
        match name:
            case "add":
                for journal in (ours, twin):
                    journal.add(value, following, term)  # type: ignore[arg-type]
                following += 1
            case "from":
                for journal in (ours, twin):
                    journal.deleteEntriesFrom(value)  # type: ignore[arg-type]
                following = twin[-1][1] + 1 if len(twin) else following
                term += 1
            case "to":
                for journal in (ours, twin):
                    journal.deleteEntriesTo(value)  # type: ignore[arg-type]
            case "clear":
                ours.clear()
                twin.clear()
                following += 7
            case "reopen":
                ours._destroy()
                ours = opened(disk, fsync)
            case "hint":
                ours.setRaftCommitIndex(value)  # type: ignore[arg-type]
            case "vote":
                for journal in (ours, twin):
                    journal.setCurrentTerm(value, f"n{value}")  # type: ignore[arg-type]
        assert ours[:] == twin[:]
        assert len(ours) == len(twin)
        if len(twin):
            assert ours[0] == twin[0]
            assert ours[-1] == twin[-1]
            assert ours[1:3] == twin[1:3]
        assert ours.getCurrentTerm() == twin.getCurrentTerm()
        assert ours.getVotedForNodeId() == twin.getVotedForNodeId()
        held = sum(disk.size(n) for n in disk.names() if n != "journal.vote") + ours.unsynced_bytes
        # Segments without a live entry count no more; they go once what was written so far is
        # durable.
        assert ours.size_bytes == held if not ours._obsolete else ours.size_bytes < held


def test_an_entry_that_does_not_follow_is_refused() -> None:
    journal = filled(sim(), 3)
    with pytest.raises(ValueError, match="entry 5 does not follow 3"):
        journal.add(b"x", 5, 1)
    assert len(journal) == 3


def test_the_commit_index_is_a_hint_that_never_exceeds_the_log() -> None:
    disk = sim()
    journal = filled(disk, 5)
    assert journal.getRaftCommitIndex() == 1
    journal.setRaftCommitIndex(4)
    assert journal.getRaftCommitIndex() == 4
    disk.power_cut()
    journal = opened(disk)
    assert journal.getRaftCommitIndex() == 1, "it was worth no fsync"
    journal.setRaftCommitIndex(5)
    journal._destroy()
    journal = opened(disk)
    assert journal.getRaftCommitIndex() == 5
    journal.deleteEntriesFrom(2)
    journal._destroy()
    assert opened(disk).getRaftCommitIndex() == 2
    journal = opened(disk)
    journal.clear()
    journal._destroy()
    assert opened(disk).getRaftCommitIndex() == 1


# ------------------------------------------------------------------------------------ group syncing


def test_synced_index_follows_the_syncs() -> None:
    async def story() -> None:
        disk = sim()
        journal = opened(disk)
        told: list[int] = []
        journal.on_synced = told.append
        assert not journal.maybe_sync() or journal.synced_index == 0
        for index in (1, 2, 3):
            journal.add(b"x", index, 1)
        journal.maybe_sync()
        assert not journal.maybe_sync(), "one at a time"
        assert journal.synced_index == 0
        await asyncio.sleep(0)
        journal.add(b"late", 4, 1)
        disk_before = disk.steps = []
        await asyncio.sleep(1)
        assert told == [3, 4], "what arrives during a group makes the next one"
        assert journal.synced_index == 4
        assert [step.operation for step in disk_before].count("sync") == 2
        assert not journal.maybe_sync(), "nothing is unsynced"
        await journal.aclose()

    run(story)


def test_a_cut_during_a_sync_is_not_taken_back_by_it() -> None:
    async def story() -> None:
        journal = opened(sim(sync_s=(0.1, 0.1), slow_share=0))
        told: list[int] = []
        journal.on_synced = told.append
        for index in range(1, 6):
            journal.add(b"old", index, 1)
        journal.maybe_sync()
        await asyncio.sleep(0.05)
        journal.deleteEntriesFrom(2)
        journal.add(b"new", 3, 2)
        await asyncio.sleep(0.2)
        assert told == [2], "of what that group made durable only 1 and 2 are the log"
        await asyncio.sleep(1)
        assert told == [2, 3]
        journal.deleteEntriesFrom(1)
        assert journal.synced_index == 1
        journal.clear()
        assert journal.synced_index == 0
        journal.add(b"base", 90, 3)
        assert journal.synced_index == 0
        journal.maybe_sync()
        await asyncio.sleep(1)
        assert journal.synced_index == 90
        await journal.aclose()

    run(story)


@pytest.mark.parametrize("fsync", ["off", "interval"])
def test_the_other_policies_promise_what_is_written(fsync: Policy) -> None:
    async def story() -> None:
        disk = sim()
        disk.steps = []
        journal = opened(disk, fsync)
        for index in range(1, 30):
            journal.add(b"x" * 20, index, 1)
            assert journal.synced_index == index
            journal.maybe_sync()
        assert journal.unsynced_bytes == 0
        await asyncio.sleep(1)
        syncs = [
            step
            for step in disk.steps
            if step.operation == "sync" and step.name != "journal.vote.new"
        ]
        segments = [name for name in disk.names() if name != "journal.vote"]
        assert len(syncs) == (0 if fsync == "off" else len(segments))
        if fsync == "interval":
            disk.power_cut()
            assert len(opened(disk, fsync)) == 29
        await asyncio.sleep(0)
        assert journal.policy == fsync

    run(story)


def test_a_failed_fsync_is_fatal_and_not_retried() -> None:
    async def story() -> None:
        disk = sim()
        journal = filled(disk, 3)
        fatal: list[BaseException] = []
        journal.on_fatal = fatal.append
        disk.sync_fails = True
        journal.add(b"x", 4, 1)
        journal.maybe_sync()
        await asyncio.sleep(1)
        assert [type(exc) for exc in fatal] == [SyncError]
        disk.sync_fails = False
        journal.add(b"y", 5, 1)
        assert not journal.maybe_sync()
        await asyncio.sleep(1)
        assert journal.synced_index == 3
        await journal.aclose()
        assert len(fatal) == 1

    run(story)


def test_a_failed_vote_is_fatal_and_not_given() -> None:
    disk = sim()
    journal = filled(disk)
    fatal: list[BaseException] = []
    journal.on_fatal = fatal.append
    disk.sync_fails = True
    with pytest.raises(OSError, match="Input/output error"):
        journal.setCurrentTerm(4, "n3")
    assert len(fatal) == 1
    assert journal.getCurrentTerm() == 3
    assert journal.getVotedForNodeId() == "n2"


def test_a_full_disk_is_waited_for() -> None:
    async def story() -> None:
        disk = sim()
        journal = filled(disk, 3)
        fatal: list[BaseException] = []
        journal.on_fatal = fatal.append
        disk.capacity_bytes = sum(disk.size(name) for name in disk.names()) + 5
        journal.add(b"x" * 50, 4, 1)
        journal.maybe_sync()
        await asyncio.sleep(5)
        assert journal.waits_for_room
        assert journal.synced_index == 3
        disk.capacity_bytes = None
        await asyncio.sleep(5)
        assert journal.synced_index == 4
        assert not journal.waits_for_room
        assert not fatal
        disk.power_cut()
        assert opened(disk)[-1][1] == 4

    run(story)


@pytest.mark.parametrize("size", [20, 400])
@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.004])
def test_a_flush_does_not_overtake_a_group(size: int, after_s: float) -> None:
    """The group ends in a segment that has no file yet: what follows it must not be that file's
    beginning.
    """

    async def story() -> None:
        disk = sim()
        journal = filled(disk, 3)
        told: list[int] = []
        journal.on_synced = told.append
        for index in range(4, 12):
            journal.add(bytes([index]) * size, index, 1)
        journal.maybe_sync()
        await asyncio.sleep(after_s)
        journal.add(b"behind it", 12, 1)
        journal.flush()
        assert journal.synced_index == 12
        await asyncio.sleep(1)
        journal.add(b"and later", 13, 1)
        journal.maybe_sync()
        await asyncio.sleep(1)
        assert told == sorted(told)
        assert journal.synced_index == told[-1] == 13
        disk.power_cut()
        assert opened(disk)[:] == journal[:]

    run(story)


@pytest.mark.parametrize("room", [True, False])
@pytest.mark.parametrize("waits", [True, False])
def test_a_flush_finds_a_group_that_found_no_room(room: bool, waits: bool) -> None:
    async def story() -> None:
        disk = sim()
        journal = filled(disk, 3)
        fatal: list[BaseException] = []
        journal.on_fatal = fatal.append
        disk.capacity_bytes = sum(disk.size(name) for name in disk.names()) + 5
        journal.add(b"x" * 50, 4, 1)
        journal.maybe_sync()
        await asyncio.sleep(0.2 if waits else 0)
        assert journal.waits_for_room == waits
        journal.add(b"y" * 50, 5, 1)
        if room:
            disk.capacity_bytes = None
            journal.flush()
        else:
            with pytest.raises(OSError, match="No space"):
                journal.flush()
            disk.capacity_bytes = None
        await asyncio.sleep(5)
        assert len(fatal) == (not room)
        disk.power_cut()
        assert opened(disk)[-1][1] == (5 if room else 3)

    run(story)


def test_nothing_is_written_behind_what_was_given_up() -> None:
    """The next segment's header says that the one before was durable: without the piece that waited
    for room that is not so, and the next start refuses the log.
    """

    async def story() -> None:
        disk = sim()
        journal = filled(disk, 3)
        journal.on_fatal = lambda _: None
        disk.capacity_bytes = sum(disk.size(name) for name in disk.names()) + 5
        for index in range(4, 12):
            journal.add(bytes([index]) * 60, index, 1)
        journal.maybe_sync()
        await asyncio.sleep(0.2)
        assert journal.waits_for_room
        with pytest.raises(OSError, match="No space"):
            journal.setCurrentTerm(4, None)
        disk.capacity_bytes = None
        await asyncio.sleep(5)
        disk.crash()
        assert opened(disk)[-1][1] == 3

    run(story)


def test_a_disk_that_stays_full_is_fatal() -> None:
    async def story() -> None:
        disk = sim()
        journal = filled(disk, 3)
        fatal: list[BaseException] = []
        journal.on_fatal = fatal.append
        disk.capacity_bytes = 0
        journal.add(b"x", 4, 1)
        journal.maybe_sync()
        await asyncio.sleep(writer.FULL_PATIENCE_S + 5)
        assert [getattr(exc, "errno", None) for exc in fatal] == [errno.ENOSPC]
        await journal.aclose()

    run(story)


def test_closing_syncs_what_waits() -> None:
    async def story() -> None:
        disk = sim()
        journal = opened(disk)
        journal.add(b"x", 1, 1)
        journal.maybe_sync()
        await asyncio.sleep(0)
        journal.add(b"y", 2, 1)
        await journal.aclose()
        disk.power_cut()
        assert len(opened(disk)) == 2
        again = opened(disk)
        again.add(b"z", 3, 1)
        again._destroy()
        again._destroy()
        disk.power_cut()
        assert len(opened(disk)) == 3

    run(story)


def test_a_group_whose_sync_is_cancelled_leaves_no_hole() -> None:
    """All tasks of a loop may be cancelled before the journal is closed: what comes behind half a
    group stays away.
    """

    async def story(disk: SimDisk) -> None:
        journal = opened(disk)
        for index in range(1, 31):  # several segments, in one group
            journal.add(bytes(20), index, 1)
        journal.maybe_sync()
        await asyncio.sleep(0)
        for index in range(31, 61):
            journal.add(bytes(20), index, 1)
        task = journal._task
        assert task is not None
        task.cancel()
        await asyncio.wait([task])
        await journal.aclose()

    for seed in range(20):
        disk = sim(seed)
        run(partial(story, disk))
        disk.crash()
        held = opened(disk)
        assert [entry[1] for entry in held[:]] == list(range(1, len(held) + 1))


def test_compaction_bounds_the_files_and_copies_nothing() -> None:
    async def story() -> None:
        disk = sim()
        journal = opened(disk)
        most = 0
        for index in range(1, 2000):
            journal.add(b"x" * 30, index, 1)
            if index % 50 == 0:
                journal.deleteEntriesTo(len(journal) - 10)
            if index % 10 == 0:
                journal.maybe_sync()
                await asyncio.sleep(0.1)
            most = max(most, journal.size_bytes)
        await journal.aclose()
        segments = [name for name in disk.names() if name != "journal.vote"]
        assert len(segments) <= 14
        assert most < 80 * 70
        assert len(opened(disk)) == len(journal)

    run(story)


# -------------------------------------------------------------------------- what it refuses to read


def copy_of(disk: SimDisk) -> dict[str, bytes]:
    return {name: disk.load_now(name) for name in disk.names()}


def disk_of(files: dict[str, bytes]) -> SimDisk:
    disk = sim()
    for name, content in files.items():
        disk.write_whole(name, content)
    return disk


def closed_files(last: int = 20) -> dict[str, bytes]:
    disk = sim()
    filled(disk, last)._destroy()
    return copy_of(disk)


def refused_by(disk: SimDisk, fsync: Policy = "always") -> BadRequest | None:
    try:
        opened(disk, fsync)
    except BadRequest as exc:
        return exc
    return None


def test_every_damaged_byte_is_noticed() -> None:
    """Flip each byte of each file: it is refused by name with the files kept, or the torn end alone
    is cut.
    """
    files = closed_files()
    newest = max(name for name in files if name != "journal.vote")
    whole = opened(disk_of(files))[:]
    assert len(files) >= 4
    refused = cut = 0
    for name, content in files.items():
        for offset in range(len(content)):
            damaged = dict(files)
            damaged[name] = (
                content[:offset] + bytes([content[offset] ^ 0x20]) + content[offset + 1 :]
            )
            disk = disk_of(damaged)
            refusal = refused_by(disk)
            if refusal is not None:
                refused += 1
                assert refusal.code in ("journal_corrupt", "journal_newer", "journal_foreign")
                assert name in refusal.detail
                assert copy_of(disk) == damaged, "the files are kept"
            else:
                cut += 1
                assert name == newest
                assert opened(disk)[:] == whole[:-1]
                assert opened(disk).getVotedForNodeId() == "n2"
    assert cut == RECORD_HEAD_BYTES + len(whole[-1][0])
    assert refused + cut == sum(map(len, files.values()))


def test_every_torn_length_of_the_newest_segment_is_cut() -> None:
    files = closed_files()
    newest = max(name for name in files if name != "journal.vote")
    whole = opened(disk_of(files))[:]
    older = opened(disk_of({name: content for name, content in files.items() if name != newest}))[:]
    seen = set()
    for length in range(len(files[newest])):
        disk = disk_of(files | {newest: files[newest][:length]})
        journal = opened(disk)
        assert whole[: len(journal)] == journal[:]
        assert len(journal) >= len(older)
        seen.add(len(journal))
        journal.add(b"next", len(journal) + 1, 9)
        journal._destroy()
        assert opened(disk)[-1] == (b"next", len(journal), 9)
    assert seen == set(range(len(older), len(whole)))


def test_a_torn_length_of_an_older_segment_is_damage() -> None:
    files = closed_files()
    oldest = min(name for name in files if name != "journal.vote")
    for length in range(len(files[oldest])):
        with pytest.raises(BadRequest, match=oldest):
            opened(disk_of(files | {oldest: files[oldest][:length]}))


def test_missing_files_are_named() -> None:
    files = closed_files()
    segments = sorted(name for name in files if name != "journal.vote")
    for name in ("journal.vote", *segments[1:-1]):
        rest = {other: content for other, content in files.items() if other != name}
        with pytest.raises(BadRequest, match=rf"{name}: the file is missing"):
            opened(disk_of(rest))


def test_a_value_that_looks_like_a_journal_is_a_value() -> None:
    """A torn record that contains another journal's good records is torn, not damaged."""
    inner = closed_files(2)["journal.0000000001"]
    disk = sim()
    journal = opened(disk, segment_bytes_max=1 << 20)
    journal.add(b"first", 1, 1)
    journal.add(inner, 2, 1)
    journal._destroy()
    files = copy_of(disk)
    torn = opened(
        disk_of({**files, "journal.0000000001": files["journal.0000000001"][:-1]}),
        segment_bytes_max=1 << 20,
    )
    assert [entry[1] for entry in torn[:]] == [1]


def test_journals_of_others_and_of_the_future_are_refused_by_name() -> None:
    files = closed_files()
    for options in ({"cluster": "other"}, {"member": "n2"}):
        with pytest.raises(BadRequest, match="belongs to member 'n1' of cluster 'c'") as caught:
            opened(disk_of(files), "always", **options)
        assert caught.value.code == "journal_foreign"
    for name, content in files.items():
        newer = content[:8] + (FORMAT + 1).to_bytes(2, "little") + content[10:]
        with pytest.raises(BadRequest, match=rf"{name}: format {FORMAT + 1}") as caught:
            opened(disk_of(files | {name: newer}))
        assert caught.value.code == "journal_newer"
    renamed = dict(files)
    renamed["journal.0000000002"] = files["journal.0000000001"]
    with pytest.raises(BadRequest, match="it says that it is segment 1"):
        opened(disk_of(renamed))


def test_what_an_unsynced_policy_lost_is_set_aside() -> None:
    """Under off, a power cut may take the middle: the log goes on before the hole, and the rest is
    kept aside.
    """
    seen = set()
    for seed in range(60):
        disk = sim(seed)
        filled(disk, 4, "off")
        disk.sync_directory_now()
        journal = opened(disk, "off")
        for index in range(5, 30):
            journal.add(b"x" * 20, index, 1)
        disk.sync_directory_now()
        disk.power_cut()
        refusal = refused_by(disk, "off")
        if refusal is not None:
            assert refusal.code == "journal_corrupt"
            seen.add("refused")
            continue
        journal = opened(disk, "off")
        aside = [name for name in disk.names() if name.endswith(".unsynced")]
        seen.add("aside" if aside else "whole")
        journal.add(b"on", len(journal) + 1, 2)
        journal._destroy()
        assert opened(disk, "off")[-1][0] == b"on"
    assert "aside" in seen


def test_a_header_alone_says_nothing_about_the_segment_before() -> None:
    files = closed_files()
    newest = max(name for name in files if name != "journal.vote")
    number = int(newest.rsplit(".", 1)[1])
    wrong = encode_segment(SegmentHeader("c", "n1", number, 1, True))
    with pytest.raises(BadRequest, match=r"ends well at byte \d+, and 1 bytes of it were durable"):
        opened(disk_of(files | {newest: wrong}))


def test_a_directory_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    journal.add(b"x", 1, 1)
    journal._destroy()
    (tmp_path / "journal.vote").unlink()
    (tmp_path / "journal.vote").mkdir()
    with pytest.raises(BadRequest, match="journal"):
        Journal(str(tmp_path / "journal"))


# ------------------------------------------------------------------------- beside the stock journal


def _interrupted_rewrite(journal: FileJournal | Journal) -> None:
    """Drop the oldest entries, and end in the middle of it."""

    class Killed(BaseException):
        pass

    calls = 0

    def add(*entry: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Killed
        original(*entry)

    original = journal.add
    journal.add = add  # type: ignore[method-assign, assignment]
    with contextlib.suppress(Killed):
        journal.deleteEntriesTo(10)


def test_regression_a_rewrite_that_is_interrupted(tmp_path: Path) -> None:
    """HAZ-6: the stock journal empties its file and puts the rest back one by one; ours
    never copies.
    """
    survivors = {}
    for kind in (FileJournal, Journal):
        path = str(tmp_path / kind.__module__)
        journal = kind(path)
        for index in range(1, 101):
            journal.add(b"x" * 100, index, 1)
        journal.flush()
        _interrupted_rewrite(journal)
        again = kind(path)
        survivors[kind] = again[-1][1]
        again._destroy()
    assert survivors == {FileJournal: 12, Journal: 100}


def test_regression_a_vote_file_that_cannot_be_read(tmp_path: Path) -> None:
    """The stock journal takes an unreadable vote for none, and votes twice in a term; ours refuses
    to start.
    """
    for kind in (FileJournal, Journal):
        journal = kind(str(tmp_path / kind.__module__))
        journal.add(b"x", 1, 7)
        journal.setCurrentTerm(7, "n2")
        journal._destroy()
    stock, ours = (
        tmp_path / f"{FileJournal.__module__}.meta",
        tmp_path / f"{Journal.__module__}.vote",
    )
    for path in (stock, ours):
        path.write_bytes(b"\0" * path.stat().st_size)
    assert FileJournal(str(tmp_path / FileJournal.__module__)).getVotedForNodeId() is None
    with pytest.raises(BadRequest, match=r"\.vote"):
        Journal(str(tmp_path / Journal.__module__))


def test_regression_a_flipped_bit(tmp_path: Path) -> None:
    """The stock journal has no checksum and reads a damaged entry as if it were good."""
    for kind in (FileJournal, Journal):
        journal = kind(str(tmp_path / kind.__module__))
        for index in range(1, 4):
            journal.add(b"payload %d" % index, index, 1)
        journal.flush()
        journal._destroy()
    stock, ours = tmp_path / FileJournal.__module__, tmp_path / f"{Journal.__module__}.0000000001"
    for path in (stock, ours):
        path.write_bytes(path.read_bytes().replace(b"payload 2", b"payload 9"))
    assert FileJournal(str(stock))[1][0] == b"payload 9"
    with pytest.raises(
        BadRequest,
        match=r"\.0000000001: the record at byte \d+ is damaged, one at byte \d+ is good",
    ):
        Journal(str(tmp_path / Journal.__module__))


# ------------------------------------------------------------------------------ a real disk, killed

_WRITER = """
import asyncio, sys
from coordinator.raft.storage.real_disk import RealDisk
from coordinator.raft.storage.journal import Journal

async def main():
    disk = RealDisk(sys.argv[1])
    journal = Journal(disk=disk, cluster="c", member="n1", fsync="always", segment_bytes_max=4000)
    journal.on_synced = lambda index: print(index, journal.getCurrentTerm(), flush=True)
    index = journal[-1][1] if len(journal) else 0
    while True:
        for _ in range(5):
            index += 1
            journal.add(b"%d" % index * 20, index, 1)
            if len(journal) > 200:
                journal.deleteEntriesTo(100)
        if index % 50 == 0:
            journal.setCurrentTerm(journal.getCurrentTerm() + 1, "n1")
        journal.maybe_sync()
        while journal.unsynced_bytes > 5000:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)

asyncio.run(main())
"""


def test_kill_9_of_a_process_that_writes(tmp_path: Path) -> None:
    promised = 0
    for lines in (1, 5, 20, 60, 100):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(lines):
            promised, term = map(int, writer.stdout.readline().split())
        writer.send_signal(signal.SIGKILL)
        writer.wait(60)
        writer.stdout.close()
        disk = RealDisk(tmp_path)
        journal = Journal(
            disk=disk, cluster="c", member="n1", fsync="always", segment_bytes_max=4000
        )
        assert journal[-1][1] >= promised
        assert journal.getCurrentTerm() >= term
        assert all(entry == (b"%d" % entry[1] * 20, entry[1], 1) for entry in journal[:])
        journal._destroy()
        disk.close()
    assert promised > 100
    assert len(os.listdir(tmp_path)) < 20


@pytest.mark.parametrize("before", ["off", "interval"])
@pytest.mark.parametrize("after", ["off", "interval", "always"])
def test_what_follows_a_torn_segment_and_an_empty_one_is_there_at_the_next_start(
    before: Policy, after: Policy
) -> None:
    """A power cut just after a segment was begun: its predecessor is torn, and is the
    newest again.
    """

    async def story() -> None:
        disk = sim()
        journal = opened(disk, before)
        while len([name for name in disk.names() if name.startswith("journal.0")]) < 2:
            journal.add(b"x" * 30, journal[-1][1] + 1 if len(journal) else 1, 1)
        files = {name: disk.load_now(name) for name in disk.names()}
        files["journal.0000000001"] = files["journal.0000000001"][:-10]
        files["journal.0000000002"] = b""
        disk = disk_of(files)
        journal = opened(disk, after)
        kept = len(journal)
        assert kept > 0
        for index in range(kept + 1, kept + 21):
            journal.add(b"y" * 30, index, 2)
        await journal.aclose()
        assert len(opened(disk, after)) == kept + 20

    asyncio.run(story())


@pytest.mark.parametrize("before", ["off", "interval", "always"])
def test_a_torn_header_behind_a_torn_segment(before: Policy) -> None:
    """A power cut takes the ends of both. It is damage only where the first was promised before the
    second began.
    """
    disk = sim()
    filled(disk, 20, before)._destroy()
    files = copy_of(disk)
    *_, older, newest = sorted(name for name in files if name != "journal.vote")
    header = len(encode_segment(SegmentHeader("c", "n1", 1, 0, sealed=True)))
    accepted = []
    for length in range(header):
        torn = files | {older: files[older][:-10], newest: files[newest][:length]}
        if refused_by(disk_of(torn), before) is None:
            accepted.append(length)
            damaged = torn | {newest: torn[newest].replace(b"ACORDO", b"ACORDA")}
            assert length < 6 or refused_by(disk_of(damaged), before) is not None
    assert accepted == list(range(header) if before != "always" else range(13))


@pytest.mark.parametrize(
    ("before", "after"), [("off", "always"), ("always", "off"), ("interval", "always")]
)
def test_a_segment_is_of_one_policy(before: Policy, after: Policy) -> None:
    async def story() -> None:
        disk = sim()
        filled(disk, 2, before)._destroy()
        journal = opened(disk, after)
        journal.add(b"3", 3, 1)
        await journal.aclose()
        disk.crash()
        sealed = [
            decode_segment(disk.load_now(name))[0].sealed
            for name in disk.names()
            if name.startswith("journal.0")
        ]
        assert sealed == [before == "always", after == "always"]
        again = opened(disk, after)
        assert [entry[1] for entry in again[:]] == [1, 2, 3]
        assert len([name for name in disk.names() if name.startswith("journal.0")]) == 2

    asyncio.run(story())
