"""Read what `evaluate` needs, on the loop's own thread, from what is settled and from the file.

It reads a few pages at most, and waits for no lock.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file, never from what a
# caller gives

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from backends.fence import bounds_of
from backends.replicated import reads, rows
from backends.replicated.overlay import Overlay, View, merged
from backends.replicated.schema import ID_MAX, bucket
from kv.model import Head, RecordedOperation, Version
from kv.ports import Facts, Span

ASKED_MAX: Final = 128
"""The number of op_ids, or of keys, looked up by one statement."""

_ONE_OPERATION: Final = """SELECT op_id, revision, log_time, body_hash, outcome FROM ops
    WHERE op_id = ? ORDER BY revision DESC LIMIT 1"""


KEPT_MAX: Final = 32_768
"""The number of keys whose newest version is remembered at least, and half of what is at most."""


_Remembered: TypeAlias = tuple[int, bool, int | None, bytes, int, int, int]
"""Of a key's newest version: revision, whether it is present, expiry, hash, create_revision,
version, lease.
"""


class Newest:
    """What the newest version of each key is that was settled lately, without its value: a write
    that only has to know whether its key is there then reads no file.

    The younger of two generations is the older one's successor when it is full.
    """

    def __init__(self) -> None:
        self._young: dict[bytes, _Remembered] = {}
        self._old: dict[bytes, _Remembered] = {}

    def settle(self, versions: Sequence[Version], hashes: Sequence[bytes]) -> None:
        """Take what a Step made. Every Step has to come here, in order."""
        young = self._young
        for version, hash in zip(versions, hashes, strict=True):
            young[version.key] = (
                version.revision, version.value is not None, version.expires_ms, hash,
                version.create_revision, version.version, version.lease,
            )  # fmt: skip
        if len(young) > KEPT_MAX:
            self._old, self._young = young, {}

    def get(self, key: bytes) -> tuple[Version, bytes] | None:
        """Return the newest version of a key, its value empty, and its hash; None: not known here,
        ask the file.
        """
        found = self._young.get(key) or self._old.get(key)
        if found is None:
            return None
        revision, present, expires_ms, hash, *numbers = found
        return Version(key, revision, b"" if present else None, expires_ms, *numbers), hash

    def numbers(
        self, keys: Sequence[bytes], into: dict[bytes, tuple[int, int]]
    ) -> list[bytes] | None:
        """Enter the create_revision and the version of the keys that are known to be present;
        return those of which nothing is known here, if any.
        """
        unknown: list[bytes] | None = None
        for key in keys:
            found = self._young.get(key) or self._old.get(key)
            if found is None:
                if unknown is None:
                    unknown = []
                unknown.append(key)
            elif found[1]:
                into[key] = (found[4], found[5])
        return unknown

    def clear(self) -> None:
        """Forget all: the file was cut back."""
        self._young, self._old = {}, {}


class Settled(NamedTuple):
    """Everything that was settled: what is in the file, and what is not yet."""

    connection: sqlite3.Connection
    overlay: Overlay
    newest: Newest
    head: Head


def facts(
    settled: Settled,
    op_ids: Sequence[str],
    keys: Sequence[bytes],
    hashed: Sequence[bytes],
    *,
    spans: Sequence[Span],
    recorded_since_ms: int,
) -> Facts:
    """Return the facts at the head that was settled last. What is not in the file yet comes from
    the overlay; the file may hold Steps that are still there too, never others.
    """
    connection, overlay, newest, head = settled
    operations: dict[str, RecordedOperation] = {}
    unknown: list[str] = []
    for op_id in op_ids:
        recorded = overlay.operation(op_id)
        if recorded is None:
            unknown.append(op_id)
        else:
            operations[op_id] = recorded
    for start in range(0, len(unknown), ASKED_MAX):
        _read_operations(connection, unknown[start : start + ASKED_MAX], operations)
    versions: dict[bytes, Version] = {}
    kept: dict[bytes, bytes] = {}
    elsewhere: list[bytes] = []
    for key in dict.fromkeys((*keys, *hashed)) if hashed else keys:
        found = newest.get(key) or overlay.newest(key)
        if found is None:
            elsewhere.append(key)
        else:
            versions[key], kept[key] = found[0], found[1]
    for start in range(0, len(elsewhere), ASKED_MAX):
        _read_versions(connection, elsewhere[start : start + ASKED_MAX], versions, kept)
    hashes = {key: kept[key] for key in hashed if key in versions and versions[key].present}
    known = {
        op_id: each for op_id, each in operations.items() if each.log_time_ms >= recorded_since_ms
    }
    within = {span: _span(connection, overlay.view, span) for span in spans}
    return Facts(head, known, versions, hashes, frozenset(), within)


def numbers(
    connection: sqlite3.Connection,
    overlay: Overlay,
    keys: Sequence[bytes],
    into: dict[bytes, tuple[int, int]],
) -> None:
    """Enter the create_revision and the version of those of the keys that are present."""
    elsewhere = []
    for key in keys:
        entry = overlay.newest(key)
        if entry is None:
            elsewhere.append(key)
        elif entry.version.present:
            into[key] = (entry.version.create_revision, entry.version.version)
    for start in range(0, len(elsewhere), ASKED_MAX):
        part = elsewhere[start : start + ASKED_MAX]
        for key, column in zip(part, _asked(connection, reads.NUMBERS, part), strict=False):
            if column is not None:
                created, count = column.split(b":")
                into[key] = (int(created), int(count))


def _span(connection: sqlite3.Connection, view: View, span: Span) -> tuple[Version, ...]:
    """Return the present keys of a span. The file may be written meanwhile: what it gets is in the
    view, which is laid over each page.
    """
    start, end = bounds_of(span.key, span.end)
    found: list[Version] = []
    while start < end and len(found) < span.limit:
        wanted = span.limit - len(found)
        page: tuple[list[Version], bool]
        if span.whole:
            page = reads.listing(connection, (start, end), wanted, None, keys_only=False)
        else:
            page = reads.bare(connection, (start, end), wanted)
        versions, more = merged(
            view, page, (start, end), None, 0, limit=wanted, keys_only=not span.whole
        )
        found += versions
        if not more:
            break
        start = (versions if len(versions) == wanted else page[0])[-1].key + b"\0"
    return tuple(found)


def _read_operations(
    connection: sqlite3.Connection, op_ids: list[str], into: dict[str, RecordedOperation]
) -> None:
    if len(op_ids) == 1:
        found = connection.execute(_ONE_OPERATION, op_ids).fetchall()
    else:
        size = bucket(len(op_ids))
        padded: list[Any] = [*op_ids, *[None] * (size - len(op_ids))]
        found = connection.execute(_operations_sql(size), padded).fetchall()
    for op_id, *row in found:
        recorded = rows.operation_of(op_id.decode(), tuple(row))
        held = into.get(recorded.op_id)
        if held is None or held.revision < recorded.revision:
            into[recorded.op_id] = recorded


def _read_versions(
    connection: sqlite3.Connection,
    keys: list[bytes],
    versions: dict[bytes, Version],
    kept: dict[bytes, bytes],
) -> None:
    packed = _asked(connection, reads.NEWEST_BARE, keys)
    for key, column in zip(keys, packed, strict=False):
        version, hash = reads.bare_version_in(key, column)
        if version is not None:
            versions[key], kept[key] = version, hash


def _asked(connection: sqlite3.Connection, expression: str, keys: Sequence[bytes]) -> Any:
    """Return what the expression says of the newest version of each key."""
    size = bucket(len(keys))
    parameters: list[object] = []
    for key in keys:
        parameters += (key, ID_MAX)
    parameters += [None] * (2 * (size - len(keys)))
    return connection.execute(_asked_sql(expression, size), parameters).fetchone()


@functools.cache
def _operations_sql(size: int) -> str:
    return (
        "SELECT op_id, revision, log_time, body_hash, outcome FROM ops "
        f"WHERE op_id IN ({', '.join('?' * size)})"
    )


@functools.cache
def _asked_sql(expression: str, size: int) -> str:
    return f"SELECT {', '.join([expression] * size)}"
