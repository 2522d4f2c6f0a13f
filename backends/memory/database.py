"""Keep ledger, versions, op_ids and staged values in memory, with the port's transactions.

Everything is lost with the process. No method awaits, so each is one transaction.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from backends.fence import (
    SCRUB_ROWS,
    STAGED_BYTES_MAX,
    bounds_of,
    check_group,
    check_room,
    checked_blob,
    empty_row,
    hash_of,
    outranks,
    scrubbed,
)
from backends.memory.versions import MemoryVersions
from kv.errors import BackendUnavailable, InvariantViolated, Pruned, StoreDamaged
from kv.model import (
    GENESIS,
    Digest,
    Group,
    Head,
    LedgerRow,
    RecordedOperation,
    Reference,
    Version,
    value_hash,
)
from kv.ports import (
    Appended,
    Facts,
    Fenced,
    Identity,
    LeaseAsk,
    Listing,
    Outranked,
    Pruning,
    Read,
    Retention,
    Scrubbed,
    Span,
    TakenOver,
)

T = TypeVar("T")


class _Blob(msgspec.Struct):
    """One staged value."""

    value: bytes
    seq: int
    """The `seq` of the head when it was staged."""
    claims: int = 1
    """How often it was staged, minus how often that was undone."""


class MemoryDatabase:
    """The database that several MemoryStores of one process share.

    Every method is one transaction: it never awaits. Methods without a docstring implement the
    port.
    """

    def __init__(self) -> None:
        self._rows: list[LedgerRow] = []
        self._versions = MemoryVersions()
        self._operations: dict[str, RecordedOperation] = {}
        self._blobs: dict[tuple[str, bytes], _Blob] = {}
        self._recorded: set[str] = set()
        """The op_ids of staged values that the ledger has recorded (used for membership tests
        only).
        """
        self._damaged: set[tuple[bytes, int]] = set()
        """(key, revision) of the versions whose value is not what was written."""
        self._floor = 0
        """The newest revision that pruning has reached."""
        self._adopted = 0
        """The end of the newest adoption: no read below it is possible."""
        self._identity = Identity("")
        self._cursors: dict[str, int] = {}

    # --------------------------------------------------------------------------------------- ledger

    def head(self) -> Head:
        return self._rows[-1].head if self._rows else GENESIS

    def append(self, group: Group) -> Appended | Fenced:
        check_group(group)
        head, row = self.head(), group.row
        if head != group.base or outranks(head, row.term, row.committer):
            return Fenced(head)
        for operation in group.operations:
            if operation.op_id in self._operations:
                raise InvariantViolated(f"{operation.op_id} is recorded already")
        for version in group.versions:
            if (
                isinstance(version.value, Reference)
                and (version.value.op_id, version.value.hash) not in self._blobs
            ):
                raise BackendUnavailable(
                    "memory", f"the value staged by {version.value.op_id} is gone: evaluate again"
                )
        self._rows.append(row)
        numbers: dict[tuple[int, bytes], tuple[int, int]] = {}
        for version in sorted(group.versions, key=lambda version: version.revision):
            numbered = self._versions.numbered(version)
            numbers[version.revision, version.key] = (numbered.create_revision, numbered.version)
            self._versions.insert(numbered)
        self._operations.update((operation.op_id, operation) for operation in group.operations)
        staged = {op_id for op_id, _ in self._blobs}
        self._recorded.update(recorded.op_id for recorded in row.body if recorded.op_id in staged)
        return Appended(tuple(numbers[each.revision, each.key] for each in group.versions))

    def take_over(
        self, term: int, committer: str, log_time_ms: int, adopt_last: int | None
    ) -> TakenOver | Outranked:
        head = self.head()
        if outranks(head, term, committer):
            return Outranked(head)
        row = empty_row(head, term, committer, log_time_ms, adopt_last)
        self._rows.append(row)
        return TakenOver(head, row.head)

    def claim(self, identity: Identity) -> Identity:
        held = self._identity
        if not held.cluster_id or (held.cluster_id == identity.cluster_id and not held.history):
            self._identity = identity
        return self._identity

    def adopt(self, last: int, identity: Identity | None) -> None:
        """Apply the effects of an adoption besides its row, in the same transaction."""
        self._adopted = last
        if identity is not None:
            self._identity = identity

    def rows(self, after: int, limit: int) -> tuple[LedgerRow, ...]:
        if not self._rows or after >= self._rows[-1].last:
            return ()
        oldest = self._rows[0]
        if oldest.seq > 1 and after < oldest.first - 1:
            raise Pruned(oldest.first)
        start = bisect.bisect_right(self._rows, after, key=lambda row: row.last)
        return _first([row for row in self._rows[start:] if row.body], limit)

    def ledger(self, from_seq: int, limit: int) -> tuple[LedgerRow, ...]:
        start = bisect.bisect_left(self._rows, from_seq, key=lambda row: row.seq)
        return _first(self._rows[start:], limit)

    def row_ending(self, last: int) -> LedgerRow | None:
        place = bisect.bisect_right(self._rows, last, key=lambda row: row.last) - 1
        return self._rows[place] if place >= 0 and self._rows[place].last == last else None

    # ------------------------------------------------------------------------------------- versions

    def facts(
        self,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        blobs: Sequence[tuple[str, bytes]],
        *,
        spans: Sequence[Span] = (),
        leases: Sequence[LeaseAsk] = (),
    ) -> Facts:
        operations = {
            op_id: self._operations[op_id] for op_id in op_ids if op_id in self._operations
        }
        versions = {
            key: newest
            for key in (*keys, *hashed)
            if (newest := self._versions.newest(key, None)) is not None
        }
        values = {key: versions[key].value for key in hashed if key in versions}
        hashes = {
            key: value.hash if isinstance(value, Reference) else value_hash(value)
            for key, value in values.items()
            if value is not None
        }
        missing = frozenset(blob for blob in blobs if blob not in self._blobs)
        within = {span: self._within(span) for span in spans}
        leased = self._versions.leased.facts(leases)
        return Facts(self.head(), operations, versions, hashes, missing, within, leased)

    def _within(self, span: Span) -> tuple[Version, ...]:
        """Return the present keys of a span."""
        found: list[Version] = []
        for key in self._versions.keys_between(*bounds_of(span.key, span.end)):
            version = self._versions.newest(key, None)
            if version is not None and version.present:
                if len(found) == span.limit:
                    break
                found.append(version if span.whole else msgspec.structs.replace(version, value=b""))
        return tuple(found)

    def read(self, keys: Sequence[bytes], at: int | None, settled: int) -> Read:
        self._check_floor(at)
        found = tuple(self._whole(self._versions.newest(key, at)) for key in keys)
        return Read(self.head(), found, self._digest_at(settled))

    def list(
        self,
        bounds: tuple[bytes, bytes],
        limit: int,
        at: int | None,
        settled: int,
        *,
        keys_only: bool,
    ) -> Listing:
        self._check_floor(at)
        start, end = bounds
        found: list[Version] = []
        for key in self._versions.keys_between(start, end):
            version = self._versions.newest(key, at)
            if version is not None and version.present:
                found.append(
                    msgspec.structs.replace(version, value=b"")
                    if keys_only
                    else self._sound(version)
                )
                if len(found) > limit:
                    break
        return Listing(
            self.head(), tuple(found[:limit]), len(found) > limit, self._digest_at(settled)
        )

    def versions(self, at: Sequence[tuple[bytes, int]]) -> tuple[Version | None, ...]:
        found = (self._versions.newest(key, revision) for key, revision in at)
        return tuple(
            self._sound(version) if version is not None and version.revision == revision else None
            for version, (_, revision) in zip(found, at, strict=True)
        )

    def operations(self, op_ids: Sequence[str]) -> tuple[RecordedOperation | None, ...]:
        return tuple(self._operations.get(op_id) for op_id in op_ids)

    def recorded_after(self, revision: int, limit: int) -> tuple[RecordedOperation, ...]:
        found = [each for each in self._operations.values() if each.revision > revision]
        return _first(sorted(found, key=lambda each: each.revision), limit)

    def due(self, log_time_ms: int, limit: int) -> tuple[tuple[bytes, int], ...]:
        found = sorted(
            (expires, revision, key) for key, (expires, revision) in self._versions.due.items()
        )
        return _first(
            [(key, revision) for expires, revision, key in found if expires <= log_time_ms], limit
        )

    def attached(self, lease: int, limit: int) -> tuple[bytes, ...]:
        return _first(self._versions.leased.keys(lease), limit)

    # ---------------------------------------------------------------- staged values, floor, cursors

    def stage(self, op_id: str, value: bytes, bytes_max: int = STAGED_BYTES_MAX) -> Reference:
        reference = Reference(op_id, value_hash(value), len(value))
        held = self._blobs.get((op_id, reference.hash))
        if held is not None:
            held.claims += 1
            return reference
        waiting = sum(
            len(blob.value)
            for (owner, _), blob in self._blobs.items()
            if not self._is_recorded(owner)
        )
        check_room(waiting, len(value), bytes_max)
        self._blobs[op_id, reference.hash] = _Blob(value, self.head().seq)
        return reference

    def unstage(self, reference: Reference) -> None:
        place = (reference.op_id, reference.hash)
        held = self._blobs.get(place)
        if held is None or self._is_recorded(reference.op_id):
            return
        held.claims -= 1
        if held.claims <= 0:
            del self._blobs[place]

    def _is_recorded(self, op_id: str) -> bool:
        return op_id in self._recorded or op_id in self._operations

    def blob(self, reference: Reference) -> bytes | None:
        blob = self._blobs.get((reference.op_id, reference.hash))
        return None if blob is None else checked_blob(blob.value, reference, "memory")

    def scrub(self, after: int) -> Scrubbed:
        # one revision has at most OPERATIONS_MAX values, but far more tombstones
        every = (
            version
            for version in self._versions.every()
            if version.revision > after and version.present
        )
        found = _first(
            sorted(every, key=lambda version: (version.revision, version.key)), SCRUB_ROWS
        )
        # Damage is simulated without changing bytes: a hash that matches nothing marks the version.
        judged = [
            (v, v.key, v.revision, b"?" if (v.key, v.revision) in self._damaged else hash_of(v))
            for v in found
        ]
        return scrubbed(judged, after, 0)

    def floor(self) -> int:
        return max(self._floor, self._adopted)

    def cursor(self, name: str) -> int:
        return self._cursors.get(name, 0)

    def move_cursor(self, name: str, to: int) -> None:
        self._cursors[name] = max(to, self.cursor(name))

    # --------------------------------------------------------------------------- pruning, restoring

    def prune(self, retention: Retention) -> Pruning:
        limit, below = retention.rows_max, min(retention.revision_below, self.head().last)
        versions, more = 0, False
        if below > self._floor:
            self._floor, versions, more = self._versions.prune(below, limit)
        old_rows = _first([row for row in self._rows[:-1] if row.last < below], limit)
        del self._rows[: len(old_rows)]
        oldest = _first(list(self._operations.values()), limit)
        old_operations = [
            each.op_id for each in oldest if each.log_time_ms < retention.operations_before_ms
        ]
        for op_id in old_operations:
            del self._operations[op_id]
        old_blobs = _first(list(self._sweepable(retention)), limit)
        for place in old_blobs:
            del self._blobs[place]
        self._recorded &= {op_id for op_id, _ in self._blobs}
        counts = (len(old_rows), len(old_operations), len(old_blobs))
        return Pruning(self.floor(), versions, *counts, more or limit in counts)

    def damage(self, key: bytes, revision: int) -> None:
        """Damage the version's value, as a flipped bit on a disk does."""
        self._damaged.add((key, revision))

    def damage_blob(self, reference: Reference) -> None:
        """Flip a bit of a staged value."""
        blob = self._blobs[reference.op_id, reference.hash]
        blob.value = bytes((blob.value[0] ^ 1,)) + blob.value[1:]

    def lose_rows(self, count: int) -> Head:
        """Restore the state of a backup taken `count` ledger rows ago, and return its head.

        Raises ValueError when that lies below what has been pruned.
        """
        kept = self._rows[: max(len(self._rows) - count, 0)]
        if self._rows and self._rows[0].seq > 1 and not kept:
            raise ValueError("the rows that a backup would need have been pruned")
        last = kept[-1].last if kept else 0
        if self._floor > last:
            raise ValueError("versions that a backup would need have been pruned")
        self._recorded -= {
            recorded.op_id for row in self._rows[len(kept) :] for recorded in row.body
        }
        self._rows = kept
        self._adopted = self._adopted if self._adopted <= last else 0
        self._blobs = {
            place: blob for place, blob in self._blobs.items() if blob.seq < self.head().seq
        }
        self._versions.forget_above(last)
        self._operations = {
            op_id: each for op_id, each in self._operations.items() if each.revision <= last
        }
        self._cursors = {name: min(position, last) for name, position in self._cursors.items()}
        return self.head()

    # ------------------------------------------------------------------------------------ internals

    def _whole(self, version: Version | None) -> Version | None:
        return None if version is None else self._sound(version)

    def _sound(self, version: Version) -> Version:
        if (version.key, version.revision) in self._damaged:
            raise StoreDamaged("memory", version.key, version.revision)
        return version

    def _check_floor(self, at: int | None) -> None:
        if at is not None and at < self.floor():
            raise Pruned(self.floor())

    def _digest_at(self, settled: int) -> Digest | None:
        row = self.row_ending(settled)
        return None if row is None else row.digest

    def _sweepable(self, retention: Retention) -> Iterator[tuple[str, bytes]]:
        used = self._versions.references()
        for (op_id, hash_), blob in self._blobs.items():
            next_row = _first(self.ledger(blob.seq + 1, 1), 1)
            before_ms = max(retention.operations_before_ms, retention.staged_before_ms)
            old = bool(next_row) and next_row[0].log_time_ms < before_ms
            if (old or self._is_recorded(op_id)) and (op_id, hash_) not in used:
                yield op_id, hash_


def _first(items: Sequence[T], count: int) -> tuple[T, ...]:
    return tuple(items[:count])
