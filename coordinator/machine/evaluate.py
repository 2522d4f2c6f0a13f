"""Decide the outcome of each intent of a group; each one sees the effects of those before it.

Pure. It uses nothing but the given facts, which are the store's state at exactly the head that the
group is built on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from coordinator.machine.pending import Pending
from coordinator.machine.window import meets
from kv.model import (
    GENESIS,
    NODE_OP_ID_PREFIX,
    Absent,
    Again,
    Applied,
    AtRevision,
    Cancel,
    Equals,
    Exists,
    Expired,
    Guard,
    Head,
    Intent,
    Mismatch,
    Outcome,
    Put,
    Recorded,
    RecordedOperation,
    Reference,
    Refused,
    Version,
    value_hash,
)
from kv.model import Write as KvWrite
from kv.ports import Facts

_APPLIED: Final = Applied()
_EXPIRED: Final = Expired()
_MISMATCH: Final = Mismatch()


class Needs(NamedTuple):
    """What has to be read from the store before a group can be evaluated."""

    op_ids: tuple[str, ...]
    keys: tuple[bytes, ...]
    hashed: tuple[bytes, ...]
    blobs: tuple[tuple[str, bytes], ...]

    @property
    def nothing(self) -> bool:
        """Whether the group can be evaluated without the store."""
        return not (self.op_ids or self.keys or self.hashed or self.blobs)


NOTHING: Final = Needs((), (), (), ())
"""What a batch of plain Puts with nodes' op_ids needs."""


class Evaluation(NamedTuple):
    """Everything that a group writes: its records, its versions, and the operations it records
    first.
    """

    records: tuple[Recorded, ...]
    versions: tuple[Version, ...]
    operations: tuple[RecordedOperation, ...]


def no_facts(head: Head = GENESIS) -> Facts:
    """Return the facts for a group that needs none."""
    return Facts(head, {}, {}, {}, frozenset())


def needs(batch: Sequence[Pending]) -> Needs:
    """Return what to read from the store. A plain Put with a node's op_id needs nothing."""
    for pending in batch:
        if not _is_plain(pending.intent):
            return _needs(batch)
    return NOTHING


def _is_plain(intent: Intent | Cancel) -> bool:
    """Return whether an intent puts inline values whatever the store holds, with a node's op_id."""
    if type(intent) is not Intent or intent.guards or intent.reads or intent.otherwise:
        return False
    for write in intent.writes:
        if type(write) is not Put or type(write.value) is not bytes:
            return False
    return intent.op_id.startswith(NODE_OP_ID_PREFIX)


def _needs(batch: Sequence[Pending]) -> Needs:
    op_ids: dict[str, None] = {}
    keys: dict[bytes, None] = {}
    hashed: dict[bytes, None] = {}
    blobs: dict[tuple[str, bytes], None] = {}
    for pending in batch:
        intent = pending.intent
        if not intent.op_id.startswith(NODE_OP_ID_PREFIX):
            op_ids[intent.op_id] = None
        if type(intent) is Cancel:
            continue
        assert isinstance(intent, Intent)
        for guard in intent.guards:
            keys[guard.key] = None
            if type(guard) is Equals:
                hashed[guard.key] = None
        for key in intent.reads:
            keys[key] = None
        for write in intent.writes + (intent.otherwise or ()):
            if type(write) is not Put:
                keys[write.key] = None
            elif type(write.value) is not bytes:
                assert isinstance(write.value, Reference)
                blobs[write.value.op_id, write.value.hash] = None
    return Needs(tuple(op_ids), tuple(keys), tuple(hashed), tuple(blobs))


def evaluate_plain(batch: Sequence[Pending], now_ms: int) -> Evaluation:
    """Return what `evaluate` would for a batch that needs `NOTHING`, for less."""
    records: list[Recorded] = []
    versions: list[Version] = []
    for pending in batch:
        intent, revision = pending.intent, pending.revision
        assert type(intent) is Intent
        if pending.late or now_ms > intent.deadline_ms:
            records.append(Recorded(intent.op_id, pending.body_hash, _EXPIRED))
            continue
        keys = tuple([write.key for write in intent.writes])
        records.append(Recorded(intent.op_id, pending.body_hash, _APPLIED, keys))
        add_versions(intent.writes, keys, revision, now_ms, versions)
    return Evaluation(tuple(records), tuple(versions), ())


