"""Open a store's SQLite file: create its tables, migrate them, or refuse the file and leave it
unchanged.

It never repairs, moves or deletes a file.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from backends.sqlite_thread import Turn
from kv.errors import BackendUnavailable, BadRequest

APPLICATION_ID: Final = 0x41434F52
"""The letters ACOR, in the file's header."""
SQLITE_VERSION_MIN: Final = (3, 37, 0)
"""Needed for STRICT tables and RETURNING."""
REVISION_SHIFT: Final = 10
"""versions.id = revision << 10 | number among that revision's versions. So ids order by revision,
up to 2^63 - 1.
"""
ID_MAX: Final = 2**63 - 1
QUICK_CHECK_BYTES_MAX: Final = 64 * 1024 * 1024
"""A larger file is not checked page by page at opening, because the node would start too late."""
SYNCHRONOUS_FULL: Final = 2
"""The answer to `PRAGMA synchronous` when each COMMIT is synced (INV-2)."""
WAL_PAGES_MAX: Final = 4000
"""A checkpoint runs once the write-ahead log has this many pages (16 MB)."""
WAL_BYTES_KEPT: Final = 64 * 1024 * 1024

_VERSION_1: Final = (
    """CREATE TABLE ledger (
        seq INTEGER PRIMARY KEY, term INTEGER NOT NULL, committer TEXT NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL, digest BLOB NOT NULL, log_time INTEGER NOT NULL,
        body BLOB -- MessagePack of LedgerRow.body; NULL: no intents
    ) STRICT""",
    "CREATE INDEX ledger_last ON ledger (last)",
    """CREATE TABLE versions (
        id INTEGER PRIMARY KEY, key BLOB NOT NULL,
        kind INTEGER NOT NULL, -- 0 tombstone, 1 value, 2 reference
        expires INTEGER,
        staged TEXT, -- kind 2: the op_id it is staged under
        value BLOB -- kind 1: the value; kind 2: MessagePack of the Reference
    ) STRICT""",
    # the index ends in id, as every index of a rowid table does
    "CREATE INDEX versions_key ON versions (key)",
    "CREATE INDEX versions_staged ON versions (staged) WHERE staged IS NOT NULL",
    # The newest versions that expire: a search for due ones must not have to skip versions that are
    # superseded already.
    """CREATE TABLE due (
        key BLOB PRIMARY KEY, expires INTEGER NOT NULL, id INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX due_expires ON due (expires)",
    """CREATE TRIGGER versions_due AFTER INSERT ON versions BEGIN
        DELETE FROM due WHERE key = NEW.key;
        INSERT INTO due (key, expires, id) SELECT NEW.key, NEW.expires, NEW.id
            WHERE NEW.expires IS NOT NULL;
    END""",
    """CREATE TABLE ops (
        revision INTEGER PRIMARY KEY, op_id TEXT NOT NULL, body_hash BLOB NOT NULL,
        log_time INTEGER NOT NULL,
        outcome BLOB NOT NULL -- MessagePack of the first Outcome
    ) STRICT""",
    "CREATE UNIQUE INDEX ops_op_id ON ops (op_id)",
    """CREATE TABLE blobs (
        op_id TEXT NOT NULL, hash BLOB NOT NULL,
        -- 0 op_id not recorded yet, 1 recorded: to be looked at, 2 a version refers to it
        state INTEGER NOT NULL,
        seq INTEGER NOT NULL, -- of the head when it was staged
        reference BLOB NOT NULL, value BLOB NOT NULL
    ) STRICT""",
    "CREATE UNIQUE INDEX blobs_op_id ON blobs (op_id, hash)",
    "CREATE INDEX blobs_state ON blobs (state, op_id) WHERE state < 2",
    """CREATE TRIGGER versions_unstage AFTER DELETE ON versions WHEN OLD.staged IS NOT NULL BEGIN
        UPDATE blobs SET state = 1 WHERE op_id = OLD.staged AND state = 2;
    END""",
    # floor: the lowest revision that can be read at; walked: the newest version whose predecessors
    # have been pruned
    """CREATE TABLE state (
        one INTEGER PRIMARY KEY CHECK (one = 1), floor INTEGER NOT NULL, walked INTEGER NOT NULL
    ) STRICT""",
    "INSERT INTO state (one, floor, walked) VALUES (1, 0, 0)",
    "CREATE TABLE cursors (name TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT, WITHOUT ROWID",
)
_IDENTITY: Final = (
    # The identity of the store ('' and x'': unclaimed), and the end of the newest adoption: no read
    # below it is possible.
    """CREATE TABLE identity (
        one INTEGER PRIMARY KEY CHECK (one = 1), cluster TEXT NOT NULL, history BLOB NOT NULL,
        adopted INTEGER NOT NULL
    ) STRICT""",
    "INSERT INTO identity (one, cluster, history, adopted) VALUES (1, '', x'', 0)",
)
_HASHES: Final = (
    # value_hash of the value, Reference.hash of a reference, empty for a tombstone and for older
    # versions
    "ALTER TABLE versions ADD COLUMN hash BLOB NOT NULL DEFAULT x''",
    # the newest revision whose hash may be missing
    "ALTER TABLE state ADD COLUMN unhashed INTEGER NOT NULL DEFAULT 0",
    "UPDATE state SET unhashed = ifnull((SELECT max(id) FROM versions), 0) >> 10",
    # how often it was staged, minus how often that was undone
    "ALTER TABLE blobs ADD COLUMN claims INTEGER NOT NULL DEFAULT 1",
)
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_VERSION_1, _IDENTITY, _HASHES)
"""The statements that lead from schema version n to n + 1. Never edited once released: append
another.
"""
TABLES: Final = ("blobs", "cursors", "due", "identity", "ledger", "ops", "state", "versions")


def connect(path: str) -> sqlite3.Connection:
    """Return a connection in autocommit mode whose texts are bytes. Its statements do not wait for
    locks; `Turn.waits` does.
    """
    connection = sqlite3.connect(
        path, timeout=0.0, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    connection.text_factory = bytes
    return connection


def prepare(turn: Turn, path: str, *, cache_kib: int) -> None:
    """Check that the file is ours and of this program's schema version, migrating it if it is
    older, and set the connection up.

    Raises BadRequest("foreign_store" | "newer_schema" | "corrupt_store" | "sqlite_too_old"),
    BackendUnavailable.
    """
    if sqlite3.sqlite_version_info < SQLITE_VERSION_MIN:
        needed = ".".join(map(str, SQLITE_VERSION_MIN))
        raise BadRequest(
            "sqlite_too_old", f"SQLite {sqlite3.sqlite_version}", allowed=f"{needed} or newer"
        )
    with _refusing_damage(path):
        # Identify the file before anything is written to it. One snapshot is needed, because
        # another process may be creating its tables right now.
        version = turn.read(lambda turn: _identify(turn, path))
        mode = turn.fetch("PRAGMA journal_mode = WAL")[0][0]
        if mode != b"wal":
            raise BackendUnavailable(
                "sqlite", f"{path}: cannot keep a write-ahead log here ({mode.decode()})"
            )
        for pragma in (
            "PRAGMA synchronous = FULL",
            f"PRAGMA cache_size = -{cache_kib}",
            f"PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}",
            f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}",
            "PRAGMA foreign_keys = OFF",
            "PRAGMA temp_store = MEMORY",
        ):
            turn.waits(functools.partial(turn.execute, pragma))
        if (kept := turn.fetch("PRAGMA synchronous")[0][0]) != SYNCHRONOUS_FULL:
            raise BackendUnavailable(
                "sqlite", f"{path}: COMMIT would not be durable (synchronous is {kept})"
            )
        # taking the write lock only if needed avoids waiting for a stopped process that holds it
        if version < len(MIGRATIONS):
            turn.write(lambda turn: _migrate(turn, path))


def check_whole(turn: Turn, path: str) -> None:
    """Check for damage: missing tables and, unless the file is too large, every page. Raises as
    `prepare`.
    """
    with _refusing_damage(path):
        turn.read(lambda turn: _check_whole(turn, path))


@contextlib.contextmanager
def _refusing_damage(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise _corrupt(path, str(exc)) from exc
        raise


def _one(turn: Turn, sql: str) -> Any:
    return turn.fetch(sql)[0][0]


def _tables(turn: Turn) -> list[str]:
    found = turn.fetch("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return [row[0].decode(errors="replace") for row in found]


def _identify(turn: Turn, path: str) -> int:
    """Return the file's schema version, 0 for an empty file; refuse a file that is not ours."""
    application, version = _one(turn, "PRAGMA application_id"), _one(turn, "PRAGMA user_version")
    tables = [
        row[0].decode(errors="replace")
        for row in turn.fetch("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    if application not in {0, APPLICATION_ID} or (application == 0 and (tables or version)):
        raise BadRequest(
            "foreign_store",
            f"{path} belongs to another application (id {application:#x}, tables: "
            f"{', '.join(tables[:8]) or 'none'})",
            allowed="a new file, or one made by Acordo",
        )
    if version > len(MIGRATIONS):
        raise BadRequest(
            "newer_schema",
            f"{path} has schema version {version}",
            allowed=f"up to {len(MIGRATIONS)}: start it with the newer program that made it",
        )
    return int(version)


def _migrate(turn: Turn, path: str) -> None:
    version = _identify(turn, path)  # again, because nobody else can change it now
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            turn.execute(statement)
    if version < len(MIGRATIONS):
        turn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        turn.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _check_whole(turn: Turn, path: str) -> None:
    if missing := sorted(set(TABLES) - set(_tables(turn))):
        raise _corrupt(path, f"tables are missing: {', '.join(missing)}")
    if _one(turn, "PRAGMA page_count") * _one(turn, "PRAGMA page_size") <= QUICK_CHECK_BYTES_MAX:
        found = _one(turn, "PRAGMA quick_check(1)")
        if found != b"ok":
            raise _corrupt(path, found.decode(errors="replace"))
    turn.fetch("SELECT seq FROM ledger ORDER BY seq DESC LIMIT 1")


def _corrupt(path: str, detail: str) -> BadRequest:
    return BadRequest(
        "corrupt_store",
        f"{path} is damaged ({detail}); it was left as it is",
        allowed="a file that `PRAGMA integrity_check` finds whole: restore a backup",
    )


def end_of(revision: int) -> int:
    """Return the largest id that a version of this revision can have."""
    return min((revision << REVISION_SHIFT) | ((1 << REVISION_SHIFT) - 1), ID_MAX)


def bucket(count: int) -> int:
    """Return the next power of two, so that there are few shapes of statement, and all of them stay
    prepared.
    """
    return 1 << max(count - 1, 0).bit_length()
