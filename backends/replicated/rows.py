"""Translate between what the log made and the rows of a member's file.

Pure. It knows no connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from backends.replicated.schema import REVISION_SHIFT
from kv.errors import StoreDamaged
from kv.model import (
    Applied,
    Expired,
    LedgerRow,
    Recorded,
    RecordedOperation,
    Reference,
    Refused,
    Version,
    value_hash,
)
from kv.ports import Note, Step

BACKEND: Final = "own store"
"""How errors call it."""
LEDGER: Final = "seq, idx, term, first, last, log_time, digest, content, body"
"""The columns of the ledger, in the order that `ledger_row` takes them."""
VERSIONS: Final = "id, key, kind, expires, create_revision, version, lease, hash, value"
"""The columns of the versions, in the order that they are written in; a version is read from those
but for the key.
"""
OPS: Final = "revision, op_id, log_time, body_hash, outcome"
NOTE: Final = "history, idx, term, digest"

TOMBSTONE, INLINE = 0, 1
"""The values of versions.kind."""

Row: TypeAlias = tuple[Any, ...]

_pack = msgspec.msgpack.Encoder().encode
_unpack_body = msgspec.msgpack.Decoder(tuple[Recorded, ...]).decode
_unpack_outcome = msgspec.msgpack.Decoder(Applied | Refused | Expired).decode


class Rows(NamedTuple):
    """Everything that one transaction writes for a number of Steps."""

    note: Note
    floor: int
    ledger: list[Row]
    versions: list[Row]
    operations: list[Row]
    marks: list[Row]
    due: dict[bytes, Row | None]
    """For each key that was written: (key, expires, id) of its newest version; None: it does not
    expire.
    """
    expires: bool
    """Whether one of the versions expires."""


def rows_of(steps: Sequence[Step], term: int) -> Rows:
    """Return what to write for these Steps, of which there is at least one. `term` is the term of
    the command before them.
    """
    rows = Rows(steps[-1].note, max(step.floor for step in steps), [], [], [], [], {}, False)
    expires = False
    for step in steps:
        group = step.group
        if group is not None:
            rows.ledger.append(row_values(group.row))
            expires |= _add_versions(group.versions, step.hashes, rows)
            rows.operations.extend(map(operation_values, group.operations))
        if step.floor or (group is None and step.note.term != term):
            rows.marks.append((step.note.index, step.note.term, step.floor))
        term = step.note.term
    return rows._replace(expires=expires)


def row_values(row: LedgerRow) -> Row:
    """Return a ledger row's columns."""
    body = _pack(row.body) if row.body else None
    return (
        row.seq, row.index, row.term, row.first, row.last, row.log_time_ms, row.digest, row.content,
        body,
    )  # fmt: skip


def operation_values(operation: RecordedOperation) -> Row:
    """Return the columns of what is recorded of an op_id."""
    return (
        operation.revision, operation.op_id, operation.log_time_ms, operation.body_hash,
        _pack(operation.outcome),
    )  # fmt: skip


def _add_versions(versions: Sequence[Version], hashes: Sequence[bytes], rows: Rows) -> bool:
    """Add the rows of a row's versions, numbered within each revision. Return whether one
    expires.
    """
    revision, place, expires = -1, 0, False
    add, due = rows.versions.append, rows.due
    for version, hash in zip(versions, hashes, strict=True):
        place = place + 1 if version.revision == revision else 0
        revision = version.revision
        id_, key, value = revision << REVISION_SHIFT | place, version.key, version.value
        assert not isinstance(value, Reference)  # values travel in the log (R11)
        add((
            id_, key, TOMBSTONE if value is None else INLINE, version.expires_ms,
            version.create_revision, version.version, version.lease, hash, value,
        ))  # fmt: skip
        if version.expires_ms is None:
            due[key] = None
        else:
            due[key] = (key, version.expires_ms, id_)
            expires = True
    return expires


def ledger_row(row: Row) -> LedgerRow:
    """Return a ledger row with its intents."""
    seq, index, term, first, last, log_time, digest, content, body = row
    recorded = () if body is None else _unpack_body(body)
    return LedgerRow(seq, term, "", first, last, digest, log_time, recorded, index, content)


def operation_of(op_id: str, row: Row) -> RecordedOperation:
    """Return a recorded operation from (revision, log_time, body_hash, outcome)."""
    revision, log_time, body_hash, outcome = row
    return RecordedOperation(op_id, body_hash, revision, _unpack_outcome(outcome), log_time)


def version_of(key: bytes, row: Row) -> Version:
    """Return a version from its columns but for the key, checked. Raises StoreDamaged."""
    id_, kind, expires, created, count, lease, hash, value = row
    revision = id_ >> REVISION_SHIFT
    if kind == TOMBSTONE:
        return Version(key, revision, None, expires, created, count, lease)
    if value is None or value_hash(value) != hash:
        raise StoreDamaged(BACKEND, key, revision)
    return Version(key, revision, value, expires, created, count, lease)


def bare_version(key: bytes, row: Row) -> Version:
    """Return a version, its value empty, from (id, kind, expires, create_revision, version,
    lease).
    """
    id_, kind, *rest = row
    return Version(key, id_ >> REVISION_SHIFT, None if kind == TOMBSTONE else b"", *rest)


def note_of(row: Row) -> Note:
    """Return a note from its columns."""
    history, index, term, digest = row
    return Note() if index == 0 and not history else Note(history, index, term, digest)
