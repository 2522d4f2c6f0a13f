"""Keep the ledger and the versions in one SQLite file that all node processes of a machine share.

It never blocks the event loop, and never reports that a transaction did not land while it still
may.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file, never from what a
# caller gives

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, Self, TypeVar

from backends import sqlite_reads as reads
from backends import sqlite_writes as writes
from backends.fence import (
    STAGED_BYTES_MAX,
    check_group,
    checked_blob,
    empty_row,
    outranks,
    range_of,
)
from backends.sqlite_schema import REVISION_SHIFT, check_whole, connect, end_of, prepare
from backends.sqlite_thread import SqliteThread, Turn
from kv.errors import BackendUnavailable, BadRequest, Pruned
from kv.model import Group, Head, LedgerRow, RecordedOperation, Reference, Version, value_hash
from kv.ports import (
    Appended,
    Facts,
    Fenced,
    Identity,
    Listing,
    Outranked,
    Pruning,
    Read,
    Retention,
    Scrubbed,
    TakenOver,
)

OPEN_TIMEOUT_S: Final = 20.0
PROBE_FREE_BYTES_MIN: Final = 4 * 1024 * 1024
"""A disk with less room than one group may take counts as full."""
WRITER_CACHE_KIB: Final = 8 * 1024
READER_CACHE_KIB: Final = 16 * 1024

NOT_OURS_TO_OPEN: Final = frozenset(
    {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}
)
"""The errors with which SQLite rejects, at opening, a path that somebody must repair: waiting would
not help.
"""

T = TypeVar("T")


class SqliteStore:
    """The Store port on SQLite. One thread writes and another reads, each with its own connection.

    Several stores, in one process or many, may have the same file open.
    """

    def __init__(self, path: str, *, open_timeout_s: float = OPEN_TIMEOUT_S) -> None:
        self.path = path
        self._open_timeout_s = open_timeout_s
        self.staged_bytes_max = STAGED_BYTES_MAX
        self._writer = SqliteThread("sqlite-write", path, lambda: connect(path))
        self._reader = SqliteThread("sqlite-read", path, lambda: connect(path))

    async def __aenter__(self) -> Self:
        try:
            for thread, cache_kib in (
                (self._writer, WRITER_CACHE_KIB),
                (self._reader, READER_CACHE_KIB),
            ):
                thread.start()
                prepared = functools.partial(prepare, path=self.path, cache_kib=cache_kib)
                await thread.run(prepared, timeout_s=self._open_timeout_s)
                thread.remember_file()
            await self._reader.run(
                lambda turn: check_whole(turn, self.path), timeout_s=self._open_timeout_s
            )
        except BackendUnavailable as exc:
            await self.__aexit__()
            if getattr(exc.__cause__, "sqlite_errorcode", 0) & 0xFF in NOT_OURS_TO_OPEN:
                allowed = "a file that this user may read and write, in a directory that is there"
                raise BadRequest(
                    "bad_store", f"{self.path} cannot be opened: {exc.__cause__}", allowed=allowed
                ) from exc
            raise
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._reader.stop()
        await self._writer.stop()

    # -------------------------------------------------------------------------------------- writing

    async def append(self, group: Group, *, timeout_s: float) -> Appended | Fenced:
        check_group(group)
        if outranks(group.base, group.row.term, group.row.committer):
            return Fenced(await self._write(reads.head_of, timeout_s))
        rows = writes.version_rows(group.versions)
        body = writes.pack(group.row.body) if group.row.body else None
        return await self._write(
            lambda turn: turn.write(
                lambda turn: writes.append(turn, group, body, rows),
                commit_if=lambda result: isinstance(result, Appended),
            ),
            timeout_s,
        )

    async def take_over(
        self,
        term: int,
        committer: str,
        log_time_ms: int,
        *,
        adopt_last: int | None = None,
        identity: Identity | None = None,
        timeout_s: float,
    ) -> TakenOver | Outranked:
        def body(turn: Turn) -> TakenOver | Outranked:
            head = reads.head_of(turn)
            if outranks(head, term, committer):
                return Outranked(head)
            row = empty_row(head, term, committer, log_time_ms, adopt_last)
            turn.execute(writes.INSERT_ROW, (*writes.row_values(row), None))
            if adopt_last is not None:
                writes.adopt(turn, adopt_last, identity)
            return TakenOver(head, row.head)

        return await self._write(
            lambda turn: turn.write(body, commit_if=lambda result: isinstance(result, TakenOver)),
            timeout_s,
        )

    async def claim(self, identity: Identity, *, timeout_s: float) -> Identity:
        return await self._write(
            lambda turn: turn.write(lambda turn: writes.claim(turn, identity)), timeout_s
        )

    async def stage(self, op_id: str, value: bytes, *, timeout_s: float) -> Reference:
        reference = Reference(op_id, value_hash(value), len(value))
        bytes_max = self.staged_bytes_max
        await self._write(
            lambda turn: turn.write(lambda turn: writes.stage(turn, reference, value, bytes_max)),
            timeout_s,
        )
        return reference

    async def unstage(self, reference: Reference, *, timeout_s: float) -> None:
        await self._write(
            lambda turn: turn.write(lambda turn: writes.unstage(turn, reference)), timeout_s
        )

    async def move_cursor(self, name: str, to: int, *, timeout_s: float) -> None:
        def body(turn: Turn) -> None:
            turn.execute(writes.MOVE_CURSOR, (name, to))

        await self._write(lambda turn: turn.write(body), timeout_s)

    async def prune(self, retention: Retention, *, timeout_s: float) -> Pruning:
        return await self._write(
            lambda turn: turn.write(lambda turn: writes.prune(turn, retention)), timeout_s
        )

    async def probe(self, *, timeout_s: float) -> None:
        await self._write(lambda turn: turn.probe(PROBE_FREE_BYTES_MIN), timeout_s)

    async def facts(
        self,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        blobs: Sequence[tuple[str, bytes]],
        *,
        timeout_s: float,
    ) -> Facts:
        # This runs on the writing thread, which is idle between groups: behind a long listing on
        # the reading thread the committer would have to wait.
        return await self._write(
            lambda turn: reads.facts(turn, op_ids, keys, frozenset(hashed), blobs), timeout_s
        )

    # -------------------------------------------------------------------------------------- reading

    async def head(self, *, at_least: int = 0, timeout_s: float) -> Head:
        return await self._read(reads.head_of, timeout_s)

    async def rows(self, after: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        def body(turn: Turn) -> tuple[LedgerRow, ...]:
            oldest = turn.fetch(
                "SELECT seq, first, (SELECT max(last) FROM ledger) FROM ledger ORDER BY seq LIMIT 1"
            )
            if not oldest or after >= oldest[0][2]:
                return ()
            if oldest[0][0] > 1 and after < oldest[0][1] - 1:
                raise Pruned(oldest[0][1])
            sql = f"""SELECT {reads.ROW} FROM ledger WHERE last > ? AND body IS NOT NULL
                ORDER BY last, seq LIMIT ?"""
            return tuple(reads.ledger_row(row) for row in turn.fetch(sql, (after, limit)))

        return await self._read(lambda turn: turn.read(body), timeout_s)

    async def ledger(self, from_seq: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        sql = f"SELECT {reads.ROW} FROM ledger WHERE seq >= ? ORDER BY seq LIMIT ?"
        return await self._read(
            lambda turn: tuple(reads.ledger_row(row) for row in turn.fetch(sql, (from_seq, limit))),
            timeout_s,
        )

    async def row_ending(self, last: int, *, timeout_s: float) -> LedgerRow | None:
        sql = f"SELECT {reads.ROW} FROM ledger WHERE last = ? ORDER BY seq DESC LIMIT 1"
        return await self._read(
            lambda turn: next((reads.ledger_row(row) for row in turn.fetch(sql, (last,))), None),
            timeout_s,
        )

    async def read(
        self, keys: Sequence[bytes], *, at: int | None = None, settled: int = 0, timeout_s: float
    ) -> Read:
        def body(turn: Turn) -> Read:
            point, (columns,) = reads.ask(
                turn, settled, reads.Ask(reads.NEWEST, reads.up_to(keys, at))
            )
            point.check_floor(at)
            found = tuple(
                reads.version_of(key, column, point.unhashed)
                for key, column in zip(keys, columns, strict=True)
            )
            return Read(point.head, found, point.digest_at)

        return await self._read(body, timeout_s)

    async def list(
        self,
        prefix: bytes,
        *,
        after: bytes = b"",
        limit: int,
        at: int | None = None,
        settled: int = 0,
        keys_only: bool = False,
        timeout_s: float,
    ) -> Listing:
        def body(turn: Turn) -> Listing:
            point, _ = reads.ask(turn, settled)
            point.check_floor(at)
            bounds = range_of(prefix, after)
            versions, more = reads.listing(
                turn, bounds, limit, at, point.unhashed, keys_only=keys_only
            )
            return Listing(point.head, versions, more, point.digest_at)

        return await self._read(lambda turn: turn.read(body), timeout_s)

    async def versions(
        self, at: Sequence[tuple[bytes, int]], *, timeout_s: float
    ) -> tuple[Version | None, ...]:
        ranges = [(key, revision << REVISION_SHIFT, end_of(revision)) for key, revision in at]

        def body(turn: Turn) -> tuple[Version | None, ...]:
            point, (columns,) = reads.ask(turn, 0, reads.Ask(reads.EXACT, ranges))
            return tuple(
                reads.version_of(key, column, point.unhashed)
                for (key, _), column in zip(at, columns, strict=True)
            )

        return await self._read(body, timeout_s)

    async def operations(
        self, op_ids: Sequence[str], *, timeout_s: float
    ) -> tuple[RecordedOperation | None, ...]:
        def body(turn: Turn) -> tuple[RecordedOperation | None, ...]:
            _, (columns,) = reads.ask(
                turn, 0, reads.Ask(reads.OPERATION, [(op_id,) for op_id in op_ids])
            )
            return tuple(map(reads.operation_of, op_ids, columns))

        return await self._read(body, timeout_s)

    async def blob(self, reference: Reference, *, timeout_s: float) -> bytes | None:
        sql = "SELECT value FROM blobs WHERE op_id = ? AND hash = ?"
        parameters = (reference.op_id, reference.hash)
        rows = await self._read(lambda turn: turn.fetch(sql, parameters), timeout_s)
        return checked_blob(rows[0][0], reference, "sqlite") if rows else None

    async def due(
        self, log_time_ms: int, limit: int, *, timeout_s: float
    ) -> tuple[tuple[bytes, int], ...]:
        sql = "SELECT key, id FROM due WHERE expires <= ? ORDER BY expires, id LIMIT ?"
        return await self._read(
            lambda turn: tuple(
                (key, id_ >> REVISION_SHIFT) for key, id_ in turn.fetch(sql, (log_time_ms, limit))
            ),
            timeout_s,
        )

    async def scrub(self, after: int, *, timeout_s: float) -> Scrubbed:
        return await self._read(
            lambda turn: turn.read(lambda turn: reads.scrub(turn, after)), timeout_s
        )

    async def floor(self, *, timeout_s: float) -> int:
        return await self._read(
            lambda turn: int(turn.fetch(f"SELECT {reads.FLOOR}")[0][0]), timeout_s
        )

    async def cursor(self, name: str, *, timeout_s: float) -> int:
        sql = "SELECT position FROM cursors WHERE name = ?"
        return await self._read(
            lambda turn: next((int(row[0]) for row in turn.fetch(sql, (name,))), 0), timeout_s
        )

    async def _read(self, body: Callable[[Turn], T], timeout_s: float) -> T:
        return await self._reader.run(body, timeout_s=timeout_s)

    async def _write(self, job: Callable[[Turn], T], timeout_s: float) -> T:
        return await self._writer.run(job, timeout_s=timeout_s)
