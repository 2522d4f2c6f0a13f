"""What callers of the SQLite thread are told when time runs out or the disk fails, at each point of
a transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from backends import sqlite_thread
from backends.sqlite_thread import SqliteThread, Turn
from kv.errors import BackendUnavailable, BadRequest, InvariantViolated, OutcomeUnknown

T = 10.0


class Connection(sqlite3.Connection):
    """A connection whose statements can be held up or made to fail."""

    at: str = ""
    """The statement that is held up or fails."""
    code: int | None = None
    after: bool = False
    """Fail after the statement has run, as a disk may."""
    reached: threading.Event
    released: threading.Event

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if not self.at or not sql.startswith(self.at):
            return super().execute(sql, parameters)
        self.reached.set()
        if self.code is None:
            assert self.released.wait(T)
            return super().execute(sql, parameters)
        if self.after:
            super().execute(sql, parameters)
        error = sqlite3.OperationalError("as the test wants")
        error.sqlite_errorcode = self.code
        raise error


class Bench:
    """One thread on one file, and a second connection that looks at what landed."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=0, factory=Connection
        )
        self.connection.reached, self.connection.released = threading.Event(), threading.Event()
        sqlite3.Connection.execute(self.connection, "PRAGMA journal_mode = WAL")
        sqlite3.Connection.execute(self.connection, "CREATE TABLE t (x)")
        self.thread = SqliteThread("test", self.path, lambda: self.connection)

    def insert(self, value: int) -> Callable[[Turn], int]:
        def body(turn: Turn) -> int:
            turn.execute("INSERT INTO t VALUES (?)", (value,))
            return value

        return lambda turn: turn.write(body)

    def landed(self) -> list[int]:
        looking = sqlite3.connect(self.path)
        try:
            return [row[0] for row in looking.execute("SELECT x FROM t ORDER BY x")]
        finally:
            looking.close()

    async def reached(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.connection.reached.wait, T)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path / "file.sqlite")
    made.thread.start()
    yield made
    made.connection.released.set()
    await made.thread.stop()


async def test_a_write_lands_and_its_result_comes_back(bench: Bench) -> None:
    assert await bench.thread.run(bench.insert(1), timeout_s=T) == 1
    assert bench.landed() == [1]


async def test_time_over_while_queued_is_definite(bench: Bench) -> None:
    bench.connection.at = "INSERT"
    first = asyncio.ensure_future(bench.thread.run(bench.insert(1), timeout_s=T))
    await bench.reached()
    with pytest.raises(BackendUnavailable):
        await bench.thread.run(bench.insert(2), timeout_s=0.01)
    bench.connection.released.set()
    assert await first == 1
    assert await bench.thread.run(bench.insert(3), timeout_s=T) == 3
    assert bench.landed() == [1, 3]


async def test_time_over_before_commit_is_definite_and_rolled_back(bench: Bench) -> None:
    bench.connection.at = "INSERT"
    with pytest.raises(BackendUnavailable):
        await bench.thread.run(bench.insert(1), timeout_s=0.01)
    bench.connection.released.set()
    bench.connection.at = ""
    assert await bench.thread.run(bench.insert(2), timeout_s=T) == 2
    assert bench.landed() == [2]


async def test_time_over_during_commit_is_unknown_and_may_land(bench: Bench) -> None:
    """INV-4."""
    bench.connection.at = "COMMIT"
    with pytest.raises(OutcomeUnknown):
        await bench.thread.run(bench.insert(1), timeout_s=0.05)
    assert bench.landed() == []
    bench.connection.released.set()
    bench.connection.at = ""
    assert await bench.thread.run(bench.insert(2), timeout_s=T) == 2
    assert bench.landed() == [1, 2]


async def test_cancelled_before_commit_never_lands_and_after_it_may(bench: Bench) -> None:
    for value, at in ((1, "INSERT"), (2, "COMMIT")):
        bench.connection.at = at
        bench.connection.reached.clear()
        bench.connection.released.clear()
        task = asyncio.ensure_future(bench.thread.run(bench.insert(value), timeout_s=T))
        await bench.reached()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        bench.connection.released.set()
    bench.connection.at = ""
    assert await bench.thread.run(bench.insert(3), timeout_s=T) == 3
    assert bench.landed() == [2, 3]


