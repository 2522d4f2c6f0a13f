"""Read from a member's file, in as few statements as possible.

Nothing here writes. Every function gives what is in the file: what was settled and is not written
is laid over it elsewhere.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file, never from what a
# caller gives

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from backends.fence import SCRUB_ROWS, scrubbed
from backends.replicated import rows
from backends.replicated.overlay import Place
from backends.replicated.schema import ID_MAX, REVISION_SHIFT, bucket, end_of
from kv.content import content_digest
from kv.errors import Pruned, StoreDamaged
from kv.model import GENESIS, Head, LedgerRow, RecordedOperation, Version, value_hash
from kv.ports import Scrubbed

COLUMNS_MAX: Final = 128
"""The number of keys looked up by one statement. More keys take several statements of one
snapshot.
"""
LIST_CHUNK: Final = 128
"""The number of versions fetched by one statement of a listing at most, and LIST_CHUNK_FIRST by the
first one: values of 1 MiB are fetched a few at a time.
"""
LIST_CHUNK_FIRST: Final = 16
LIST_BYTES_MAX: Final = 8 * 1024 * 1024
"""A page ends early (`more`) once its values reach this size."""
SCRUBBED_ROWS_MAX: Final = 512
"""The number of ledger rows whose content is recomputed in one step."""
SCRUBBED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Such a step ends early once it has read so many bytes of values."""
VERSION_BYTES: Final = 4096
"""What a version counts for besides its value: 2,000 of them are as much work as 8 MiB."""

HEADER_BYTES_MAX: Final = 200
"""What comes before a key in a packed listing is shorter."""

T = TypeVar("T")

# The connection releases the interpreter lock at every row that it steps to, and gets it back late
# when the loop is busy. So many answers are returned as the columns of one row, each packed as
# "id:kind:expires:create_revision:version:lease:n:hash value", where n is the length of the hash
# (|| keeps bytes as they are).
_PACKED: Final = """id || ':' || kind || ':' || ifnull(expires, '') || ':' || create_revision
    || ':' || version || ':' || lease || ':' || length(hash) || ':' || hash"""
_AS_OF: Final = "FROM versions WHERE key = ? AND id <= ? ORDER BY id DESC LIMIT 1"
NEWEST: Final = f"(SELECT {_PACKED} || ifnull(value, '') {_AS_OF})"
NEWEST_BARE: Final = f"(SELECT {_PACKED} {_AS_OF})"
NUMBERS: Final = f"(SELECT iif(kind > 0, create_revision || ':' || version, NULL) {_AS_OF})"
"""The create_revision and the version of a present key."""
EXACT: Final = (
    f"(SELECT {_PACKED} || ifnull(value, '') FROM versions WHERE key = ? AND id >= ? AND id <= ?)"
)
OPERATION: Final = """(
    SELECT revision || ':' || log_time || ':' || length(body_hash) || ':' || body_hash || outcome
    FROM ops WHERE op_id = ? ORDER BY revision DESC LIMIT 1)"""
_POINT: Final = """(SELECT floor FROM state),
    (SELECT digest FROM ledger WHERE last = ? ORDER BY seq DESC LIMIT 1), seq, term, last, digest"""
_FROM: Final = "FROM (SELECT 1) LEFT JOIN (SELECT * FROM ledger ORDER BY seq DESC LIMIT 1)"
_KEYS: Final = """WITH RECURSIVE walk (key) AS (
        SELECT (SELECT key FROM versions WHERE key >= ? AND key < ? ORDER BY key LIMIT 1)
        UNION ALL
        SELECT (SELECT key FROM versions WHERE key > walk.key AND key < ? ORDER BY key LIMIT 1)
        FROM walk WHERE walk.key IS NOT NULL
    )
    SELECT group_concat(packed, '') FROM (
        SELECT v.id || ':' || v.kind || ':' || ifnull(v.expires, '') || ':' || v.create_revision
            || ':' || v.version || ':' || v.lease || ':' || length(walk.key)
            || ':' || length(v.hash) || ':' || {length}
            || ':' || walk.key || v.hash || {value} AS packed
        FROM walk CROSS JOIN versions AS v
        ON v.id = (
            SELECT id FROM versions WHERE key = walk.key AND id <= ? ORDER BY id DESC LIMIT 1)
        WHERE v.kind > 0 LIMIT ?)"""
