"""One suite for the real disk and the simulated one; then what only one of them can show."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.raft.storage.disk import Disk, SyncError, write_whole_now
from coordinator.raft.storage.kernel_sync import Ended, KernelSync, open_kernel_sync
from coordinator.raft.storage.real_disk import RealDisk
from coordinator.raft.storage.real_file import AT_ONCE_BYTES_MAX, RealFile, Reserve
from kv.errors import BadRequest
from tests.simulation.disk import Died, SimDisk
from tests.simulation.loop import Process


@pytest.fixture(params=["kernel", "threads", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    made: Disk = SimDisk(random.Random(1))
    if request.param != "simulated":
        made = RealDisk(tmp_path / "raft", kernel=request.param == "kernel")
    yield made
    made.close()


async def test_appends_take_effect_in_the_order_of_the_calls(disk: Disk) -> None:
    file = disk.create("log")
    slow = asyncio.ensure_future(file.append(b"one ", sync=True))
    await asyncio.sleep(0)
    file.append_now(b"two ")
    await file.append(memoryview(b"three"), sync=False)
    await slow
    assert file.size == 13
    assert file.read_now(0, 100) == b"one two three"
    assert file.read_now(4, 3) == b"two"
    file.truncate_now(4)
    file.append_now(b"more")
    await file.sync()
    file.close()
    assert disk.load_now("log") == b"one more"


async def test_every_append_lands_in_order_and_ends_however_many_there_are(disk: Disk) -> None:
    files = [disk.create(f"log{number}") for number in range(3)]
    pieces = [
        bytes([letter]) * size
        for letter, size in zip(b"abcdefgh", [1, 9, 300_000] * 3, strict=False)
    ]
    ends = [file.append(each, sync=True) for each in pieces for file in files]
    for file in files:
        file.append_now(b"now")
    await asyncio.gather(*ends)
    for file in files:
        whole = b"".join(pieces) + b"now"
        assert file.read_now(0, 2 * len(whole)) == whole
        assert file.size == len(whole)
        file.close()


async def test_a_close_waits_for_what_is_under_way(disk: Disk) -> None:
    file = disk.create("log")
    ends = [file.append(b"x", sync=True) for _ in range(3)]
    file.close()
    await asyncio.gather(*ends)
    assert disk.load_now("log") == b"xxx"


async def test_a_file_is_opened_again_at_its_end(disk: Disk) -> None:
    file = disk.create("log")
    file.append_now(b"first")
    file.close()
    again = disk.open("log")
    assert again.size == 5
    again.append_now(b" second")
    again.close()
    assert disk.load_now("log", sync=False) == b"first second"
    emptied = disk.create("log")
    assert emptied.size == 0
    emptied.close()


async def test_names(disk: Disk) -> None:
    for name in ("b", "a", "c"):
        disk.create(name).close()
    assert disk.names() == ["a", "b", "c"]
    disk.rename_now("c", "a")
    await disk.remove("b")
    await disk.sync_directory()
    assert disk.names() == ["a"]
    assert disk.exists("a")
    assert not disk.exists("b")
    assert disk.size("a") == 0
    for missing in (
        lambda: disk.open("b"),
        lambda: disk.load_now("b"),
        lambda: disk.remove_now("b"),
    ):
        with pytest.raises(FileNotFoundError):
            missing()


async def test_a_whole_file_is_replaced(disk: Disk) -> None:
    write_whole_now(disk, "vote", b"one")
    write_whole_now(disk, "vote", b"two", sync=False)
    assert disk.load_now("vote") == b"two"
    assert disk.names() == ["vote"]


async def test_work_leaves_the_loop_and_its_errors_come_back(disk: Disk) -> None:
    assert await disk.compute(lambda: 6 * 7) == 42

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await disk.compute(fail)


async def test_a_reader_is_not_disturbed_by_a_replacement(disk: Disk) -> None:
    write_whole_now(disk, "small", b"old")
    reader = disk.open("small")
    write_whole_now(disk, "small", b"new")
    assert reader.read_now(0, 10) == b"old"
    reader.close()


# ---------------------------------------------------------------------------------------- real only


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "raft")
    disk.create("log").close()
    assert stat.S_IMODE(os.stat(tmp_path / "raft" / "log").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "raft" / "lock").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "raft").st_mode) == 0o700
    disk.close()


_OPEN = (
    "import sys; from coordinator.raft.storage.real_disk import RealDisk; "
    "RealDisk(sys.argv[1]); print('held', flush=True); "
)


def test_a_directory_serves_one_process(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    second = subprocess.run(
        [sys.executable, "-c", _OPEN, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert second.returncode != 0
    assert "BadRequest" in second.stderr
    assert f"{tmp_path} is held by another process (pid {os.getpid()})" in second.stderr
    disk.close()
    third = subprocess.run(
        [sys.executable, "-c", _OPEN, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert third.stdout == "held\n"


def test_a_child_does_not_keep_the_directory_of_its_dead_parent(tmp_path: Path) -> None:
    """The parent is killed while a forked child of it lives on: the next process may have the
    directory at once.
    """
    fork = _OPEN + (
        "import os; child = os.fork()\nif child: print(child, flush=True)\n"
        "import time\ntime.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", fork, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "held\n"
    child = int(parent.stdout.readline())
    try:
        with pytest.raises(BadRequest):
            RealDisk(tmp_path)
        parent.kill()
        parent.wait(60)
        os.kill(child, 0)
        RealDisk(tmp_path).close()
    finally:
        os.kill(child, 9)
        parent.stdout.close()


def test_a_failed_sync_is_told_from_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RealDisk(tmp_path, kernel=False)
    file = disk.create("log")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def append() -> None:
        await file.append(b"x", sync=True)

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(SyncError, match="Input/output error"):
        asyncio.run(append())
    monkeypatch.undo()
    with pytest.raises(SyncError, match="an earlier sync"):
        file.sync_now()
    file.close()
    disk.close()


class Kernel(KernelSync):
    """A kernel whose syncs end when and how the test says."""

    def __init__(self) -> None:
        self.takes = True
        self.under_way: list[Ended] = []

    def begin(self, fd: int, ended: Ended) -> None:
        if not self.takes:
            raise OSError(errno.EAGAIN, "try again")
        self.under_way.append(ended)

    def end(self, number: int = 0) -> None:
        self.under_way.pop(0)(number)

    def wait_now(self) -> None:
        self.end()


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def file(tmp_path: Path, kernel: Kernel) -> Iterator[RealFile]:
    made = RealFile(tmp_path / "log", os.O_CREAT, Reserve(0), kernel)
    yield made
    made.close()


async def test_a_sync_that_the_kernel_failed_is_final(file: RealFile, kernel: Kernel) -> None:
    first, second = file.append(b"one", sync=True), file.append(b"two", sync=True)
    kernel.end(errno.EIO)
    with pytest.raises(SyncError, match="Input/output error"):
        await first
    with pytest.raises(SyncError, match="an earlier sync"):
        await second
    with pytest.raises(SyncError, match="an earlier sync"):
        file.sync_now()
    with pytest.raises(SyncError, match="an earlier sync"):
        await file.sync()
    assert not kernel.under_way


async def test_nothing_ends_before_its_sync_has(file: RealFile, kernel: Kernel) -> None:
    first, second = file.append(b"one", sync=True), file.append(b"two", sync=True)
    await asyncio.sleep(0.01)
    assert not asyncio.ensure_future(first).done()
    assert file.size == 3
    kernel.end()
    await first
    assert file.size == 6
    assert not asyncio.ensure_future(second).done()
    kernel.end()
    await second


async def test_a_blocking_call_waits_for_the_kernel(file: RealFile, kernel: Kernel) -> None:
    first, second = file.append(b"one", sync=True), file.append(b"two", sync=True)
    file.append_now(b"three")
    assert file.read_now(0, 99) == b"onetwothree"
    assert not kernel.under_way
    await first
    await second


async def test_a_blocking_call_waits_for_no_other_file(
    file: RealFile, kernel: Kernel, tmp_path: Path
) -> None:
    """The sync of a large dump must not hold up the log, and with it the event loop."""
    dump = RealFile(tmp_path / "dump", os.O_CREAT, Reserve(0), kernel)
    first, large = file.append(b"one", sync=True), dump.append(b"large", sync=True)
    file.append_now(b"two")
    await first
    assert len(kernel.under_way) == 1
    dump.close()
    await large


async def test_the_thread_syncs_what_the_kernel_does_not_take(
    file: RealFile, kernel: Kernel
) -> None:
    kernel.takes = False
    await file.append(b"one", sync=True)
    kernel.takes = True
    await file.append(bytes(AT_ONCE_BYTES_MAX + 1), sync=True)
    await file.append(b"two", sync=False)
    assert file.read_now(AT_ONCE_BYTES_MAX + 4, 9) == b"two"
    assert not kernel.under_way


async def test_a_caller_that_gives_up_delays_nobody(file: RealFile, kernel: Kernel) -> None:
    first = asyncio.ensure_future(file.append(b"one", sync=True))
    second = file.append(b"two", sync=True)
    first.cancel()
    kernel.end()
    kernel.end()
    await second
    assert file.size == 6


async def test_what_cannot_begin_fails_alone(
    file: RealFile, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = file.append(b"one", sync=True), file.append(b"two", sync=True)
    third = file.append(b"three", sync=True)
    begin, begun = kernel.begin, 0

    def fails_once(fd: int, ended: Ended) -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise RuntimeError("can't start new thread")
        begin(fd, ended)

    monkeypatch.setattr(kernel, "begin", fails_once)
    kernel.end()
    await first
    with pytest.raises(RuntimeError, match="new thread"):
        await asyncio.wait_for(second, 5)
    kernel.end()
    await third


async def test_a_full_disk_is_no_failed_sync(
    file: RealFile, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as refused:
        await file.append(b"one", sync=True)
    assert not isinstance(refused.value, SyncError)
    monkeypatch.undo()
    again = file.append(b"one", sync=True)
    kernel.end()
    await again


def test_no_kernel_syncs_behind_a_library_that_stands_before_the_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "memberdisk.so")
    assert open_kernel_sync() is None


def test_where_the_kernel_has_no_such_calls_threads_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert open_kernel_sync() is None


# ----------------------------------------------------------------------------------- simulated only


def test_a_power_cut_takes_what_was_not_synced_and_only_that() -> None:
    lengths, names = set(), set()
    for seed in range(200):
        disk = SimDisk(random.Random(seed))
        file = disk.create("log")
        file.append_now(b"safe")
        file.sync_now()
        disk.sync_directory_now()
        file.append_now(b"perhaps")
        disk.create("later").close()
        disk.power_cut()
        content = disk.load_now("log")
        assert b"safeperhaps".startswith(content)
        assert content.startswith(b"safe")
        lengths.add(len(content))
        names.add(disk.exists("later"))
        with pytest.raises(OSError, match="process has died"):
            file.append_now(b"x")
    assert lengths == set(range(4, 12))
    assert names == {True, False}


def test_a_name_needs_its_directory_synced() -> None:
    outcomes = set()
    for seed in range(50):
        disk = SimDisk(random.Random(seed))
        write_whole_now(disk, "vote", b"old")
        new = disk.create("vote.new")
        new.append_now(b"new")
        new.sync_now()
        disk.rename_now("vote.new", "vote")
        disk.power_cut()
        outcomes.add(disk.load_now("vote"))
    assert outcomes == {b"old", b"new"}


async def test_a_dead_process_reaches_no_disk_while_its_tasks_end() -> None:
    """It would leave its files in the directory of the process that was started after it."""
    disk = SimDisk(random.Random(1))
    process = Process("n1")
    write_whole_now(disk, "vote", b"mine")
    process.alive = False
    for call in (disk.create, disk.open, disk.remove_now):
        with pytest.raises(OSError, match="process has died"):
            process.context.run(call, "vote")
    with pytest.raises(OSError, match="process has died"):
        process.context.run(disk.rename_now, "vote", "other")
    with pytest.raises(OSError, match="process has died"):
        process.context.run(disk.sync_directory_now)
    assert disk.names() == ["vote"]
    assert disk.load_now("vote") == b"mine"


async def test_a_kill_tears_what_is_under_way_and_keeps_the_rest() -> None:
    lengths = set()
    for seed in range(100):
        disk = SimDisk(random.Random(seed))
        file = disk.create("log")
        file.append_now(b"written")
        under_way = asyncio.ensure_future(file.append(b"0123456789", sync=True))
        await asyncio.sleep(0)
        disk.crash()
        with pytest.raises(asyncio.CancelledError):
            await under_way
        content = disk.load_now("log")
        assert b"written0123456789".startswith(content)
        assert content.startswith(b"written")
        lengths.add(len(content) - 7)
    assert lengths == set(range(11))


async def test_a_full_disk_takes_what_fits() -> None:
    disk = SimDisk(random.Random(1), capacity_bytes=6)
    file = disk.create("log")
    with pytest.raises(OSError, match="No space left") as caught:
        await file.append(b"0123456789", sync=True)
    assert caught.value.errno == errno.ENOSPC
    assert not isinstance(caught.value, SyncError)
    assert file.size == 6


async def test_what_a_failed_sync_left_is_never_taken_for_durable() -> None:
    disk = SimDisk(random.Random(1))
    file = disk.create("log")
    disk.sync_directory_now()
    disk.sync_fails = True
    with pytest.raises(SyncError):
        await file.append(b"lost", sync=True)
    disk.sync_fails = False
    with pytest.raises(SyncError):
        await file.sync()
    await disk.open("log").sync()  # the kernel says yes now, as Linux does
    disk.crash()
    assert disk.load_now("log") == b""


def test_dying_at_a_byte() -> None:
    disk = SimDisk(random.Random(1))
    file = disk.create("log")
    disk.die_at(1, byte=3)
    file.append_now(b"whole ")
    with pytest.raises(Died):
        file.append_now(b"torn")
    disk.crash()
    assert disk.load_now("log") == b"whole tor"
