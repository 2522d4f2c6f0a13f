"""Say what has to be read from the store before a group can be evaluated.

Pure. It never reads anything itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from coordinator.machine.book import CLIENTS_RANGES, LEVEL
from coordinator.machine.pending import Pending
from kv.branches import clients_part, every_guard, every_write, ranges_in, within
from kv.leases import lease_key
from kv.model import (
    GENESIS,
    NODE_OP_ID_PREFIX,
    RANGE_KEYS_MAX,
    RANGE_VALUES_MAX,
    RANGES_KEYS_MAX,
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
    Version,
)
from kv.ports import Facts, LeaseAsk, Span

RANGES_TOGETHER: Final = 8
"""Ranges in one group on a shared store; a single intent may have more."""


class Needs(NamedTuple):
    """What has to be read from the store before a group can be evaluated."""

    op_ids: tuple[str, ...]
    keys: tuple[bytes, ...]
    hashed: tuple[bytes, ...]
    blobs: tuple[tuple[str, bytes], ...]
    spans: tuple[Span, ...] = ()
    """All of them, each once."""
    leases: tuple[LeaseAsk, ...] = ()
    ranges: tuple[tuple[Span, ...], ...] = ()
    """The ranges of each intent that has some, in its order, also those named twice."""

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


def needs(batch: Sequence[Pending], *, numbered: bool = False, level: int = LEVEL) -> Needs:
    """Return what to read from the store. A plain Put with a node's op_id needs nothing.

    `numbered`: also what the create_revision and the version of each version depend on, unless the
    batch is of plain Puts alone. Otherwise the store numbers them when it takes the group.
    """
    for pending in batch:
        if not _is_plain(pending.intent):
            return _needs(batch, numbered=numbered, level=level)
    return NOTHING


def judged_together(batch: Sequence[Pending]) -> int:
    """Return how many intents, from the first on, can be evaluated as one group. One that compares
    values by order sees those that were written before it as bytes: where one of them is staged, or
    was kept as it was, the store has to be asked again. And a group looks at few ranges.
    """
    hidden, ranges = False, 0
    for count, pending in enumerate(batch):
        intent = pending.intent
        if type(intent) is not Intent:
            continue
        ranges += ranges_in(intent)
        if count and ranges > RANGES_TOGETHER:
            return count
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


def _needs(batch: Sequence[Pending], *, numbered: bool, level: int) -> Needs:
    asked = _Asked(numbered, level)
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
        tuple(asked.ranges),
    )


class _Asked:
    """What the intents of a batch need, each once and in order."""

    def __init__(self, numbered: bool, level: int) -> None:
        self.op_ids: dict[str, None] = {}
        self.keys: dict[bytes, None] = {}
        self.hashed: dict[bytes, None] = {}
        self.blobs: dict[tuple[str, bytes], None] = {}
        self.spans: dict[Span, None] = {}
        self.leases: dict[LeaseAsk, None] = {}
        self.ranges: list[tuple[Span, ...]] = []
        self._numbered, self._level = numbered, level

    def add(self, intent: Intent) -> None:
        """Add what an intent needs."""
        if len(intent.writes) == 1 and not intent.guards and not intent.otherwise:
            write = intent.writes[0]
            if type(write) is Put and type(write.value) is bytes:  # as below, for most intents
                for key in intent.reads:
                    self.keys[key] = None
                if self._numbered:
                    self.keys[write.key] = None
                return
        for guard in every_guard(intent):
            self._add_guard(guard)
        for key in intent.reads:
            self.keys[key] = None
        for write in every_write(intent):
            self._add_write(write)
        if self._level >= CLIENTS_RANGES and (ranges := ranges_of(intent, self._level)):
            self.ranges.append(ranges)

    def _add_guard(self, guard: Guard) -> None:
        if type(guard) is Compare:
            if guard.end or is_by_order(guard):
                self.spans |= dict.fromkeys(spans_of(guard, self._level))
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
            self.spans |= dict.fromkeys(deleted_spans(write, self._level))
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


def spans_of(guard: Compare, level: int) -> tuple[Span, ...]:
    """Return the spans that a guard looks at, each with one key more than it may have."""
    if is_by_order(guard):
        return _spans(guard.key, guard.end, RANGE_VALUES_MAX, level, whole=True)
    return _spans(guard.key, guard.end, RANGE_KEYS_MAX, level, whole=False)


def deleted_spans(write: DeleteRange, level: int) -> tuple[Span, ...]:
    """Return the spans that a write deletes, each with one key more than it may have."""
    return _spans(write.key, write.end, RANGE_KEYS_MAX, level, whole=False)


def _spans(key: bytes, end: bytes, most: int, level: int, *, whole: bool) -> tuple[Span, ...]:
    if not end or level < CLIENTS_RANGES:
        return (Span(key, end, most + 1, whole),)
    return tuple([Span(*part, most + 1, whole) for part in clients_part(key, end)])


def ranges_of(intent: Intent, level: int) -> tuple[Span, ...]:
    """Return the spans of an intent that are ranges, as often as it names them."""
    found: tuple[Span, ...] = ()
    for guard in every_guard(intent):
        if type(guard) is Compare and guard.end:
            found += spans_of(guard, level)
    for write in every_write(intent):
        if type(write) is DeleteRange and write.end:
            found += deleted_spans(write, level)
    return found


def within_bounds(ranges: Sequence[Span], found: Mapping[Span, tuple[Version, ...]]) -> bool:
    """Return whether the ranges of an intent have no more keys together than they may. What was not
    read for it has too many.
    """
    total = 0
    for span in ranges:
        if span not in found:
            return False
        total += len(found[span])
        if total > RANGES_KEYS_MAX:
            return False
    return True


def read_ranges(
    asks: Needs, read: Callable[[Span], tuple[Version, ...]]
) -> Mapping[Span, tuple[Version, ...]]:
    """Return the keys of the ranges of a batch, as far as its evaluation looks at them: for one
    intent no more than it may have, and one.
    """
    found: dict[Span, tuple[Version, ...]] = {}
    for ranges in asks.ranges:
        left = RANGES_KEYS_MAX
        for span in ranges:
            keys = found.get(span)
            if keys is None:
                keys = read(span._replace(limit=min(span.limit, left + 1)))
                if len(keys) <= left:
                    found[span] = keys
            left -= len(keys)
            if left < 0:
                break
    return found
