"""Define the statements that the SQL store sends once its tables exist.

They use only parameter forms that both servers take: scalars and text[] (bytes are sent in it as
base64), every placeholder cast, no row limit left open, columns listed, one table changed once per
statement. Nothing here opens a connection. `tests/unit/backends/test_postgres_sql.py` checks all of
it.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file, never from what a
# caller gives

from __future__ import annotations

from typing import Final

SETTINGS: Final = (
    """SELECT u.x AS name, current_setting(u.x, true) AS setting FROM unnest($1::text[]) AS u(x)"""
)
"""Selects the settings in force for the session; NULL where the server does not know the
setting.
"""
READ_ONLY: Final = "SELECT current_setting('transaction_read_only') AS setting"

# Every statement that reads several kinds of rows in one snapshot returns them in one shape:
# columns n, a, b, c (int8), t (text), x, y, z (bytea). The value of n says what the others hold.
HEAD: Final = -1
"""a: seq, b: term, c: last, t: committer, x: digest."""
AT_SETTLED: Final = -2
"""The row that ends at the settled revision, with the columns of HEAD."""
FLOOR: Final = -3
"""a: the lowest revision that can be read at, b: the newest one that may lack hashes."""
OPERATION: Final = -4
"""a: revision, b: log time, t: op_id, x: body hash, y: outcome."""
STAGED: Final = -5
"""t: op_id, x: hash."""
# From zero up, n is a version of the n-th requested key: a: revision, b: kind, c: expiry,
# t: create_revision, version and lease, x: key, y: value, z: hash.

HEAD_ROW: Final = """(SELECT (-1)::int8 AS n, seq AS a, term AS b, last_rev AS c, committer AS t,
    digest AS x, NULL::bytea AS y, NULL::bytea AS z FROM acordo_ledger ORDER BY seq DESC LIMIT 1)"""
POINT_ROWS: Final = f"""{HEAD_ROW}
    UNION ALL (SELECT (-2)::int8, seq, term, last_rev, committer, digest, NULL::bytea, NULL::bytea
        FROM acordo_ledger WHERE last_rev = $1::int8 ORDER BY seq DESC LIMIT 1)
    UNION ALL (SELECT (-3)::int8, GREATEST(s.floor, i.adopted), s.unhashed, 0::int8, ''::text,
        NULL::bytea, NULL::bytea, NULL::bytea FROM acordo_state s CROSS JOIN acordo_identity i)"""
NUMBERS: Final = "v.create_revision::text || ':' || v.version::text || ':' || v.lease::text"
VERSION_COLUMNS: Final = f"v.revision, v.kind, v.expires, {NUMBERS}, v.key"
WHOLE, HASH, BARE = "1", "h", "0"
"""The parts of a version that a statement returns: its value; its hash (and the value only if there
is no hash); neither.
"""
VALUE: Final = (
    "(CASE WHEN {w} = '1' OR ({w} = 'h' AND v.hash = ''::bytea) THEN v.value END), v.hash"
)

HEAD_NOW: Final = HEAD_ROW[1:-1]

_LEDGER_COLUMNS: Final = "seq, term, committer, first_rev, last_rev, digest, log_time, body"
ROWS_AFTER: Final = f"""SELECT {_LEDGER_COLUMNS} FROM acordo_ledger
    WHERE last_rev > $1::int8 AND body IS NOT NULL ORDER BY last_rev, seq LIMIT $2::int8"""
OLDEST: Final = """SELECT seq, first_rev, (SELECT max(last_rev) FROM acordo_ledger) AS last_rev
    FROM acordo_ledger ORDER BY seq LIMIT 1"""
LEDGER_FROM: Final = f"""SELECT {_LEDGER_COLUMNS} FROM acordo_ledger
    WHERE seq >= $1::int8 ORDER BY seq LIMIT $2::int8"""
ROW_ENDING: Final = f"""SELECT {_LEDGER_COLUMNS} FROM acordo_ledger
    WHERE last_rev = $1::int8 ORDER BY seq DESC LIMIT 1"""

EXACT: Final = f"""SELECT v.key, v.revision, v.kind, v.expires, {NUMBERS}, v.value, v.hash,
        (SELECT s.unhashed FROM acordo_state s) AS unhashed FROM acordo_versions v
    WHERE (v.key, v.revision) IN (
        SELECT decode(u.k, 'base64'), u.r::int8 FROM unnest($1::text[], $2::text[]) AS u(k, r))"""
SCRUB: Final = f"""SELECT v.key, v.revision, v.kind, v.expires, {NUMBERS}, v.value, v.hash,
        (SELECT s.unhashed FROM acordo_state s) AS unhashed FROM acordo_versions v
    WHERE v.revision > $1::int8 AND (v.kind > 0::int8 OR v.hash <> ''::bytea)
    ORDER BY v.revision, v.key LIMIT $2::int8"""
OPERATIONS: Final = """SELECT op_id, body_hash, revision, outcome, log_time FROM acordo_ops
    WHERE op_id IN (SELECT u.x FROM unnest($1::text[]) AS u(x))"""
RECORDED_AFTER: Final = """SELECT op_id, body_hash, revision, outcome, log_time FROM acordo_ops
    WHERE revision > $1::int8 ORDER BY revision LIMIT $2::int8"""
BLOB: Final = "SELECT value FROM acordo_blobs WHERE op_id = $1::text AND hash = $2::bytea"
DUE: Final = """SELECT key, revision FROM acordo_due
    WHERE expires <= $1::int8 ORDER BY expires, revision LIMIT $2::int8"""
FLOOR_NOW: Final = """SELECT GREATEST(s.floor, i.adopted) AS floor
    FROM acordo_state s CROSS JOIN acordo_identity i"""
CURSOR: Final = "SELECT place FROM acordo_cursors WHERE name = $1::text"
MOVE_CURSOR: Final = """INSERT INTO acordo_cursors (name, place) VALUES ($1::text, $2::int8)
    ON CONFLICT (name) DO UPDATE SET place = excluded.place
        WHERE excluded.place > acordo_cursors.place"""
STAGE: Final = """INSERT INTO acordo_blobs (op_id, hash, state, seq, reference, value, claims)
    SELECT $1::text, $2::bytea, 0::int8,
        COALESCE((SELECT seq FROM acordo_ledger ORDER BY seq DESC LIMIT 1), 0::int8),
        $3::bytea, $4::bytea, 1::int8
    ON CONFLICT (op_id, hash) DO UPDATE SET claims = acordo_blobs.claims + 1::int8"""
STAGED_NOW: Final = """SELECT COALESCE(sum(octet_length(b.value)), 0)::int8 AS bytes
    FROM acordo_blobs b
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
    INSERT INTO acordo_versions (key, revision, kind, expires, staged, value, hash,
        create_revision, version, lease)
    SELECT decode(u.k, 'base64'), u.r::int8, u.t::int8, u.e::int8, u.s, decode(u.v, 'base64'),
        decode(u.h, 'base64'),
        CASE WHEN b.kind > 0::int8 AND b.create_revision > 0::int8 THEN b.create_revision
            WHEN b.kind > 0::int8 THEN b.revision ELSE u.c::int8 END,
        CASE WHEN b.kind > 0::int8 THEN GREATEST(b.version, 1::int8) + u.n::int8
            ELSE u.n::int8 END,
        u.l::int8
    FROM landed CROSS JOIN unnest($15::text[], $16::text[], $17::text[], $18::text[], $19::text[],
        $20::text[], $30::text[], $31::text[], $32::text[], $33::text[], $34::text[])
        AS u(k, r, t, e, s, v, h, f, c, n, l)
        LEFT JOIN LATERAL (
            SELECT i.kind, i.revision, i.create_revision, i.version FROM acordo_versions i
            WHERE i.key = decode(u.k, 'base64') AND u.f = '1'
            ORDER BY i.revision DESC LIMIT 1) AS b ON true
    RETURNING key, revision, create_revision, version),
