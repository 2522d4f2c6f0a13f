"""Read what `evaluate` needs, on the loop's own thread, from what is settled and from the file.

It reads a few pages at most, and waits for no lock.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file, never from what a
# caller gives

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from backends.replicated import reads, rows
from backends.replicated.overlay import Overlay
from backends.replicated.schema import ID_MAX, bucket
from kv.model import Head, RecordedOperation, Version
from kv.ports import Facts

ASKED_MAX: Final = 128
"""The number of op_ids, or of keys, looked up by one statement."""

_ONE_OPERATION: Final = """SELECT op_id, revision, log_time, body_hash, outcome FROM ops
    WHERE op_id = ? ORDER BY revision DESC LIMIT 1"""


class Settled(NamedTuple):
    """Everything that was settled: what is in the file, and what is not yet."""

    connection: sqlite3.Connection
    overlay: Overlay
    head: Head


def facts(
    settled: Settled,
    op_ids: Sequence[str],
    keys: Sequence[bytes],
    hashed: Sequence[bytes],
    recorded_since_ms: int,
) -> Facts:
    """Return the facts at the head that was settled last. What is not in the file yet comes from
    the overlay; the file may hold Steps that are still there too, never others.
    """
    connection, overlay, head = settled
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
    for key in dict.fromkeys((*keys, *hashed)):
        entry = overlay.newest(key)
        if entry is None:
            elsewhere.append(key)
        else:
            versions[key], kept[key] = entry.version, entry.hash
    for start in range(0, len(elsewhere), ASKED_MAX):
        _read_versions(connection, elsewhere[start : start + ASKED_MAX], versions, kept)
    hashes = {key: kept[key] for key in hashed if key in versions and versions[key].present}
    known = {
        op_id: each for op_id, each in operations.items() if each.log_time_ms >= recorded_since_ms
    }
    return Facts(head, known, versions, hashes, frozenset())


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
    size = bucket(len(keys))
    parameters: list[object] = []
    for key in keys:
        parameters += (key, ID_MAX)
    parameters += [None] * (2 * (size - len(keys)))
    packed = connection.execute(_versions_sql(size), parameters).fetchone()
    for key, column in zip(keys, packed, strict=False):
        version, hash = reads.bare_version_in(key, column)
        if version is not None:
            versions[key], kept[key] = version, hash


@functools.cache
def _operations_sql(size: int) -> str:
    return (
        "SELECT op_id, revision, log_time, body_hash, outcome FROM ops "
        f"WHERE op_id IN ({', '.join('?' * size)})"
    )


@functools.cache
def _versions_sql(size: int) -> str:
    return f"SELECT {', '.join([reads.NEWEST_BARE] * size)}"
