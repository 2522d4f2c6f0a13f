"""Make a member's file from what a backup says was present.

Nothing is in place before all of it is written and checked.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file, never from what a
# caller gives

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from backends.replicated import copies, files, rows, schema
from backends.replicated.schema import REVISION_SHIFT, end_of
from kv.content import hash_of
from kv.errors import BadRequest
from kv.model import LedgerRow, RecordedOperation, Version
from kv.ports import Note, Step

BATCH: Final = 500


def restore(
    path: str,
    note: Note,
    row: LedgerRow,
    versions: Iterable[Version],
    operations: Iterable[RecordedOperation],
) -> int:
    """Make the file, and put it in place; return how many versions are in it. `row` is its only
    ledger row: it ends above all revisions of the versions, which come in their order, and nothing
    below its end can be read at.

    Raises BadRequest("restore_not_empty") if a file is there, sqlite3.Error, OSError.
    """
    files.tidy(path)
    if os.path.exists(path):
        raise BadRequest(
            "restore_not_empty", f"{path} is there already", allowed="a directory without a store"
        )
    place = files.incoming(path)
    try:
        schema.create(place)
        connection = schema.connect(place, cache_kib=16 * 1024)
        try:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN IMMEDIATE")
            count = _write(connection, note, row, versions, operations)
            connection.execute("COMMIT")
            schema.one(connection, "PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        copies.check(place)
        files.put_in_place(path)
    except BaseException:
        files.tidy(path)
        raise
    return count


def _write(
    connection: sqlite3.Connection,
    note: Note,
    row: LedgerRow,
    versions: Iterable[Version],
    operations: Iterable[RecordedOperation],
) -> int:
    new = rows.rows_of([Step(note, None, (), row.last)], 0)
    _insert(connection, f"ledger ({rows.LEDGER})", 9, [rows.row_values(row)])
    _insert(connection, "marks (idx, term, floor)", 3, new.marks)
    _insert(connection, f"versions ({rows.VERSIONS})", 9, _version_rows(versions))
    _insert(
        connection,
        f"ops ({rows.OPS})",
        5,
        (rows.operation_values(operation) for operation in operations),
    )
    connection.execute(
        "INSERT INTO due SELECT key, expires, id FROM versions WHERE expires IS NOT NULL"
    )
    connection.execute(
        f"UPDATE state SET ({rows.NOTE}, floor, walked, durable) = (?1, ?2, ?3, ?4, ?5, ?6, ?2)",
        (note.history, note.index, note.term, note.digest, row.last, end_of(row.last)),
    )
    return int(schema.one(connection, "SELECT count(*) FROM versions"))


def _version_rows(versions: Iterable[Version]) -> Iterator[rows.Row]:
    """Yield rows whose ids are those that the versions would have been given."""
    revision, place = -1, 0
    for version in versions:
        place = place + 1 if version.revision == revision else 0
        revision = version.revision
        yield (
            revision << REVISION_SHIFT | place, version.key, rows.INLINE, version.expires_ms,
            version.create_revision, version.version, version.lease, hash_of(version),
            version.value,
        )  # fmt: skip


def _insert(
    connection: sqlite3.Connection, table: str, width: int, new: Iterable[rows.Row]
) -> None:
    sql = f"INSERT INTO {table} VALUES ({', '.join('?' * width)})"
    left = iter(new)
    while batch := list(islice(left, BATCH)):
        connection.executemany(sql, batch)