@pytest.mark.parametrize(
    ("at", "code", "error"),
    [
        ("BEGIN", sqlite3.SQLITE_IOERR_READ, BackendUnavailable),
        ("INSERT", sqlite3.SQLITE_IOERR_WRITE, BackendUnavailable),
        ("INSERT", sqlite3.SQLITE_FULL, BackendUnavailable),
        ("INSERT", sqlite3.SQLITE_READONLY, BackendUnavailable),
        ("INSERT", sqlite3.SQLITE_CORRUPT, BackendUnavailable),
        ("COMMIT", sqlite3.SQLITE_FULL, BackendUnavailable),
        ("COMMIT", sqlite3.SQLITE_BUSY, BackendUnavailable),
        ("COMMIT", sqlite3.SQLITE_IOERR_FSYNC, OutcomeUnknown),
        ("COMMIT", sqlite3.SQLITE_IOERR_WRITE, OutcomeUnknown),
    ],
)
async def test_a_failing_disk_is_ambiguous_only_during_commit(
    bench: Bench, at: str, code: int, error: type[Exception]
) -> None:
    bench.connection.at, bench.connection.code = at, code
    with pytest.raises(error) as said:
        await bench.thread.run(bench.insert(1), timeout_s=T)
    assert bench.path in str(said.value)
    assert bench.landed() == []
    bench.connection.at = ""
    assert await bench.thread.run(bench.insert(2), timeout_s=T) == 2
    assert bench.landed() == [2]


async def test_a_commit_that_failed_may_have_landed(bench: Bench) -> None:
    bench.connection.at, bench.connection.code, bench.connection.after = (
        "COMMIT",
        sqlite3.SQLITE_IOERR_FSYNC,
        True,
    )
    with pytest.raises(OutcomeUnknown):
        await bench.thread.run(bench.insert(1), timeout_s=T)
    assert bench.landed() == [1]


async def test_a_held_lock_is_waited_for_then_definite(bench: Bench) -> None:
    other = sqlite3.connect(bench.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BackendUnavailable):
        await bench.thread.run(bench.insert(1), timeout_s=0.05)
    waiting = asyncio.ensure_future(bench.thread.run(bench.insert(2), timeout_s=T))
    other.execute("COMMIT")
    assert await waiting == 2
    other.close()
    assert bench.landed() == [2]


async def test_errors_are_sorted_by_what_the_caller_may_do(bench: Bench) -> None:
    def broken(turn: Turn) -> None:
        turn.execute("INSERT INTO no_such_table VALUES (1)")

    def refuses(turn: Turn) -> None:
        raise BadRequest("code", "detail")

    def bug(turn: Turn) -> None:
        raise ZeroDivisionError

    def constraint(turn: Turn) -> None:
        turn.execute("CREATE UNIQUE INDEX u ON t (x)")
        turn.execute("INSERT INTO t VALUES (1), (1)")

    cases: tuple[tuple[Callable[[Turn], None], type[Exception]], ...] = (
        (broken, BackendUnavailable),
        (refuses, BadRequest),
        (bug, InvariantViolated),
        (constraint, InvariantViolated),
    )
    for body, error in cases:
        with pytest.raises(error):
            await bench.thread.run(lambda turn, body=body: turn.write(body), timeout_s=T)  # type: ignore[misc]
    assert await bench.thread.run(bench.insert(1), timeout_s=T) == 1


async def test_too_many_waiting_calls_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_thread, "WAITING_MAX", 3)
    bench.connection.at = "INSERT"
    running = asyncio.ensure_future(bench.thread.run(bench.insert(0), timeout_s=T))
    await bench.reached()
    queued = [
        asyncio.ensure_future(bench.thread.run(bench.insert(n), timeout_s=T)) for n in (1, 2, 3)
    ]
    await asyncio.sleep(0)
    with pytest.raises(BackendUnavailable, match="wait"):
        await bench.thread.run(bench.insert(4), timeout_s=T)
    bench.connection.released.set()
    assert await asyncio.gather(running, *queued) == [0, 1, 2, 3]


async def test_stopping_finishes_what_is_queued_and_refuses_the_rest(bench: Bench) -> None:
    queued = [
        asyncio.ensure_future(bench.thread.run(bench.insert(n), timeout_s=T)) for n in range(5)
    ]
    await asyncio.sleep(0)
    await bench.thread.stop()
    assert await asyncio.gather(*queued) == list(range(5))
    with pytest.raises(BackendUnavailable):
        await bench.thread.run(bench.insert(9), timeout_s=T)
    assert bench.landed() == list(range(5))
