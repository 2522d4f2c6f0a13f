"""Define the statements that create and check the tables, one schema version after the other.

It never opens a connection. A released migration is never edited, because a database may be at any
version.
"""

from __future__ import annotations

import re
from typing import Final

APPLICATION: Final = "acordo"

UNLOGGED: Final = """SELECT relname::text AS name FROM pg_class WHERE relpersistence <> 'p'
    AND pg_table_is_visible(oid) AND relname IN (SELECT u.x FROM unnest($1::text[]) AS u(x))
    ORDER BY relname"""
"""Selects the tables whose rows are lost in a crash of the server."""

CREATE_LEASE: Final = """CREATE TABLE IF NOT EXISTS acordo_lease (
    name text PRIMARY KEY, holder text NOT NULL, until timestamptz NOT NULL)"""
TAKE_LEASE: Final = """INSERT INTO acordo_lease (name, holder, until)
    VALUES ($1::text, $2::text, now() + $3::float8 * interval '1 second')
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE acordo_lease.until < now() OR acordo_lease.until > excluded.until + interval '1 minute'
        OR acordo_lease.holder = excluded.holder RETURNING holder"""
"""A lease that ends long after one taken now was given by a clock that has been set back since: it
counts as free.
"""
DROP_LEASE: Final = "DELETE FROM acordo_lease WHERE name = $1::text AND holder = $2::text"
COLUMNS_PRESENT: Final = """SELECT table_name::text AS table_name, column_name::text AS column_name,
        data_type::text AS data_type FROM information_schema.columns
    WHERE table_schema = current_schema()
        AND table_name IN (SELECT u.x FROM unnest($1::text[]) AS u(x))"""
SCHEMA_FOUND: Final = "SELECT application, version FROM acordo_schema WHERE one = 1::int8"
SCHEMA_MOVED: Final = """INSERT INTO acordo_schema (one, application, version)
    VALUES (1::int8, $1::text, $2::int8)
    ON CONFLICT (one) DO UPDATE SET version = excluded.version"""

