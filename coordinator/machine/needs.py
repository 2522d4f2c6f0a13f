"""Say what has to be read from the store before a group can be evaluated.

Pure. It never reads anything itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from coordinator.machine.pending import Pending
from kv.branches import every_guard, every_write, within
from kv.leases import lease_key
from kv.model import (
    GENESIS,
    NODE_OP_ID_PREFIX,
    RANGE_KEYS_MAX,
    RANGE_VALUES_MAX,
    Cancel,
    Compare,
    DeleteRange,
    EndLease,
    Equals,
    Guard,
    Head,
    Intent,
    KeyWrite,
    Put,
    PutWith,
    Reference,
)
from kv.ports import Facts, LeaseAsk, Span


class Needs(NamedTuple):
    """What has to be read from the store before a group can be evaluated."""

    op_ids: tuple[str, ...]
    keys: tuple[bytes, ...]
    hashed: tuple[bytes, ...]
    blobs: tuple[tuple[str, bytes], ...]
    spans: tuple[Span, ...] = ()
    leases: tuple[LeaseAsk, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether the group can be evaluated without the store."""
        asked = self.op_ids or self.keys or self.hashed or self.blobs or self.spans
        return not (asked or self.leases)


NOTHING: Final = Needs((), (), (), ())
"""What a batch of plain Puts with nodes' op_ids needs."""


def no_facts(head: Head = GENESIS) -> Facts:
    """Return the facts for a group that needs none."""
    return Facts(head, {}, {}, {}, frozenset())


def needs(batch: Sequence[Pending], *, numbered: bool = False) -> Needs:
    """Return what to read from the store. A plain Put with a node's op_id needs nothing.

    `numbered`: also what the create_revision and the version of each version depend on, unless the
    batch is of plain Puts alone. Otherwise the store numbers them when it takes the group.
    """
    for pending in batch:
        if not _is_plain(pending.intent):
            return _needs(batch, numbered=numbered)
    return NOTHING


def judged_together(batch: Sequence[Pending]) -> int:
    """Return how many intents, from the first on, can be evaluated as one group. One that compares
    values by order sees those that were written before it as bytes: where one of them is staged, or
    was kept as it was, the store has to be asked again.
    """
    hidden = False
    for count, pending in enumerate(batch):
        intent = pending.intent
        if type(intent) is not Intent:
            continue
        if hidden and any(type(g) is Compare and is_by_order(g) for g in every_guard(intent)):
            return count
        hidden = hidden or any(map(_hides_value, every_write(intent)))
    return len(batch)


def _hides_value(write: KeyWrite) -> bool:
    if type(write) is PutWith and write.keep_value:
        return True
    return isinstance(write, Put | PutWith) and type(write.value) is not bytes


def _is_plain(intent: Intent | Cancel) -> bool:
    """Return whether an intent puts inline values whatever the store holds, with a node's op_id."""
    if type(intent) is not Intent or intent.guards or intent.reads or intent.otherwise:
        return False
    for write in intent.writes:
        if type(write) is not Put or type(write.value) is not bytes:
            return False
    return intent.op_id.startswith(NODE_OP_ID_PREFIX)


def _needs(batch: Sequence[Pending], *, numbered: bool) -> Needs:
    asked = _Asked(numbered)
    for pending in batch:
        intent = pending.intent
        if not intent.op_id.startswith(NODE_OP_ID_PREFIX):
            asked.op_ids[intent.op_id] = None
        if type(intent) is Intent:
            asked.add(intent)
    return Needs(
        tuple(asked.op_ids),
        tuple(asked.keys),
        tuple(asked.hashed),
        tuple(asked.blobs),
        tuple(asked.spans),
        tuple(asked.leases),
    )


class _Asked:
    """What the intents of a batch need, each once and in order."""

    def __init__(self, numbered: bool) -> None:
        self.op_ids: dict[str, None] = {}
        self.keys: dict[bytes, None] = {}
        self.hashed: dict[bytes, None] = {}
        self.blobs: dict[tuple[str, bytes], None] = {}
        self.spans: dict[Span, None] = {}
        self.leases: dict[LeaseAsk, None] = {}
        self._numbered = numbered

    def add(self, intent: Intent) -> None:
        """Add what an intent needs."""
        for guard in every_guard(intent):
            self._add_guard(guard)
        for key in intent.reads:
            self.keys[key] = None
        for write in every_write(intent):
            self._add_write(write)

    def _add_guard(self, guard: Guard) -> None:
        if type(guard) is Compare:
            if guard.end or is_by_order(guard):
                self.spans[span_of(guard)] = None
                if guard.end and not within(guard.key, guard.key, guard.end):
                    # The range ends before it begins, and a refusal tells its key's revision.
                    self.keys[guard.key] = None
                return
            if guard.target == "value":
                self.hashed[guard.key] = None
        elif type(guard) is Equals:
            self.hashed[guard.key] = None
        self.keys[guard.key] = None

    def _add_write(self, write: KeyWrite) -> None:
        if type(write) is DeleteRange:
            self.spans[deleted_span(write)] = None
            return
        if type(write) is Put or type(write) is PutWith:
            if type(write.value) is not bytes:
                assert isinstance(write.value, Reference)
                self.blobs[write.value.op_id, write.value.hash] = None
            if type(write) is PutWith and write.lease:
                self.keys[lease_key(write.lease)] = None
                self.leases[LeaseAsk(write.lease, whole=False)] = None
            if type(write) is PutWith and write.keep_value:
                self.spans[Span(write.key, b"", 1, whole=True)] = None
            if type(write) is Put and not self._numbered:
                return
        elif type(write) is EndLease:
            self.leases[LeaseAsk(write.lease, whole=True)] = None
        self.keys[write.key] = None


def is_by_order(guard: Compare) -> bool:
    """Return whether a guard has to see values, because their hashes do not tell."""
    return guard.target == "value" and (guard.relation in "<>" or bool(guard.end))


def span_of(guard: Compare) -> Span:
    """Return the span that a guard looks at, with one key more than it may have."""
    if is_by_order(guard):
        return Span(guard.key, guard.end, RANGE_VALUES_MAX + 1, whole=True)
    return Span(guard.key, guard.end, RANGE_KEYS_MAX + 1, whole=False)


def deleted_span(write: DeleteRange) -> Span:
    """Return the span that a write deletes, with one key more than it may have."""
    return Span(write.key, write.end, RANGE_KEYS_MAX + 1, whole=False)
