"""Fill an empty database with what a backup says was present, in one transaction.

It changes nothing in a database that holds anything.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

import msgspec

from backends.fence import hash_of
from backends.postgres import sql
from backends.postgres.connections import Connections
from backends.postgres.hosts import Connection
from backends.postgres.rows import b64
from backends.postgres.writes import operation_arguments, row_arguments, version_arguments
from kv.errors import BadRequest
from kv.model import (
    INLINE_BYTES_MAX,
    LedgerRow,
    RecordedOperation,
    Reference,
    Version,
    value_hash,
)
from kv.ports import Identity

TIMEOUT_S: Final = 4 * 3600.0
"""How long the whole transaction may take."""
VERSIONS: Final = 64
"""Versions sent at a time: at most 4 MiB, as larger values are sent one by one."""
OPERATIONS: Final = 500

T = TypeVar("T")
_pack: Final = msgspec.msgpack.Encoder().encode


async def restore(
    url: str,
    identity: Identity,
    row: LedgerRow,
    versions: Callable[[], Iterable[Version]],
    operations: Callable[[], Iterable[RecordedOperation]],
) -> bool:
    """Fill the database; return whether it was empty: False, if it belongs to exactly this history,
    because another member of it has filled it.

    `row` is its only ledger row: nothing below its end can be read at. Both calls give the same
    each time. Raises BadRequest("restore_not_empty"), BackendUnavailable, OutcomeUnknown.
    """
    connections = Connections(url, random.Random())
    await connections.open()

    async def body(connection: Connection, left_s: float) -> bool:
        async with connection.transaction(isolation="serializable"):
            if not await _is_empty(connection, identity):
                return False
            await connection.execute(sql.RESTORE_ROW, *row_arguments(row))
            for part in _parts(_staged_apart(versions()), VERSIONS):
                await _insert(connection, part)
            for some in _parts(operations(), OPERATIONS):
                await connection.execute(sql.RESTORE_OPERATIONS, *operation_arguments(some))
            await connection.execute(sql.RESTORE_DUE)
            await connection.execute(sql.RESTORE_FLOOR, row.last)
            await connection.execute(
                sql.RESTORE_IDENTITY, identity.cluster_id, identity.history, row.last
            )
        return True

    try:
        return await connections.run(connections.writers, body, TIMEOUT_S, writes=True)
    finally:
        connections.close()


async def _is_empty(connection: Connection, identity: Identity) -> bool:
    """Return whether nothing is in the database. Raises BadRequest unless it is empty, or this very
    history's.
    """
    found = (await connection.fetch(sql.OWNED))[0]
    if (found["cluster"], found["history"]) == (identity.cluster_id, identity.history):
        return False
    if found["rows"] or found["history"] or found["cluster"] not in {"", identity.cluster_id}:
        raise BadRequest(
            "restore_not_empty",
            f"the database holds the store of cluster {found['cluster']!r} already; nothing in it "
            "was touched",
            allowed="an empty database",
        )
    return True


def _staged_apart(versions: Iterable[Version]) -> Iterator[tuple[Version, bytes | None]]:
    """Yield versions with what has to be staged: the value of one that is large, which the version
    then refers to.
    """
    for number, version in enumerate(versions):
        value = version.value
        if isinstance(value, bytes) and len(value) > INLINE_BYTES_MAX:
            reference = Reference(f"~restored-{number}", value_hash(value), len(value))
            yield msgspec.structs.replace(version, value=reference), value
        else:
            yield version, None


async def _insert(connection: Connection, part: list[tuple[Version, bytes | None]]) -> None:
    for version, value in part:
        if value is not None and isinstance(reference := version.value, Reference):
            await connection.execute(
                sql.RESTORE_BLOB, reference.op_id, reference.hash, 0, _pack(reference), value
            )
    versions = [version for version, _ in part]
    await connection.execute(
        sql.RESTORE_VERSIONS,
        *version_arguments(versions),
        [b64(hash_of(version)) for version in versions],
        [str(version.create_revision) for version in versions],
        [str(version.version) for version in versions],
        [str(version.lease) for version in versions],
    )


def _parts(all_of: Iterable[T], most: int) -> Iterator[list[T]]:
    left = iter(all_of)
    while part := list(islice(left, most)):
        yield part
