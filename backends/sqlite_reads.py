"""Read from the SQLite file, in as few statements as possible.

Nothing here writes. Every function runs on a store's thread.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file, never from what a
# caller gives

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from backends.fence import SCRUB_ROWS, checked, hash_of, scrubbed
from backends.sqlite_schema import ID_MAX, REVISION_SHIFT, bucket, end_of
from backends.sqlite_thread import Turn
from kv.errors import Pruned, StoreDamaged
from kv.model import (
    GENESIS,
    Applied,
    Digest,
    Expired,
    Head,
    LedgerRow,
    Recorded,
    RecordedOperation,
    Reference,
    Refused,
    Version,
)
from kv.ports import Facts, Scrubbed

COLUMNS_MAX: Final = 128
"""The number of keys looked up by one statement. More keys take several statements of one
snapshot.
"""
LIST_CHUNK: Final = 128
"""The number of versions fetched by one statement of a listing: at most 8 MiB of inline values."""
LIST_BYTES_MAX: Final = 8 * 1024 * 1024
"""A page ends early (`more`) once its values reach this size."""
ROW: Final = "seq, term, committer, first, last, digest, log_time, body"
"""The columns of the ledger, in the order that `ledger_row` takes them."""

_HEAD: Final = "SELECT seq, term, committer, last, digest FROM ledger ORDER BY seq DESC LIMIT 1"

_unpack_body = msgspec.msgpack.Decoder(tuple[Recorded, ...]).decode
_unpack_reference = msgspec.msgpack.Decoder(Reference).decode
_unpack_outcome = msgspec.msgpack.Decoder(Applied | Refused | Expired).decode

# The thread releases the interpreter lock at every row that it steps to, and gets it back late when
# the loop is busy. So many answers are returned as the columns of one row, each packed as
# "id:kind:expires:n:hash value", where n is the length of the hash (|| keeps bytes as they are).
_PACKED: Final = (
    "id || ':' || kind || ':' || ifnull(expires, '') || ':' || length(hash) || ':' || hash"
)
_AS_OF: Final = "FROM versions WHERE key = ? AND id <= ? ORDER BY id DESC LIMIT 1"
NEWEST: Final = f"(SELECT {_PACKED} || ifnull(value, '') {_AS_OF})"
_NEWEST_BARE: Final = f"(SELECT {_PACKED} {_AS_OF})"
_NEWEST_HASH: Final = f"(SELECT {_PACKED} || iif(hash = x'', ifnull(value, ''), '') {_AS_OF})"
"""Includes the value only if its hash was not kept yet."""
EXACT: Final = (
    f"(SELECT {_PACKED} || ifnull(value, '') FROM versions WHERE key = ? AND id >= ? AND id <= ?)"
)
OPERATION: Final = """(
    SELECT revision || ':' || log_time || ':' || length(body_hash) || ':' || body_hash || outcome
    FROM ops WHERE op_id = ?)"""
_IS_STAGED: Final = "(SELECT 1 FROM blobs WHERE op_id = ? AND hash = ?)"
FLOOR: Final = "max((SELECT floor FROM state), (SELECT adopted FROM identity))"
_POINT: Final = f"""{FLOOR}, (SELECT unhashed FROM state),
    (SELECT digest FROM ledger WHERE last = ? ORDER BY seq DESC LIMIT 1),
    seq, term, committer, last, digest"""
_FROM: Final = "FROM (SELECT 1) LEFT JOIN (SELECT * FROM ledger ORDER BY seq DESC LIMIT 1)"
_KEYS: Final = """WITH RECURSIVE walk (key) AS (
        SELECT (SELECT key FROM versions WHERE key >= ? AND key < ? ORDER BY key LIMIT 1)
        UNION ALL
        SELECT (SELECT key FROM versions WHERE key > walk.key AND key < ? ORDER BY key LIMIT 1)
        FROM walk WHERE walk.key IS NOT NULL
    )
    SELECT group_concat(packed, '') FROM (
        SELECT v.id || ':' || v.kind || ':' || ifnull(v.expires, '') || ':' || length(walk.key)
            || ':' || length(v.hash) || ':' || {length}
            || ':' || walk.key || v.hash || {value} AS packed
        FROM walk CROSS JOIN versions AS v
        ON v.id = (
            SELECT id FROM versions WHERE key = walk.key AND id <= ? ORDER BY id DESC LIMIT 1)
        WHERE v.kind > 0 LIMIT ?)"""
_LIST: Final = _KEYS.format(length="length(v.value)", value="v.value")
_LIST_KEYS: Final = _KEYS.format(length="'0'", value="''")


class Ask(NamedTuple):
    """One scalar expression, and the sets of parameters to evaluate it for."""

    expression: str
    sets: Sequence[tuple[Any, ...]]


class Point(NamedTuple):
    """The place and the floor of a snapshot."""

    floor: int
    unhashed: int
    """The newest revision whose versions may have no hash."""
    digest_at: Digest | None
    head: Head

    def check_floor(self, at: int | None) -> None:
        """Refuse a read at a revision that is no longer kept. Raises Pruned."""
        if at is not None and at < self.floor:
            raise Pruned(self.floor)


def head_of(turn: Turn) -> Head:
    """Return the head of the newest ledger row."""
    for seq, term, committer, last, digest in turn.fetch(_HEAD):
        return Head(seq, term, committer.decode(), last, digest)
    return GENESIS


def ask(turn: Turn, settled: int, *asks: Ask) -> tuple[Point, list[list[Any]]]:
    """Return the place of the snapshot and, for each ask, one value per set. It takes one statement
    if they fit into it.
    """
    rounds = max((-(-len(ask.sets) // COLUMNS_MAX) for ask in asks), default=0)
    if rounds <= 1:
        return _ask_once(turn, settled, asks)
    if not turn.connection.in_transaction:
        return turn.read(lambda turn: ask(turn, settled, *asks))
    answers: list[list[Any]] = [[] for _ in asks]
    for start in range(0, rounds * COLUMNS_MAX, COLUMNS_MAX):
        parts = tuple(Ask(ask.expression, ask.sets[start : start + COLUMNS_MAX]) for ask in asks)
        point, answer = _ask_once(turn, settled, parts)
        for all_of_it, part in zip(answers, answer, strict=True):
            all_of_it.extend(part)
    return point, answers


def _ask_once(turn: Turn, settled: int, asks: Sequence[Ask]) -> tuple[Point, list[list[Any]]]:
    parameters: list[Any] = [settled]
    sizes = []
    for expression, sets in asks:
        size = bucket(len(sets)) if sets else 0
        sizes.append((expression, size))
        for each in sets:
            parameters += each
        parameters += [None] * (expression.count("?") * (size - len(sets)))
    row = turn.fetch(_ask_sql(*sizes), parameters)[0]
    floor, unhashed, digest_at, seq, term, committer, last, digest = row[:8]
    answers = []
    place = 8
    for (_, sets), (_, size) in zip(asks, sizes, strict=True):
        answers.append(list(row[place : place + len(sets)]))
        place += size
    head = GENESIS if seq is None else Head(seq, term, committer.decode(), last, digest)
    return Point(floor, unhashed, digest_at, head), answers


@functools.lru_cache(maxsize=256)
def _ask_sql(*sizes: tuple[str, int]) -> str:
    columns = [_POINT, *(expression for expression, size in sizes for _ in range(size))]
    return f"SELECT {', '.join(columns)} {_FROM}"


def up_to(keys: Sequence[bytes], at: int | None) -> list[tuple[Any, ...]]:
    """Return the parameters with which NEWEST finds each key's newest version ≤ `at`."""
    upto = ID_MAX if at is None else end_of(at)
    return [(key, upto) for key in keys]