recorded AS (
    INSERT INTO acordo_ops (op_id, body_hash, revision, outcome, log_time)
    SELECT u.o, decode(u.b, 'base64'), u.r::int8, decode(u.c, 'base64'), u.l::int8
    FROM unnest($21::text[], $22::text[], $23::text[], $24::text[], $25::text[])
        AS u(o, b, r, c, l), landed
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
    ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, expires = excluded.expires
        RETURNING revision)
SELECT (SELECT count(*)::int8 FROM landed) AS landed,
    (SELECT array_agg(m.create_revision ORDER BY m.revision, m.key) FROM made m) AS created,
    (SELECT array_agg(m.version ORDER BY m.revision, m.key) FROM made m) AS counts"""
"""Writes one group in one round trip: the ledger row first, and nothing else unless it landed.

$31 says of each version whether it follows what the key had before the group; $32 is then its
create_revision if that is absent, and $33 what to add to the version.
"""

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
    WHERE one = 1::int8 AND (cluster = ''
        OR (cluster = $1::text AND history = ''::bytea AND $2::bytea <> ''::bytea))
    RETURNING cluster, history)
SELECT cluster, history FROM claimed
UNION ALL SELECT i.cluster, i.history FROM acordo_identity i
    WHERE NOT EXISTS (SELECT 1 FROM claimed)"""

