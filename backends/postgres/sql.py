"""Hold every statement that the SQL store sends, and the few places where CockroachDB and
PostgreSQL differ.

Only parameter forms that both take: scalars and text[] (bytes travel as base64 in it), every
placeholder cast, no row limits left open, columns listed, one table changed once per statement. It
never opens a connection. `tests/unit/backends/test_postgres_sql.py` holds all of it to that.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file, never from what a
# caller gives

from __future__ import annotations

import functools
import re
from typing import Final

SCHEMA_VERSION: Final = 2
APPLICATION: Final = "acordo"

ASKED: Final = {
    "default_transaction_isolation": "serializable",
    "statement_timeout": "15000",
    "lock_timeout": "5000",
    "idle_in_transaction_session_timeout": "10000",
}
"""Settings that each session asks for with its start: no default of server, database or login
overrides them.
"""
SETTINGS: Final = (
    """SELECT u.x AS name, current_setting(u.x, true) AS setting FROM unnest($1::text[]) AS u(x)"""
)
"""What is in force for the session; NULL where the server does not know the setting."""
READ_ONLY: Final = "SELECT current_setting('transaction_read_only') AS setting"
UNLOGGED: Final = """SELECT relname::text AS name FROM pg_class WHERE relpersistence <> 'p'
    AND pg_table_is_visible(oid) AND relname IN (SELECT u.x FROM unnest($1::text[]) AS u(x)) ORDER BY relname"""
"""Tables whose rows a crash of the server takes away."""

CREATE_LEASE: Final = """CREATE TABLE IF NOT EXISTS acordo_lease (
    name text PRIMARY KEY, holder text NOT NULL, until timestamptz NOT NULL)"""
TAKE_LEASE: Final = """INSERT INTO acordo_lease (name, holder, until)
    VALUES ($1::text, $2::text, now() + $3::float8 * interval '1 second')
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE acordo_lease.until < now() OR acordo_lease.until > excluded.until + interval '1 minute'
        OR acordo_lease.holder = excluded.holder RETURNING holder"""
"""A lease that ends long after one taken now was given by a clock that has been set back since: it
is nobody's.
"""
DROP_LEASE: Final = "DELETE FROM acordo_lease WHERE name = $1::text AND holder = $2::text"
COLUMNS_PRESENT: Final = """SELECT table_name::text AS table_name, column_name::text AS column_name,
        data_type::text AS data_type FROM information_schema.columns
    WHERE table_schema = current_schema() AND table_name IN (SELECT u.x FROM unnest($1::text[]) AS u(x))"""
SCHEMA_FOUND: Final = "SELECT application, version FROM acordo_schema WHERE one = 1::int8"
SCHEMA_MOVED: Final = """INSERT INTO acordo_schema (one, application, version) VALUES (1::int8, $1::text, $2::int8)
    ON CONFLICT (one) DO UPDATE SET version = excluded.version"""

_VERSION_1: Final = (
    """CREATE TABLE IF NOT EXISTS acordo_schema (
        one int8 PRIMARY KEY, application text NOT NULL, version int8 NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS acordo_ledger (
        seq int8 PRIMARY KEY, term int8 NOT NULL, committer text NOT NULL, first_rev int8 NOT NULL,
        last_rev int8 NOT NULL, digest bytea NOT NULL, log_time int8 NOT NULL, body bytea)""",
    "CREATE INDEX IF NOT EXISTS acordo_ledger_last ON acordo_ledger (last_rev, seq)",
    """CREATE TABLE IF NOT EXISTS acordo_versions (
        key bytea NOT NULL, revision int8 NOT NULL, kind int8 NOT NULL, expires int8, staged text, value bytea,
        PRIMARY KEY (key, revision))""",
    "CREATE INDEX IF NOT EXISTS acordo_versions_revision ON acordo_versions (revision, key)",
    "CREATE INDEX IF NOT EXISTS acordo_versions_staged ON acordo_versions (staged) WHERE staged IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS acordo_due (key bytea PRIMARY KEY, revision int8 NOT NULL, expires int8)",
    "CREATE INDEX IF NOT EXISTS acordo_due_expires ON acordo_due (expires, revision)",
    """CREATE TABLE IF NOT EXISTS acordo_ops (
        op_id text PRIMARY KEY, body_hash bytea NOT NULL, revision int8 NOT NULL, outcome bytea NOT NULL,
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
        one int8 PRIMARY KEY, cluster text NOT NULL, history bytea NOT NULL, adopted int8 NOT NULL)""",
    """INSERT INTO acordo_identity (one, cluster, history, adopted) VALUES (1::int8, '', ''::bytea, 0::int8)
        ON CONFLICT (one) DO NOTHING""",
)
"""Whose store it is (empty: nobody's yet), and where the newest adoption ends: nothing below can be
read at.
"""
_HASHES: Final = (
    # value_hash of the value, Reference.hash of a reference, empty for a tombstone and for what is
    # older than this
    "ALTER TABLE acordo_versions ADD COLUMN IF NOT EXISTS hash bytea NOT NULL DEFAULT ''::bytea",
    # a program of version 1 writes no more from here on
    "ALTER TABLE acordo_versions ALTER COLUMN hash DROP DEFAULT",
    "ALTER TABLE acordo_state ADD COLUMN IF NOT EXISTS unhashed int8 NOT NULL DEFAULT 0::int8",
    """UPDATE acordo_state SET unhashed = (SELECT COALESCE(max(v.revision), 0::int8) FROM acordo_versions v
        WHERE v.hash = ''::bytea AND v.kind > 0::int8) WHERE one = 1::int8""",
    "ALTER TABLE acordo_blobs ADD COLUMN IF NOT EXISTS claims int8 NOT NULL DEFAULT 1::int8",
)
MIGRATIONS: Final = (_VERSION_1, _IDENTITY, _HASHES)
"""Statements that lead from schema version n to n + 1, each repeatable. Never edited once
released.
"""

_TYPES: Final = {"int8": "bigint", "text": "text", "bytea": "bytea"}


def columns(version: int) -> dict[str, dict[str, str]]:
    """Return the tables of a schema version, and the type of each column as information_schema
    tells it.
    """
    found: dict[str, dict[str, str]] = {}
    for statement in (each for step in MIGRATIONS[:version] for each in step):
        if made := re.match(r"CREATE TABLE IF NOT EXISTS (\w+) \(", statement):
            typed = re.findall(r"[(,]\s*(\w+) (int8|text|bytea)\b", statement)
            found[made[1]] = {name: _TYPES[kind] for name, kind in typed}
        if added := re.match(r"ALTER TABLE (\w+) ADD COLUMN IF NOT EXISTS (\w+) (\w+)", statement):
            found[added[1]][added[2]] = _TYPES[added[3]]
    return found


# Every statement that reads several kinds of rows in one snapshot gives them this one shape.
HEAD, AT_SETTLED, FLOOR, OPERATION, STAGED = -1, -2, -3, -4, -5
"""Values of `n` below zero; rows from zero up are versions of the n-th asked key."""
_HEAD_ROW: Final = """(SELECT (-1)::int8 AS n, seq AS a, term AS b, last_rev AS c, committer AS t, digest AS x,
    NULL::bytea AS y, NULL::bytea AS z FROM acordo_ledger ORDER BY seq DESC LIMIT 1)"""
_POINT_ROWS: Final = f"""{_HEAD_ROW}
    UNION ALL (SELECT (-2)::int8, seq, term, last_rev, committer, digest, NULL::bytea, NULL::bytea FROM acordo_ledger
        WHERE last_rev = $1::int8 ORDER BY seq DESC LIMIT 1)
    UNION ALL (SELECT (-3)::int8, GREATEST(s.floor, i.adopted), s.unhashed, 0::int8, ''::text, NULL::bytea, NULL::bytea,
        NULL::bytea FROM acordo_state s CROSS JOIN acordo_identity i)"""
_VERSION_COLUMNS: Final = "v.revision, v.kind, v.expires, ''::text, v.key"
WHOLE, HASH, BARE = "1", "h", "0"
"""What is asked of a version: its value, its hash (the value only where it has none), neither."""
_VALUE: Final = (
    "(CASE WHEN {w} = '1' OR ({w} = 'h' AND v.hash = ''::bytea) THEN v.value END), v.hash"
)

HEAD_NOW: Final = _HEAD_ROW[1:-1]

_LEDGER_COLUMNS: Final = "seq, term, committer, first_rev, last_rev, digest, log_time, body"
ROWS_AFTER: Final = f"""SELECT {_LEDGER_COLUMNS} FROM acordo_ledger
    WHERE last_rev > $1::int8 AND body IS NOT NULL ORDER BY last_rev, seq LIMIT $2::int8"""
OLDEST: Final = """SELECT seq, first_rev, (SELECT max(last_rev) FROM acordo_ledger) AS last_rev
    FROM acordo_ledger ORDER BY seq LIMIT 1"""
LEDGER_FROM: Final = f"""SELECT {_LEDGER_COLUMNS} FROM acordo_ledger
    WHERE seq >= $1::int8 ORDER BY seq LIMIT $2::int8"""
ROW_ENDING: Final = f"""SELECT {_LEDGER_COLUMNS} FROM acordo_ledger
    WHERE last_rev = $1::int8 ORDER BY seq DESC LIMIT 1"""

EXACT: Final = """SELECT v.key, v.revision, v.kind, v.expires, v.value, v.hash,
        (SELECT s.unhashed FROM acordo_state s) AS unhashed FROM acordo_versions v
    WHERE (v.key, v.revision) IN (
        SELECT decode(u.k, 'base64'), u.r::int8 FROM unnest($1::text[], $2::text[]) AS u(k, r))"""
SCRUB: Final = """SELECT v.key, v.revision, v.kind, v.expires, v.value, v.hash,
        (SELECT s.unhashed FROM acordo_state s) AS unhashed FROM acordo_versions v
    WHERE v.revision > $1::int8 ORDER BY v.revision, v.key LIMIT $2::int8"""
OPERATIONS: Final = """SELECT op_id, body_hash, revision, outcome, log_time FROM acordo_ops
    WHERE op_id IN (SELECT u.x FROM unnest($1::text[]) AS u(x))"""
BLOB: Final = "SELECT value FROM acordo_blobs WHERE op_id = $1::text AND hash = $2::bytea"
DUE: Final = """SELECT key, revision FROM acordo_due
    WHERE expires <= $1::int8 ORDER BY expires, revision LIMIT $2::int8"""
FLOOR_NOW: Final = """SELECT GREATEST(s.floor, i.adopted) AS floor
    FROM acordo_state s CROSS JOIN acordo_identity i"""
CURSOR: Final = "SELECT place FROM acordo_cursors WHERE name = $1::text"
MOVE_CURSOR: Final = """INSERT INTO acordo_cursors (name, place) VALUES ($1::text, $2::int8)
    ON CONFLICT (name) DO UPDATE SET place = excluded.place WHERE excluded.place > acordo_cursors.place"""
STAGE: Final = """INSERT INTO acordo_blobs (op_id, hash, state, seq, reference, value, claims)
    SELECT $1::text, $2::bytea, 0::int8,
        COALESCE((SELECT seq FROM acordo_ledger ORDER BY seq DESC LIMIT 1), 0::int8), $3::bytea, $4::bytea, 1::int8
    ON CONFLICT (op_id, hash) DO UPDATE SET claims = acordo_blobs.claims + 1::int8"""
STAGED_NOW: Final = """SELECT COALESCE(sum(octet_length(b.value)), 0)::int8 AS bytes FROM acordo_blobs b
    WHERE b.state = 0::int8"""
UNCLAIM: Final = """UPDATE acordo_blobs SET claims = claims - 1::int8
    WHERE op_id = $1::text AND hash = $2::bytea AND claims > 1::int8 RETURNING claims"""
UNSTAGE: Final = """DELETE FROM acordo_blobs
    WHERE op_id = $1::text AND hash = $2::bytea AND state = 0::int8 AND claims <= 1::int8"""

APPEND: Final = """WITH landed AS (
    INSERT INTO acordo_ledger (seq, term, committer, first_rev, last_rev, digest, log_time, body)
    SELECT $1::int8, $2::int8, $3::text, $4::int8, $5::int8, $6::bytea, $7::int8, $8::bytea
    WHERE (EXISTS (SELECT 1 FROM acordo_ledger WHERE seq = $1::int8 - 1::int8 AND term = $9::int8
            AND committer = $10::text AND last_rev = $11::int8 AND digest = $12::bytea)
        OR ($1::int8 = 1::int8 AND NOT EXISTS (SELECT 1 FROM acordo_ledger)))
        AND (SELECT count(*) FROM unnest($13::text[], $14::text[]) AS w(o, h)) = (
            SELECT count(*) FROM acordo_blobs WHERE (op_id, hash) IN (
                SELECT w.o, decode(w.h, 'base64') FROM unnest($13::text[], $14::text[]) AS w(o, h)))
    ON CONFLICT (seq) DO NOTHING RETURNING seq),
made AS (
    INSERT INTO acordo_versions (key, revision, kind, expires, staged, value, hash)
    SELECT decode(u.k, 'base64'), u.r::int8, u.t::int8, u.e::int8, u.s, decode(u.v, 'base64'), decode(u.h, 'base64')
    FROM unnest($15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $30::text[])
        AS u(k, r, t, e, s, v, h), landed RETURNING revision),
recorded AS (
    INSERT INTO acordo_ops (op_id, body_hash, revision, outcome, log_time)
    SELECT u.o, decode(u.b, 'base64'), u.r::int8, decode(u.c, 'base64'), u.l::int8
    FROM unnest($21::text[], $22::text[], $23::text[], $24::text[], $25::text[]) AS u(o, b, r, c, l), landed
    RETURNING revision),
looked AS (
    UPDATE acordo_blobs SET state = 1::int8 WHERE state = 0::int8
        AND op_id IN (SELECT u.x FROM unnest($26::text[]) AS u(x)) AND EXISTS (SELECT 1 FROM landed)
    RETURNING state),
expiring AS (
    INSERT INTO acordo_due (key, revision, expires)
    SELECT decode(u.k, 'base64'), u.r::int8, u.e::int8
    FROM landed CROSS JOIN unnest($27::text[], $28::text[], $29::text[]) AS u(k, r, e)
        LEFT JOIN acordo_due d ON d.key = decode(u.k, 'base64')
    WHERE u.e IS NOT NULL OR d.key IS NOT NULL
    ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, expires = excluded.expires RETURNING revision)
SELECT count(*)::int8 AS landed FROM landed"""
"""One round trip for one group: the ledger row first, and nothing else unless it landed."""

TAKE_OVER: Final = """WITH head AS (
    (SELECT seq, term, committer, last_rev, digest FROM acordo_ledger ORDER BY seq DESC LIMIT 1)
    UNION ALL (SELECT 0::int8, 0::int8, ''::text, 0::int8, $5::bytea
        WHERE NOT EXISTS (SELECT 1 FROM acordo_ledger))),
landed AS (
    INSERT INTO acordo_ledger (seq, term, committer, first_rev, last_rev, digest, log_time, body)
    SELECT head.seq + 1::int8, $1::int8, $2::text, head.last_rev + 1::int8,
        COALESCE($4::int8, head.last_rev), head.digest, $3::int8, NULL::bytea
    FROM head WHERE (head.seq = 0::int8 OR head.term < $1::int8
            OR (head.term = $1::int8 AND head.committer = $2::text))
        AND COALESCE($4::int8, head.last_rev) >= head.last_rev
    ON CONFLICT (seq) DO NOTHING RETURNING seq),
adopted AS (
    UPDATE acordo_identity SET adopted = $4::int8, cluster = COALESCE($6::text, cluster),
        history = COALESCE($7::bytea, history)
    WHERE one = 1::int8 AND $4::int8 IS NOT NULL AND EXISTS (SELECT 1 FROM landed) RETURNING one)
SELECT head.seq, head.term, head.committer, head.last_rev, head.digest,
    (SELECT count(*)::int8 FROM landed) AS landed FROM head"""

CLAIM: Final = """WITH claimed AS (
    UPDATE acordo_identity SET cluster = $1::text, history = $2::bytea
    WHERE one = 1::int8 AND (cluster = '' OR (cluster = $1::text AND history = ''::bytea AND $2::bytea <> ''::bytea))
    RETURNING cluster, history)
SELECT cluster, history FROM claimed
UNION ALL SELECT i.cluster, i.history FROM acordo_identity i WHERE NOT EXISTS (SELECT 1 FROM claimed)"""

# One small step of pruning, in one explicit transaction.
STATE_FOR_PRUNING: Final = """SELECT s.floor,
    COALESCE((SELECT i.adopted FROM acordo_identity i), 0::int8) AS adopted,
    COALESCE((SELECT max(l.seq) FROM acordo_ledger l), 0::int8) AS seq,
    COALESCE((SELECT max(l.last_rev) FROM acordo_ledger l), 0::int8) AS last_rev FROM acordo_state s"""
NEXT_VERSIONS: Final = """SELECT revision FROM acordo_versions
    WHERE revision > $1::int8 AND revision <= $2::int8 ORDER BY revision LIMIT $3::int8"""
RAISE_FLOOR: Final = (
    "UPDATE acordo_state SET floor = $1::int8 WHERE one = 1::int8 AND floor < $1::int8"
)
DROP_SUPERSEDED: Final = """DELETE FROM acordo_versions WHERE (key, revision) IN (
    SELECT older.key, older.revision FROM acordo_versions AS newer JOIN acordo_versions AS older
        ON older.key = newer.key AND older.revision < newer.revision
    WHERE newer.revision > $1::int8 AND newer.revision <= $2::int8) RETURNING staged"""
DROP_TOMBSTONES: Final = """DELETE FROM acordo_versions
    WHERE revision > $1::int8 AND revision <= $2::int8 AND kind = 0::int8"""
LOOK_AGAIN: Final = """UPDATE acordo_blobs SET state = 1::int8 WHERE state = 2::int8
    AND op_id IN (SELECT u.x FROM unnest($1::text[]) AS u(x))"""
DROP_ROWS: Final = """DELETE FROM acordo_ledger WHERE seq IN (
    SELECT seq FROM acordo_ledger WHERE last_rev < $1::int8 AND seq < $2::int8 ORDER BY seq LIMIT $3::int8)"""
DROP_OPERATIONS: Final = """DELETE FROM acordo_ops WHERE op_id IN (
    SELECT o.op_id FROM (SELECT op_id, log_time FROM acordo_ops ORDER BY revision LIMIT $2::int8) AS o
    WHERE o.log_time < $1::int8)"""
BLOBS_TO_LOOK_AT: Final = """(SELECT b.op_id, b.hash, (CASE WHEN EXISTS (
        SELECT 1 FROM acordo_versions v WHERE v.staged = b.op_id AND v.value = b.reference)
        THEN 1 ELSE 0 END)::int8 AS used
    FROM acordo_blobs b WHERE b.state = 1::int8 LIMIT $2::int8)
    UNION ALL (SELECT b.op_id, b.hash, 0::int8 FROM acordo_blobs b WHERE b.state = 0::int8
        AND ((SELECT l.log_time FROM acordo_ledger l WHERE l.seq > b.seq ORDER BY l.seq LIMIT 1) < $1::int8
            OR EXISTS (SELECT 1 FROM acordo_ops o WHERE o.op_id = b.op_id)) LIMIT $2::int8)"""
KEEP_BLOB: Final = (
    "UPDATE acordo_blobs SET state = 2::int8 WHERE op_id = $1::text AND hash = $2::bytea"
)
DROP_BLOB: Final = "DELETE FROM acordo_blobs WHERE op_id = $1::text AND hash = $2::bytea"
DROP_DONE_DUE: Final = """DELETE FROM acordo_due WHERE expires IS NULL AND key IN (
    SELECT key FROM acordo_due WHERE expires IS NULL LIMIT $1::int8)"""

_LISTED: Final = """UNION ALL (SELECT w.n, w.revision, w.kind, w.expires, ''::text, w.key, w.value, w.hash FROM (
        SELECT 0::int8 AS n, d.revision, d.kind, d.expires, d.key, {value} AS value, d.hash FROM (
            SELECT DISTINCT ON (v.key) v.key, v.revision, v.kind, v.expires, v.value, v.hash FROM acordo_versions v
            WHERE v.key >= $2::bytea AND v.key < $3::bytea AND v.revision <= $4::int8
            ORDER BY v.key, v.revision DESC) AS d
        WHERE d.kind > 0::int8 ORDER BY d.key LIMIT $5::int8) AS w)"""
LIST: Final = _POINT_ROWS + _LISTED.format(value="d.value")
LIST_KEYS: Final = _POINT_ROWS + _LISTED.format(value="NULL::bytea")

KEYS_MAX: Final = 256
"""Keys looked up by one statement on CockroachDB, where each is a scan and two parameters of their
own.
"""


def bucket(count: int) -> int:
    """Return the next power of two: few shapes of statement, so all stay prepared."""
    return 1 << max(count - 1, 0).bit_length()


class Postgres:
    """PostgreSQL: a lateral join looks up the newest version of each key in one index probe."""

    name: Final = "postgresql"
    version_min: Final = (14, 0)
    keys_max: Final = 4096
    asked: Final = {
        "synchronous_commit": "on",
        "idle_session_timeout": "0",
        "default_transaction_deferrable": "off",
        "plan_cache_mode": "force_generic_plan",
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "jit": "off",
    }
    """Every statement is a few probes of an index, whatever the size of the tables. A prepared plan
    lives on, and one made while they were empty would read them whole, until the server happens to
    analyse them (a minute, or more).
    """
    relied_on: Final = {
        "synchronous_commit": (
            frozenset({"on", "remote_apply"}),
            "an acknowledged write could be lost (was asked to be on: does a pooler leave out what sessions ask for?)",
        ),
        "default_transaction_isolation": (
            frozenset({"serializable"}),
            "transactions would not be serializable (was asked for: does a pooler leave out what sessions ask for?)",
        ),
        "fsync": (
            frozenset({"on"}),
            "a power cut loses acknowledged writes, or the whole database",
        ),
        "zero_damaged_pages": (frozenset({"off"}), "damaged rows would vanish without a word"),
        "server_encoding": (frozenset({"utf8", "sql_ascii"}), "not every text can be kept"),
    }
    """Setting -> the values that the promises allow, and what any other means. Only the first two
    can be raised by a session, and are; the others are the server's, and one that cannot keep INV-2
    is refused by name.
    """
    doubtful: Final = {
        "full_page_writes": (
            "off",
            "safe only on a file system that never tears a page (ZFS, btrfs)",
        ),
    }
    """Setting -> a value that is warned of: whether it is safe cannot be told from here."""

    _NEWEST: Final = """UNION ALL (SELECT u.n - 1::int8, v.revision, v.kind, v.expires, ''::text, v.key, {value}
        FROM unnest({keys}::text[], {whole}::text[]) WITH ORDINALITY AS u(k, w, n) CROSS JOIN LATERAL (
            SELECT i.key, i.revision, i.kind, i.expires, i.value, i.hash FROM acordo_versions i
            WHERE i.key = decode(u.k, 'base64') AND i.revision <= {upto}::int8
            ORDER BY i.revision DESC LIMIT 1) AS v)"""
    _READ: Final = _POINT_ROWS + _NEWEST.format(
        value=_VALUE.format(w="u.w"), keys="$3", whole="$4", upto="$2"
    )
    _FACTS: Final = f"""{_HEAD_ROW}
        UNION ALL (SELECT (-4)::int8, o.revision, o.log_time, 0::int8, o.op_id, o.body_hash, o.outcome, NULL::bytea
            FROM acordo_ops o WHERE o.op_id IN (SELECT z.x FROM unnest($1::text[]) AS z(x)))
        UNION ALL (SELECT (-5)::int8, 0::int8, 0::int8, 0::int8, b.op_id, b.hash, NULL::bytea, NULL::bytea
            FROM acordo_blobs b
            WHERE (b.op_id, b.hash) IN (
                SELECT z.o, decode(z.h, 'base64') FROM unnest($2::text[], $3::text[]) AS z(o, h)))
        """ + _NEWEST.format(value=_VALUE.format(w="u.w"), keys="$5", whole="$6", upto="$4")

    @classmethod
    def read(cls, count: int) -> str:
        """Return the statement for `count` keys: $1 settled, $2 upto, then `keys` parameters."""
        return cls._READ

    @classmethod
    def facts(cls, count: int) -> str:
        """Return the statement: $1 op_ids, $2 $3 blobs, $4 upto, then `keys` parameters."""
        return cls._FACTS

    @staticmethod
    def keys(encoded: list[str], raw: list[bytes], whole: list[str]) -> list[object]:
        """Return the parameters that name the keys."""
        return [encoded, whole]


class Cockroach:
    """CockroachDB: one constrained scan per key, since lateral joins with a limit run row by row
    there.
    """

    name: Final = "cockroachdb"
    version_min: Final = (22, 1)
    keys_max: Final = KEYS_MAX
    asked: Final[dict[str, str]] = {}
    """Nothing that PostgreSQL does not know: one that answers here has to come as far as to say
    what it is.
    """
    relied_on: Final = {
        "default_transaction_isolation": Postgres.relied_on["default_transaction_isolation"],
        "default_transaction_use_follower_reads": (
            frozenset({"off"}),
            "reads would be seconds old",
        ),
    }
    doubtful: Final[dict[str, tuple[str, str]]] = {}

    @classmethod
    def read(cls, count: int) -> str:
        return _scans(_POINT_ROWS, "$2", 3, bucket(count))

    @classmethod
    def facts(cls, count: int) -> str:
        start = Postgres._FACTS.partition("UNION ALL (SELECT u.n")[0]
        return _scans(start, "$4", 5, bucket(count))

    @staticmethod
    def keys(encoded: list[str], raw: list[bytes], whole: list[str]) -> list[object]:
        size = bucket(len(raw)) - len(raw)
        flat: list[object] = []
        for key, wanted in zip([*raw, *[b""] * size], [*whole, *["0"] * size], strict=True):
            flat += [key, wanted]
        return flat


@functools.cache
def _scans(start: str, upto: str, first: int, count: int) -> str:
    scans = [
        f"""UNION ALL (SELECT {n}::int8, {_VERSION_COLUMNS},
            {_VALUE.format(w=f"${first + 2 * n + 1}::text")}
        FROM acordo_versions v WHERE v.key = ${first + 2 * n}::bytea AND v.revision <= {upto}::int8
        ORDER BY v.revision DESC LIMIT 1)"""
        for n in range(count)
    ]
    return "\n".join([start, *scans])