def facts(
    turn: Turn,
    op_ids: Sequence[str],
    keys: Sequence[bytes],
    hashed: frozenset[bytes],
    blobs: Sequence[tuple[str, bytes]],
) -> Facts:
    """Read what `evaluate` needs for one group."""
    plain, whole = [key for key in keys if key not in hashed], sorted(hashed)
    point, (operations, bare, full, staged) = ask(
        turn,
        0,
        Ask(OPERATION, [(op_id,) for op_id in op_ids]),
        Ask(_NEWEST_BARE, up_to(plain, None)),
        Ask(_NEWEST_HASH, up_to(whole, None)),
        Ask(_IS_STAGED, blobs),
    )
    versions = {each.key: each for each, _ in map(_parted, plain, bare) if each is not None}
    hashes: dict[bytes, bytes] = {}
    for version, kept in map(_parted, whole, full):
        if version is not None:
            versions[version.key] = version
            if version.present:
                hashes[version.key] = kept or hash_of(version)
    return Facts(
        point.head,
        {each.op_id: each for each in map(operation_of, op_ids, operations) if each is not None},
        versions,
        hashes,
        frozenset(blob for blob, found in zip(blobs, staged, strict=True) if found is None),
    )


def listing(
    turn: Turn,
    bounds: tuple[bytes, bytes],
    limit: int,
    at: int | None,
    unhashed: int,
    *,
    keys_only: bool,
) -> tuple[tuple[Version, ...], bool]:
    """List present keys within `bounds`. Return a page of them, and whether there are more."""
    start, end = bounds
    upto = ID_MAX if at is None else end_of(at)
    found: list[Version] = []
    size = 0
    while len(found) <= limit and size < LIST_BYTES_MAX:
        wanted = min(limit + 1 - len(found), LIST_CHUNK)
        sql = _LIST_KEYS if keys_only else _LIST
        packed = turn.fetch(sql, (start, end, end, upto, wanted))[0][0]
        chunk = [] if packed is None else list(_unpack_listing(packed, unhashed, keys_only))
        found += chunk
        if len(chunk) < wanted:
            return tuple(found[:limit]), len(found) > limit
        start = chunk[-1].key + b"\0"
        size += len(packed)
    return tuple(found[:limit]), True


