"""Implement the MemberStore port on one SQLite file that no other process opens.

It never blocks the loop for a disk write, but to cut the file back.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Self, TypeVar

import structlog

from backends.fence import listed
from backends.replicated import copies, files, overlay, reads
from backends.replicated.opened import OpenedFile
from backends.replicated.rows import BACKEND
from backends.replicated.schema import UnsoundFile, end_of
from kv.errors import BackendUnavailable, BadRequest
from kv.model import Head, LedgerRow, RecordedOperation, Reference, Version
from kv.ports import (
    Facts,
    LeaseAsk,
    Listing,
    LocalRetention,
    Note,
    Pruning,
    Read,
    Scrubbed,
    Span,
    StateCopy,
    Step,
)
from kv.ports.member_store import StoreCondition

COPY_FLUSH_TIMEOUT_S: Final = 10.0

_log = structlog.get_logger("acordo.store")

T = TypeVar("T")


class SqliteMemberStore:
    """The MemberStore port on the SQLite file at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: OpenedFile | None = None
        self._lock = files.Lock(path)
        self._damage = ""
        self.fetched = False
        self._whole = asyncio.Lock()
        """Held, whatever is awaited, by the one who replaces or copies the file as a whole: a
        connection that closes late would delete the next file's write-ahead log.
        """

    # -------------------------------------------------------------------------- opening and ending

    async def __aenter__(self) -> Self:
        try:
            self._lock.take()
        except OSError as exc:
            raise files.unusable(self.path, exc) from exc
        try:
            await self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        async with self._whole:
            await self._close(flush=not self._damage)
        self._lock.release()

    async def _open(self) -> None:
        self._damage = ""
        self.fetched = files.is_fetched(self.path)
        try:
            self.file = await OpenedFile.open(self.path, self._is_damaged)
        except UnsoundFile as exc:
            self._is_damaged(str(exc))

    async def _replace(self, work: Callable[[str], T]) -> T:
        """Close the file, run `work` on it in a thread, and open what is there then. Raises
        BackendUnavailable. Meanwhile, and after a failure, nobody may take the store for an empty
        one.
        """
        self._damage = self._damage or "it is being replaced"
        try:
            if not await self._close(flush=False):
                raise BackendUnavailable(BACKEND, f"{self.path}: a call to its disk does not end")
            result = await asyncio.to_thread(work, self.path)
            await self._open()
        except (OSError, BackendUnavailable, BadRequest) as exc:
            self._damage = f"it could not be replaced: {exc}"
            raise files.unavailable(self.path, exc) from exc
        return result

    async def _close(self, *, flush: bool) -> bool:
        """Close the file. Return whether it is closed: a call to a disk that hangs does not end."""
        file = self.file
        if file is not None and not await file.close(flush=flush):
            return False
        self.file = None
        return True

    def _is_damaged(self, why: str) -> None:
        if not self._damage:
            _log.error("store_damaged", file=self.path, damage=why)
            self._damage = why or "it cannot be read"

    # --------------------------------------------------------------------------------------- state

    @property
    def condition(self) -> StoreCondition:
        if self._damage:
            return "damaged"
        return "sound" if self.note.index else "empty"

    @property
    def damage(self) -> str:
        return self._damage

    @property
    def note(self) -> Note:
        return Note() if self.file is None else self.file.note

    @property
    def newest(self) -> LedgerRow | None:
        return None if self.file is None else self.file.newest

    @property
    def written(self) -> Note:
        return Note() if self.file is None else self.file.writer.written

    @property
    def unwritten_bytes(self) -> int:
        return 0 if self.file is None else self.file.writer.overlay.size

    @property
    def trouble(self) -> str:
        return "" if self.file is None else self.file.writer.trouble

    # -------------------------------------------------------------------------- facts and settling

    def facts(
        self,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        *,
        spans: Sequence[Span] = (),
        leases: Sequence[LeaseAsk] = (),
        recorded_since_ms: int,
    ) -> Facts:
        return self._sound().facts(
            op_ids,
            keys,
            hashed,
            spans=spans,
            leases=leases,
            recorded_since_ms=recorded_since_ms,
        )

    def numbers(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        return self._sound().numbers(keys)

    def row_at(self, index: int) -> LedgerRow | None:
        return self._sound().row_at(index)

    def settle(self, step: Step) -> None:
        self._sound().settle(step)

    async def wait_written(self, index: int, *, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            await self._sound().writer.wait_written(index)

    async def make_durable(self, index: int) -> None:
        file = self._sound()
        file.check_settled(index)
        await file.writer.make_durable(index)

    def cut_back(self, index: int) -> None:
        self._sound().cut_back(index)

    # ------------------------------------------------------------------- copies and whole new files

    async def set_aside(self, why: str) -> str:
        async with self._whole:
            place = await to_the_end(self._replace(files.put_aside))
        _log.warning("store_put_aside", file=self.path, place=place, why=why)
        return place

    async def copy(self) -> StateCopy:
        file = self._sound()
        try:
            async with asyncio.timeout(COPY_FLUSH_TIMEOUT_S):
                await file.writer.wait_written(file.note.index)
            async with self._whole:
                self._sound()
                return await to_the_end(asyncio.to_thread(copies.copy, self.path))
        except TimeoutError as exc:
            raise BackendUnavailable(BACKEND, "what was settled is not written in time") from exc
        except (sqlite3.Error, OSError) as exc:
            raise files.unavailable(self.path, exc) from exc

    async def install(self, state: StateCopy) -> None:
        stop = threading.Event()
        async with self._whole:
            receiving = asyncio.to_thread(copies.receive, self.path, state, stop)
            try:
                await to_the_end(receiving, stop.set)
            except asyncio.CancelledError:
                files.tidy(self.path)
                raise
            except OSError as exc:
                raise files.unavailable(self.path, exc) from exc
            await to_the_end(self._replace(files.put_fetched_in_place))

    async def confirm(self) -> None:
        async with self._whole:
            try:
                await to_the_end(asyncio.to_thread(files.confirm, self.path))
            except OSError as exc:
                raise files.unavailable(self.path, exc) from exc
            self.fetched = False

    # ------------------------------------------------------------------------ pruning and checking

    async def prune(self, retention: LocalRetention, *, timeout_s: float) -> Pruning:
        return await self._sound().prune(retention, timeout_s)

    async def broken_pages(self) -> tuple[str, ...]:
        file, stop = self._sound(), copies.Stop()
        work = asyncio.to_thread(copies.broken_pages, self.path, stop)
        found = await to_the_end(work, stop.set)
        # Another file may have taken its place meanwhile, because of the same flaws.
        return found if self.file is file else ()

    async def damaged_rows(self, after: int, *, timeout_s: float) -> tuple[int, tuple[int, ...]]:
        return await self._sound().read(
            lambda connection: reads.damaged_rows(connection, after), timeout_s
        )

    async def scrub(self, after: int, *, timeout_s: float) -> Scrubbed:
        return await self._sound().read(
            lambda connection: reads.scrub(connection, after), timeout_s
        )

    # -------------------------------------------------------------------------------------- reading

    async def head(self, *, at_least: int = 0, timeout_s: float) -> Head:
        return self._sound().head

    async def floor(self, *, timeout_s: float) -> int:
        return self._sound().floor

    async def probe(self, *, timeout_s: float) -> None:
        self._sound().probe()

    async def blob(self, reference: Reference, *, timeout_s: float) -> bytes | None:
        return None

    async def rows(self, after: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        view, (place, found) = await self._read(
            lambda connection: reads.rows_after(connection, after, limit), timeout_s
        )
        behind = overlay.rows_behind(view, place.head.seq)
        found += [row for row in behind if row.last > after and row.body]
        return tuple(found[:limit])

    async def ledger(self, from_seq: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        view, (place, found) = await self._read(
            lambda connection: reads.ledger_from(connection, from_seq, limit), timeout_s
        )
        behind = overlay.rows_behind(view, place.head.seq)
        found += [row for row in behind if row.seq >= from_seq]
        return tuple(found[:limit])

    async def row_ending(self, last: int, *, timeout_s: float) -> LedgerRow | None:
        file = self._sound()
        row = overlay.row_ending(file.writer.overlay.view, last)
        if row is not None:
            return row
        return await file.read(lambda connection: reads.row_ending(connection, last), timeout_s)

    async def read(
        self, keys: Sequence[bytes], *, at: int | None = None, settled: int = 0, timeout_s: float
    ) -> Read:
        wanted = reads.Ask(reads.NEWEST, reads.up_to(keys, at))
        file = self._sound()
        view = file.writer.overlay.view
        found, (columns,) = await file.read(
            lambda connection: reads.ask(connection, settled, wanted), timeout_s
        )
        place = overlay.place_of(view, found, settled)
        overlay.check_floor(place, at)
        after = found.head.last
        versions = tuple(
            overlay.newest(view, key, at, after) or reads.version_in(key, column)
            for key, column in zip(keys, columns, strict=True)
        )
        return Read(place.head, versions, place.digest_at)

    async def list(
        self,
        prefix: bytes,
        *,
        end: bytes | None = None,
        after: bytes = b"",
        limit: int,
        at: int | None = None,
        settled: int = 0,
        keys_only: bool = False,
        timeout_s: float,
    ) -> Listing:
        bounds = listed(prefix, end, after)
        file = self._sound()
        view = file.writer.overlay.view
        # so many of the file's keys may be gone by what is not written yet
        more = len(set(overlay.keys_between(view, *bounds, 0)))

        def body(
            connection: sqlite3.Connection,
        ) -> tuple[overlay.Place, tuple[list[Version], bool]]:
            place, _ = reads.ask(connection, settled)
            overlay.check_floor(place, at)
            page = reads.listing(connection, bounds, limit + more, at, keys_only=keys_only)
            return place, page

        found, page = await file.read(
            lambda connection: reads.snapshot(connection, lambda: body(connection)), timeout_s
        )
        place = overlay.place_of(view, found, settled)
        overlay.check_floor(place, at)
        versions, is_more = overlay.merged(
            view, page, bounds, at, found.head.last, limit=limit, keys_only=keys_only
        )
        return Listing(place.head, versions, is_more, place.digest_at)

    async def versions(
        self, at: Sequence[tuple[bytes, int]], *, timeout_s: float
    ) -> tuple[Version | None, ...]:
        ranges = [(key, end_of(revision - 1) + 1, end_of(revision)) for key, revision in at]
        file = self._sound()
        view = file.writer.overlay.view
        _, (columns,) = await file.read(
            lambda connection: reads.ask(connection, 0, reads.Ask(reads.EXACT, ranges)), timeout_s
        )
        return tuple(
            overlay.exactly(view, key, revision) or reads.version_in(key, column)
            for (key, revision), column in zip(at, columns, strict=True)
        )

    async def operations(
        self, op_ids: Sequence[str], *, timeout_s: float
    ) -> tuple[RecordedOperation | None, ...]:
        wanted = reads.Ask(reads.OPERATION, [(op_id,) for op_id in op_ids])
        file = self._sound()
        unwritten = [file.writer.overlay.operation(op_id) for op_id in op_ids]
        _, (columns,) = await file.read(
            lambda connection: reads.ask(connection, 0, wanted), timeout_s
        )
        written = map(reads.operation_in, op_ids, columns)
        return tuple(map(_newer, unwritten, written))

    async def recorded_after(
        self, revision: int, limit: int, *, timeout_s: float
    ) -> tuple[RecordedOperation, ...]:
        file = self._sound()
        try:
            # what is recorded is not laid over a walk: it is read once it is in the file
            async with asyncio.timeout(timeout_s):
                await file.writer.wait_written(file.note.index)
        except TimeoutError as exc:
            raise BackendUnavailable(BACKEND, "what was settled is not written in time") from exc
        return await file.read(
            lambda connection: reads.recorded_after(connection, revision, limit), timeout_s
        )

    async def due(
        self, log_time_ms: int, limit: int, *, timeout_s: float
    ) -> tuple[tuple[bytes, int], ...]:
        more = sum(len(each.versions) for each in self._sound().writer.overlay.view)
        view, (place, found) = await self._read(
            lambda connection: reads.due(connection, log_time_ms, limit + more), timeout_s
        )
        return overlay.due(view, found, log_time_ms, place.head.last)[:limit]

    async def attached(self, lease: int, *, limit: int, timeout_s: float) -> tuple[bytes, ...]:
        return self._sound().leases.keys(lease)[:limit]

    async def attached_counts(
        self, leases: Sequence[int], *, limit: int, timeout_s: float
    ) -> Mapping[int, int]:
        index = self._sound().leases
        return {lease: min(index.count(lease), limit) for lease in leases}

    async def _read(
        self, body: Callable[[sqlite3.Connection], T], timeout_s: float
    ) -> tuple[overlay.View, tuple[overlay.Place, T]]:
        """Read in one snapshot of the file. Return what is to be laid over it, too."""
        file = self._sound()
        view = file.writer.overlay.view
        return view, await file.snapshot(body, timeout_s)

    def _sound(self) -> OpenedFile:
        """Return the file that may be read and written. Raises BackendUnavailable."""
        if self._damage:
            raise BackendUnavailable(BACKEND, f"{self.path} is damaged: {self._damage}")
        if self.file is None:
            raise BackendUnavailable(BACKEND, f"{self.path} is not open")
        return self.file


async def to_the_end(work: Coroutine[Any, Any, T], stop: Callable[[], None] = lambda: None) -> T:
    """Await work that must not be left half-way: a caller that is cancelled calls `stop`, and waits
    for the end.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([task])
        raise


def _newer(
    unwritten: RecordedOperation | None, written: RecordedOperation | None
) -> RecordedOperation | None:
    if unwritten is None or (written is not None and written.revision > unwritten.revision):
        return written
    return unwritten
