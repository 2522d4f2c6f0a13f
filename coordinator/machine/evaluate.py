"""Decide the outcome of each intent of a group; each one sees the effects of those before it.

Pure. It uses nothing but the given facts, which are the store's state at exactly the head that the
group is built on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from coordinator.machine.book import CLIENTS_RANGES, LEVEL
from coordinator.machine.comparing import Numbers, stands
from coordinator.machine.needs import (
    deleted_spans,
    is_by_order,
    ranges_of,
    spans_of,
    within_bounds,
)
from coordinator.machine.pending import Pending
from coordinator.machine.window import meets
from kv.branches import every_write, taken, within
from kv.leases import FULL, LEASE_KEYS_MAX, LEASES_PREFIX, NO_LEASE, lease_key
from kv.model import (
    NODE_OP_ID_PREFIX,
    RANGE_KEYS_MAX,
    Absent,
    Again,
    Applied,
    AtRevision,
    Cancel,
    Compare,
    Delete,
    DeleteRange,
    EndLease,
    Equals,
    Exists,
    Expired,
    Guard,
    Intent,
    KeyWrite,
    Mismatch,
    Nested,
    Outcome,
    Put,
    PutWith,
    Recorded,
    RecordedOperation,
    Reference,
    Refused,
    Version,
    Write,
    value_hash,
)
from kv.ports import Facts, Span

TOO_MANY: Final = "too_many_keys"
"""Why an intent was refused whose ranges have more keys than they may."""
_APPLIED: Final = Applied()
_EXPIRED: Final = Expired()
_MISMATCH: Final = Mismatch()


class Evaluation(NamedTuple):
    """Everything that a group writes: its records, its versions, and the operations it records
    first.
    """

    records: tuple[Recorded, ...]
    versions: tuple[Version, ...]
    operations: tuple[RecordedOperation, ...]


class _Refusal(Exception):
    """An intent that cannot be done, whatever its guards say. Its text is the reason."""


def evaluate_plain(
    batch: Sequence[Pending], now_ms: int, numbers: dict[bytes, Numbers]
) -> Evaluation:
    """Return what `evaluate` would for a batch that needs `NOTHING`, for less. `numbers` are the
    create_revision and the version of those of its keys that are present; it is changed.
    """
    records: list[Recorded] = []
    versions: list[Version] = []
    for pending in batch:
        intent, revision = pending.intent, pending.revision
        assert type(intent) is Intent
        if pending.late or now_ms > intent.deadline_ms:
            records.append(Recorded(intent.op_id, pending.body_hash, _EXPIRED))
            continue
        keys = []
        for write in intent.writes:
            assert type(write) is Put
            key, ttl = write.key, write.ttl_ms
            before = numbers.get(key)
            created, count = (revision, 1) if before is None else (before[0], before[1] + 1)
            numbers[key] = (created, count)
            expires_ms = None if ttl is None else now_ms + ttl
            versions.append(Version(key, revision, write.value, expires_ms, created, count))
            keys.append(key)
        records.append(Recorded(intent.op_id, pending.body_hash, _APPLIED, tuple(keys)))
    return Evaluation(tuple(records), tuple(versions), ())


def evaluate(
    batch: Sequence[Pending], facts: Facts, now_ms: int, term: int = 0, *, level: int = LEVEL
) -> Evaluation:
    """Return the outcome of each intent, the versions they make and the op_ids they record first.

    An op_id that is known (in the store, or earlier in the group) has no second effect (INV-3);
    op_ids made by a node are not looked up. An intent past its deadline, or whose staged value is
    missing, expires; so does an end of a lease that is of another term than `term`, the row's.
    `level`: the feature level in force; the facts have to be those of the needs at that level.
    """
    group = _Group(facts, now_ms, term, level)
    for pending in batch:
        group.add(pending)
    return Evaluation(tuple(group.records), tuple(group.versions), tuple(group.operations))


def add_versions(
    intent: Intent, record: Recorded, revision: int, log_time_ms: int, into: list[Version]
) -> bool:
    """Append the versions that an applied intent made: its puts, and tombstones of what it deleted.
    Return False when they are only in the store, because a value was kept.

    A ttl counts from `log_time_ms`, the time of the ledger row: an intent that waits long for its
    commit loses none of its ttl.
    """
    assert type(record.outcome) is Applied
    writes = taken(intent, record.outcome)
    puts = {write.key: write for write in writes if type(write) is Put or type(write) is PutWith}
    numbers = record.numbers or [(0, 0, 0)] * len(record.keys)
    for key, (created, count, lease) in zip(record.keys, numbers, strict=True):
        put = puts.get(key)
        if put is None:
            into.append(Version(key, revision, None))
            continue
        if type(put) is PutWith and put.keep_value:
            return False
        expires_ms = None if put.ttl_ms is None else log_time_ms + put.ttl_ms
        into.append(Version(key, revision, put.value, expires_ms, created, count, lease))
    return True


class _Group:
    """A group under evaluation: the facts, and what its intents have changed so far."""

    def __init__(self, facts: Facts, now_ms: int, term: int, level: int) -> None:
        self.records: list[Recorded] = []
        self.versions: list[Version] = []
        self.operations: list[RecordedOperation] = []
        self._facts, self._now_ms, self._term = facts, now_ms, term
        self._level = level
        self._first: dict[str, RecordedOperation] = {}
        self._own: dict[bytes, Version] = {}
        """The newest version of each key that this group made."""
        self._before = _versions_in(facts)
        """The newest version of each key before the group, as far as it was asked for."""
        self._gained: dict[int, int] = {}
        """How many keys this group has attached to each lease, beyond those in the facts."""

    def add(self, pending: Pending) -> None:
        """Evaluate one more intent on top of those before it."""
        intent = pending.intent
        op_id = intent.op_id
        spared = op_id.startswith(NODE_OP_ID_PREFIX)
        if spared and type(intent) is Intent and len(intent.writes) == 1 and not intent.guards:
            write = intent.writes[0]
            if type(write) is Put and intent.reads == (write.key,) and not self._facts.missing:
                self._put_and_tell(pending, intent, write)
                return
        if not spared:
            known = self._known(op_id)
            if known is not None:
                self.records.append(
                    Recorded(op_id, pending.body_hash, _again(known, pending.body_hash))
                )
                return
        outcome, keys = self._end(pending)
        self.records.append(Recorded(op_id, pending.body_hash, outcome, keys))
        if not spared:
            self._keep(
                RecordedOperation(op_id, pending.body_hash, pending.revision, outcome, self._now_ms)
            )

    def _put_and_tell(self, pending: Pending, intent: Intent, write: Put) -> None:
        """Do what the steps below do, in one, for most intents: a put, whatever its key holds, that
        tells the revision which it follows.
        """
        op_id, body_hash, revision, key = (
            intent.op_id,
            pending.body_hash,
            pending.revision,
            write.key,
        )
        if self._is_late(pending, intent):
            self.records.append(Recorded(op_id, body_hash, _EXPIRED))
            return
        ttl = write.ttl_ms
        expires_ms = None if ttl is None else self._now_ms + ttl
        before = self._own.get(key) or self._before.get(key)
        if before is None or before.value is None:
            followed, created, count = 0, revision, 1
        else:
            followed, created, count = before.revision, before.create_revision, before.version + 1
        version = self._own[key] = Version(key, revision, write.value, expires_ms, created, count)
        self.versions.append(version)
        self.records.append(Recorded(op_id, body_hash, Applied("then", (followed,)), (key,)))

    def _known(self, op_id: str) -> RecordedOperation | None:
        """Return the first operation of an op_id, in this group or in the store (INV-3)."""
        return self._first.get(op_id) or self._facts.operations.get(op_id)

    def _keep(self, operation: RecordedOperation) -> None:
        self._first[operation.op_id] = operation
        self.operations.append(operation)

    def _end(self, pending: Pending) -> tuple[Applied | Refused | Expired, tuple[bytes, ...]]:
        intent = pending.intent
        if type(intent) is Cancel:
            return _EXPIRED, ()
        assert isinstance(intent, Intent)
        if self._is_late(pending, intent) or self._is_of_another_term(intent):
            return _EXPIRED, ()
        if self._facts.missing and self._lacks_blob(intent):
            return _EXPIRED, ()
        reads = intent.reads
        if len(reads) == 1:
            seen: tuple[int, ...] = (self._revision(reads[0]),)
        else:
            seen = tuple([self._revision(key) for key in reads])
        try:
            return self._effect(intent, pending, seen)
        except _Refusal as refusal:
            return Refused(-1, 0, seen, str(refusal)), ()

    def _effect(
        self, intent: Intent, pending: Pending, seen: tuple[int, ...]
    ) -> tuple[Applied | Refused, tuple[bytes, ...]]:
        """Take one of the branches. Raises _Refusal, having changed nothing."""
        if self._facts.spans and self._level >= CLIENTS_RANGES:
            ranges = ranges_of(intent, self._level)
            if not within_bounds(ranges, self._facts.spans):
                raise _Refusal(TOO_MANY)
        for index, guard in enumerate(intent.guards):
            if not self._holds(guard):
                if intent.otherwise is None:
                    return Refused(index, self._revision(guard.key), seen), ()
                choices = self._choices(intent.otherwise)
                outcome = Applied("otherwise", seen, choices)
                return outcome, self._write(taken(intent, outcome), pending)
        choices = self._choices(intent.writes)
        outcome = Applied("then", seen, choices) if seen or choices else _APPLIED
        return outcome, self._write(taken(intent, outcome), pending)

    def _choices(self, writes: Sequence[Write]) -> tuple[bool, ...]:
        """Return whether the guards of each nested transaction hold, along the path so taken. All
        see the state before the intent's writes.
        """
        found: list[bool] = []
        for write in writes:
            if type(write) is Nested:
                held = all(self._holds(guard) for guard in write.guards)
                found.append(held)
                found.extend(self._choices(write.writes if held else write.otherwise))
        return tuple(found)

    def _is_late(self, pending: Pending, intent: Intent) -> bool:
        """Return whether an intent was late when it was ordered, or is late now. Its client may
        have been answered that it has no effect, and never will (INV-4).
        """
        return pending.late or self._now_ms > intent.deadline_ms

    def _is_of_another_term(self, intent: Intent) -> bool:
        """Return whether an intent ends a lease because its time was over by the memory of a leader
        of another term: a later leader has given the lease its whole ttl, and may have renewed it.
        """
        for write in intent.writes:
            if type(write) is EndLease and write.term and write.term != self._term:
                return True
        return False

    def _write(self, writes: Sequence[KeyWrite], pending: Pending) -> tuple[bytes, ...]:
        """Make the versions of a branch; return their keys. Raises _Refusal, having changed
        nothing.
        """
        revision = pending.revision
        if len(writes) == 1 and type(write := writes[0]) is Put:  # as below, for most intents
            version = self._own[write.key] = self._put(write, revision)
            self.versions.append(version)
            return (write.key,)
        made: dict[bytes, Version] = {}
        deleted = 0
        for each in writes:
            if isinstance(each, Put | PutWith):
                made[each.key] = self._put(each, revision)
                continue
            keys = self._removed(each)
            # no client can ask for a key twice (kv.branches.check)
            made |= {key: Version(key, revision, None) for key in keys if key not in made}
            if type(each) is DeleteRange:
                deleted += len(keys)
                if deleted > RANGE_KEYS_MAX:
                    raise _Refusal(TOO_MANY)
        self._attach(made.values())
        self.versions.extend(made.values())
        self._own.update(made)
        return tuple(made)

    def _put(self, write: Put | PutWith, revision: int) -> Version:
        """Return the version that a put makes. Raises _Refusal."""
        key, value, ttl, lease = write.key, write.value, write.ttl_ms, 0
        before = self._newest(key)
        if type(write) is PutWith:
            lease = write.lease
            if write.keep_value or write.keep_lease:
                if before is None:
                    raise _Refusal("key_absent")
                if write.keep_value:
                    assert before.value is not None
                    value = before.value
                if write.keep_lease:
                    lease = before.lease
        expires_ms = None if ttl is None else self._now_ms + ttl
        if before is None:
            return Version(key, revision, value, expires_ms, revision, 1, lease)
        created, count = before.create_revision, before.version + 1
        return Version(key, revision, value, expires_ms, created, count, lease)

    def _removed(self, write: Delete | DeleteRange | EndLease) -> list[bytes]:
        """Return the present keys that a write removes. Raises _Refusal."""
        if type(write) is EndLease:
            return self._ended(write.lease)
        if type(write) is DeleteRange:
            return list(self._present(deleted_spans(write, self._level)))
        return [write.key] if self._revision(write.key) else []

    def _ended(self, lease: int) -> list[bytes]:
        """Return all keys that end with a lease, its own one too; none if it is not there."""
        if not self._revision(lease_key(lease)):
            return []
        before, own = self._facts.leases[lease], self._own
        self._gained[lease] = -before.total
        keys = [key for key in before.keys if key not in own]
        keys += [key for key, made in own.items() if made.lease == lease and made.present]
        return sorted([*keys, lease_key(lease)])

    def _attach(self, made: Iterable[Version]) -> None:
        """Count the keys that versions attach to leases. Raises _Refusal, having changed nothing:
        a lease is not there, or has too many keys.
        """
        gained: dict[int, int] = {}
        for version in made:
            lease = version.lease
            before = self._newest(version.key) if lease else None
            if not lease or (before is not None and before.lease == lease):
                continue
            if not self._revision(lease_key(lease)):
                raise _Refusal(NO_LEASE)
            if lease not in gained:
                gained[lease] = self._gained.get(lease, 0)
            gained[lease] += 1
            if self._facts.leases[lease].total + gained[lease] > LEASE_KEYS_MAX:
                raise _Refusal(FULL)
        self._gained |= gained

    def _newest(self, key: bytes) -> Version | None:
        """Return the newest version of a key as this group sees it now; None when absent. Its value
        may be empty if nothing asks for it.
        """
        version = self._own.get(key) or self._before.get(key)
        return version if version is not None and version.value is not None else None

    def _revision(self, key: bytes) -> int:
        """Return the revision of a key as this group sees it now, 0 when absent."""
        version = self._newest(key)
        return 0 if version is None else version.revision

    def _present(self, spans: Sequence[Span]) -> Iterator[bytes]:
        """Yield the keys of a range that are present now, in byte order. Leases are not among them:
        no guard of a client sees them, and they end with their keys or not at all. Raises _Refusal.
        """
        keys: set[bytes] = set()
        there = 0
        for span in spans:
            before = self._facts.spans[span]
            keys.update([version.key for version in before])
            keys.update([key for key in self._own if within(key, span.key, span.end)])
            there += len(before)
            if there >= span.limit:  # there may be more than were read
                raise _Refusal(TOO_MANY)
        return (
            key
            for key in sorted(keys)
            if self._newest(key) is not None and not self._hides(key, spans)
        )

    def _hides(self, key: bytes, spans: Sequence[Span]) -> bool:
        """Return whether a key is not for clients to see in a range. From CLIENTS_RANGES on the
        spans have none.
        """
        return self._level < CLIENTS_RANGES and bool(spans[0].end) and key.startswith(LEASES_PREFIX)

    def _hash(self, key: bytes) -> bytes | None:
        own = self._own.get(key)
        if own is None:
            return self._facts.hashes.get(key)
        if own.value is None:
            return None
        return own.value.hash if isinstance(own.value, Reference) else value_hash(own.value)

    def _holds(self, guard: Guard) -> bool:
        """Return whether a guard holds. Raises _Refusal."""
        revision = self._revision(guard.key)
        match guard:
            case Absent():
                return revision == 0
            case Exists():
                return revision != 0
            case AtRevision(revisions=revisions):
                return revision != 0 and revision in revisions
            case Equals(hash=expected):
                return revision != 0 and self._hash(guard.key) == expected
            case Compare():
                return self._compares(guard)

    def _compares(self, guard: Compare) -> bool:
        if guard.target == "value" and not is_by_order(guard):
            assert isinstance(guard.operand, bytes)
            equal = self._hash(guard.key) == value_hash(guard.operand)
            return self._revision(guard.key) != 0 and equal == (guard.relation == "=")
        keys = (
            self._present(spans_of(guard, self._level)) if _has_span(guard) else iter((guard.key,))
        )
        found = [version for key in keys if (version := self._newest(key)) is not None]
        if not found:
            return stands(guard, None)
        return all(stands(guard, version) for version in found)

    def _lacks_blob(self, intent: Intent) -> bool:
        return any(
            isinstance(write, Put | PutWith)
            and isinstance(write.value, Reference)
            and (write.value.op_id, write.value.hash) in self._facts.missing
            for write in every_write(intent)
        )


def _versions_in(facts: Facts) -> Mapping[bytes, Version]:
    """Return the newest versions in the facts; those whose values are known count more."""
    if not facts.spans:
        return facts.versions
    found: dict[bytes, Version] = {}
    for span, versions in facts.spans.items():
        if not span.whole:
            found.update((version.key, version) for version in versions)
    found.update(facts.versions)
    for span in sorted(
        facts.spans, key=lambda span: span.limit
    ):  # what is compared by order comes last: it is no reference
        if span.whole:
            found.update((version.key, version) for version in facts.spans[span])
    return found


def _has_span(guard: Compare) -> bool:
    return bool(guard.end) or is_by_order(guard)


def _again(known: RecordedOperation, body_hash: bytes) -> Outcome:
    if meets(known.body_hash, body_hash):
        return Again(known.revision, known.outcome)
    return _MISMATCH
