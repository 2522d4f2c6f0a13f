"""Keep ledger and versions in one SQLite file that all node processes of a machine share.

It never blocks the event loop, and never says that a transaction did not land while it still may.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file, never from what a caller gives

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Self, TypeVar

import msgspec

from backends.fence import check_group, empty_row, outranks, range_of
from backends.sqlite_schema import REVISION_SHIFT, check_whole, connect, prepare
from backends.sqlite_thread import SqliteThread, Turn
from kv.errors import BackendUnavailable, BadRequest, Pruned
from kv.model import (
    GENESIS,
    Applied,
    Digest,
    Expired,
    Group,
    Head,
    LedgerRow,
    Operation,
    Recorded,
    Reference,
    Refused,
    Version,
    value_hash,
)
from kv.ports import (
    Appended,
    Facts,
    Fenced,
    Listing,
    Outranked,
    Pruning,
    Read,
    Retention,
    TakenOver,
)

COLUMNS_MAX: Final = 128
"""Keys looked up by one statement; more take several statements of one snapshot."""
ROWS_MAX: Final = 128
"""Rows inserted by one statement."""
LIST_CHUNK: Final = 128
"""Versions fetched by one statement of a listing: at most 8 MiB of inline values."""
LIST_BYTES_MAX: Final = 8 * 1024 * 1024
"""A page ends early (`more`) once its values reach this."""
OPEN_TIMEOUT_S: Final = 20.0
WRITER_CACHE_KIB: Final = 8 * 1024
READER_CACHE_KIB: Final = 16 * 1024
BLOBS_SWEPT_MAX: Final = 64
ID_MAX: Final = 2**63 - 1

_TOMBSTONE, _INLINE, _STAGED = 0, 1, 2
_HEAD: Final = "SELECT seq, term, committer, last, digest FROM ledger ORDER BY seq DESC LIMIT 1"
_ROW: Final = "seq, term, committer, first, last, digest, log_time, body"

_pack = msgspec.msgpack.Encoder().encode
_unpack_body = msgspec.msgpack.Decoder(tuple[Recorded, ...]).decode
_unpack_reference = msgspec.msgpack.Decoder(Reference).decode
_unpack_outcome = msgspec.msgpack.Decoder(Applied | Refused | Expired).decode

T = TypeVar("T")


class SqliteStore:
    """The Store port on SQLite. One thread writes, another reads, each with a connection of its own.

    Several stores, in one process or many, may have the same file open.
    """

    def __init__(self, path: str, *, open_timeout_s: float = OPEN_TIMEOUT_S) -> None:
        self.path = path
        self._open_timeout_s = open_timeout_s
        self._writer = SqliteThread("sqlite-write", path, lambda: connect(path))
        self._reader = SqliteThread("sqlite-read", path, lambda: connect(path))

    async def __aenter__(self) -> Self:
        try:
            for thread, cache_kib in ((self._writer, WRITER_CACHE_KIB), (self._reader, READER_CACHE_KIB)):
                thread.start()
                prepared = functools.partial(prepare, path=self.path, cache_kib=cache_kib)
                await thread.run(prepared, timeout_s=self._open_timeout_s)
                thread.remember_file()
            await self._reader.run(lambda turn: check_whole(turn, self.path), timeout_s=self._open_timeout_s)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._reader.stop()
        await self._writer.stop()

    # ----------------------------------------------------------------------------------------------------- writing

    async def append(self, group: Group, *, timeout_s: float) -> Appended | Fenced:
        check_group(group)
        if outranks(group.base, group.row.term, group.row.committer):
            return Fenced(await self._write(_head, timeout_s))
        rows = _version_rows(group.versions)
        body = _pack(group.row.body) if group.row.body else None
        return await self._write(
            lambda turn: turn.write(
                lambda turn: _append(turn, group, body, rows), commit_if=lambda result: isinstance(result, Appended)
            ),
            timeout_s,
        )

    async def take_over(
        self, term: int, committer: str, log_time_ms: int, *, adopt_last: int | None = None, timeout_s: float
    ) -> TakenOver | Outranked:
        def body(turn: Turn) -> TakenOver | Outranked:
            head = _head(turn)
            if outranks(head, term, committer):
                return Outranked(head)
            row = empty_row(head, term, committer, log_time_ms, adopt_last)
            turn.execute(_INSERT_ROW, (*_row_values(row), None))
            return TakenOver(head, row.head)

        return await self._write(
            lambda turn: turn.write(body, commit_if=lambda result: isinstance(result, TakenOver)), timeout_s
        )

    async def stage(self, op_id: str, value: bytes, *, timeout_s: float) -> Reference:
        reference = Reference(op_id, value_hash(value), len(value))
        parameters = (op_id, reference.hash, _pack(reference), value)

        def body(turn: Turn) -> None:
            turn.execute(_STAGE, parameters)

        await self._write(lambda turn: turn.write(body), timeout_s)
        return reference

    async def move_cursor(self, name: str, to: int, *, timeout_s: float) -> None:
        def body(turn: Turn) -> None:
            turn.execute(_MOVE_CURSOR, (name, to))

        await self._write(lambda turn: turn.write(body), timeout_s)

    async def prune(self, retention: Retention, *, timeout_s: float) -> Pruning:
        return await self._write(lambda turn: turn.write(lambda turn: _prune(turn, retention)), timeout_s)

    async def facts(
        self,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        blobs: Sequence[tuple[str, bytes]],
        *,
        timeout_s: float,
    ) -> Facts:
        # On the writing thread, which rests between groups: a long listing must not keep the committer waiting.
        return await self._write(lambda turn: _facts(turn, op_ids, keys, frozenset(hashed), blobs), timeout_s)

    # ----------------------------------------------------------------------------------------------------- reading

    async def head(self, *, timeout_s: float) -> Head:
        return await self._read(_head, timeout_s)

    async def rows(self, after: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        def body(turn: Turn) -> tuple[LedgerRow, ...]:
            oldest = turn.fetch("SELECT seq, first, (SELECT max(last) FROM ledger) FROM ledger ORDER BY seq LIMIT 1")
            if not oldest or after >= oldest[0][2]:
                return ()
            if oldest[0][0] > 1 and after < oldest[0][1] - 1:
                raise Pruned(oldest[0][1])
            sql = f"SELECT {_ROW} FROM ledger WHERE last > ? AND body IS NOT NULL ORDER BY last, seq LIMIT ?"
            return tuple(_ledger_row(row) for row in turn.fetch(sql, (after, limit)))

        return await self._read(lambda turn: turn.read(body), timeout_s)

    async def ledger(self, from_seq: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        sql = f"SELECT {_ROW} FROM ledger WHERE seq >= ? ORDER BY seq LIMIT ?"
        return await self._read(
            lambda turn: tuple(_ledger_row(row) for row in turn.fetch(sql, (from_seq, limit))), timeout_s
        )

    async def row_ending(self, last: int, *, timeout_s: float) -> LedgerRow | None:
        sql = f"SELECT {_ROW} FROM ledger WHERE last = ? ORDER BY seq DESC LIMIT 1"
        return await self._read(
            lambda turn: next((_ledger_row(row) for row in turn.fetch(sql, (last,))), None), timeout_s
        )

    async def read(self, keys: Sequence[bytes], *, at: int | None = None, settled: int = 0, timeout_s: float) -> Read:
        def body(turn: Turn) -> Read:
            point, (columns,) = _ask(turn, settled, _Ask(_NEWEST, _up_to(keys, at)))
            point.check_floor(at)
            return Read(point.head, tuple(map(_version, keys, columns)), point.digest_at)

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
            point, _ = _ask(turn, settled)
            point.check_floor(at)
            versions, more = _list(turn, range_of(prefix, after), limit, at, keys_only=keys_only)
            return Listing(point.head, versions, more, point.digest_at)

        return await self._read(lambda turn: turn.read(body), timeout_s)

    async def versions(self, at: Sequence[tuple[bytes, int]], *, timeout_s: float) -> tuple[Version | None, ...]:
        ranges = [(key, revision << REVISION_SHIFT, _end_of(revision)) for key, revision in at]

        def body(turn: Turn) -> tuple[Version | None, ...]:
            _, (columns,) = _ask(turn, 0, _Ask(_EXACT, ranges))
            return tuple(_version(key, column) for (key, _), column in zip(at, columns, strict=True))

        return await self._read(body, timeout_s)

    async def operations(self, op_ids: Sequence[str], *, timeout_s: float) -> tuple[Operation | None, ...]:
        def body(turn: Turn) -> tuple[Operation | None, ...]:
            _, (columns,) = _ask(turn, 0, _Ask(_OPERATION, [(op_id,) for op_id in op_ids]))
            return tuple(map(_operation, op_ids, columns))

        return await self._read(body, timeout_s)

    async def blob(self, reference: Reference, *, timeout_s: float) -> bytes | None:
        sql = "SELECT value FROM blobs WHERE op_id = ? AND hash = ?"
        parameters = (reference.op_id, reference.hash)
        return await self._read(lambda turn: next((row[0] for row in turn.fetch(sql, parameters)), None), timeout_s)

    async def due(self, log_time_ms: int, limit: int, *, timeout_s: float) -> tuple[tuple[bytes, int], ...]:
        sql = "SELECT key, id FROM due WHERE expires <= ? ORDER BY expires, id LIMIT ?"
        return await self._read(
            lambda turn: tuple((key, id_ >> REVISION_SHIFT) for key, id_ in turn.fetch(sql, (log_time_ms, limit))),
            timeout_s,
        )

    async def floor(self, *, timeout_s: float) -> int:
        return await self._read(lambda turn: int(turn.fetch("SELECT floor FROM state")[0][0]), timeout_s)

    async def cursor(self, name: str, *, timeout_s: float) -> int:
        sql = "SELECT position FROM cursors WHERE name = ?"
        return await self._read(lambda turn: next((int(row[0]) for row in turn.fetch(sql, (name,))), 0), timeout_s)

    async def _read(self, body: Callable[[Turn], T], timeout_s: float) -> T:
        return await self._reader.run(body, timeout_s=timeout_s)

    async def _write(self, job: Callable[[Turn], T], timeout_s: float) -> T:
        return await self._writer.run(job, timeout_s=timeout_s)


# ------------------------------------------------------------------------------------------- statements that write

_INSERT_ROW: Final = f"INSERT INTO ledger ({_ROW}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_ROW_BEHIND: Final = f"""INSERT INTO ledger ({_ROW}) SELECT ?, ?, ?, ?, ?, ?, ?, ?
    WHERE (SELECT (seq, term, committer, last, digest) = (?, ?, ?, ?, ?) FROM ledger ORDER BY seq DESC LIMIT 1)"""
_INSERT_ROW_FIRST: Final = f"""INSERT INTO ledger ({_ROW}) SELECT ?, ?, ?, ?, ?, ?, ?, ?
    WHERE NOT EXISTS (SELECT 1 FROM ledger)"""
_RECORD_STAGED: Final = """UPDATE blobs SET state = 1
    WHERE state = 0 AND +op_id IN (SELECT value FROM json_each(?))"""
"""Its + makes SQLite walk the few values that wait to be recorded, not look for each op_id of the group."""
_MISSING: Final = "SELECT 1 FROM blobs WHERE op_id = ? AND hash = ?"
_STAGE: Final = """INSERT INTO blobs (op_id, hash, state, seq, reference, value)
    VALUES (?, ?, 0, ifnull((SELECT max(seq) FROM ledger), 0), ?, ?)
    ON CONFLICT (op_id, hash) DO NOTHING"""
_MOVE_CURSOR: Final = """INSERT INTO cursors (name, position) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET position = excluded.position WHERE excluded.position > position"""


def _append(turn: Turn, group: Group, body: bytes | None, rows: list[tuple[Any, ...]]) -> Appended | Fenced:
    row, base = group.row, group.base
    if base == GENESIS:
        done = turn.execute(_INSERT_ROW_FIRST, (*_row_values(row), body))
    else:
        place = (base.seq, base.term, base.committer, base.last, base.digest)
        done = turn.execute(_INSERT_ROW_BEHIND, (*_row_values(row), body, *place))
    if done.rowcount != 1:
        return Fenced(_head(turn))
    _insert(turn, "versions (id, key, kind, expires, staged, value)", 6, rows)
    operations = [(o.revision, o.op_id, o.body_hash, o.log_time_ms, _pack(o.outcome)) for o in group.operations]
    _insert(turn, "ops (revision, op_id, body_hash, log_time, outcome)", 5, operations)
    if row.body:
        turn.execute(_RECORD_STAGED, (msgspec.json.encode([recorded.op_id for recorded in row.body]).decode(),))
    for version in group.versions:
        if isinstance(version.value, Reference) and not turn.fetch(_MISSING, (version.value.op_id, version.value.hash)):
            raise BackendUnavailable("sqlite", f"the value staged by {version.value.op_id} is gone: evaluate again")
    return Appended()


def _version_rows(versions: Sequence[Version]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    revision, place = -1, 0
    for version in sorted(versions, key=lambda version: version.revision):
        place = place + 1 if version.revision == revision else 0
        revision = version.revision
        if place >= 1 << REVISION_SHIFT:
            raise BadRequest("too_many_keys", f"revision {revision} changes more than {1 << REVISION_SHIFT} keys")
        id_ = revision << REVISION_SHIFT | place
        match version.value:
            case None:
                rows.append((id_, version.key, _TOMBSTONE, version.expires_ms, None, None))
            case Reference() as reference:
                rows.append((id_, version.key, _STAGED, version.expires_ms, reference.op_id, _pack(reference)))
            case value:
                rows.append((id_, version.key, _INLINE, version.expires_ms, None, value))
    return rows


def _row_values(row: LedgerRow) -> tuple[Any, ...]:
    return (row.seq, row.term, row.committer, row.first, row.last, row.digest, row.log_time_ms)


def _insert(turn: Turn, table: str, width: int, rows: Sequence[tuple[Any, ...]]) -> None:
    for part in _parts(rows, ROWS_MAX):
        size = _bucket(len(part))
        parameters = [value for row in part for value in row]
        parameters += [None] * (width * (size - len(part)))
        turn.execute(_insert_sql(table, width, size), parameters)


@functools.cache
def _insert_sql(table: str, width: int, size: int) -> str:
    """Return an INSERT of up to `size` rows; those whose first column is NULL are padding."""
    row = f"({', '.join('?' * width)})"
    return f"INSERT INTO {table} SELECT * FROM (VALUES {', '.join([row] * size)}) WHERE column1 IS NOT NULL"


def _prune(turn: Turn, retention: Retention) -> Pruning:
    limit = retention.rows_max
    head = _head(turn)
    floor, walked = turn.fetch("SELECT floor, walked FROM state")[0]
    below = min(retention.revision_below, head.last)
    versions, floor, more_versions = _prune_versions(turn, floor, walked, below, limit)
    rows = turn.execute(
        "DELETE FROM ledger WHERE seq IN (SELECT seq FROM ledger WHERE last < ? AND seq < ? ORDER BY seq LIMIT ?)",
        (below, head.seq, limit),
    ).rowcount
    operations = turn.execute(
        """DELETE FROM ops WHERE revision IN (SELECT revision FROM
            (SELECT revision, log_time FROM ops ORDER BY revision LIMIT ?) WHERE log_time < ?)""",
        (limit, retention.operations_before_ms),
    ).rowcount
    blobs, more_blobs = _sweep(turn, retention.operations_before_ms, min(limit, BLOBS_SWEPT_MAX))
    more = more_versions or more_blobs or limit in {rows, operations}
    return Pruning(floor, versions, rows, operations, blobs, more)


def _prune_versions(turn: Turn, floor: int, walked: int, below: int, limit: int) -> tuple[int, int, bool]:
    """Walk the next versions at or below revision `below`, in order, and delete what each of them supersedes.

    A walked tombstone goes with them. Reads at the floor or above cannot tell: each key keeps its newest version there.
    """
    if below <= floor:
        return 0, floor, False
    step = [
        row[0]
        for row in turn.fetch(
            "SELECT id FROM versions WHERE id > ? AND id <= ? ORDER BY id LIMIT ?", (walked, _end_of(below), limit)
        )
    ]
    more = len(step) == limit
    upto = step[-1] if more else _end_of(below)
    floor = upto >> REVISION_SHIFT
    turn.execute("UPDATE state SET floor = ?, walked = ?", (floor, upto))
    gone = turn.execute(
        """DELETE FROM versions WHERE id IN (SELECT older.id FROM versions AS newer CROSS JOIN versions AS older
            ON older.key = newer.key AND older.id < newer.id WHERE newer.id > ? AND newer.id <= ?)""",
        (walked, upto),
    ).rowcount
    gone += turn.execute("DELETE FROM versions WHERE id > ? AND id <= ? AND kind = 0", (walked, upto)).rowcount
    return gone, floor, more


def _sweep(turn: Turn, before_ms: int, limit: int) -> tuple[int, bool]:
    """Look at staged values whose op_id is recorded, or too old to be ordered ever; delete those without a version.

    When one was staged is bounded by the log time of the row that came next: the head itself may be days old then.
    """
    found = turn.fetch(
        """SELECT rowid, EXISTS (SELECT 1 FROM versions WHERE staged = blobs.op_id AND value = blobs.reference)
            FROM blobs WHERE state = 1 LIMIT ?""",
        (limit,),
    )
    found += turn.fetch(
        """SELECT rowid, 0 FROM blobs WHERE state = 0
            AND ((SELECT log_time FROM ledger WHERE ledger.seq > blobs.seq ORDER BY ledger.seq LIMIT 1) < ?
                OR EXISTS (SELECT 1 FROM ops WHERE ops.op_id = blobs.op_id)) LIMIT ?""",
        (before_ms, limit - len(found)),
    )
    for rowid, used in found:
        turn.execute(
            "UPDATE blobs SET state = 2 WHERE rowid = ?" if used else "DELETE FROM blobs WHERE rowid = ?", (rowid,)
        )
    return sum(not used for _, used in found), len(found) == limit


# -------------------------------------------------------------------------------------------- statements that read

# The thread gives the interpreter lock away at every row it steps to, and gets it back late when the loop is busy.
# So many answers come as the columns of one row, each packed "id:kind:expires:value" (|| keeps bytes as they are).
_PACKED: Final = "id || ':' || kind || ':' || ifnull(expires, '') || ':'"
_NEWEST: Final = (
    f"(SELECT {_PACKED} || ifnull(value, '') FROM versions WHERE key = ? AND id <= ? ORDER BY id DESC LIMIT 1)"
)
_NEWEST_BARE: Final = f"(SELECT {_PACKED} FROM versions WHERE key = ? AND id <= ? ORDER BY id DESC LIMIT 1)"
_EXACT: Final = f"(SELECT {_PACKED} || ifnull(value, '') FROM versions WHERE key = ? AND id >= ? AND id <= ?)"
_OPERATION: Final = """(SELECT revision || ':' || log_time || ':' || length(body_hash) || ':' || body_hash || outcome
    FROM ops WHERE op_id = ?)"""
_IS_STAGED: Final = "(SELECT 1 FROM blobs WHERE op_id = ? AND hash = ?)"
_POINT: Final = """(SELECT floor FROM state), (SELECT digest FROM ledger WHERE last = ? ORDER BY seq DESC LIMIT 1),
    seq, term, committer, last, digest"""
_FROM: Final = "FROM (SELECT 1) LEFT JOIN (SELECT * FROM ledger ORDER BY seq DESC LIMIT 1)"
_KEYS: Final = """WITH RECURSIVE walk (key) AS (
        SELECT (SELECT key FROM versions WHERE key >= ? AND key < ? ORDER BY key LIMIT 1)
        UNION ALL
        SELECT (SELECT key FROM versions WHERE key > walk.key AND key < ? ORDER BY key LIMIT 1)
        FROM walk WHERE walk.key IS NOT NULL
    )
    SELECT group_concat(packed, '') FROM (
        SELECT {packed} || ':' || length(walk.key) || ':' || {length} || ':' || walk.key || {value} AS packed
        FROM walk CROSS JOIN versions AS v
        ON v.id = (SELECT id FROM versions WHERE key = walk.key AND id <= ? ORDER BY id DESC LIMIT 1)
        WHERE v.kind > 0 LIMIT ?)"""
_LIST: Final = _KEYS.format(
    packed="v.id || ':' || v.kind || ':' || ifnull(v.expires, '')", length="length(v.value)", value="v.value"
)
_LIST_KEYS: Final = _KEYS.format(
    packed="v.id || ':' || v.kind || ':' || ifnull(v.expires, '')", length="'0'", value="''"
)


class _Ask(NamedTuple):
    """One scalar expression, to be evaluated for each of these sets of parameters."""

    expression: str
    sets: Sequence[tuple[Any, ...]]


class _Point(NamedTuple):
    """Where the snapshot stands."""

    floor: int
    digest_at: Digest | None
    head: Head

    def check_floor(self, at: int | None) -> None:
        if at is not None and at < self.floor:
            raise Pruned(self.floor)


def _head(turn: Turn) -> Head:
    for seq, term, committer, last, digest in turn.fetch(_HEAD):
        return Head(seq, term, committer.decode(), last, digest)
    return GENESIS


def _ask(turn: Turn, settled: int, *asks: _Ask) -> tuple[_Point, list[list[Any]]]:
    """Return where the snapshot stands, and for each ask one value per set: one statement does it if they fit."""
    rounds = max((-(-len(ask.sets) // COLUMNS_MAX) for ask in asks), default=0)
    if rounds <= 1:
        return _ask_once(turn, settled, asks)
    if not turn.connection.in_transaction:
        return turn.read(lambda turn: _ask(turn, settled, *asks))
    answers: list[list[Any]] = [[] for _ in asks]
    for start in range(0, rounds * COLUMNS_MAX, COLUMNS_MAX):
        parts = tuple(_Ask(ask.expression, ask.sets[start : start + COLUMNS_MAX]) for ask in asks)
        point, answer = _ask_once(turn, settled, parts)
        for all_of_it, part in zip(answers, answer, strict=True):
            all_of_it.extend(part)
    return point, answers


def _ask_once(turn: Turn, settled: int, asks: Sequence[_Ask]) -> tuple[_Point, list[list[Any]]]:
    parameters: list[Any] = [settled]
    sizes = []
    for expression, sets in asks:
        size = _bucket(len(sets)) if sets else 0
        sizes.append((expression, size))
        for each in sets:
            parameters += each
        parameters += [None] * (expression.count("?") * (size - len(sets)))
    row = turn.fetch(_ask_sql(*sizes), parameters)[0]
    floor, digest_at, seq, term, committer, last, digest = row[:7]
    answers = []
    place = 7
    for (_, sets), (_, size) in zip(asks, sizes, strict=True):
        answers.append(list(row[place : place + len(sets)]))
        place += size
    return _Point(
        floor, digest_at, GENESIS if seq is None else Head(seq, term, committer.decode(), last, digest)
    ), answers


@functools.lru_cache(maxsize=256)
def _ask_sql(*sizes: tuple[str, int]) -> str:
    columns = [_POINT, *(expression for expression, size in sizes for _ in range(size))]
    return f"SELECT {', '.join(columns)} {_FROM}"


def _up_to(keys: Sequence[bytes], at: int | None) -> list[tuple[Any, ...]]:
    upto = ID_MAX if at is None else _end_of(at)
    return [(key, upto) for key in keys]


def _facts(
    turn: Turn,
    op_ids: Sequence[str],
    keys: Sequence[bytes],
    hashed: frozenset[bytes],
    blobs: Sequence[tuple[str, bytes]],
) -> Facts:
    plain, whole = [key for key in keys if key not in hashed], sorted(hashed)
    point, (operations, bare, full, staged) = _ask(
        turn,
        0,
        _Ask(_OPERATION, [(op_id,) for op_id in op_ids]),
        _Ask(_NEWEST_BARE, _up_to(plain, None)),
        _Ask(_NEWEST, _up_to(whole, None)),
        _Ask(_IS_STAGED, blobs),
    )
    versions = {each.key: each for each in map(_version, plain, bare) if each is not None}
    hashes: dict[bytes, bytes] = {}
    for version in map(_version, whole, full):
        if version is not None:
            versions[version.key] = version
            match version.value:
                case Reference() as reference:
                    hashes[version.key] = reference.hash
                case bytes() as value:
                    hashes[version.key] = value_hash(value)
    return Facts(
        point.head,
        {each.op_id: each for each in map(_operation, op_ids, operations) if each is not None},
        versions,
        hashes,
        frozenset(blob for blob, found in zip(blobs, staged, strict=True) if found is None),
    )


def _list(
    turn: Turn, bounds: tuple[bytes, bytes], limit: int, at: int | None, *, keys_only: bool
) -> tuple[tuple[Version, ...], bool]:
    start, end = bounds
    upto = ID_MAX if at is None else _end_of(at)
    found: list[Version] = []
    size = 0
    while len(found) <= limit and size < LIST_BYTES_MAX:
        wanted = min(limit + 1 - len(found), LIST_CHUNK)
        sql = _LIST_KEYS if keys_only else _LIST
        packed = turn.fetch(sql, (start, end, end, upto, wanted))[0][0]
        chunk = [] if packed is None else list(_unpack_listing(packed, keys_only))
        found += chunk
        if len(chunk) < wanted:
            return tuple(found[:limit]), len(found) > limit
        start = chunk[-1].key + b"\0"
        size += len(packed)
    return tuple(found[:limit]), True


def _unpack_listing(packed: bytes, keys_only: bool) -> Iterator[Version]:
    place = 0
    while place < len(packed):
        id_, kind, expires, key_bytes, value_bytes, rest = packed[place : place + 120].split(b":", 5)
        place += min(len(packed) - place, 120) - len(rest)
        key = packed[place : place + int(key_bytes)]
        place += int(key_bytes)
        value = packed[place : place + int(value_bytes)]
        place += int(value_bytes)
        shown: bytes | Reference = b"" if keys_only else _unpack_reference(value) if kind == b"2" else value
        yield Version(key, int(id_) >> REVISION_SHIFT, shown, int(expires) if expires else None)


def _version(key: bytes, packed: bytes | None) -> Version | None:
    if packed is None:
        return None
    id_, kind, expires, value = packed.split(b":", 3)
    shown: bytes | Reference | None = None
    if kind == b"1":
        shown = value
    elif kind == b"2":
        shown = _unpack_reference(value) if value else b""
    return Version(key, int(id_) >> REVISION_SHIFT, shown, int(expires) if expires else None)


def _operation(op_id: str, packed: bytes | None) -> Operation | None:
    if packed is None:
        return None
    revision, log_time, hash_bytes, rest = packed.split(b":", 3)
    size = int(hash_bytes)
    return Operation(op_id, rest[:size], int(revision), _unpack_outcome(rest[size:]), int(log_time))


def _ledger_row(row: tuple[Any, ...]) -> LedgerRow:
    seq, term, committer, first, last, digest, log_time, body = row
    return LedgerRow(
        seq, term, committer.decode(), first, last, digest, log_time, () if body is None else _unpack_body(body)
    )


def _end_of(revision: int) -> int:
    """Return the largest id that a version of this revision can have."""
    return min((revision << REVISION_SHIFT) | ((1 << REVISION_SHIFT) - 1), ID_MAX)


def _bucket(count: int) -> int:
    """Return the next power of two: few shapes of statement, so all stay prepared."""
    return 1 << max(count - 1, 0).bit_length()


def _parts(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[n : n + size] for n in range(0, len(items), size))