_VERSION_1: Final = (
    """CREATE TABLE IF NOT EXISTS acordo_schema (
        one int8 PRIMARY KEY, application text NOT NULL, version int8 NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS acordo_ledger (
        seq int8 PRIMARY KEY, term int8 NOT NULL, committer text NOT NULL, first_rev int8 NOT NULL,
        last_rev int8 NOT NULL, digest bytea NOT NULL, log_time int8 NOT NULL, body bytea)""",
    "CREATE INDEX IF NOT EXISTS acordo_ledger_last ON acordo_ledger (last_rev, seq)",
    """CREATE TABLE IF NOT EXISTS acordo_versions (
        key bytea NOT NULL, revision int8 NOT NULL, kind int8 NOT NULL, expires int8,
        staged text, value bytea,
        PRIMARY KEY (key, revision))""",
    "CREATE INDEX IF NOT EXISTS acordo_versions_revision ON acordo_versions (revision, key)",
    """CREATE INDEX IF NOT EXISTS acordo_versions_staged ON acordo_versions (staged)
        WHERE staged IS NOT NULL""",
    """CREATE TABLE IF NOT EXISTS acordo_due (
        key bytea PRIMARY KEY, revision int8 NOT NULL, expires int8)""",
    "CREATE INDEX IF NOT EXISTS acordo_due_expires ON acordo_due (expires, revision)",
    """CREATE TABLE IF NOT EXISTS acordo_ops (
        op_id text PRIMARY KEY, body_hash bytea NOT NULL, revision int8 NOT NULL,
        outcome bytea NOT NULL,
        log_time int8 NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS acordo_ops_revision ON acordo_ops (revision)",
    """CREATE TABLE IF NOT EXISTS acordo_blobs (
        op_id text NOT NULL, hash bytea NOT NULL, state int8 NOT NULL, seq int8 NOT NULL,
        reference bytea NOT NULL, value bytea NOT NULL, PRIMARY KEY (op_id, hash))""",
    "CREATE INDEX IF NOT EXISTS acordo_blobs_state ON acordo_blobs (state, op_id)",
    "CREATE TABLE IF NOT EXISTS acordo_state (one int8 PRIMARY KEY, floor int8 NOT NULL)",
    "INSERT INTO acordo_state (one, floor) VALUES (1::int8, 0::int8) ON CONFLICT (one) DO NOTHING",
    "CREATE TABLE IF NOT EXISTS acordo_cursors (name text PRIMARY KEY, place int8 NOT NULL)",
)
_IDENTITY: Final = (
    """CREATE TABLE IF NOT EXISTS acordo_identity (
        one int8 PRIMARY KEY, cluster text NOT NULL, history bytea NOT NULL,
        adopted int8 NOT NULL)""",
    """INSERT INTO acordo_identity (one, cluster, history, adopted)
        VALUES (1::int8, '', ''::bytea, 0::int8)
        ON CONFLICT (one) DO NOTHING""",
)
"""The identity of the store (empty: unclaimed), and the end of the newest adoption: no read below
it is possible.
"""
_HASHES: Final = (
    # value_hash of the value, Reference.hash of a reference, empty for a tombstone and for older
    # versions
    "ALTER TABLE acordo_versions ADD COLUMN IF NOT EXISTS hash bytea NOT NULL DEFAULT ''::bytea",
    # a program of schema version 1 can write no versions from here on
    "ALTER TABLE acordo_versions ALTER COLUMN hash DROP DEFAULT",
    "ALTER TABLE acordo_state ADD COLUMN IF NOT EXISTS unhashed int8 NOT NULL DEFAULT 0::int8",
    """UPDATE acordo_state SET unhashed = (
        SELECT COALESCE(max(v.revision), 0::int8) FROM acordo_versions v
        WHERE v.hash = ''::bytea AND v.kind > 0::int8) WHERE one = 1::int8""",
    "ALTER TABLE acordo_blobs ADD COLUMN IF NOT EXISTS claims int8 NOT NULL DEFAULT 1::int8",
)
_NUMBERS: Final = (
    # 0 and 0 in a version from before: it counts as the first of its key
    """ALTER TABLE acordo_versions
        ADD COLUMN IF NOT EXISTS create_revision int8 NOT NULL DEFAULT 0::int8""",
    "ALTER TABLE acordo_versions ADD COLUMN IF NOT EXISTS version int8 NOT NULL DEFAULT 0::int8",
    "ALTER TABLE acordo_versions ADD COLUMN IF NOT EXISTS lease int8 NOT NULL DEFAULT 0::int8",
)
_LEASES: Final = (
    """CREATE INDEX IF NOT EXISTS acordo_versions_lease ON acordo_versions (lease, key)
        WHERE lease <> 0::int8""",
)
MIGRATIONS: Final = (_VERSION_1, _IDENTITY, _HASHES, _NUMBERS, _LEASES)
"""The statements that lead from schema version n to n + 1, each repeatable. Never edited once
released.
"""

_TYPES: Final = {"int8": "bigint", "text": "text", "bytea": "bytea"}


def columns(version: int) -> dict[str, dict[str, str]]:
    """Return the tables of a schema version, with the type of each column as information_schema
    reports it.
    """
    found: dict[str, dict[str, str]] = {}
    for statement in (each for step in MIGRATIONS[:version] for each in step):
        if made := re.match(r"CREATE TABLE IF NOT EXISTS (\w+) \(", statement):
            typed = re.findall(r"[(,]\s*(\w+) (int8|text|bytea)\b", statement)
            found[made[1]] = {name: _TYPES[kind] for name, kind in typed}
        if added := re.match(
            r"ALTER TABLE (\w+)\s+ADD COLUMN IF NOT EXISTS (\w+) (\w+)", statement
        ):
            found[added[1]][added[2]] = _TYPES[added[3]]
    return found
