"""Write groups, empty rows and staged values to the SQL server, each in one transaction.

It never decides whether a group may land: the statement contains the fence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from backends.fence import check_room, empty_row, hash_of, outranks
from backends.postgres import sql
from backends.postgres.connections import Connections
from backends.postgres.rows import INLINE, STAGED, TOMBSTONE, b64
from kv.errors import BackendUnavailable
from kv.model import (
    GENESIS_DIGEST,
    Group,
    Head,
    LedgerRow,
    RecordedOperation,
    Reference,
    Version,
    value_hash,
)
from kv.ports import Identity, Outranked, TakenOver

_pack: Final = msgspec.msgpack.Encoder().encode


async def append(
    connections: Connections, group: Group, *, timeout_s: float
) -> tuple[tuple[int, int], ...] | None:
    """Return the create_revision and the version of each of the group's versions, if it landed. If
    not, its base is not the head, or a staged value is gone: None.
    """
    rows = await connections.change(sql.APPEND, *_append_arguments(group), timeout_s=timeout_s)
    landed, created, counts = rows[0]
    if not landed:
        return None
    places = sorted((version.revision, version.key) for version in group.versions)
    numbers = dict(zip(places, zip(created or (), counts or (), strict=True), strict=True))
    return tuple(numbers[version.revision, version.key] for version in group.versions)


async def take_over(
    connections: Connections,
    term: int,
    committer: str,
    log_time_ms: int,
    *,
    adopt_last: int | None,
    identity: Identity | None,
    timeout_s: float,
) -> TakenOver | Outranked:
    """Append the empty row; see the port's `take_over`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        rows = await connections.change(
            sql.TAKE_OVER,
            term,
            committer,
            log_time_ms,
            adopt_last,
            GENESIS_DIGEST,
            None if identity is None else identity.cluster_id,
            None if identity is None else identity.history,
            timeout_s=max(deadline - loop.time(), 0.001),
        )
        *head_columns, landed = rows[0]
        head = Head(*head_columns)
        if landed:
            return TakenOver(head, empty_row(head, term, committer, log_time_ms, adopt_last).head)
        if outranks(head, term, committer):
            return Outranked(head)
        # raises BadRequest for a low adopt_last
        empty_row(head, term, committer, log_time_ms, adopt_last)
        if loop.time() >= deadline:  # others appended in between, again and again
            raise BackendUnavailable(
                connections.name, "the ledger grew under every attempt to take over"
            )


async def stage(
    connections: Connections, op_id: str, value: bytes, bytes_max: int, *, timeout_s: float
) -> Reference:
    """Stage a large value for an intent to come; see the port's `stage`."""
    reference = Reference(op_id, value_hash(value), len(value))
    deadline = asyncio.get_running_loop().time() + timeout_s
    # The sum is read in a statement of its own, so that concurrent calls do not roll each other
    # back; the bound may be exceeded a little. A value that is staged already counts twice, so it
    # is refused a little earlier.
    waiting = await connections.fetch(sql.STAGED_NOW, timeout_s=timeout_s)
    check_room(waiting[0]["bytes"], len(value), bytes_max)
    left_s = max(deadline - asyncio.get_running_loop().time(), 0.001)
    await connections.change(
        sql.STAGE, op_id, reference.hash, _pack(reference), value, timeout_s=left_s
    )
    return reference


async def unstage(connections: Connections, reference: Reference, *, timeout_s: float) -> None:
    """Undo one `stage`; see the port's `unstage`."""
    place = (reference.op_id, reference.hash)
    deadline = asyncio.get_running_loop().time() + timeout_s
    if not await connections.change(sql.UNCLAIM, *place, timeout_s=timeout_s):
        left_s = max(deadline - asyncio.get_running_loop().time(), 0.001)
        await connections.change(sql.UNSTAGE, *place, timeout_s=left_s)


def _append_arguments(group: Group) -> list[object]:
    """Return the parameters of `sql.APPEND`, $1 to $34."""
    base = group.base
    return [
        *row_arguments(group.row),
        *(base.term, base.committer, base.last, base.digest),
        *_staged_arguments(group.versions),
        *version_arguments(group.versions),
        *operation_arguments(group.operations),
        [recorded.op_id for recorded in group.row.body],
        *_expiry_arguments(group.versions),
        [b64(hash_of(v)) for v in group.versions],
        *_number_arguments(group.versions),
    ]


def row_arguments(row: LedgerRow) -> list[object]:
    """Return the columns of a ledger row."""
    body = _pack(row.body) if row.body else None
    place = [row.seq, row.term, row.committer, row.first, row.last]
    return [*place, row.digest, row.log_time_ms, body]


def _staged_arguments(versions: tuple[Version, ...]) -> list[object]:
    """Return the op_ids and hashes of the staged values that must exist."""
    staged = dict.fromkeys(
        (v.value.op_id, v.value.hash) for v in versions if isinstance(v.value, Reference)
    )
    return [[op_id for op_id, _ in staged], [b64(digest) for _, digest in staged]]


def version_arguments(versions: Sequence[Version]) -> list[object]:
    """Return keys, revisions, kinds, expiries, op_ids of staged values, and values."""
    return [
        [b64(v.key) for v in versions],
        [str(v.revision) for v in versions],
        [str(_kind(v)) for v in versions],
        [None if v.expires_ms is None else str(v.expires_ms) for v in versions],
        [v.value.op_id if isinstance(v.value, Reference) else None for v in versions],
        [_stored(v) for v in versions],
    ]


def _number_arguments(versions: tuple[Version, ...]) -> list[object]:
    """Return what numbers the versions: whether each follows what its key had before the group, its
    create_revision if that was absent, and how many puts it is away; and the leases.
    """
    newest: dict[bytes, tuple[str, int, int]] = {}
    said: list[tuple[str, int, int]] = []
    for version in versions:  # those of one key come in order of revision
        follows, created, count = newest.get(version.key, ("1", version.revision, 0))
        if not version.present:
            numbers = ("0", 0, 0)
        elif count or follows == "1":
            numbers = (follows, created, count + 1)
        else:  # it was deleted in the group
            numbers = ("0", version.revision, 1)
        newest[version.key] = numbers
        said.append(numbers)
    return [
        [follows for follows, _, _ in said],
        [str(created) for _, created, _ in said],
        [str(count) for _, _, count in said],
        [str(version.lease) for version in versions],
    ]


def operation_arguments(operations: Sequence[RecordedOperation]) -> list[object]:
    """Return op_ids, body hashes, revisions, outcomes and log times."""
    return [
        [o.op_id for o in operations],
        [b64(o.body_hash) for o in operations],
        [str(o.revision) for o in operations],
        [b64(_pack(o.outcome)) for o in operations],
        [str(o.log_time_ms) for o in operations],
    ]


def _expiry_arguments(versions: tuple[Version, ...]) -> list[object]:
    """Return when the newest version of each key expires."""
    newest = {v.key: v for v in versions}
    return [
        [b64(key) for key in newest],
        [str(v.revision) for v in newest.values()],
        [
            None if v.expires_ms is None or not v.present else str(v.expires_ms)
            for v in newest.values()
        ],
    ]


def _kind(version: Version) -> int:
    match version.value:
        case None:
            return TOMBSTONE
        case Reference():
            return STAGED
        case _:
            return INLINE


def _stored(version: Version) -> str | None:
    match version.value:
        case None:
            return None
        case Reference() as reference:
            return b64(_pack(reference))
        case value:
            return b64(value)
