"""Write Steps to a member's file, many in one transaction.

Every function runs on the writing thread.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file, never from what a
# caller gives

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from backends.replicated import rows, schema
from backends.replicated.rows import Row, Rows
from backends.replicated.schema import bucket
from kv.errors import BackendUnavailable

ROWS_MAX: Final = 512
"""The number of rows inserted by one statement: at each, the thread may lose the interpreter lock
to a busy loop.
"""

SYNCHRONOUS_FULL: Final = 2
"""The answer to `PRAGMA synchronous` when each COMMIT is synced."""

T = TypeVar("T")


def transaction(
    connection: sqlite3.Connection, body: Callable[[], T], *, durable: bool = False
) -> T:
    """Run `body` in one write transaction; with `durable` it, and all before it, survives a power
    cut. Raises sqlite3.Error: nothing changed.
    """
    if durable:
        connection.execute("PRAGMA synchronous = FULL")
    try:
        connection.execute("BEGIN IMMEDIATE")
        result = body()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        if durable:
            connection.execute("PRAGMA synchronous = NORMAL")
    return result


def check_syncs(path: str, connection: sqlite3.Connection) -> None:
    """Raise BackendUnavailable if a transaction that is to be durable would not be synced (R4)."""
    connection.execute("PRAGMA synchronous = FULL")
    found = schema.one(connection, "PRAGMA synchronous")
    connection.execute("PRAGMA synchronous = NORMAL")
    if found != SYNCHRONOUS_FULL:
        raise BackendUnavailable(
            rows.BACKEND, f"{path}: synchronous = FULL is not in force, but {found}"
        )


def write(connection: sqlite3.Connection, new: Rows, *, forget_due: bool) -> None:
    """Write everything that a number of Steps made. `forget_due`: the keys that are written may be
    due already.
    """
    _insert(connection, f"ledger ({rows.LEDGER})", 9, new.ledger)
    _insert(connection, f"versions ({rows.VERSIONS})", 9, new.versions)
    _insert(connection, f"ops ({rows.OPS})", 5, new.operations)
    _insert(connection, "marks (idx, term, floor)", 3, new.marks)
    if forget_due and new.versions:
        connection.execute(
            "DELETE FROM due WHERE key IN (SELECT key FROM versions WHERE id >= ?)",
            (new.versions[0][0],),
        )
    if new.expires:
        due = [row for row in new.due.values() if row is not None]
        _insert(connection, "due (key, expires, id)", 3, due)
    connection.execute(
        f"UPDATE state SET ({rows.NOTE}, floor) = (?, ?, ?, ?, max(floor, ?))",
        (*_note(new), new.floor),
    )


def _note(new: Rows) -> Row:
    note = new.note
    return (note.history, note.index, note.term, note.digest)


def note_durable(connection: sqlite3.Connection) -> None:
    """Note that everything up to here is durable, in a transaction that makes it so."""
    connection.execute("UPDATE state SET durable = idx")


def _insert(connection: sqlite3.Connection, table: str, width: int, new: Sequence[Row]) -> None:
    for start in range(0, len(new), ROWS_MAX):
        part = new[start : start + ROWS_MAX]
        size = bucket(len(part))
        parameters = [value for row in part for value in row]
        parameters += [None] * (width * (size - len(part)))
        connection.execute(_insert_sql(table, width, size), parameters)


@functools.cache
def _insert_sql(table: str, width: int, size: int) -> str:
    """Return an INSERT of up to `size` rows. Rows whose first column is NULL are padding."""
    row = f"({', '.join('?' * width)})"
    every = ", ".join([row] * size)
    return f"INSERT INTO {table} SELECT * FROM (VALUES {every}) WHERE column1 IS NOT NULL"
