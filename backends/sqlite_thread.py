"""Run SQLite calls on a dedicated thread, each bounded in time, and tell as exactly as possible how
each ended.

It does not know what a call means, only whether it happened, did not happen, or may have happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import msgspec
import structlog

from kv.errors import (
    BackendUnavailable,
    InvariantViolated,
    KvError,
    OutcomeUnknown,
    StoreDamaged,
)

WAITING_MAX: Final = 4096
"""The number of calls that may wait for the thread. One more is refused with BackendUnavailable."""
STOP_TIMEOUT_S: Final = 10.0
BUSY_PAUSES_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
"""The pauses between attempts at a lock that another process holds. The last one repeats until the
call's time is over.
"""

_log = structlog.get_logger("acordo.sqlite")

T = TypeVar("T")


class _Stage(enum.Enum):
    QUEUED = enum.auto()
    RUNNING = enum.auto()
    COMMITTING = enum.auto()
    """COMMIT has been sent: from here on only its answer tells whether the transaction landed."""
    DONE = enum.auto()
    WITHDRAWN = enum.auto()
    """The caller has been answered that the call did not happen, so it must not happen any more."""


class WithdrawnError(Exception):
    """The way out of a transaction that nobody waits for any more."""


class Turn:
    """One call: its stage, and the future of its caller. Stages change only under the thread's
    lock.
    """

    def __init__(
        self, job: Callable[[Turn], Any], connection: sqlite3.Connection, owner: SqliteThread
    ) -> None:
        self.connection = connection
        self._job, self._owner = job, owner
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Any] = self._loop.create_future()
        self.stage = _Stage.QUEUED

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """Run one statement and return its cursor."""
        return self.connection.execute(sql, parameters)

    def fetch(self, sql: str, parameters: Any = ()) -> list[Any]:
        """Return all rows of a query. It has a snapshot of its own, except within `read` or
        `write`.
        """
        return self.waits(lambda: self.connection.execute(sql, parameters).fetchall())

    def read(self, body: Callable[[Turn], T]) -> T:
        """Run several statements in one snapshot."""
        self._begin("BEGIN")
        try:
            return body(self)
        finally:
            self.rollback()

    def write(
        self, body: Callable[[Turn], T], *, commit_if: Callable[[T], bool] | None = None
    ) -> T:
        """Run `body` in one write transaction, and commit it unless `commit_if` returns False for
        its result.
        """
        self._begin("BEGIN IMMEDIATE")
        try:
            self._owner.check_file()
            result = body(self)
            if commit_if is not None and not commit_if(result):
                return result
            self._owner.commits(self)
            self.connection.execute("COMMIT")
            return result
        finally:
            self.rollback()

    def probe(self, free_bytes_min: int) -> None:
        """Take the write lock of the file that other processes see, and release it. Raises
        BackendUnavailable.
        """
        self._owner.check_room(free_bytes_min)
        self.write(lambda _: None, commit_if=lambda _: False)

    def rollback(self) -> None:
        """Roll the open transaction back, if there is one."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def waits(self, attempt: Callable[[], T]) -> T:
        """Repeat `attempt` while another process holds the lock that it needs, until the caller
        gives up.
        """
        for n in range(1_000_000):
            try:
                return attempt()
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                    raise
            if self.stage is _Stage.WITHDRAWN:
                raise WithdrawnError
            time.sleep(BUSY_PAUSES_S[min(n, len(BUSY_PAUSES_S) - 1)])
        raise WithdrawnError

    def _begin(self, sql: str) -> None:
        self.waits(lambda: self.connection.execute(sql))

    def run(self) -> None:
        """Run the job, and pass its result to the event loop that waits for it."""
        try:
            result = self._job(self)
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the waiting caller must hear it
            committing = self._owner.ends(self)
            self._hand_over(None, translate(exc, self._owner.path, committing=committing))
        else:
            self._owner.ends(self)
            self._hand_over(result, None)

    def _hand_over(self, result: Any, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._resolve, result, error)
        except RuntimeError:
            # the caller's loop is closed: nobody waits
            _log.warning("caller_gone", file=self._owner.path)

    def _resolve(self, result: Any, error: BaseException | None) -> None:
        if self.answer.done():
            return
        if error is not None:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(result)


