"""Decode the SQL server's rows: heads, ledger rows, versions, outcomes.

Pure, except that it raises: what cannot be decoded is StoreDamaged, never a guess.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from backends.postgres import sql
from kv.errors import Pruned, StoreDamaged
from kv.model import (
    GENESIS,
    Applied,
    Expired,
    Head,
    LedgerRow,
    Recorded,
    RecordedOperation,
    Reference,
    Refused,
    Version,
)

TOMBSTONE, INLINE, STAGED = 0, 1, 2
"""The values of a version's `kind`."""

_unpack_body: Final = msgspec.msgpack.Decoder(tuple[Recorded, ...]).decode
_unpack_reference: Final = msgspec.msgpack.Decoder(Reference).decode
_unpack_outcome: Final = msgspec.msgpack.Decoder(Applied | Refused | Expired).decode

T = TypeVar("T")


def head_of(row: Any) -> Head:
    """Return the head in a row of the common shape."""
    return Head(row["a"], row["b"], row["t"], row["c"], row["x"])


def ledger_row(row: Any) -> LedgerRow:
    """Return a ledger row with its intents. Raises StoreDamaged."""
    seq, term, committer, first, last, digest, log_time, body = row
    intents = () if body is None else _sound(_unpack_body, body)
    return LedgerRow(seq, term, committer, first, last, digest, log_time, intents)


def operation_of(
    op_id: str, body_hash: bytes, revision: int, outcome: bytes, log_time_ms: int
) -> RecordedOperation:
    """Return the recorded operation of an op_id. Raises StoreDamaged."""
    return RecordedOperation(
        op_id, body_hash, revision, _sound(_unpack_outcome, outcome), log_time_ms
    )


def version_of(key: bytes, revision: int, row: Sequence[Any], *, store: str) -> Version:
    """Return a version of the store named `store` from (kind, expires, numbers, value), the numbers
    as sql.NUMBERS has them; its value is empty if the statement did not read it.

    Raises StoreDamaged.
    """
    kind, expires, numbers, value = row
    created, count, lease = map(int, numbers.split(":"))
    if kind == TOMBSTONE:
        return Version(key, revision, None, expires)
    said = (expires, created or revision, count or 1, lease)
    if value is None:
        return Version(key, revision, b"", *said)
    if kind != STAGED:
        return Version(key, revision, value, *said)
    try:
        return Version(key, revision, _unpack_reference(value), *said)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise StoreDamaged(store, key, revision) from exc


class Snapshot(NamedTuple):
    """The place and the floor of the snapshot that versions were read in."""

    head: Head
    digest_at: bytes | None
    """The digest at the requested settled revision."""
    unhashed: int
    """The newest revision whose versions may lack hashes."""


def snapshot_of(rows: Iterable[Any], at: int | None) -> Snapshot:
    """Return the place of a snapshot. Raises Pruned when it cannot be read at `at`."""
    head, digest_at, unhashed = GENESIS, None, 0
    for row in rows:
        match row["n"]:
            case sql.HEAD:
                head = head_of(row)
            case sql.AT_SETTLED:
                digest_at = row["x"]
            case sql.FLOOR:
                if at is not None and at < row["a"]:
                    raise Pruned(row["a"])
                unhashed = row["b"]
    return Snapshot(head, digest_at, unhashed)


def b64(raw: bytes) -> str:
    """Return bytes in base64, the form in which they are sent in text[]."""
    return b64encode(raw).decode()


def _sound(decode: Callable[[bytes], T], packed: bytes) -> T:
    try:
        return decode(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise StoreDamaged(
            "store", b"", 0, f"a row of the ledger or of op_ids is damaged: {exc}"
        ) from exc
