"""What callers of the reading thread are told when their time is over, it is busy, or the file is
in trouble.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from backends.replicated import reader
from backends.replicated.reader import ReaderThread
from kv.errors import BackendUnavailable, BadRequest, InvariantViolated, StoreDamaged

T = 10.0
FOR_EVER = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


class Bench:
    """One thread on one file, and a call that holds it up."""

    def __init__(self, path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE t (x UNIQUE)")
        self.thread = ReaderThread(
            str(path), lambda: sqlite3.connect(path, check_same_thread=False, timeout=0)
        )
        self.reached, self.released = threading.Event(), threading.Event()
        self.ran: list[int] = []

    def body(self, number: int) -> Callable[[sqlite3.Connection], int]:
        def body(connection: sqlite3.Connection) -> int:
            self.ran.append(number)
            return number

        return body

    def held(self, connection: sqlite3.Connection) -> str:
        self.reached.set()
        assert self.released.wait(T)
        return "held"

    async def holding(self) -> asyncio.Future[str]:
        call = asyncio.ensure_future(self.thread.run(self.held, timeout_s=T))
        await asyncio.to_thread(self.reached.wait, T)
        return call


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path / "file.sqlite")
    made.thread.start()
    yield made
    made.released.set()
    await made.thread.stop()


async def test_a_call_whose_time_is_over_in_the_queue_is_never_run(bench: Bench) -> None:
    held = await bench.holding()
    with pytest.raises(BackendUnavailable, match="no answer in time"):
        await bench.thread.run(bench.body(1), timeout_s=0.01)
    waiting = asyncio.ensure_future(bench.thread.run(bench.body(2), timeout_s=T))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bench.released.set()
    assert await held == "held"
    assert await bench.thread.run(bench.body(3), timeout_s=T) == 3
    assert bench.ran == [3]


@pytest.mark.parametrize("how", ["time is over", "cancelled"])
async def test_a_statement_that_nobody_waits_for_is_interrupted(how: str, bench: Bench) -> None:
    def endless(connection: sqlite3.Connection) -> object:
        bench.reached.set()
        return connection.execute(FOR_EVER).fetchone()

    call = asyncio.ensure_future(
        bench.thread.run(endless, timeout_s=0.2 if how == "time is over" else T)
    )
    await asyncio.to_thread(bench.reached.wait, T)
    if how == "cancelled":
        # the statement may not have begun yet: then an interruption is lost
        await asyncio.sleep(0.2)
        call.cancel()
    with pytest.raises((BackendUnavailable, asyncio.CancelledError)):
        await call
    assert await bench.thread.run(bench.body(1), timeout_s=T) == 1


async def test_errors_are_told_by_what_the_caller_may_do(bench: Bench) -> None:
    def refuses(connection: sqlite3.Connection) -> None:
        raise BadRequest("code", "detail")

    def bug(connection: sqlite3.Connection) -> None:
        raise ZeroDivisionError

    def missing(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT * FROM no_table")

    def misuse(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT ?", ())

    def damage(connection: sqlite3.Connection) -> None:
        msgspec.msgpack.decode(b"\xc1")

    def disk(connection: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    cases: tuple[tuple[Callable[[sqlite3.Connection], None], type[Exception]], ...] = (
        (missing, BackendUnavailable),
        (refuses, BadRequest),
        (bug, InvariantViolated),
        (misuse, InvariantViolated),
        (damage, StoreDamaged),
        (disk, BackendUnavailable),
    )
    for body, error in cases:
        with pytest.raises(error):
            await bench.thread.run(body, timeout_s=T)
    assert await bench.thread.run(bench.body(1), timeout_s=T) == 1


async def test_a_lock_that_another_holds_is_definite(bench: Bench) -> None:
    other = sqlite3.connect(bench.thread.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(BackendUnavailable, match="locked"):
        await bench.thread.run(
            lambda connection: connection.execute("SELECT * FROM t").fetchall(), timeout_s=T
        )
    other.close()


async def test_too_many_waiting_calls_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "WAITING_MAX", 3)
    held = await bench.holding()
    queued = [
        asyncio.ensure_future(bench.thread.run(bench.body(n), timeout_s=T)) for n in (1, 2, 3)
    ]
    await asyncio.sleep(0)
    with pytest.raises(BackendUnavailable, match="wait"):
        await bench.thread.run(bench.body(4), timeout_s=T)
    bench.released.set()
    assert await asyncio.gather(held, *queued) == ["held", 1, 2, 3]


async def test_stopping_finishes_what_is_queued_and_refuses_the_rest(bench: Bench) -> None:
    queued = [asyncio.ensure_future(bench.thread.run(bench.body(n), timeout_s=T)) for n in range(5)]
    await asyncio.sleep(0)
    await bench.thread.stop()
    assert await asyncio.gather(*queued) == list(range(5))
    with pytest.raises(BackendUnavailable):
        await bench.thread.run(bench.body(9), timeout_s=T)
