"""Declare the tables of a member's own file, and open connections to it.

It never repairs, moves or deletes a file.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any, Final

from kv.errors import BadRequest

APPLICATION_ID: Final = 0x41434F4D
"""The letters ACOM, in the file's header."""
SHARED_APPLICATION_ID: Final = 0x41434F52
"""The one of the file that all nodes of a machine shared once. Such a file is refused by name."""
SCHEMA_VERSION: Final = 2
SQLITE_VERSION_MIN: Final = (3, 37, 0)
"""Needed for STRICT tables."""
REVISION_SHIFT: Final = 14
"""versions.id = revision << 14 | number among that revision's versions, of which there are at most
RANGE_KEYS_MAX + OPERATIONS_MAX. So ids order by revision, up to 2^63 - 1.
"""
ID_MAX: Final = 2**63 - 1
WAL_PAGES_MAX: Final = 4000
"""A checkpoint runs once the write-ahead log has this many pages (16 MB)."""
WAL_BYTES_KEPT: Final = 64 * 1024 * 1024
HEADER_BYTES: Final = 100
"""The size of the header of a SQLite file."""
_MAGIC: Final = b"SQLite format 3\0"

# What later features need has its column from the start: principal is not used yet.
TABLES: Final = {
    "ledger": """CREATE TABLE ledger (
        seq INTEGER PRIMARY KEY, idx INTEGER NOT NULL, term INTEGER NOT NULL,
        first INTEGER NOT NULL, last INTEGER NOT NULL, log_time INTEGER NOT NULL,
        digest BLOB NOT NULL, content BLOB NOT NULL, principal TEXT NOT NULL DEFAULT '',
        body BLOB -- MessagePack of LedgerRow.body; NULL: no intents
    ) STRICT""",
    "versions": """CREATE TABLE versions (
        id INTEGER PRIMARY KEY, key BLOB NOT NULL,
        kind INTEGER NOT NULL, -- 0 tombstone, 1 value
        expires INTEGER, hash BLOB NOT NULL, -- empty for a tombstone
        create_revision INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL,
        value BLOB
    ) STRICT""",
    # the newest versions that expire: derived, for the search for due ones
    "due": """CREATE TABLE due (
        key BLOB PRIMARY KEY, expires INTEGER NOT NULL, id INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    # an op_id may have several rows: the newest counts
    "ops": """CREATE TABLE ops (
        revision INTEGER PRIMARY KEY, op_id TEXT NOT NULL, log_time INTEGER NOT NULL,
        body_hash BLOB NOT NULL,
        outcome BLOB NOT NULL -- MessagePack of the first Outcome
    ) STRICT""",
    # commands without a ledger row that ordered a floor (0: none) or began a term
    "marks": """CREATE TABLE marks (
        idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, floor INTEGER NOT NULL
    ) STRICT""",
    # history, idx, term, digest: the note; durable: the log index up to which all is synced;
    # walked: the newest version whose predecessors have been pruned; floor: derived from marks
    "state": """CREATE TABLE state (
        one INTEGER PRIMARY KEY CHECK (one = 1), history BLOB NOT NULL, idx INTEGER NOT NULL,
        term INTEGER NOT NULL, digest BLOB NOT NULL, floor INTEGER NOT NULL,
        walked INTEGER NOT NULL, durable INTEGER NOT NULL
    ) STRICT""",
}
_MORE: Final = (
    "CREATE UNIQUE INDEX ledger_idx ON ledger (idx)",
    "CREATE INDEX ledger_last ON ledger (last)",
    # both end in the rowid, as every index of a rowid table does
    "CREATE INDEX versions_key ON versions (key)",
    "CREATE INDEX versions_lease ON versions (lease, key) WHERE lease <> 0",
    "CREATE INDEX ops_op_id ON ops (op_id)",
    "CREATE INDEX due_expires ON due (expires)",
    "INSERT INTO state VALUES (1, x'', 0, 0, zeroblob(32), 0, 0, 0)",
)


class UnsoundFile(ValueError):
    """A file that is no sound store of a version that is understood."""


def connect(path: str, *, cache_kib: int, mode: str = "rw") -> sqlite3.Connection:
    """Return a connection in autocommit mode whose texts are bytes. It never waits for a lock:
    nobody else may hold one.
    """
    connection = sqlite3.connect(
        f"file:{_quoted(path)}?mode={mode}",
        uri=True,
        timeout=0.0,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
    )
    connection.text_factory = bytes
    for pragma in (
        f"PRAGMA cache_size = -{cache_kib}",
        "PRAGMA synchronous = NORMAL",
        f"PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}",
        f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}",
        "PRAGMA temp_store = MEMORY",
    ):
        connection.execute(pragma)
    return connection


def create(path: str) -> None:
    """Create an empty store in a file that is not there yet. Raises sqlite3.Error, BadRequest."""
    if sqlite3.sqlite_version_info < SQLITE_VERSION_MIN:
        needed = ".".join(map(str, SQLITE_VERSION_MIN))
        raise BadRequest(
            "sqlite_too_old", f"SQLite {sqlite3.sqlite_version}", allowed=f"{needed} or newer"
        )
    connection = connect(path, cache_kib=1024, mode="rwc")
    try:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in (*TABLES.values(), *_MORE):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
        one(connection, "PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def identify(path: str) -> None:
    """Check by its header that a file is ours. Raises UnsoundFile for damage, and
    BadRequest("foreign_store" | "newer_schema").
    """
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(_MAGIC):
        raise UnsoundFile(f"its first {len(header)} bytes are not those of a SQLite file")
    version, application = (int.from_bytes(header[at : at + 4], "big") for at in (60, 68))
    if application != APPLICATION_ID:
        what = (
            "is the file that nodes of version 0.1 shared"
            if application == SHARED_APPLICATION_ID
            else f"belongs to another application (id {application:#x})"
        )
        way = "; `acordo dump` with that version, `acordo load` into a new directory"
        raise BadRequest(
            "foreign_store",
            f"{path} {what}",
            allowed="a member's own store" + (way if application == SHARED_APPLICATION_ID else ""),
        )
    if version != SCHEMA_VERSION:
        raise BadRequest(
            "newer_schema",
            f"{path} has schema version {version}",
            allowed=f"{SCHEMA_VERSION}: start it with the newer program that made it",
        )


def check_tables(connection: sqlite3.Connection) -> None:
    """Check that the tables are those of this version. Raises UnsoundFile, sqlite3.Error."""
    found = {
        name.decode(errors="replace"): " ".join(sql.decode(errors="replace").split())
        for name, sql in connection.execute("SELECT name, sql FROM sqlite_master WHERE sql <> ''")
    }
    for name, sql in TABLES.items():
        if found.get(name) != " ".join(sql.split()):
            raise UnsoundFile(f"the table {name} is not the one that belongs there")


def check_length(connection: sqlite3.Connection, path: str) -> None:
    """Check that the file is as long as it says, while its write-ahead log is empty. Raises
    UnsoundFile.
    """
    pages, page_bytes = one(connection, "PRAGMA page_count"), one(connection, "PRAGMA page_size")
    if os.path.getsize(path) < pages * page_bytes:
        raise UnsoundFile(f"it is shorter than its {pages} pages")


def check_pages(connection: sqlite3.Connection) -> None:
    """Check the structure of every page. Raises UnsoundFile, sqlite3.Error."""
    found = one(connection, "PRAGMA quick_check(1)")
    if found != b"ok":
        raise UnsoundFile(found.decode(errors="replace"))


def one(connection: sqlite3.Connection, sql: str) -> Any:
    """Return the first column of a query's first row."""
    return connection.execute(sql).fetchone()[0]


def end_of(revision: int) -> int:
    """Return the largest id that a version of this revision can have."""
    return min((revision << REVISION_SHIFT) | ((1 << REVISION_SHIFT) - 1), ID_MAX)


def bucket(count: int) -> int:
    """Return the next power of two, so that there are few shapes of statement, and all of them stay
    prepared.
    """
    return 1 << max(count - 1, 0).bit_length()


def _quoted(path: str) -> str:
    return os.path.abspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