class SqliteThread:
    """One connection, and the only thread that uses it."""

    def __init__(self, name: str, path: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self.path = path
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._queue: queue.SimpleQueue[Turn | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running: Turn | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._started = False
        self._files: dict[str, tuple[int, int]] = {}
        self._closed: Callable[[], object] = lambda: None

    def start(self) -> None:
        """Connect (without reading the file yet) and start the thread. Raises
        BackendUnavailable.
        """
        try:
            self._connection = self._connect()
        except sqlite3.Error as exc:
            raise translate(exc, self.path, committing=False) from exc
        self._thread.start()
        self._started = True

    async def stop(self) -> None:
        """Finish the queued calls and close the connection, in the thread. Wait for that for
        STOP_TIMEOUT_S at most.
        """
        if not self._started:
            return
        self._started = False
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()
        self._closed = lambda: loop.call_soon_threadsafe(closed.set)
        self._queue.put(None)
        try:
            await asyncio.wait_for(closed.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            # it is a daemon thread, so it does not keep the process alive
            _log.warning("thread_not_stopped", file=self.path)

    async def run(self, job: Callable[[Turn], T], *, timeout_s: float) -> T:
        """Run `job` in the thread and return its result.

        Raises BackendUnavailable when it did not happen (also when the time ran out before COMMIT
        was sent: then it is rolled back), OutcomeUnknown when the time ran out, or the disk failed,
        during COMMIT.
        """
        if not self._started or self._connection is None:
            raise BackendUnavailable("sqlite", f"{self.path} is not open")
        if self._queue.qsize() >= WAITING_MAX:
            raise BackendUnavailable("sqlite", f"{WAITING_MAX} calls wait already")
        turn = Turn(job, self._connection, self)
        timer = asyncio.get_running_loop().call_later(timeout_s, self._give_up, turn)
        self._queue.put(turn)
        try:
            return cast(T, await turn.answer)
        except asyncio.CancelledError:
            self._withdraw(turn)
            raise
        finally:
            timer.cancel()

    def remember_file(self) -> None:
        """Record the identity of the open files, once they are known to exist."""
        self._files = {
            path: _identity_of(path)
            for path in (self.path, f"{self.path}-wal")
            if os.path.exists(path)
        }

    def check_file(self) -> None:
        """Raise BackendUnavailable if a path has been removed or names another file now: what is
        written to the open file would be lost.

        The write-ahead log is checked too. SQLite does not delete it while it is open, so somebody
        else did, and what only it holds would be lost.
        """
        for path, noted in self._files.items():
            try:
                found = _identity_of(path)
            except OSError as exc:
                raise BackendUnavailable(
                    "sqlite", f"{path} is gone: stop all nodes, restore it, start them"
                ) from exc
            if found != noted:
                raise BackendUnavailable(
                    "sqlite", f"{path} was replaced: restart every node that has it open"
                )

    def check_room(self, free_bytes_min: int) -> None:
        """Raise BackendUnavailable if the disk is full or read-only."""
        try:
            found = os.statvfs(os.path.dirname(os.path.abspath(self.path)))
        except OSError as exc:
            raise BackendUnavailable(
                "sqlite", f"{self.path}: its directory is gone: {exc}"
            ) from exc
        if found.f_flag & os.ST_RDONLY:
            raise BackendUnavailable("sqlite", f"{self.path}: its file system is read-only")
        free_bytes = found.f_bavail * found.f_frsize
        if free_bytes < free_bytes_min:
            raise BackendUnavailable(
                "sqlite", f"{self.path}: its disk is full ({free_bytes} bytes are left)"
            )

    def commits(self, turn: Turn) -> None:
        """Mark the turn as committing, after which it cannot be withdrawn. Raises WithdrawnError if
        the caller has gone.
        """
        with self._lock:
            if turn.stage is _Stage.WITHDRAWN:
                raise WithdrawnError
            turn.stage = _Stage.COMMITTING

    def ends(self, turn: Turn) -> bool:
        """Free the thread for the next turn. Return whether COMMIT had been sent."""
        with self._lock:
            committing = turn.stage is _Stage.COMMITTING
            self._running = None
            if turn.stage is not _Stage.WITHDRAWN:
                turn.stage = _Stage.DONE
            return committing

    def _give_up(self, turn: Turn) -> None:
        if turn.answer.done():
            return
        stage = self._withdraw(turn)
        if stage is _Stage.COMMITTING:
            turn.answer.set_exception(OutcomeUnknown(f"{self.path}: no answer to COMMIT in time"))
        elif stage is not _Stage.DONE:  # the answer of a finished turn is already on its way
            turn.answer.set_exception(
                BackendUnavailable("sqlite", f"{self.path}: no answer in time; rolled back")
            )

    def _withdraw(self, turn: Turn) -> _Stage:
        """Make sure that the turn never lands, unless it is too late for that. Return the stage
        that it was in.
        """
        with self._lock:
            stage = turn.stage
            if stage in {_Stage.QUEUED, _Stage.RUNNING}:
                turn.stage = _Stage.WITHDRAWN
                if self._running is turn:
                    turn.connection.interrupt()
            return stage

    def _main(self) -> None:
        while (turn := self._queue.get()) is not None:
            with self._lock:
                if turn.stage is _Stage.WITHDRAWN:
                    continue
                turn.stage, self._running = _Stage.RUNNING, turn
            turn.run()
        if self._connection is not None:
            self._connection.close()
        with contextlib.suppress(RuntimeError):  # the loop that waited may be closed
            self._closed()


def _identity_of(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def translate(exc: BaseException, path: str, *, committing: bool) -> BaseException:
    """Return the error that tells the caller what to do next about a failure in the thread."""
    if isinstance(exc, KvError):
        return exc
    ours = _sorted(exc, path, committing=committing)
    ours.__cause__ = exc
    return ours


def _sorted(exc: BaseException, path: str, *, committing: bool) -> KvError:
    if isinstance(exc, WithdrawnError):
        return BackendUnavailable("sqlite", f"{path}: no answer in time; rolled back")
    if isinstance(exc, sqlite3.IntegrityError):
        return InvariantViolated(f"{path}: {exc}")
    if isinstance(exc, msgspec.MsgspecError | UnicodeDecodeError):
        return StoreDamaged(
            "sqlite", b"", 0, f"{path}: a row of the ledger or of op_ids is damaged: {exc}"
        )
    if not isinstance(exc, sqlite3.OperationalError | sqlite3.DatabaseError) or isinstance(
        exc, sqlite3.ProgrammingError | sqlite3.NotSupportedError | sqlite3.DataError
    ):
        return InvariantViolated(f"{path}: {exc!r}")
    code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if committing and code == sqlite3.SQLITE_IOERR:
        # The commit record may already be in the write-ahead log: recovery after a crash could
        # still restore it.
        return OutcomeUnknown(f"{path}: {exc} during COMMIT")
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return BackendUnavailable("sqlite", f"{path}: another process holds the lock")
    return BackendUnavailable("sqlite", f"{path}: {exc}")
