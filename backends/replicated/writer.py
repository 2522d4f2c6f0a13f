"""Write what was settled behind the loop: many Steps in one transaction, in order, by one thread.

What fails is tried again; nothing that was settled is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import structlog

from backends.replicated import files, writes
from backends.replicated.overlay import Generation, Overlay
from backends.replicated.rows import BACKEND, rows_of
from backends.replicated.schema import UnsoundFile
from kv.errors import BackendUnavailable
from kv.ports import Note, Step

DELAY_S: Final = 0.25
"""How long Steps are gathered for one transaction, unless somebody waits for them. A transaction
costs as much as dozens of rows, and pages that several Steps change are written once.
"""
BATCH_BYTES: Final = 4 * 1024 * 1024
"""So many bytes are written without gathering more."""
RETRY_S: Final = 0.25
"""The pause before what failed is tried again."""
STOP_TIMEOUT_S: Final = 10.0

_log = structlog.get_logger("acordo.store")

T = TypeVar("T")
_Done = Callable[[Any, BaseException | None], None]


class WriterThread:
    """One connection, and the only thread that writes with it."""

    def __init__(self, path: str, connection: sqlite3.Connection, *, term: int, due: bool) -> None:
        self.path = path
        self.connection = connection
        self.lock = threading.Lock()
        """Held while a job uses the connection."""
        self.check_room: Callable[..., None] = files.check_room
        self._term, self._due = term, due
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], _Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name="store-write", daemon=True)
        self._files = files.Identities(path)
        self._ended = asyncio.Event()
        self._stopping = False
        self._thread.start()

    def submit(self, job: Callable[[], T], done: Callable[[T, BaseException | None], None]) -> None:
        """Run a job in the thread, then `done` on the loop with its result or its error."""
        self._queue.put((job, done))

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job in the thread and return its result. Raises BackendUnavailable when it has
        ended.
        """
        if self._stopping:
            raise BackendUnavailable(BACKEND, f"{self.path} is not open")
        answer: asyncio.Future[T] = self._loop.create_future()

        def done(result: T, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        self.submit(job, done)
        return await answer

    async def stop(self) -> bool:
        """Run what was submitted, and close the connection. Return whether that is done; it is
        waited for STOP_TIMEOUT_S at most.
        """
        if not self._stopping:
            self._stopping = True
            self._queue.put(None)
        try:
            await asyncio.wait_for(self._ended.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            # it is a daemon thread, so it does not keep the process alive
            _log.warning("thread_not_stopped", file=self.path)
            return False
        return True

    def write(self, steps: list[Step], size: int, *, durable: bool) -> None:
        """Write Steps in one transaction. Runs in the thread. Raises BackendUnavailable,
        UnsoundFile, sqlite3.Error.
        """
        self._files.check()
        self.check_room(self.path, size)
        new = rows_of(steps, self._term) if steps else None

        def body() -> None:
            if new is not None:
                writes.write(self.connection, new, forget_due=self._due)
            if durable:
                writes.note_durable(self.connection)

        writes.transaction(self.connection, body, durable=durable)
        if new is not None:
            self._term, self._due = new.note.term, self._due or new.expires

    def goes_on_from(self, note: Note) -> None:
        """Take what was cut back for what comes next. The caller holds the lock."""
        self._term, self._due = note.term, True

    def _main(self) -> None:
        while (item := self._queue.get()) is not None:
            job, done = item
            result, error = None, None
            with self.lock:
                try:
                    result = job()
                except BaseException as exc:  # noqa: BLE001 - whatever it is, who waits must hear it
                    error = exc
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(done, result, error)
            del item, job, done, result, error
        with self.lock, contextlib.suppress(sqlite3.Error):
            self.connection.close()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)


class Writer:
    """The Steps on their way into the file, and those who wait for them."""

    def __init__(self, thread: WriterThread, written: Note, failed: Callable[[Exception], bool]):
        """`failed` is asked about an error; it returns whether trying again makes sense."""
        self.overlay = Overlay()
        self.written = written
        self.trouble = ""
        self._thread, self._failed = thread, failed
        self._loop = asyncio.get_running_loop()
        self._busy = False
        self._given_up = False
        self._timer: asyncio.TimerHandle | None = None
        self._wanted = 0
        """The highest log index that somebody waits for."""
        self._durable_wanted = False
        self._round = self._loop.create_future()
        """Ends with the transaction under way, or the next one."""

    def add(self, step: Step) -> None:
        """Take one more Step. Raises BadRequest."""
        filling = self.overlay.filling
        filling.add(step)
        if self._timer is None and not self._busy:
            self._timer = self._loop.call_later(DELAY_S, self._write)
        if filling.size > BATCH_BYTES:
            self._hurry()

    async def wait_written(self, index: int) -> None:
        """Return once all up to this log index is in the file. Raises BackendUnavailable."""
        while self.written.index < index:
            self._wanted = max(self._wanted, index)
            await self._next_round()

    async def make_durable(self, index: int) -> None:
        """Return once all up to this log index survives a power cut. Raises BackendUnavailable as
        soon as an attempt fails.
        """
        while self.written.index < index:
            self._check_trouble()
            self._wanted = max(self._wanted, index)
            await self._next_round()
        self._check_trouble()
        try:
            await self._thread.run(lambda: self._thread.write([], 0, durable=True))
        except (sqlite3.Error, OSError, UnsoundFile) as exc:
            self._failed(exc)
            raise files.unavailable(self._thread.path, exc) from exc

    @property
    def idle(self) -> bool:
        """Whether all that was settled is in the file."""
        return not self.overlay.view and not self._busy

    async def flush(self, index: int) -> None:
        """Make all up to this log index durable, unless that fails or takes too long."""
        with contextlib.suppress(BackendUnavailable, TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self.make_durable(index)

    def give_up(self) -> None:
        """Write nothing more: the file is not to be used any longer."""
        self._given_up = True
        if self._timer is not None:
            self._timer.cancel()
        self._end_round()

    # ------------------------------------------------------------------------------------ internals

    def _check_trouble(self) -> None:
        if self.trouble:
            raise BackendUnavailable(BACKEND, self.trouble)

    async def _next_round(self) -> None:
        if self._given_up:
            raise BackendUnavailable(BACKEND, "the file is not in use any longer")
        self._hurry()
        await asyncio.shield(self._round)
        if self._given_up:
            raise BackendUnavailable(BACKEND, "the file is not in use any longer")

    def _hurry(self) -> None:
        if self._busy or self.trouble:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._write()

    def _write(self) -> None:
        """Begin the next transaction."""
        self._timer = None
        overlay = self.overlay
        if self._busy or self._given_up:
            return
        if overlay.writing is None:
            if not overlay.filling.steps:
                return
            overlay.turn()
        generation = overlay.writing
        assert generation is not None
        self._busy = True
        self._thread.submit(
            lambda: self._thread.write(generation.steps, generation.size, durable=False),
            lambda _, error: self._ends(generation, error),
        )

    def _ends(self, generation: Generation, error: BaseException | None) -> None:
        self._busy = False
        if error is None:
            if self.trouble:
                _log.info("store_writes_again", file=self._thread.path)
            self.trouble = ""
            self.written = generation.steps[-1].note
            self.overlay.writing = None
            if not self._given_up and self.overlay.filling.steps:
                if self._wanted > self.written.index:
                    self._write()
                else:
                    self._timer = self._loop.call_later(DELAY_S, self._write)
        else:
            if not self.trouble:
                _log.error("store_does_not_write", file=self._thread.path, error=str(error))
            self.trouble = self._named(error)
            again = self._failed(error) if isinstance(error, Exception) else False
            if again and not self._given_up:
                self._timer = self._loop.call_later(RETRY_S, self._write)
        self._end_round()

    def _named(self, error: BaseException) -> str:
        """Return what an error says, with the file that it is about."""
        said, path = str(error) or repr(error), self._thread.path
        return said if path in said else f"{path}: {said}"

    def _end_round(self) -> None:
        ended, self._round = self._round, self._loop.create_future()
        ended.set_result(None)
