"""Stage large values in the store before their intent goes to the log, and unstage those of refused
intents.

As long as the store answers, no value stays staged for an intent that was definitely not ordered:
refused writes must not fill the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from kv.branches import every_guard, every_write
from kv.errors import BackendUnavailable, KvError
from kv.model import (
    INLINE_BYTES_MAX,
    Cancel,
    Compare,
    DeleteRange,
    EndLease,
    Guard,
    Intent,
    Nested,
    Put,
    PutWith,
    Reference,
    Write,
)
from kv.ports import Clock, Consensus, Store
from node.http.steps import in_task
from node.settings import ServerSettings

INTENT_INLINE_BYTES_MAX: Final = 512 * 1024
"""Inline bytes of one intent; beyond, its largest values are staged too."""
INTENT_OVERHEAD_BYTES: Final = 256
RANGE_BYTES: Final = 64 * 1024
"""What a range, and the end of a lease, count for: each member looks for up to RANGE_KEYS_MAX keys
at once when it applies the command, and few such shall be in one.
"""
TAKE_BACK_S: Final = 1.0
"""Longest time that a refusal waits for its staged values to be unstaged."""


class Staging:
    """The staging of the large values of one node's writes."""

    def __init__(
        self, consensus: Consensus, store: Store, clock: Clock, settings: ServerSettings
    ) -> None:
        self._consensus, self._store, self._clock = consensus, store, clock
        self._timeout_s = settings.store_timeout_s

    async def stage(
        self, intent: Intent | Cancel, deadline: float, staged: list[Reference]
    ) -> Intent | Cancel:
        """Stage the intent's large values and return the intent with references in their place;
        append each staged reference to `staged`.

        Checks first whether the intent would be admitted, because refused writes must not fill the
        store. Raises that refusal, or BackendUnavailable.
        """
        if isinstance(intent, Cancel) or not (chosen := to_stage(intent)):
            return intent
        refused = self._consensus.refuses((intent,))
        if refused is not None:
            raise refused
        await in_task()
        references: dict[bytes, Reference] = {}
        for value in chosen:
            left = min(deadline - self._clock.monotonic(), self._timeout_s)
            if left <= 0:
                raise BackendUnavailable("store", "out of time")
            references[value] = await self._store.stage(intent.op_id, value, timeout_s=left)
            staged.append(references[value])
        return Intent(
            intent.op_id,
            intent.deadline_ms,
            intent.guards,
            _referring(intent.writes, references),
            None if intent.otherwise is None else _referring(intent.otherwise, references),
            intent.reads,
        )

    async def take_back(self, staged: Sequence[Sequence[Reference]]) -> None:
        """Unstage the values of intents that were definitely never ordered. Values that the store
        fails to remove now are swept later; the store bounds how many may wait.
        """
        if not any(staged):
            return
        await in_task()
        try:
            async with asyncio.timeout(TAKE_BACK_S):
                for reference in (each for of in staged for each in of):
                    await self._store.unstage(reference, timeout_s=TAKE_BACK_S)
        except (KvError, TimeoutError):
            return


def to_stage(intent: Intent) -> list[bytes]:
    """Return the values to stage: the large ones, and the largest ones of a large intent.

    The choice depends on the values alone, so that a repeated attempt has the same body hash.
    """
    values = [w.value for w in every_write(intent) if isinstance(w, Put | PutWith)]
    inline = [value for value in values if isinstance(value, bytes)]
    left = sum(map(len, inline))
    if left <= INLINE_BYTES_MAX:
        return []
    chosen: list[bytes] = []
    for value in sorted(set(inline), key=lambda v: (len(v), v), reverse=True):
        if len(value) <= INLINE_BYTES_MAX and left <= INTENT_INLINE_BYTES_MAX:
            break
        chosen.append(value)
        left -= len(value) * inline.count(value)
    return chosen


def _referring(writes: tuple[Write, ...], references: dict[bytes, Reference]) -> tuple[Write, ...]:
    return tuple(_refers(write, references) for write in writes)


def _refers(write: Write, references: dict[bytes, Reference]) -> Write:
    if isinstance(write, Nested):
        return Nested(
            write.guards,
            _referring(write.writes, references),
            _referring(write.otherwise, references),
        )
    if isinstance(write, Put | PutWith) and isinstance(write.value, bytes):
        return replace(write, value=references.get(write.value, write.value))
    return write


def inline_bytes(intent: Intent | Cancel) -> int:
    """Return roughly how many bytes an intent takes in a Raft command, or what its work counts
    for.
    """
    if isinstance(intent, Cancel):
        return INTENT_OVERHEAD_BYTES
    if not intent.guards and intent.otherwise is None and len(intent.writes) == 1:
        only = intent.writes[0]
        if type(only) is Put and type(only.value) is bytes:  # what most intents are
            reads = sum(map(len, intent.reads))
            return INTENT_OVERHEAD_BYTES + reads + len(only.key) + len(only.value)
    size = (
        INTENT_OVERHEAD_BYTES
        + sum(_guard_bytes(guard) for guard in every_guard(intent))
        + sum(map(len, intent.reads))
    )
    for write in every_write(intent):
        size += len(write.key)
        if isinstance(write, DeleteRange):
            size += len(write.end)
        if isinstance(write, DeleteRange | EndLease):
            size += RANGE_BYTES
        if isinstance(write, Put | PutWith) and isinstance(write.value, bytes):
            size += len(write.value)
    return size


def _guard_bytes(guard: Guard) -> int:
    if not isinstance(guard, Compare):
        return len(guard.key)
    operand = guard.operand if isinstance(guard.operand, bytes) else b""
    return len(guard.key) + len(guard.end) + len(operand) + (RANGE_BYTES if guard.end else 0)