def evaluate(batch: Sequence[Pending], facts: Facts, now_ms: int) -> Evaluation:
    """Return the outcome of each intent, the versions they make and the op_ids they record first.

    An op_id that is known (in the store, or earlier in the group) has no second effect (INV-3);
    op_ids made by a node are not looked up. An intent past its deadline, or whose staged value is
    missing, expires.
    """
    group = _Group(facts, now_ms)
    for pending in batch:
        group.add(pending)
    return Evaluation(tuple(group.records), tuple(group.versions), tuple(group.operations))


def add_versions(
    writes: Sequence[KvWrite],
    keys: Sequence[bytes],
    revision: int,
    log_time_ms: int,
    into: list[Version],
) -> None:
    """Append the versions that an applied intent made: its puts, and its deletes of keys that were
    present.

    A ttl counts from `log_time_ms`, the time of the ledger row: an intent that waits long for its
    commit loses none of its ttl.
    """
    for write in writes:
        if type(write) is Put:
            ttl = write.ttl_ms
            into.append(
                Version(
                    write.key, revision, write.value, None if ttl is None else log_time_ms + ttl
                )
            )
        elif write.key in keys:
            into.append(Version(write.key, revision, None))


class _Group:
    """A group under evaluation: the facts, and what its intents have changed so far."""

    def __init__(self, facts: Facts, now_ms: int) -> None:
        self.records: list[Recorded] = []
        self.versions: list[Version] = []
        self.operations: list[RecordedOperation] = []
        self._facts, self._now_ms = facts, now_ms
        self._first: dict[str, RecordedOperation] = {}
        self._own: dict[bytes, Version] = {}
        """The newest version of each key that this group made."""

    def add(self, pending: Pending) -> None:
        """Evaluate one more intent on top of those before it."""
        op_id = pending.intent.op_id
        spared = op_id.startswith(NODE_OP_ID_PREFIX)
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
        if self._is_late(pending, intent):
            return _EXPIRED, ()
        if self._facts.missing and self._lacks_blob(intent):
            return _EXPIRED, ()
        reads = intent.reads
        if len(reads) == 1:
            seen: tuple[int, ...] = (self._revision(reads[0]),)
        else:
            seen = tuple([self._revision(key) for key in reads])
        for index, guard in enumerate(intent.guards):
            if not self._holds(guard):
                if intent.otherwise is None:
                    return Refused(index, self._revision(guard.key), seen), ()
                return Applied("otherwise", seen), self._write(intent.otherwise, pending)
        return (Applied("then", seen) if seen else _APPLIED), self._write(intent.writes, pending)

    def _is_late(self, pending: Pending, intent: Intent) -> bool:
        """Return whether an intent was late when it was ordered, or is late now. Its client may
        have been answered that it has no effect, and never will (INV-4).
        """
        return pending.late or self._now_ms > intent.deadline_ms

    def _write(self, writes: Sequence[KvWrite], pending: Pending) -> tuple[bytes, ...]:
        if len(writes) == 1 and type(write := writes[0]) is Put:  # as below, for most intents
            ttl, key = write.ttl_ms, write.key
            expires_ms = None if ttl is None else self._now_ms + ttl
            version = self._own[key] = Version(key, pending.revision, write.value, expires_ms)
            self.versions.append(version)
            return (key,)
        keys = tuple([w.key for w in writes if type(w) is Put or self._revision(w.key)])
        before = len(self.versions)
        add_versions(writes, keys, pending.revision, self._now_ms, self.versions)
        own = self._own
        for version in self.versions[before:]:
            own[version.key] = version
        return keys

    def _revision(self, key: bytes) -> int:
        """Return the revision of a key as this group sees it now, 0 when absent."""
        version = self._own.get(key) or self._facts.versions.get(key)
        return version.revision if version is not None and version.value is not None else 0

    def _hash(self, key: bytes) -> bytes | None:
        own = self._own.get(key)
        if own is None:
            return self._facts.hashes.get(key)
        if own.value is None:
            return None
        return own.value.hash if isinstance(own.value, Reference) else value_hash(own.value)

    def _holds(self, guard: Guard) -> bool:
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

    def _lacks_blob(self, intent: Intent) -> bool:
        return any(
            type(write) is Put
            and isinstance(write.value, Reference)
            and (write.value.op_id, write.value.hash) in self._facts.missing
            for write in intent.writes + (intent.otherwise or ())
        )


def _again(known: RecordedOperation, body_hash: bytes) -> Outcome:
    if meets(known.body_hash, body_hash):
        return Again(known.revision, known.outcome)
    return _MISMATCH
