"""What a process wrote and did not sync is undone, and what it synced stays, whatever it wrote
with.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from random import Random

import pytest

from chaos.targets import memberdisk
from chaos.targets.memberdisk import MemberDisk

pytestmark = pytest.mark.skipif(
    memberdisk.compiler_missing() is not None, reason=memberdisk.compiler_missing() or ""
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return memberdisk.build(tmp_path_factory.mktemp("library"))


@pytest.fixture
def disk(library: Path, tmp_path: Path) -> MemberDisk:
    (tmp_path / "n1").mkdir()
    return MemberDisk(library, tmp_path / "n1", tmp_path / "side")


def run(disk: MemberDisk, program: str) -> str:
    """Run a program in the member's directory, until it is killed or ends."""
    head = (
        "import os, signal, sqlite3, shutil\ndie = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", head + textwrap.dedent(program)],
        cwd=disk.root, env=os.environ | disk.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in {0, -9}, done.stderr
    return done.stdout


def test_what_was_not_synced_is_undone_whatever_it_was_written_with(disk: MemberDisk) -> None:
    (disk.root / "old").write_bytes(b"abcdefgh")
    run(
        disk,
        """
        fd = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, b"synced"); os.fdatasync(fd)
        os.write(fd, b" lost"); os.writev(fd, [b" and", b" gone"])
        old = os.open("old", os.O_RDWR)
        os.pwrite(old, b"XY", 2); os.pwritev(old, [b"Z"], 20); os.ftruncate(old, 3)
        with open("old", "ab", buffering=0) as file: file.write(b"more")
        os.posix_fallocate(old, 0, 4096)
        die()
        """,
    )
    assert (disk.root / "log").read_bytes() == b"synced lost and gone"
    undone = disk.cut_power()
    assert undone == {"log": 2, "old": 5}
    assert (disk.root / "log").read_bytes() == b"synced"
    assert (disk.root / "old").read_bytes() == b"abcdefgh"
    assert disk.cut_power() == {}, "once undone, all that is there is on the disk"


def test_a_file_written_anew_is_what_it_was(disk: MemberDisk) -> None:
    (disk.root / "state").write_bytes(b"before")
    run(disk, 'open("state", "w").write("after"); die()')
    assert disk.cut_power() == {"state": 2}, "it was emptied, and written"
    assert (disk.root / "state").read_bytes() == b"before"


def test_a_file_renamed_into_place_without_a_sync_is_empty(disk: MemberDisk) -> None:
    (disk.root / "dump").write_bytes(b"before")
    program = 'open("new", "wb", buffering=0).write(b"after"); {}os.rename("new", "dump"); die()'
    run(disk, program.format(""))
    assert disk.cut_power() == {"dump": 1}
    assert (disk.root / "dump").read_bytes() == b""
    run(disk, program.format('f = open("new"); os.fsync(f.fileno()); '))
    assert disk.cut_power() == {}
    assert (disk.root / "dump").read_bytes() == b"after"


def test_what_an_earlier_process_left_unsynced_is_undone_too(disk: MemberDisk) -> None:
    run(disk, 'open("log", "ab", buffering=0).write(b"one"); die()')
    run(disk, 'open("log", "ab", buffering=0).write(b"two"); die()')
    assert (disk.root / "log").read_bytes() == b"onetwo"
    assert disk.cut_power() == {"log": 2}
    assert (disk.root / "log").read_bytes() == b""


def test_a_deleted_file_leaves_nothing_to_be_undone_in_the_next_with_its_number(
    disk: MemberDisk,
) -> None:
    run(
        disk,
        """
        for n in range(50):
            fd = os.open("segment", os.O_RDWR | os.O_CREAT)
            os.write(fd, b"x" * (n + 1))
            if n % 2: os.fsync(fd)
            os.close(fd)
            os.unlink("segment") if n % 3 else shutil.rmtree("d", ignore_errors=True)
            if n % 3 == 0: os.mkdir("d"); os.rename("segment", "d/segment")
        shutil.rmtree("d")
        fd = os.open("last", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"kept"); os.fsync(fd)
        die()
        """,
    )
    assert disk.cut_power() == {}
    assert (disk.root / "last").read_bytes() == b"kept"


def test_some_of_the_oldest_writes_may_stay(disk: MemberDisk) -> None:
    sizes = set()
    for seed in range(12):
        run(disk, 'f = open("log", "wb", buffering=0); [f.write(b"x") for _ in range(4)]; die()')
        disk.cut_power(Random(seed))
        sizes.add((disk.root / "log").stat().st_size)
        disk.forget()
    assert sizes == {0, 1, 2, 3, 4}


def test_a_torn_record_was_of_a_write_that_was_never_made(disk: MemberDisk) -> None:
    run(disk, 'f = open("log", "wb", buffering=0); f.write(b"one"); f.write(b"two"); die()')
    (log,) = disk.side.glob("*.undo")
    log.write_bytes(log.read_bytes() + b"torn")
    run(disk, 'f = open("log", "ab", buffering=0); f.write(b"six"); die()')
    assert disk.cut_power() == {"log": 3}
    assert (disk.root / "log").read_bytes() == b""


WRITES = """
c = sqlite3.connect("store.sqlite", isolation_level=None)
c.execute("PRAGMA journal_mode=WAL")
c.execute("PRAGMA synchronous=NORMAL")
c.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, v)")
for n in range(300):
    c.execute("INSERT INTO t (v) VALUES (randomblob(900))")
    if n == 200: c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
"""


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_sqlite_in_wal_mode_keeps_a_prefix_from_its_last_synced_point_on(
    disk: MemberDisk, seed: int | None
) -> None:
    run(disk, WRITES + "die()")
    undone = disk.cut_power(None if seed is None else Random(seed))
    assert undone["store.sqlite-wal"] > 0
    with sqlite3.connect(disk.root / "store.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        kept = [n for (n,) in connection.execute("SELECT n FROM t ORDER BY n")]
    connection.close()
    assert kept == list(range(1, len(kept) + 1))
    assert 201 <= len(kept) < 300
    if seed is None:
        assert len(kept) == 201, "nothing behind the checkpoint was synced"


def test_the_stores_writes_are_refused_while_it_is_told_so_and_others_are_not(
    disk: MemberDisk,
) -> None:
    disk.refuse_writes(28)
    said = run(
        disk,
        """
        try:
            c = sqlite3.connect("store.sqlite", isolation_level=None)
            c.execute("CREATE TABLE t (n)")
        except sqlite3.OperationalError as exc:
            print(exc)
        open("journal", "wb").write(b"x")
        """,
    )
    assert said == "database or disk is full\n"
    assert disk.control.refused_writes > 0
    assert (disk.root / "journal").read_bytes() == b"x"
    disk.refuse_writes(0)
    run(disk, WRITES)
    with sqlite3.connect(disk.root / "store.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (300,)
    connection.close()


def test_the_stores_syncs_wait_while_it_is_told_so_and_others_do_not(disk: MemberDisk) -> None:
    program = """
        import time
        for name in ("store.sqlite", "journal"):
            fd = os.open(name, os.O_RDWR | os.O_CREAT)
            began = time.monotonic(); os.fsync(fd); print(time.monotonic() - began)
        """
    disk.delay_syncs(0.3)
    store, _ = run(disk, program).split()
    assert float(store) >= 0.3
    assert (disk.control.delayed_syncs, disk.control.syncs) == (1, 2)
    disk.delay_syncs(0)
    run(disk, program)
    assert (disk.control.delayed_syncs, disk.control.syncs) == (1, 4)