_LIST: Final = _KEYS.format(length="length(v.value)", value="v.value")
_LIST_KEYS: Final = _KEYS.format(length="'0'", value="''")


_BARE: Final = """WITH RECURSIVE walk (key) AS (
        SELECT (SELECT key FROM versions WHERE key >= ? AND key < ? ORDER BY key LIMIT 1)
        UNION ALL
        SELECT (SELECT key FROM versions WHERE key > walk.key AND key < ? ORDER BY key LIMIT 1)
        FROM walk WHERE walk.key IS NOT NULL
    )
    SELECT group_concat(hex(key)), group_concat(id), group_concat(expires),
        group_concat(create_revision), group_concat(version), group_concat(lease)
    FROM (
        SELECT walk.key AS key, v.id AS id, ifnull(v.expires, '') AS expires, v.create_revision,
            v.version, v.lease
        FROM walk CROSS JOIN versions AS v
        ON v.id = (SELECT id FROM versions WHERE key = walk.key ORDER BY id DESC LIMIT 1)
        WHERE v.kind > 0 LIMIT ?)"""
BARE_CHUNK: Final = 2_000
"""The number of keys read by one statement."""


class Ask(NamedTuple):
    """One scalar expression, and the sets of parameters to evaluate it for."""

    expression: str
    sets: Sequence[tuple[Any, ...]]


def snapshot(connection: sqlite3.Connection, body: Callable[[], T]) -> T:
    """Run several statements in one snapshot."""
    connection.execute("BEGIN")
    try:
        return body()
    finally:
        connection.execute("ROLLBACK")