# What fills an empty database out of a backup, in one explicit transaction.
OWNED: Final = """SELECT i.cluster, i.history,
        (SELECT count(*)::int8 FROM (SELECT l.seq FROM acordo_ledger l LIMIT 1) AS r) AS rows
    FROM acordo_identity i"""
RESTORE_ROW: Final = """INSERT INTO acordo_ledger
    (seq, term, committer, first_rev, last_rev, digest, log_time, body)
    VALUES ($1::int8, $2::int8, $3::text, $4::int8, $5::int8, $6::bytea, $7::int8, $8::bytea)"""
RESTORE_VERSIONS: Final = """INSERT INTO acordo_versions
    (key, revision, kind, expires, staged, value, hash, create_revision, version, lease)
    SELECT decode(u.k, 'base64'), u.r::int8, u.t::int8, u.e::int8, u.s, decode(u.v, 'base64'),
        decode(u.h, 'base64'), u.c::int8, u.n::int8, u.l::int8
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
        $7::text[], $8::text[], $9::text[], $10::text[]) AS u(k, r, t, e, s, v, h, c, n, l)"""
RESTORE_DUE: Final = """INSERT INTO acordo_due (key, revision, expires)
    SELECT v.key, v.revision, v.expires FROM acordo_versions v WHERE v.expires IS NOT NULL"""
RESTORE_BLOB: Final = """INSERT INTO acordo_blobs
    (op_id, hash, state, seq, reference, value, claims)
    VALUES ($1::text, $2::bytea, 2::int8, $3::int8, $4::bytea, $5::bytea, 1::int8)"""
RESTORE_OPERATIONS: Final = """INSERT INTO acordo_ops
    (op_id, body_hash, revision, outcome, log_time)
    SELECT u.o, decode(u.b, 'base64'), u.r::int8, decode(u.c, 'base64'), u.l::int8
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS u(o, b, r, c, l)"""
RESTORE_FLOOR: Final = "UPDATE acordo_state SET floor = $1::int8 WHERE one = 1::int8"
RESTORE_IDENTITY: Final = """UPDATE acordo_identity
    SET cluster = $1::text, history = $2::bytea, adopted = $3::int8 WHERE one = 1::int8"""

