"""Change one key by a function of its value, exactly once, and count by that."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

import msgspec

from acordo._base_client import new_op_id
from acordo._client import Client
from acordo._errors import (
    AcordoError,
    BadRequest,
    OutcomeUnknown,
    PreconditionFailed,
    TransactionRefused,
)
from acordo._intents import Bytes, Guard, Write, as_bytes, at_revision, delete, key_bytes, put

PAUSE_S: Final = 0.002
PAUSE_MAX_S: Final = 0.25
CONFLICT: Final = (PreconditionFailed, TransactionRefused)


class Updated(msgspec.Struct, frozen=True, kw_only=True):
    """What an update left behind."""

    value: bytes | None
    """None: the key is absent."""
    revision: int
    """Of the write; of the newest version, if there was nothing to write."""


async def update(
    client: Client,
    key: Bytes,
    change: Callable[[bytes | None], Bytes | None],
    *,
    ttl_s: float | None = None,
) -> Updated:
    """Set a key to `change(its value)`, exactly once, however many others change it meanwhile.

    `change` gets None for an absent key, and returns None to delete it; it is called again whenever
    another write came first, so it must have no effects of its own. A lease is kept; `ttl_s` is the
    new value's. Raises what `Client.txn` raises, OutcomeUnknown only if the outcome cannot be found
    out.
    """
    raw, pause = key_bytes(key), PAUSE_S
    while True:
        found = await client.read(raw)
        made = change(found.value if found.present else None)
        write: Write
        if made is None:
            if not found.present:
                return Updated(value=None, revision=found.revision)
            write = delete(raw)
        else:
            kept = found.lease is not None
            write = put(raw, made, ttl_s=ttl_s, keep_lease=kept)
        revision = await exactly_once(client, [at_revision(raw, found.revision)], [write])
        if revision is not None:
            value = None if made is None else as_bytes(made, "value")
            return Updated(value=value, revision=revision)
        await asyncio.sleep(pause * random.random())
        pause = min(2 * pause, PAUSE_MAX_S)


async def exactly_once(client: Client, guards: list[Guard], writes: list[Write]) -> int | None:
    """Return the revision of a transaction; None: it was refused, or will never take effect. An
    unknown outcome is looked up, and what is not ordered is given up. Raises OutcomeUnknown if that
    cannot be done either.
    """
    op_id = new_op_id()
    try:
        return (await client.txn(guards=guards, writes=writes, op_id=op_id)).revision
    except CONFLICT:
        return None
    except OutcomeUnknown as unknown:
        try:
            ended = await client.operation(op_id, settle=True)
        except AcordoError as failed:
            raise unknown from failed  # a look-up without an answer says nothing of the write
        if not ended.definite:
            raise
        return ended.revision if ended.outcome == "applied" else None


class Counter:
    """A number under one key, in decimal digits: absent is 0."""

    def __init__(self, client: Client, key: Bytes) -> None:
        self._client, self._key = client, key_bytes(key)

    async def value(self) -> int:
        """Return the number. Raises ReadFailed, Unreachable, BadRequest if it is none."""
        found = await self._client.get(self._key)
        return _number(self._key, None if found is None else found.value)

    async def add(self, amount: int = 1) -> int:
        """Add to the number, exactly once; return what it is then. Raises what `update` raises."""

        def change(value: bytes | None) -> str:
            return str(_number(self._key, value) + amount)

        done = await update(self._client, self._key, change)
        return _number(self._key, done.value)


def _number(key: bytes, value: bytes | None) -> int:
    try:
        return 0 if value is None else int(value)
    except ValueError as exc:
        raise BadRequest(
            f"{key!r} is no number", code="no_number", allowed="decimal digits"
        ) from exc
