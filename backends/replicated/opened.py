"""Hold one sound file open: the thread that writes, the one that reads, and the facts' connection.

It knows nothing of other files: `store` replaces the whole object when the file is replaced.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, Self, TypeVar

import msgspec

from backends.leases import LeaseIndex
from backends.replicated import facts, files, opening, overlay, pruning, reads, schema, writes
from backends.replicated.reader import ReaderThread
from backends.replicated.rows import BACKEND
from backends.replicated.writer import Writer, WriterThread
from kv.errors import BackendUnavailable, InvariantViolated, StoreDamaged
from kv.model import GENESIS, Head, LedgerRow
from kv.ports import Facts, LeaseAsk, LocalRetention, Pruning, Span, Step

READER_CACHE_KIB: Final = 8 * 1024
FACTS_CACHE_KIB: Final = 4 * 1024
BUSY_MS: Final = 200
"""How long a read waits for a lock: nobody holds one for long, but people with tools of their own
might.
"""

T = TypeVar("T")


class OpenedFile:
    """One sound file while it is open, and what was settled and is not in it yet."""

    def __init__(
        self,
        path: str,
        found: opening.Found,
        reading: sqlite3.Connection,
        damaged: Callable[[str], None],
    ) -> None:
        """Take what was opened: `reading` is used on the loop's thread, `damaged` is told when the
        file turns out not to be sound.
        """
        self.path = path
        self.note, self.newest, self.floor = found.note, found.newest, found.floor
        self.thread = WriterThread(path, found.connection, term=found.term, due=found.due)
        self.writer = Writer(self.thread, found.note, self._goes_on)
        self._damaged = damaged
        self._reader = ReaderThread(path, lambda: _reading(path, READER_CACHE_KIB))
        self._facts = reading
        self._newest = facts.Newest()
        self.leases = LeaseIndex(found.leased)
        """Which keys each lease has, of everything that was settled."""

    @classmethod
    async def open(cls, path: str, damaged: Callable[[str], None]) -> Self:
        """Open the file, or a new one if it is missing. Raises UnsoundFile, BadRequest,
        BackendUnavailable.
        """
        found = await asyncio.to_thread(opening.open_file, path)
        try:
            reading = _reading(path, FACTS_CACHE_KIB)
        except sqlite3.Error as exc:
            found.connection.close()
            raise files.unavailable(path, exc) from exc
        opened = cls(path, found, reading, damaged)
        try:
            opened._reader.start()
        except BackendUnavailable:
            await opened.close(flush=False)
            raise
        return opened

    async def close(self, *, flush: bool) -> bool:
        """Close the file, with all that was settled in it if `flush`. Return whether it is closed:
        a call to a disk that hangs does not end.
        """
        if flush:
            await self.writer.flush(self.note.index)
        self.writer.give_up()
        await self._reader.stop()
        self._facts.close()
        return await self.thread.stop()

    @property
    def head(self) -> Head:
        """The head of the newest row."""
        return GENESIS if self.newest is None else self.newest.head

    # ------------------------------------------------------------------------- on the loop's thread

    def facts(
        self,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        *,
        spans: Sequence[Span],
        leases: Sequence[LeaseAsk],
        recorded_since_ms: int,
    ) -> Facts:
        """Read what `evaluate` needs. Raises BackendUnavailable."""
        found = self._now(
            lambda: facts.facts(
                facts.Settled(self._facts, self.writer.overlay, self._newest, self.head),
                op_ids,
                keys,
                hashed,
                spans=spans,
                recorded_since_ms=recorded_since_ms,
            )
        )
        if leases:
            found = msgspec.structs.replace(found, leases=self.leases.facts(leases))
        return found

    def numbers(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        """Return the create_revision and the version of the present ones of the keys. Raises
        BackendUnavailable.
        """
        found: dict[bytes, tuple[int, int]] = {}
        elsewhere = self._newest.numbers(keys, found)
        if elsewhere:
            overlay = self.writer.overlay
            self._now(lambda: facts.numbers(self._facts, overlay, elsewhere, found))
        return found

    def row_at(self, index: int) -> LedgerRow | None:
        """Return the row of a log index. Raises BackendUnavailable."""
        for row in overlay.rows_behind(self.writer.overlay.view, 0):
            if row.index == index:
                return row
        return self._now(lambda: reads.row_at(self._facts, index))

    def settle(self, step: Step) -> None:
        """Take the next Step. Raises InvariantViolated, BadRequest."""
        note, group = step.note, step.group
        if note.index <= self.note.index or note.term < self.note.term:
            raise InvariantViolated(f"{note} does not come after {self.note}")
        if group is not None:
            row = group.row
            if (row.index, row.term) != (note.index, note.term) or row.seq != self.head.seq + 1:
                raise InvariantViolated(
                    f"ledger row {row.seq} is not what {note} makes behind {self.head.seq}"
                )
        self.writer.add(step)
        self.note = note
        if group is not None:
            self.newest = group.row
            self._newest.settle(group.versions, step.hashes)
            self.leases.settle(group.versions)
        self.floor = max(self.floor, step.floor)

    def check_settled(self, index: int) -> None:
        """Raise InvariantViolated if this log index is above all that was settled."""
        if index > self.note.index:
            raise InvariantViolated(f"{index} is above all that was settled: {self.note}")

    def probe(self) -> None:
        """Raise BackendUnavailable if nothing could be written now."""
        if self.writer.trouble:
            raise BackendUnavailable(BACKEND, self.writer.trouble)
        self.thread.check_room(self.path)

    def cut_back(self, index: int) -> None:
        """Remove what the commands above a log index made. Raises BackendUnavailable."""
        if not self.writer.idle:
            raise InvariantViolated("something is unwritten")
        if index >= self.note.index:
            return
        with self.thread.lock:
            connection = self.thread.connection
            try:
                note = writes.transaction(
                    connection, lambda: pruning.cut_back(connection, index), durable=True
                )
                self.newest = reads.newest_row(connection)
                self.floor = schema.one(connection, "SELECT floor FROM state")
                self.leases = LeaseIndex(reads.leased(connection))
            except (sqlite3.Error, msgspec.MsgspecError, ValueError, RecursionError) as exc:
                self._goes_on(exc)
                raise files.unavailable(self.path, exc) from exc
            self._newest.clear()
            self.thread.goes_on_from(note)
        self.note = self.writer.written = note

    # ----------------------------------------------------------------------------------- in threads

    async def read(self, body: Callable[[sqlite3.Connection], T], timeout_s: float) -> T:
        """Run `body` on the reading thread. Raises BackendUnavailable."""
        try:
            return await self._reader.run(
                lambda connection: _or_damaged(body, connection), timeout_s=timeout_s
            )
        except BackendUnavailable as exc:
            if isinstance(exc.__cause__, sqlite3.Error) and opening.is_damage(exc.__cause__):
                self._goes_on(exc.__cause__)
            raise

    async def snapshot(
        self, body: Callable[[sqlite3.Connection], T], timeout_s: float
    ) -> tuple[overlay.Place, T]:
        """Run `body` in one snapshot of the file on the reading thread; return its place too."""

        def both(connection: sqlite3.Connection) -> tuple[overlay.Place, T]:
            return reads.snapshot(
                connection, lambda: (reads.ask(connection, 0)[0], body(connection))
            )

        return await self.read(both, timeout_s)

    async def prune(self, retention: LocalRetention, timeout_s: float) -> Pruning:
        """Do one small step of pruning. Raises BackendUnavailable."""
        connection = self.thread.connection
        try:
            async with asyncio.timeout(timeout_s):
                await self.writer.wait_written(self.note.index)
                return await self.thread.run(
                    lambda: writes.transaction(
                        connection, lambda: pruning.prune(connection, retention)
                    )
                )
        except TimeoutError as exc:
            raise BackendUnavailable(BACKEND, "not pruned in time") from exc
        except sqlite3.Error as exc:
            self._goes_on(exc)
            raise files.unavailable(self.path, exc) from exc

    # ------------------------------------------------------------------------------------ internals

    def _now(self, body: Callable[[], T]) -> T:
        try:
            return body()
        except (sqlite3.Error, msgspec.MsgspecError, ValueError, RecursionError) as exc:
            self._goes_on(exc)
            raise files.unavailable(self.path, exc) from exc

    def _goes_on(self, exc: Exception) -> bool:
        """Return whether the file can still be used after an error; tell if it cannot."""
        if not opening.is_damage(exc):
            return True
        self._damaged(str(exc))
        self.writer.give_up()
        return False


def _or_damaged(body: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> T:
    """Read, and tell a row that makes no sense from a mistake of ours."""
    try:
        return body(connection)
    except ValueError as exc:
        raise StoreDamaged(BACKEND, b"", 0, f"a row cannot be read: {exc}") from exc


def _reading(path: str, cache_kib: int) -> sqlite3.Connection:
    connection = schema.connect(path, cache_kib=cache_kib)
    connection.execute("PRAGMA query_only = ON")
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    return connection
