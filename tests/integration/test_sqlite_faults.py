"""Hurt a store's SQLite file the way processes, disks and people do, with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.sqlite import SqliteStore
from backends.sqlite_schema import APPLICATION_ID, MIGRATIONS
from kv.errors import BackendUnavailable, BadRequest
from kv.model import LedgerRow
from kv.ports import Appended, TakenOver
from tests.contract.groups import T, commit, everything, group, put

ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[Process]:
    command = (sys.executable, "-m", "tests.integration.sqlite_process", *arguments)
    started = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()


async def line(started: Process) -> str:
    assert started.stdout is not None
    return (await asyncio.wait_for(started.stdout.readline(), 30)).decode().strip()


async def lines(started: Process) -> list[str]:
    assert started.stdout is not None
    return (await asyncio.wait_for(started.stdout.read(), 60)).decode().splitlines()


async def check_chain(store: SqliteStore) -> tuple[LedgerRow, ...]:
    """Check that the ledger is one chain, and that each version that it speaks of is there."""
    ledger = await store.ledger(0, 100_000, timeout_s=T)
    assert [row.seq for row in ledger] == list(range(1, len(ledger) + 1))
    last = 0
    for row in ledger:
        assert row.first == last + 1
        last = row.last
        said = [(key, row.first + n) for n, each in enumerate(row.body) for key in each.keys]
        assert None not in await store.versions(said, timeout_s=T)
        assert None not in await store.operations([each.op_id for each in row.body], timeout_s=T)
    return ledger


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.sqlite")


@pytest.fixture
async def store(path: str) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(path) as opened:
        await commit(
            opened,
            [put(f"first-{n}", b"key%d" % n, b"v" * 500) for n in range(100)],
            term=0,
            committer="n0",
        )
        yield opened


# ---------------------------------------------------------------------------------- other processes


async def test_processes_race_on_one_file_without_breaking_the_chain(path: str) -> None:
    """Three processes also create the file at the same moment."""
    async with contextlib.AsyncExitStack() as stack:
        racers = [
            await stack.enter_async_context(process("append", path, f"n{n}", "40", "1"))
            for n in range(3)
        ]
        said = await asyncio.gather(*(lines(each) for each in racers))
        assert [await each.wait() for each in racers] == [0, 0, 0]
    async with SqliteStore(path) as store:
        ledger = await check_chain(store)
    recorded = [each.op_id for row in ledger for each in row.body]
    assert sorted(recorded) == sorted(op_id for landed in said for op_id in landed)
    assert recorded


async def test_what_a_killed_writer_had_acknowledged_is_there(path: str) -> None:
    """INV-2 and INV-3 over SIGKILL after the n-th acknowledgement of a process in full swing."""
    acknowledged: list[str] = []
    for n in range(8):
        async with process("append", path, f"p{n}", "100000", str(n * 100_000 + 1)) as writer:
            acknowledged += [await line(writer) for _ in range(1 + 3 * n)]
            writer.kill()
            acknowledged += await lines(writer)
        async with SqliteStore(path) as store:
            recorded = [each.op_id for row in await check_chain(store) for each in row.body]
        assert len(set(recorded)) == len(recorded)
        assert set(acknowledged) <= set(recorded)
        assert len(recorded) - len(acknowledged) <= n + 1, (
            "one in flight for each kill may be there unheard"
        )


async def test_a_writer_killed_within_its_transaction_leaves_nothing(
    store: SqliteStore, path: str
) -> None:
    before = await everything(store)
    async with process("hold", path) as holder:
        assert await line(holder) == "holding"
        assert await everything(store) == before
        holder.kill()
        await holder.wait()
        assert await everything(store) == before
        await commit(store, [put("after", b"k", b"1")], term=1)
    async with SqliteStore(path) as again:
        await check_chain(again)


async def test_a_stopped_process_that_holds_the_lock_costs_writes_a_bounded_wait_and_reads_nothing(
    store: SqliteStore, path: str
) -> None:
    head = await store.head(timeout_s=T)
    made = group(head, [put("late", b"k", b"1")], term=1)
    async with process("hold", path) as holder:
        assert await line(holder) == "holding"
        holder.send_signal(signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(BackendUnavailable):
                await store.append(made, timeout_s=0.2)
            with pytest.raises(BackendUnavailable):
                await store.take_over(1, "n1", 1, timeout_s=0.2)
        assert (await store.read([b"key1"], timeout_s=T)).head == head
        assert len((await store.list(b"", limit=1000, timeout_s=T)).versions) == 100
        assert (await store.facts(["late"], [b"key1"], [], [], timeout_s=T)).head == head
        async with SqliteStore(path) as other:  # a node that starts meanwhile
            assert await other.head(timeout_s=T) == head
        holder.kill()
        await holder.wait()
        assert await store.operations(["late"], timeout_s=T) == (None,)
        assert await store.append(made, timeout_s=T) == Appended()


async def test_a_lock_that_is_released_in_time_is_waited_for(store: SqliteStore, path: str) -> None:
    made = group(await store.head(timeout_s=T), [put("waits", b"k", b"1")], term=1)
    async with process("hold", path) as holder:
        assert await line(holder) == "holding"
        waiting = asyncio.ensure_future(store.append(made, timeout_s=T))
        assert await store.head(timeout_s=T) == made.base
        assert not waiting.done()
        holder.kill()
        assert await waiting == Appended()


# ---------------------------------------------------------------------------------- rights and disk


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that any user may reach; pytest's own are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="acordo-test-"))
    directory.chmod(0o755)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


async def test_a_read_only_file_is_named_and_refused(open_to_all: Path) -> None:
    path = open_to_all / "store.sqlite"
    async with SqliteStore(str(path)) as store:
        await commit(store, [put("a", b"k", b"1")])
    path.chmod(0o444)
    open_to_all.chmod(0o555)
    async with process("restricted", str(path), "rights") as reader:
        said = await lines(reader)
    assert said[0].startswith("BadRequest"), said  # somebody has to mend it: it is not waited for
    assert str(path) in said[0]


async def test_a_directory_without_rights_is_named_and_refused(open_to_all: Path) -> None:
    path = open_to_all / "store.sqlite"
    open_to_all.chmod(0o555)
    async with process("restricted", str(path), "rights") as reader:
        said = await lines(reader)
    assert said[0].startswith("BadRequest"), said  # somebody has to mend it: it is not waited for
    assert str(path) in said[0]
    assert not path.exists()


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere" / "store.sqlite")
    with pytest.raises(BadRequest) as refusal:
        async with SqliteStore(path):
            pass
    assert path in str(refusal.value)


async def test_a_file_that_may_not_grow_refuses_writes_and_serves_reads(path: str) -> None:
    async with process("restricted", path, "space") as limited:
        said = await lines(limited)
    opened, refused, reads, whole = said
    assert opened.startswith("opened")
    assert refused.startswith(("BackendUnavailable", "OutcomeUnknown")), said
    assert path in refused
    assert (reads, whole) == ("reads go on True", "whole True True")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system: " + mounted.stderr.decode().strip())
    yield place
    subprocess.run(["umount", place], check=True)


async def test_a_full_disk_is_a_definite_refusal_and_heals(small_disk: Path) -> None:
    path = str(small_disk / "store.sqlite")
    async with SqliteStore(path) as store:
        await commit(store, [put("first", b"k", b"1")])
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for _ in range(3000):
                file.write(b"x" * 1024)
        before = await everything(store)
        made = group(
            await store.head(timeout_s=T),
            [put(f"op-{n}", b"k%d" % n, b"x" * 30_000) for n in range(20)],
        )
        for _ in range(3):
            with pytest.raises(BackendUnavailable) as refusal:
                await store.append(made, timeout_s=T)
            assert path in str(refusal.value)
        with pytest.raises(BackendUnavailable):
            await store.stage("big", b"x" * 1_000_000, timeout_s=T)
        assert await everything(store) == before
        filler.unlink()
        assert await store.append(made, timeout_s=T) == Appended()
        await check_chain(store)
    async with SqliteStore(path) as again:
        assert (await again.head(timeout_s=T)) == made.row.head


async def test_a_probe_names_what_is_in_the_way_of_writes(small_disk: Path, path: str) -> None:
    full = small_disk / "store.sqlite"
    async with SqliteStore(str(full)) as store:
        with pytest.raises(BackendUnavailable, match="its disk is full") as told:
            await store.probe(timeout_s=T)
        assert str(full) in str(told.value)
        assert (await store.head(timeout_s=T)).seq == 0
    async with SqliteStore(path) as store:
        await commit(store, [put("first", b"k", b"1")])
        await store.probe(timeout_s=T)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(BackendUnavailable, match="no answer in time"):
                await store.probe(timeout_s=0.2)
            connection.execute("ROLLBACK")
        await store.probe(timeout_s=T)
        Path(path).rename(path + ".away")
        with pytest.raises(BackendUnavailable, match="is gone"):
            await store.probe(timeout_s=T)
        Path(path).write_bytes(b"")
        with pytest.raises(BackendUnavailable, match="was replaced"):
            await store.probe(timeout_s=T)
        Path(path + ".away").rename(path)
        await store.probe(timeout_s=T)


async def test_a_write_ahead_log_that_was_removed_is_not_written_into(path: str) -> None:
    """Its rows would be seen by nobody else, and gone with the process."""
    async with SqliteStore(path) as store:
        head = (await commit(store, [put("first", b"k", b"1")])).row.head
        log = Path(path + "-wal")
        log.rename(path + "-away")
        made = group(head, [put("second", b"k", b"2")])
        with pytest.raises(BackendUnavailable, match="-wal is gone"):
            await store.append(made, timeout_s=T)
        Path(path + "-away").rename(log)
        assert await store.append(made, timeout_s=T) == Appended()


async def test_a_commit_that_would_not_be_synced_is_refused_at_start(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lying(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
            asked = "PRAGMA synchronous = NORMAL" if sql == "PRAGMA synchronous = FULL" else sql
            return super().execute(asked, parameters)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Lying))
    with pytest.raises(BackendUnavailable, match="COMMIT would not be durable"):
        async with SqliteStore(path):
            pass


# ------------------------------------------------------------------------------------ damaged files


def _garbage_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"not a database at all" * 10)


def _garbage_pages(path: Path) -> None:
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xa5" * 64)


def _cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096 + 100)


def _lost_table(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE ops")
        connection.commit()


def _text_file(path: Path) -> None:
    path.write_bytes(b"these are my notes, please keep them\n" * 200)


def _newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        connection.commit()


def _foreign(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
        connection.execute("INSERT INTO bookmarks VALUES ('x')")
        connection.commit()


def _foreign_id(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID + 1}")
        connection.commit()


DAMAGE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "garbage in the header": (_garbage_header, "corrupt_store", "not a database"),
    "garbage in the pages": (_garbage_pages, "corrupt_store", "damaged"),
    "cut off": (_cut_off, "corrupt_store", "damaged"),
    "a table lost": (_lost_table, "corrupt_store", "ops"),
    "a text file": (_text_file, "corrupt_store", "not a database"),
    "a newer schema": (_newer, "newer_schema", str(len(MIGRATIONS) + 1)),
    "tables of another application": (_foreign, "foreign_store", "bookmarks"),
    "the file of another application": (_foreign_id, "foreign_store", "another application"),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_file_that_is_not_a_whole_store_is_named_refused_and_kept(
    damage: str, path: str
) -> None:
    async with SqliteStore(path) as store:
        await commit(store, [put(f"{n}", b"key%d" % n, b"v" * 300) for n in range(300)])
    hurt, code, words = DAMAGE[damage]
    hurt(Path(path))
    before = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    for _ in range(2):
        with pytest.raises(BadRequest) as refusal:
            async with SqliteStore(path):
                pass
        assert refusal.value.code == code, refusal.value
        assert path in refusal.value.detail
        assert words in refusal.value.detail
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == before


async def test_a_directory_in_its_place_is_named(path: str) -> None:
    Path(path).mkdir()
    with pytest.raises(BadRequest) as refusal:
        async with SqliteStore(path):
            pass
    assert path in str(refusal.value)


async def test_damage_while_running_is_said_and_never_acknowledged(
    store: SqliteStore, path: str
) -> None:
    for n in range(30):
        await commit(
            store,
            [put(f"more-{n}-{m}", b"more%d-%d" % (n, m), b"v" * 900) for m in range(100)],
            term=1,
        )
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA cache_size = 0")
    with Path(path).open("r+b") as file:
        for page in range(1, Path(path).stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)
    async with SqliteStoreUnchecked(path) as fresh:
        with pytest.raises(BackendUnavailable) as refusal:
            await fresh.head(timeout_s=T)
        assert path in str(refusal.value)
        with pytest.raises(BackendUnavailable):
            await fresh.take_over(5, "n1", 1, timeout_s=T)


class SqliteStoreUnchecked(SqliteStore):
    """A store that has been opened before the damage was done: nothing of the file is in its
    memory.
    """

    async def __aenter__(self) -> SqliteStoreUnchecked:
        self._writer.start()
        self._reader.start()
        return self


async def test_a_file_taken_away_or_replaced_while_running_is_written_to_no_more(
    store: SqliteStore, path: str
) -> None:
    """Else the leader would go on acknowledging into a file that no other process can see
    (INV-2).
    """
    made = group(await store.head(timeout_s=T), [put("late", b"k", b"1")], term=1)
    for suffix in ("", "-wal", "-shm"):
        os.rename(path + suffix, path + ".away" + suffix)
    with pytest.raises(BackendUnavailable, match="gone"):
        await store.append(made, timeout_s=T)
    async with SqliteStore(path) as other:
        await commit(other, [put("other", b"k", b"1")])
        with pytest.raises(BackendUnavailable, match="replaced"):
            await store.append(made, timeout_s=T)
        with pytest.raises(BackendUnavailable, match="replaced"):
            await store.stage("big", b"x" * 70_000, timeout_s=T)
    async with SqliteStore(path + ".away") as away:
        assert await away.operations(["late"], timeout_s=T) == (None,)
        assert await away.append(made, timeout_s=T) == Appended()


async def test_an_empty_file_becomes_a_store(path: str) -> None:
    Path(path).touch()
    async with SqliteStore(path) as store:
        assert isinstance(await store.take_over(1, "n1", 1, timeout_s=T), TakenOver)
