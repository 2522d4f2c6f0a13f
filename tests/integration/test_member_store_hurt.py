"""What becomes of a member's own file, and what is said of it, when processes, rights, disks and
people are in its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import shutil
import signal
import sqlite3
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.replicated.schema import APPLICATION_ID, SCHEMA_VERSION, SHARED_APPLICATION_ID
from backends.replicated.store import SqliteMemberStore
from kv.errors import BackendUnavailable, BadRequest
from tests.contract.groups import T, put
from tests.contract.history import History, damaged_rows, everything, made_by, settle, story
from tests.integration.test_member_store_faults import PROCESS


@contextlib.asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[Process]:
    started = await asyncio.create_subprocess_exec(
        *PROCESS, *arguments, stdout=asyncio.subprocess.PIPE
    )
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


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.sqlite")


# ---------------------------------------------------------------------------------- other processes


@pytest.mark.parametrize("how", ["runs", "is stopped"])
async def test_a_program_that_holds_the_lock_delays_what_is_written_and_nothing_else(
    how: str, path: str
) -> None:
    """A backup, or somebody's shell. What it changed and did not commit is not there afterwards."""
    history = story()
    async with SqliteMemberStore(path) as store:
        settle(store, *history.steps)
        await store.make_durable(history.note.index)
        async with process("hold", path) as holder:
            assert await line(holder) == "holding"
            if how == "is stopped":
                holder.send_signal(signal.SIGSTOP)
            settle(store, history.submit(put("meanwhile", b"z", b"9")))
            await until(lambda: store.trouble)
            assert await everything(store) == await made_by(history.steps)
            facts = store.facts(["meanwhile"], [b"z"], [], recorded_since_ms=0)
            assert (facts.head, len(facts.operations)) == (history.head, 1)
            with pytest.raises(BackendUnavailable):
                await store.make_durable(history.note.index)
            with pytest.raises(BackendUnavailable):
                await store.probe(timeout_s=T)
            assert store.written.index < history.note.index and not store.damage
            holder.kill()
            await holder.wait()
        await store.wait_written(history.note.index, timeout_s=T)
        assert not store.trouble
        await store.probe(timeout_s=T)
    async with SqliteMemberStore(path) as again:
        assert await everything(again) == await made_by(history.steps)
        assert await damaged_rows(again) == ()


# --------------------------------------------------------------------------------- rights and paths


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that any user may reach; pytest's own are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="acordo-test-"))
    directory.chmod(0o755)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


async def test_a_file_that_may_only_be_read_is_named_and_refused(open_to_all: Path) -> None:
    path = open_to_all / "store.sqlite"
    async with SqliteMemberStore(str(path)) as store:
        settle(store, *story().steps)
    Path(f"{path}.lock").chmod(0o666)
    path.chmod(0o444)
    open_to_all.chmod(0o777)
    async with process("rights", str(path)) as reader:
        said = await lines(reader)
    assert said[0].startswith("BadRequest"), said  # somebody has to mend it: it is not waited for
    assert str(path) in said[0]


async def test_a_directory_without_rights_is_named_and_refused(open_to_all: Path) -> None:
    path = open_to_all / "store.sqlite"
    open_to_all.chmod(0o555)
    async with process("rights", str(path)) as reader:
        said = await lines(reader)
    assert said[0].startswith("BadRequest"), said
    assert str(path) in said[0]
    assert not path.exists()


@pytest.mark.parametrize("place", ["nowhere/store.sqlite", "file/store.sqlite", "directory"])
async def test_a_path_where_no_file_can_be_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    path = str(tmp_path / place)
    with pytest.raises(BadRequest) as refusal:
        async with SqliteMemberStore(path):
            pass
    assert (refusal.value.code, path in refusal.value.detail) == ("bad_store", True)


async def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    """SQLite would read a query, a fragment and escapes in it."""
    directory = tmp_path / "a b"
    directory.mkdir()
    path = directory / "100%25?mode=ro#y.db"
    async with SqliteMemberStore(str(path)) as store:
        settle(store, *story().steps)
        (await store.copy()).close()
        await store.set_aside("to see where it goes")
        settle(store, *story().steps)
    assert {each.name.removeprefix(path.name) for each in directory.iterdir()} == {
        "", ".lock", ".aside-1"
    }  # fmt: skip


async def test_a_file_that_may_not_grow_is_written_once_it_may(path: str) -> None:
    async with process("space", path) as limited:
        said = await lines(limited)
    trouble, reads, healed = (each for each in said if not each.startswith("20"))  # no log lines
    assert trouble.startswith("trouble ") and path in trouble
    assert (reads, healed) == ("reads go on True", "healed sound ")