# The statements of one small pruning step, run in one explicit transaction.
STATE_FOR_PRUNING: Final = """SELECT s.floor,
    COALESCE((SELECT i.adopted FROM acordo_identity i), 0::int8) AS adopted,
    COALESCE((SELECT max(l.seq) FROM acordo_ledger l), 0::int8) AS seq,
    COALESCE((SELECT max(l.last_rev) FROM acordo_ledger l), 0::int8) AS last_rev
    FROM acordo_state s"""
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
    SELECT seq FROM acordo_ledger WHERE last_rev < $1::int8 AND seq < $2::int8
        ORDER BY seq LIMIT $3::int8)"""
DROP_OPERATIONS: Final = """DELETE FROM acordo_ops WHERE op_id IN (
    SELECT o.op_id FROM (
        SELECT op_id, log_time FROM acordo_ops ORDER BY revision LIMIT $2::int8) AS o
    WHERE o.log_time < $1::int8)"""
BLOBS_TO_LOOK_AT: Final = """(SELECT b.op_id, b.hash, (CASE WHEN EXISTS (
        SELECT 1 FROM acordo_versions v WHERE v.staged = b.op_id AND v.value = b.reference)
        THEN 1 ELSE 0 END)::int8 AS used
    FROM acordo_blobs b WHERE b.state = 1::int8 LIMIT $2::int8)
    UNION ALL (SELECT b.op_id, b.hash, 0::int8 FROM acordo_blobs b WHERE b.state = 0::int8
        AND ((SELECT l.log_time FROM acordo_ledger l
                WHERE l.seq > b.seq ORDER BY l.seq LIMIT 1) < $1::int8
            OR EXISTS (SELECT 1 FROM acordo_ops o WHERE o.op_id = b.op_id)) LIMIT $2::int8)"""
KEEP_BLOB: Final = (
    "UPDATE acordo_blobs SET state = 2::int8 WHERE op_id = $1::text AND hash = $2::bytea"
)
DROP_BLOB: Final = "DELETE FROM acordo_blobs WHERE op_id = $1::text AND hash = $2::bytea"
DROP_DONE_DUE: Final = """DELETE FROM acordo_due WHERE expires IS NULL AND key IN (
    SELECT key FROM acordo_due WHERE expires IS NULL LIMIT $1::int8)"""

_LISTED: Final = f"""UNION ALL (SELECT w.n, w.revision, w.kind, w.expires, w.numbers, w.key,
    w.value, w.hash FROM (
        SELECT 0::int8 AS n, d.revision, d.kind, d.expires, d.numbers, d.key, {{value}} AS value,
            d.hash
        FROM (
            SELECT DISTINCT ON (v.key) v.key, v.revision, v.kind, v.expires, v.value, v.hash,
                {NUMBERS} AS numbers
            FROM acordo_versions v
            WHERE v.key >= $2::bytea AND v.key < $3::bytea AND v.revision <= $4::int8
            ORDER BY v.key, v.revision DESC) AS d
        WHERE d.kind > 0::int8 ORDER BY d.key LIMIT $5::int8) AS w)"""
SPAN: Final = f"""SELECT 0::int8 AS n, d.revision AS a, d.kind AS b, d.expires AS c,
        d.numbers AS t, d.key AS x, (CASE WHEN $4::text = '1' THEN d.value END) AS y, d.hash AS z
    FROM (
        SELECT DISTINCT ON (v.key) v.key, v.revision, v.kind, v.expires, v.value, v.hash,
            {NUMBERS} AS numbers
        FROM acordo_versions v WHERE v.key >= $1::bytea AND v.key < $2::bytea
        ORDER BY v.key, v.revision DESC) AS d
    WHERE d.kind > 0::int8 ORDER BY d.key LIMIT $3::int8"""
"""Selects the present keys of a span, at the newest state."""
_ATTACHED: Final = """SELECT v.key FROM acordo_versions v
    WHERE v.lease = {lease} AND v.lease <> 0::int8 AND v.kind > 0::int8 AND NOT EXISTS (
        SELECT 1 FROM acordo_versions n WHERE n.key = v.key AND n.revision > v.revision)
    ORDER BY v.key LIMIT $2::int8"""
_EACH: Final = f"""(SELECT u.x::int8 AS lease FROM unnest($1::text[]) AS u(x)) AS l
    CROSS JOIN LATERAL ({_ATTACHED.format(lease="l.lease")}) AS a"""
ATTACHED: Final = _ATTACHED.format(lease="$1::int8")
"""Selects the keys that are attached to a lease, at the newest state."""
ALL_ATTACHED: Final = f"SELECT l.lease, a.key FROM {_EACH} ORDER BY l.lease, a.key"
"""The same for many leases; each has its own limit."""
COUNT_ATTACHED: Final = f"SELECT l.lease, count(*)::int8 AS total FROM {_EACH} GROUP BY l.lease"
"""Counts the keys of many leases. One that has none is left out."""
LIST: Final = POINT_ROWS + _LISTED.format(value="d.value")
LIST_KEYS: Final = POINT_ROWS + _LISTED.format(value="NULL::bytea")
