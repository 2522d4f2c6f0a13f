"""Read a member's file on a thread of its own, each call bounded in time.

It never writes, so a call that is given up has changed nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import msgspec
import structlog

from backends.replicated import files
from backends.replicated.rows import BACKEND
from kv.errors import BackendUnavailable, InvariantViolated, KvError, StoreDamaged

WAITING_MAX: Final = 4096
"""The number of calls that may wait for the thread. One more is refused with BackendUnavailable."""
STOP_TIMEOUT_S: Final = 10.0

_log = structlog.get_logger("acordo.store")

T = TypeVar("T")


class _Stage(enum.Enum):
    QUEUED = enum.auto()
    RUNNING = enum.auto()
    DONE = enum.auto()
    WITHDRAWN = enum.auto()
    """Nobody waits for its result any more."""


class _Call:
    """One call, and the future of its caller. Its stage changes only under the thread's lock."""

    def __init__(self, body: Callable[[sqlite3.Connection], Any]) -> None:
        self.body = body
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Any] = self.loop.create_future()
        self.stage = _Stage.QUEUED

    def hand_over(self, result: Any, error: BaseException | None) -> None:
        """Tell the caller. Runs in the thread."""
        with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody waits
            self.loop.call_soon_threadsafe(self._resolve, result, error)

    def _resolve(self, result: Any, error: BaseException | None) -> None:
        if self.answer.done():
            return
        if error is not None:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(result)


class ReaderThread:
    """One connection, and the only thread that reads with it."""

    def __init__(self, path: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self.path = path
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running: _Call | None = None
        self._thread = threading.Thread(target=self._main, name="store-read", daemon=True)
        self._started = False
        self._closed: Callable[[], object] = lambda: None

    def start(self) -> None:
        """Connect and start the thread. Raises BackendUnavailable."""
        try:
            self._connection = self._connect()
        except sqlite3.Error as exc:
            raise files.unavailable(self.path, exc) from exc
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

    async def run(self, body: Callable[[sqlite3.Connection], T], *, timeout_s: float) -> T:
        """Run `body` in the thread and return its result. Raises BackendUnavailable (also when the
        time is over), StoreDamaged, InvariantViolated.
        """
        if not self._started:
            raise BackendUnavailable(BACKEND, f"{self.path} is not open")
        if self._queue.qsize() >= WAITING_MAX:
            raise BackendUnavailable(BACKEND, f"{WAITING_MAX} calls wait already")
        call = _Call(body)
        timer = call.loop.call_later(timeout_s, self._give_up, call)
        self._queue.put(call)
        try:
            return cast(T, await call.answer)
        except asyncio.CancelledError:
            self._withdraw(call)
            raise
        finally:
            timer.cancel()

    def _give_up(self, call: _Call) -> None:
        # the answer of a call that is done is already on its way
        if not call.answer.done() and self._withdraw(call) is not _Stage.DONE:
            call.answer.set_exception(
                BackendUnavailable(BACKEND, f"{self.path}: no answer in time")
            )

    def _withdraw(self, call: _Call) -> _Stage:
        """Let the thread waste no time on the call. Return the stage that it was in."""
        with self._lock:
            stage = call.stage
            if stage in {_Stage.QUEUED, _Stage.RUNNING}:
                call.stage = _Stage.WITHDRAWN
                if self._running is call and self._connection is not None:
                    self._connection.interrupt()
            return stage

    def _main(self) -> None:
        assert self._connection is not None
        while (call := self._queue.get()) is not None:
            with self._lock:
                if call.stage is _Stage.WITHDRAWN:
                    continue
                call.stage, self._running = _Stage.RUNNING, call
            result, error = None, None
            try:
                result = call.body(self._connection)
            except BaseException as exc:  # noqa: BLE001 - whatever it is, who waits must hear it
                error = translate(exc, self.path)
            with self._lock:
                self._running = None
                if call.stage is _Stage.RUNNING:
                    call.stage = _Stage.DONE
            call.hand_over(result, error)
            del call, result, error
        self._connection.close()
        with contextlib.suppress(RuntimeError):  # the loop that waited may be closed
            self._closed()


def translate(exc: BaseException, path: str) -> BaseException:
    """Return the error that tells the caller what to do next about a failure in the thread."""
    if isinstance(exc, KvError):
        return exc
    ours = _sorted(exc, path)
    ours.__cause__ = exc
    return ours


def _sorted(exc: BaseException, path: str) -> KvError:
    if isinstance(exc, msgspec.MsgspecError | UnicodeDecodeError):
        return StoreDamaged(BACKEND, b"", 0, f"{path}: a row of the file is damaged: {exc}")
    if not isinstance(exc, sqlite3.DatabaseError) or isinstance(
        exc,
        sqlite3.IntegrityError
        | sqlite3.ProgrammingError
        | sqlite3.NotSupportedError
        | sqlite3.DataError,
    ):
        return InvariantViolated(f"{path}: {exc!r}")
    return BackendUnavailable(BACKEND, f"{path}: {exc}")