async def test_a_transaction_that_would_not_be_synced_is_refused_at_opening(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R4: the log would be cut, though the rows are not durable."""

    class Lying(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
            asked = "PRAGMA synchronous = NORMAL" if sql == "PRAGMA synchronous = FULL" else sql
            return super().execute(asked, parameters)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Lying))
    with pytest.raises(BackendUnavailable, match="synchronous = FULL is not in force"):
        async with SqliteMemberStore(path):
            pass


# ------------------------------------------------------------------------ damaged and other's files


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


def _written(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _changed(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def _foreign(path: Path) -> None:
    path.unlink()
    _changed(path, "CREATE TABLE bookmarks (url TEXT)", "INSERT INTO bookmarks VALUES ('x')")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "garbage in the header": (_garbage_header, "not those of a SQLite file"),
    "garbage in the pages": (_garbage_pages, "malformed"),
    "cut off": (_cut_off, "malformed"),
    "a table lost": (lambda path: _changed(path, "DROP TABLE ops"), "ops"),
    "a column lost": (
        lambda path: _changed(path, "ALTER TABLE versions DROP COLUMN version"),
        "versions",
    ),
    "no note": (lambda path: _changed(path, "DELETE FROM state"), "no note"),
    "a text file": (
        lambda path: _written(path, b"these are my notes, please keep them\n" * 200),
        "not those of a SQLite file",
    ),
    "an empty file": (lambda path: _written(path, b""), "first 0 bytes"),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_file_is_said_to_be_and_left_as_it_is(damage: str, path: str) -> None:
    """Nothing is read from it and nothing written to it, until it is put aside for another one."""
    history = History()
    for n in range(300):
        history.submit(put(f"{n}", b"key%d" % n, b"v" * 300))
    async with SqliteMemberStore(path) as store:
        settle(store, *history.steps)
    hurt, words = DAMAGE[damage]
    hurt(Path(path))
    before = Path(path).read_bytes()
    for _ in range(2):
        async with SqliteMemberStore(path) as store:
            assert store.condition == "damaged"
            assert words in store.damage, store.damage
            with pytest.raises(BackendUnavailable, match="is damaged"):
                await store.read([b"key1"], timeout_s=T)
            with pytest.raises(BackendUnavailable, match="is damaged"):
                settle(store, history.steps[0])
        assert Path(path).read_bytes() == before
    async with SqliteMemberStore(path) as store:
        place = await store.set_aside(store.damage)
        assert Path(place).read_bytes() == before
        settle(store, *history.steps)
        assert await everything(store) == await made_by(history.steps)


OTHERS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a newer schema": (
        lambda path: _changed(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}"),
        "newer_schema",
        str(SCHEMA_VERSION + 1),
    ),
    "tables of another application": (_foreign, "foreign_store", "another application"),
    "the id of another application": (
        lambda path: _changed(path, f"PRAGMA application_id = {APPLICATION_ID + 1}"),
        "foreign_store",
        "another application",
    ),
    "the file that nodes of version 0.1 shared": (
        lambda path: _changed(path, f"PRAGMA application_id = {SHARED_APPLICATION_ID}"),
        "foreign_store",
        "acordo dump",
    ),
}


@pytest.mark.parametrize("whose", OTHERS)
async def test_a_file_that_is_not_a_members_is_named_refused_and_kept(
    whose: str, path: str
) -> None:
    async with SqliteMemberStore(path) as store:
        settle(store, *story().steps)
    change, code, words = OTHERS[whose]
    change(Path(path))
    before = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    for _ in range(2):
        with pytest.raises(BadRequest) as refusal:
            async with SqliteMemberStore(path):
                pass
        assert refusal.value.code == code, refusal.value
        assert path in refusal.value.detail
        assert words in str(refusal.value) + str(refusal.value.allowed)
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == before


async def test_a_file_that_is_replaced_while_it_is_open_is_not_written_any_more(path: str) -> None:
    """What is written to a file without a name is lost, and the log would be cut all the same."""
    history = story()
    async with SqliteMemberStore(path) as store:
        settle(store, *history.steps)
        await store.make_durable(history.note.index)
        for suffix in ("", "-wal", "-shm"):
            os.rename(path + suffix, path + ".away" + suffix)
        shutil.copy(path + ".away", path)
        Path(path + "-wal").touch()
        settle(store, history.submit(put("late", b"k", b"1")))
        with pytest.raises(BackendUnavailable):
            await store.make_durable(history.note.index)
        assert store.condition == "damaged" and "replaced" in store.damage
    async with SqliteMemberStore(path + ".away") as away:
        assert await away.operations(["late"], timeout_s=T) == (None,)
