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


KEPT_MAX: Final = 32_768
"""The number of keys whose newest version is remembered at least, and half of what is at most."""


class Newest:
    """What the newest version of each key is that was settled lately, without its value: a write
    that only has to know whether its key is there then reads no file.

    The younger of two generations is the older one's successor when it is full.
    """

    def __init__(self) -> None:
        self._young: dict[bytes, tuple[int, bool, int | None, bytes]] = {}
        self._old: dict[bytes, tuple[int, bool, int | None, bytes]] = {}

    def settle(self, versions: Sequence[Version], hashes: Sequence[bytes]) -> None:
        """Take what a Step made. Every Step has to come here, in order."""
        young = self._young
        for version, hash in zip(versions, hashes, strict=True):
            young[version.key] = (
                version.revision, version.value is not None, version.expires_ms, hash,
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
        revision, present, expires_ms, hash = found
        return Version(key, revision, b"" if present else None, expires_ms), hash

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