def _unpack_listing(packed: bytes, unhashed: int, keys_only: bool) -> Iterator[Version]:
    place = 0
    while place < len(packed):
        id_, kind, expires, *sizes, rest = packed[place : place + 120].split(b":", 6)
        place += min(len(packed) - place, 120) - len(rest)
        parts = []
        for size in map(int, sizes):
            parts.append(packed[place : place + size])
            place += size
        key, kept, value = parts
        if keys_only:
            yield Version(key, int(id_) >> REVISION_SHIFT, b"", int(expires) if expires else None)
        else:
            yield checked(_version(key, id_, kind, expires, value), kept, unhashed, "sqlite")


def scrub(turn: Turn, after: int) -> Scrubbed:
    """Check the next versions against their hashes."""
    unhashed = turn.fetch("SELECT unhashed FROM state")[0][0]
    found: list[tuple[Version | None, bytes, int, bytes]] = []
    sql = (
        "SELECT id, key, kind, expires, value, hash FROM versions WHERE id > ? ORDER BY id LIMIT ?"
    )
    for id_, key, kind, expires, value, kept in turn.fetch(sql, (end_of(after), SCRUB_ROWS)):
        when = b"" if expires is None else b"%d" % expires
        version: Version | None = None
        with contextlib.suppress(StoreDamaged):
            version = _version(
                key, b"%d" % id_, b"%d" % kind, when, b"" if value is None else value
            )
        found.append((version, key, id_ >> REVISION_SHIFT, kept))
    return scrubbed(found, after, unhashed)


def version_of(key: bytes, packed: bytes | None, unhashed: int) -> Version | None:
    """Return a version that was read with its value. Raises StoreDamaged."""
    version, kept = _parted(key, packed)
    return None if version is None else checked(version, kept, unhashed, "sqlite")


def _parted(key: bytes, packed: bytes | None) -> tuple[Version | None, bytes]:
    """Return a version and its hash. The value is empty if the statement did not read it."""
    if packed is None:
        return None, b""
    id_, kind, expires, hash_bytes, rest = packed.split(b":", 4)
    size = int(hash_bytes)
    return _version(key, id_, kind, expires, rest[size:]), rest[:size]


def _version(key: bytes, id_: bytes, kind: bytes, expires: bytes, value: bytes) -> Version:
    revision = int(id_) >> REVISION_SHIFT
    shown: bytes | Reference | None = None
    if kind == b"1":
        shown = value
    elif kind == b"2":
        try:
            shown = _unpack_reference(value) if value else b""
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise StoreDamaged("sqlite", key, revision) from exc
    return Version(key, revision, shown, int(expires) if expires else None)


def operation_of(op_id: str, packed: bytes | None) -> RecordedOperation | None:
    """Return the recorded operation of an op_id."""
    if packed is None:
        return None
    revision, log_time, hash_bytes, rest = packed.split(b":", 3)
    size = int(hash_bytes)
    return RecordedOperation(
        op_id, rest[:size], int(revision), _unpack_outcome(rest[size:]), int(log_time)
    )


def ledger_row(row: tuple[Any, ...]) -> LedgerRow:
    """Return a ledger row with its intents."""
    seq, term, committer, first, last, digest, log_time, body = row
    return LedgerRow(
        seq,
        term,
        committer.decode(),
        first,
        last,
        digest,
        log_time,
        () if body is None else _unpack_body(body),
    )