def ask(connection: sqlite3.Connection, settled: int, *asks: Ask) -> tuple[Place, list[list[Any]]]:
    """Return the place of the snapshot and, for each ask, one value per set. It takes one statement
    if they fit into it.
    """
    rounds = max((-(-len(ask.sets) // COLUMNS_MAX) for ask in asks), default=0)
    if rounds <= 1:
        return _ask_once(connection, settled, asks)
    if not connection.in_transaction:
        return snapshot(connection, lambda: ask(connection, settled, *asks))
    answers: list[list[Any]] = [[] for _ in asks]
    for start in range(0, rounds * COLUMNS_MAX, COLUMNS_MAX):
        parts = tuple(Ask(ask.expression, ask.sets[start : start + COLUMNS_MAX]) for ask in asks)
        place, answer = _ask_once(connection, settled, parts)
        for all_of_it, part in zip(answers, answer, strict=True):
            all_of_it.extend(part)
    return place, answers


def _ask_once(
    connection: sqlite3.Connection, settled: int, asks: Sequence[Ask]
) -> tuple[Place, list[list[Any]]]:
    parameters: list[Any] = [settled]
    sizes = []
    for expression, sets in asks:
        size = bucket(len(sets)) if sets else 0
        sizes.append((expression, size))
        for each in sets:
            parameters += each
        parameters += [None] * (expression.count("?") * (size - len(sets)))
    row = connection.execute(_ask_sql(*sizes), parameters).fetchone()
    floor, digest_at, seq, term, last, digest = row[:6]
    answers = []
    place = 6
    for (_, sets), (_, size) in zip(asks, sizes, strict=True):
        answers.append(list(row[place : place + len(sets)]))
        place += size
    head = GENESIS if seq is None else Head(seq, term, "", last, digest)
    return Place(head, floor, digest_at), answers


@functools.lru_cache(maxsize=256)
def _ask_sql(*sizes: tuple[str, int]) -> str:
    columns = [_POINT, *(expression for expression, size in sizes for _ in range(size))]
    return f"SELECT {', '.join(columns)} {_FROM}"


def up_to(keys: Sequence[bytes], at: int | None) -> list[tuple[Any, ...]]:
    """Return the parameters with which NEWEST finds each key's newest version ≤ `at`."""
    upto = ID_MAX if at is None else end_of(at)
    return [(key, upto) for key in keys]


def listing(
    connection: sqlite3.Connection,
    bounds: tuple[bytes, bytes],
    limit: int,
    at: int | None,
    *,
    keys_only: bool,
) -> tuple[list[Version], bool]:
    """List present keys within `bounds`. Return a page of them, and whether there are more."""
    start, end = bounds
    upto = ID_MAX if at is None else end_of(at)
    found: list[Version] = []
    size, chunk_max = 0, LIST_CHUNK_FIRST
    while len(found) <= limit and size < LIST_BYTES_MAX:
        wanted = min(limit + 1 - len(found), chunk_max)
        sql = _LIST_KEYS if keys_only else _LIST
        packed = connection.execute(sql, (start, end, end, upto, wanted)).fetchone()[0]
        chunk = [] if packed is None else list(_unpack_listing(packed, keys_only))
        found += chunk
        if len(chunk) < wanted:
            return found[:limit], len(found) > limit
        start = chunk[-1].key + b"\0"
        size += len(packed)
        chunk_max = min(LIST_CHUNK, 1 + (LIST_BYTES_MAX - size) * len(found) // size)
    return found[:limit], True


def bare(
    connection: sqlite3.Connection, bounds: tuple[bytes, bytes], limit: int
) -> tuple[list[Version], bool]:
    """List the newest present keys within `bounds` without their values, as `listing` does. Where
    there are thousands it takes half the time: it is for what the loop itself waits for.
    """
    start, end = bounds
    found: list[Version] = []
    while len(found) <= limit:
        wanted = min(limit + 1 - len(found), BARE_CHUNK)
        columns = connection.execute(_BARE, (start, end, end, wanted)).fetchone()
        if columns[0] is None:
            break
        keys, *others = (column.split(b",") for column in columns)
        count = len(found)
        found += [
            Version(
                bytes.fromhex(key.decode()), int(id_) >> REVISION_SHIFT, b"",
                int(expires) if expires else None, int(created), int(version), int(lease),
            )
            for key, id_, expires, created, version, lease in zip(keys, *others, strict=True)
        ]  # fmt: skip
        if len(found) - count < wanted:
            break
        start = found[-1].key + b"\0"
    return found[:limit], len(found) > limit


def _unpack_listing(packed: bytes, keys_only: bool) -> Iterator[Version]:
    place = 0
    while place < len(packed):
        id_, kind, expires, created, count, lease, *sizes, rest = packed[
            place : place + HEADER_BYTES_MAX
        ].split(b":", 9)
        place += min(len(packed) - place, HEADER_BYTES_MAX) - len(rest)
        parts = []
        for size in map(int, sizes):
            parts.append(packed[place : place + size])
            place += size
        key, kept, value = parts
        when = int(expires) if expires else None
        row = (int(id_), int(kind), when, int(created), int(count), int(lease))
        if keys_only:
            yield rows.bare_version(key, row)
        else:
            yield rows.version_of(key, (*row, kept, value))


def version_in(key: bytes, packed: bytes | None) -> Version | None:
    """Return a version that was read with its value. Raises StoreDamaged."""
    if packed is None:
        return None
    row, kept, value = _unpack(packed)
    return rows.version_of(key, (*row, kept, value))


def bare_version_in(key: bytes, packed: bytes | None) -> tuple[Version | None, bytes]:
    """Return a version that was read without its value, and its hash."""
    if packed is None:
        return None, b""
    row, kept, _ = _unpack(packed)
    return rows.bare_version(key, row), kept


def _unpack(packed: bytes) -> tuple[rows.Row, bytes, bytes]:
    """Return what _PACKED holds: the numbers, the hash, and the value behind them."""
    id_, kind, expires, created, count, lease, hash_bytes, rest = packed.split(b":", 7)
    size = int(hash_bytes)
    when = int(expires) if expires else None
    row = (int(id_), int(kind), when, int(created), int(count), int(lease))
    return row, rest[:size], rest[size:]


def operation_in(op_id: str, packed: bytes | None) -> RecordedOperation | None:
    """Return the recorded operation of an op_id."""
    if packed is None:
        return None
    revision, log_time, hash_bytes, rest = packed.split(b":", 3)
    size = int(hash_bytes)
    return rows.operation_of(op_id, (int(revision), int(log_time), rest[:size], rest[size:]))


def recorded_after(
    connection: sqlite3.Connection, revision: int, limit: int
) -> tuple[RecordedOperation, ...]:
    """Return what is recorded by the intents behind a revision, in their order."""
    sql = """SELECT op_id, revision, log_time, body_hash, outcome FROM ops
        WHERE revision > ? ORDER BY revision LIMIT ?"""
    found = connection.execute(sql, (revision, limit)).fetchall()
    return tuple(rows.operation_of(op_id.decode(), tuple(row)) for op_id, *row in found)


# ------------------------------------------------------------------------------------------ ledger


def rows_after(connection: sqlite3.Connection, after: int, limit: int) -> list[LedgerRow]:
    """Return ledger rows with intents whose `last` > `after`. Raises Pruned."""
    oldest = connection.execute(
        "SELECT seq, first, (SELECT max(last) FROM ledger) FROM ledger ORDER BY seq LIMIT 1"
    ).fetchone()
    if oldest is None or after >= oldest[2]:
        return []
    if oldest[0] > 1 and after < oldest[1] - 1:
        raise Pruned(oldest[1])
    sql = f"""SELECT {rows.LEDGER} FROM ledger WHERE last > ? AND body IS NOT NULL
        ORDER BY last, seq LIMIT ?"""
    return [rows.ledger_row(row) for row in connection.execute(sql, (after, limit)).fetchall()]


def ledger_from(connection: sqlite3.Connection, seq: int, limit: int) -> list[LedgerRow]:
    """Return ledger rows from a seq on."""
    sql = f"SELECT {rows.LEDGER} FROM ledger WHERE seq >= ? ORDER BY seq LIMIT ?"
    return [rows.ledger_row(row) for row in connection.execute(sql, (seq, limit)).fetchall()]


def row_ending(connection: sqlite3.Connection, last: int) -> LedgerRow | None:
    """Return the newest ledger row with this `last`."""
    sql = f"SELECT {rows.LEDGER} FROM ledger WHERE last = ? ORDER BY seq DESC LIMIT 1"
    return _row(connection.execute(sql, (last,)).fetchone())


def row_at(connection: sqlite3.Connection, index: int) -> LedgerRow | None:
    """Return the ledger row of a log index."""
    sql = f"SELECT {rows.LEDGER} FROM ledger WHERE idx = ?"
    return _row(connection.execute(sql, (index,)).fetchone())


def newest_row(connection: sqlite3.Connection) -> LedgerRow | None:
    """Return the newest ledger row."""
    sql = f"SELECT {rows.LEDGER} FROM ledger ORDER BY seq DESC LIMIT 1"
    return _row(connection.execute(sql).fetchone())


def due(
    connection: sqlite3.Connection, log_time_ms: int, limit: int
) -> list[tuple[int, int, bytes]]:
    """Return (expires, revision, key) of present keys that expire at or before this log time."""
    sql = "SELECT expires, id, key FROM due WHERE expires <= ? ORDER BY expires, id LIMIT ?"
    return [
        (expires, id_ >> REVISION_SHIFT, key)
        for expires, id_, key in connection.execute(sql, (log_time_ms, limit)).fetchall()
    ]


def leased(connection: sqlite3.Connection) -> list[tuple[bytes, int]]:
    """Return the key and the lease of every present key that is attached to one."""
    sql = """SELECT key, lease FROM versions AS v WHERE lease <> 0 AND kind > 0 AND id = (
        SELECT id FROM versions WHERE key = v.key ORDER BY id DESC LIMIT 1)"""
    return connection.execute(sql).fetchall()


def _row(row: rows.Row | None) -> LedgerRow | None:
    return None if row is None else rows.ledger_row(row)


# ------------------------------------------------------------------------------------------- scrub


def scrub(connection: sqlite3.Connection, after: int) -> Scrubbed:
    """Check the next versions against their hashes."""
    # one revision has at most OPERATIONS_MAX values, but far more tombstones, which are not read
    sql = f"""SELECT {rows.VERSIONS} FROM versions WHERE id > ? AND (kind > 0 OR hash <> x'')
        ORDER BY id LIMIT ?"""
    found: list[tuple[Version | None, bytes, int, bytes]] = []
    size = 0
    for id_, key, *row in connection.execute(sql, (end_of(after), SCRUB_ROWS)):
        if size > SCRUBBED_BYTES_MAX and id_ >> REVISION_SHIFT != found[-1][2]:
            return msgspec.structs.replace(scrubbed(found, after, 0), more=True)
        size += len(row[-1] or b"")
        version: Version | None = None
        with contextlib.suppress(StoreDamaged):
            version = rows.version_of(key, (id_, *row))
        found.append((version, key, id_ >> REVISION_SHIFT, row[-2]))
    return scrubbed(found, after, 0)


def damaged_rows(connection: sqlite3.Connection, after: int) -> tuple[int, tuple[int, ...]]:
    """Recompute the content digests of the next ledger rows behind a seq. Return the seq reached
    (0: the end) and the damaged ones.
    """
    walked = connection.execute("SELECT walked FROM state").fetchone()[0] >> REVISION_SHIFT
    sql = f"SELECT {rows.LEDGER} FROM ledger WHERE seq >= ? ORDER BY seq LIMIT ?"
    before: LedgerRow | None = None
    damaged: list[int] = []
    reached = size = 0
    values = connection.execute(sql, (after, SCRUBBED_ROWS_MAX + 1)).fetchall()
    for n, value in enumerate(values):
        try:
            row = rows.ledger_row(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            damaged.append(value[0])
            before = None
            reached = value[0]
            continue
        if row.seq > after:
            # the oldest row has no predecessor to compute its digest from
            found, read = (
                (True, 0) if before is None else _is_sound(connection, walked, before, row)
            )
            size += read
            if not found:
                damaged.append(row.seq)
        before, reached = row, row.seq
        if size > SCRUBBED_BYTES_MAX and n + 1 < len(values):
            return reached, tuple(damaged)
    end = len(values) <= SCRUBBED_ROWS_MAX
    return (0 if end else reached), tuple(damaged)


def _is_sound(
    connection: sqlite3.Connection, walked: int, before: LedgerRow, row: LedgerRow
) -> tuple[bool, int]:
    """Return whether a row and all that it made are what was written, as far as they are kept, and
    how many bytes of values were read.
    """
    sql = f"SELECT {rows.VERSIONS} FROM versions WHERE id > ? AND id <= ? ORDER BY id"
    there = {}
    size = 0
    bounds = (end_of(row.first - 1), end_of(row.last))
    for id_, key, *said, _, value in connection.execute(sql, bounds).fetchall():
        there[key, id_ >> REVISION_SHIFT] = (rows.bare_version(key, (id_, *said)), value)
        size += VERSION_BYTES + len(value or b"")
    said = [
        (key, revision)
        for revision, recorded in enumerate(row.body, row.first)
        for key in recorded.keys
    ]
    if any(place not in there and place[1] <= walked for place in said):
        return True, size  # pruned: nobody can tell
    if set(said) != there.keys():
        return False, size
    made = [there[place] for place in said]
    hashes = [value_hash(value or b"") if version.present else b"" for version, value in made]
    digest = content_digest(before.content, row, [version for version, _ in made], hashes)
    return digest == row.content, size
