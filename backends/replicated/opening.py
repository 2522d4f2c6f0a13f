"""Open a member's file: create it, complete what was interrupted, and find out whether it is sound.

It never repairs what is in a file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from backends.replicated import files, pruning, reads, rows, schema, writes
from backends.replicated.schema import UnsoundFile
from kv.errors import BackendUnavailable
from kv.model import LedgerRow
from kv.ports import Note

CHECKED_BYTES_MAX: Final = 16 * 1024 * 1024
"""A file up to this size is checked page by page whenever it is opened."""
CHECKED_UNCLEAN_BYTES_MAX: Final = 64 * 1024 * 1024
"""The same after an unclean stop. Of a larger file only what was written since the last durable
point is checked; the rest is the scrub's.
"""
CHECKED_STEPS_MAX: Final = 32
"""The number of steps of `reads.damaged_rows` in which the newest rows are checked."""
_STATE: Final = f"SELECT {rows.NOTE}, floor, durable FROM state"  # noqa: S608 (of constants)
WRITER_CACHE_KIB: Final = 24 * 1024
DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Found(NamedTuple):
    """A sound file, and what it says of itself."""

    connection: sqlite3.Connection
    note: Note
    newest: LedgerRow | None
    floor: int
    term: int
    due: bool
    """Whether a key expires."""
    leased: Sequence[tuple[bytes, int]] = ()
    """The key and the lease of every present key that is attached to one."""


def open_file(path: str) -> Found:
    """Open the file for writing, or a new one if it is missing. Raises UnsoundFile if it is
    damaged, BadRequest("foreign_store" | "newer_schema" | "bad_store"), BackendUnavailable.
    """
    try:
        files.tidy(path)
        if not os.path.exists(path):
            schema.create(files.incoming(path))
            files.put_in_place(path)
        with open(path, "r+b"):
            pass  # a file that may only be read is named now, and not with the first write
        schema.identify(path)
        connection = schema.connect(path, cache_kib=WRITER_CACHE_KIB)
        try:
            return _look_into(path, connection)
        except BaseException:
            connection.close()
            raise
    except UnsoundFile:
        raise
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise UnsoundFile(f"its newest row cannot be read: {exc}") from exc
    except sqlite3.Error as exc:
        if is_damage(exc):
            raise UnsoundFile(str(exc)) from exc
        raise files.unusable(path, exc) from exc
    except OSError as exc:
        raise files.unusable(path, exc) from exc


def is_damage(exc: BaseException) -> bool:
    """Return whether an error says that the file is damaged."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF in DAMAGED or isinstance(
        exc, sqlite3.IntegrityError | msgspec.MsgspecError | ValueError
    )


def _look_into(path: str, connection: sqlite3.Connection) -> Found:
    mode = schema.one(connection, "PRAGMA journal_mode = WAL")
    if mode != b"wal":
        raise BackendUnavailable(
            rows.BACKEND, f"{path}: cannot keep a write-ahead log here ({mode.decode()})"
        )
    writes.check_syncs(path, connection)
    # what is in the write-ahead log belongs into the file before the file is measured
    complete = _checkpoint(connection)
    schema.check_tables(connection)
    if complete:
        schema.check_length(connection, path)
    state = connection.execute(_STATE).fetchone()
    if state is None:
        raise UnsoundFile("it has no note")
    *said, floor, durable = state
    note, newest = rows.note_of(tuple(said)), reads.newest_row(connection)
    # also when it was found damaged, and closed, before
    unclean = note.index > durable
    if os.path.getsize(path) <= (CHECKED_UNCLEAN_BYTES_MAX if unclean else CHECKED_BYTES_MAX):
        schema.check_pages(connection)
    if newest is not None and newest.index > note.index:
        raise UnsoundFile(f"its newest row is of the log index {newest.index}, above {note.index}")
    if unclean:
        _check_newest(connection, durable)
    return Found(
        connection,
        note,
        newest,
        floor,
        pruning.term_at(connection),
        schema.one(connection, "SELECT EXISTS (SELECT 1 FROM due)") == 1,
        reads.leased(connection),
    )


def _checkpoint(connection: sqlite3.Connection) -> bool:
    """Write the write-ahead log into the file. Return whether all of it is there: on a full disk
    the file can be read all the same. Raises sqlite3.Error for damage.
    """
    try:
        busy, pages, done = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError as exc:
        if is_damage(exc):
            raise
        return False
    return not busy and pages == done


def _check_newest(connection: sqlite3.Connection, durable: int) -> None:
    """Check what was written since the last durable point. Raises UnsoundFile."""
    sql = "SELECT ifnull((SELECT max(seq) FROM ledger WHERE idx <= ?), 0)"
    reached = connection.execute(sql, (durable,)).fetchone()[0]
    for _ in range(CHECKED_STEPS_MAX):
        reached, damaged = reads.damaged_rows(connection, reached)
        if damaged:
            raise UnsoundFile(f"ledger row {damaged[0]}, or what it made, is not what was written")
        if not reached:
            return
