"""Build groups the way a committer does, without evaluating anything."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kv.model import (
    Applied,
    Cancel,
    Delete,
    Expired,
    FirstOutcome,
    Group,
    Head,
    Intent,
    LedgerRow,
    Put,
    PutWith,
    Recorded,
    RecordedOperation,
    Reference,
    Version,
    Write,
    roll,
)
from kv.ports import Appended, Store

T = 10.0
"""A time-out that no healthy store comes near."""
TERM, COMMITTER = 3, "n1"


class Step(msgspec.Struct, frozen=True):
    """One intent of a group: what it writes, under which op_id, and how it ended."""

    op_id: str
    writes: tuple[Write, ...] = ()
    outcome: FirstOutcome = Applied()
    expires_ms: int | None = None
    cancels: bool = False


def put(op_id: str, key: bytes, value: bytes | Reference, *, expires_ms: int | None = None) -> Step:
    return Step(op_id, (Put(key, value),), expires_ms=expires_ms)


def first(
    key: bytes, revision: int, value: bytes | Reference, expires_ms: int | None = None
) -> Version:
    """Return the version that the first put of a key makes."""
    return Version(key, revision, value, expires_ms, revision, 1)


def put_again(key: bytes, revision: int, value: bytes | Reference, count: int = 2) -> Version:
    """Return the version that the count-th put of a key makes that came at revision 1."""
    return Version(key, revision, value, None, 1, count)


def numbered(group: Group, appended: Appended) -> tuple[Version, ...]:
    """Return a group's versions as the store numbered them."""
    return tuple(
        msgspec.structs.replace(version, create_revision=created, version=count)
        for version, (created, count) in zip(group.versions, appended.numbers, strict=True)
    )


def attach(op_id: str, key: bytes, lease: int) -> Step:
    return Step(op_id, (PutWith(key, b"v", lease=lease),))


def delete(op_id: str, key: bytes) -> Step:
    return Step(op_id, (Delete(key),))


def cancel(op_id: str) -> Step:
    return Step(op_id, outcome=Expired(), cancels=True)


def group(
    base: Head,
    steps: Sequence[Step],
    *,
    term: int = TERM,
    committer: str = COMMITTER,
    log_time_ms: int = 1000,
) -> Group:
    """Return the group that these intents make behind `base`. Op_ids of nodes are spared `ops`."""
    digest, body, versions, operations = base.digest, [], [], []
    for revision, step in enumerate(steps, base.last + 1):
        ordered = (
            Cancel(step.op_id) if step.cancels else Intent(step.op_id, 10**14, writes=step.writes)
        )
        digest = roll(digest, step.op_id, ordered.body_hash)
        keys: tuple[bytes, ...] = ()
        if isinstance(step.outcome, Applied):
            writes = [write for write in step.writes if isinstance(write, Put | PutWith | Delete)]
            assert len(writes) == len(step.writes)
            keys = tuple(write.key for write in writes)
            versions += [
                Version(write.key, revision, None)
                if isinstance(write, Delete)
                else Version(
                    write.key,
                    revision,
                    write.value,
                    step.expires_ms,
                    lease=write.lease if isinstance(write, PutWith) else 0,
                )
                for write in writes
            ]
        body.append(Recorded(step.op_id, ordered.body_hash, step.outcome, keys))
        if not step.op_id.startswith("~"):
            operations.append(
                RecordedOperation(
                    step.op_id, ordered.body_hash, revision, step.outcome, log_time_ms
                )
            )
    last = base.last + len(steps)
    row = LedgerRow(
        base.seq + 1, term, committer, base.last + 1, last, digest, log_time_ms, tuple(body)
    )
    return Group(base, row, tuple(versions), tuple(operations))


async def commit(
    store: Store,
    steps: Sequence[Step],
    *,
    term: int = TERM,
    committer: str = COMMITTER,
    log_time_ms: int = 1000,
) -> Group:
    """Append the intents behind whatever the head is; return the group, its versions numbered."""
    made = group(
        await store.head(timeout_s=T),
        steps,
        term=term,
        committer=committer,
        log_time_ms=log_time_ms,
    )
    appended = await store.append(made, timeout_s=T)
    assert isinstance(appended, Appended)
    return msgspec.structs.replace(made, versions=numbered(made, appended))


async def everything(store: Store) -> tuple[object, ...]:
    """Return all that a store shows, so that two moments can be compared."""
    listing = await store.list(b"", limit=10_000, timeout_s=T)
    ledger = await store.ledger(0, 10_000, timeout_s=T)
    op_ids = [recorded.op_id for row in ledger for recorded in row.body]
    return (
        await store.head(timeout_s=T),
        ledger,
        listing.versions,
        await store.operations(op_ids, timeout_s=T),
        await store.floor(timeout_s=T),
    )
