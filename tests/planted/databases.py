"""Break the memory store on purpose: what the contract of stores has to notice.

The database that is broken stands in `backends.memory.database` in the place of the right one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from backends.fence import empty_row, outranks
from backends.memory import database as memory
from backends.memory.database import MemoryDatabase
from kv.model import Group, LedgerRow, Reference
from kv.ports import (
    Appended,
    Fenced,
    Listing,
    Outranked,
    Pruning,
    Read,
    Retention,
    TakenOver,
)
from tests.planted.registry import subclass


class NoDigest(MemoryDatabase):
    """A group is not held against the digest of the newest row."""

    def append(self, group: Group) -> Appended | Fenced:
        base = msgspec.structs.replace(group.base, digest=self.head().digest)
        return super().append(msgspec.structs.replace(group, base=base))


class NoPlace(MemoryDatabase):
    """A group lands behind a row that it was not built on."""

    def append(self, group: Group) -> Appended | Fenced:
        head = self.head()
        if (head.last, head.digest) == (group.base.last, group.base.digest):
            row = msgspec.structs.replace(group.row, seq=head.seq + 1)
            group = msgspec.structs.replace(group, base=head, row=row)
        return super().append(group)


class NoRank(MemoryDatabase):
    """A row's term is not compared with its own."""

    def append(self, group: Group) -> Appended | Fenced:
        head = self.head()
        base = msgspec.structs.replace(head, term=0)
        if head == group.base and outranks(head, group.row.term, group.row.committer):
            self._rows[-1] = msgspec.structs.replace(self._rows[-1], term=0)
            group = msgspec.structs.replace(group, base=base)
        return super().append(group)


class NoRow(MemoryDatabase):
    """Taking over reads the head and appends nothing."""

    def take_over(
        self, term: int, committer: str, log_time_ms: int, adopt_last: int | None
    ) -> TakenOver | Outranked:
        head = self.head()
        if outranks(head, term, committer):
            return Outranked(head)
        return TakenOver(head, empty_row(head, term, committer, log_time_ms, adopt_last).head)


class HalfOnly(MemoryDatabase):
    """What fails half-way leaves its first half behind."""

    def append(self, group: Group) -> Appended | Fenced:
        if self.head() == group.base:
            for version in group.versions[:1]:
                self._versions.insert(version)
        return super().append(group)


class OpsTwice(MemoryDatabase):
    """An op_id is recorded a second time."""

    def append(self, group: Group) -> Appended | Fenced:
        for operation in group.operations:
            self._operations.pop(operation.op_id, None)
        return super().append(group)


class NoRevision(MemoryDatabase):
    """A read at a revision sees what came after it."""

    def read(self, keys: Sequence[bytes], at: int | None, settled: int) -> Read:
        self._check_floor(at)
        return super().read(keys, None, settled)


class NoFloor(MemoryDatabase):
    """Reads below the floor are answered."""

    def _check_floor(self, at: int | None) -> None:
        return


class Tombstones(MemoryDatabase):
    """A listing shows keys that were deleted."""

    def list(
        self,
        bounds: tuple[bytes, bytes],
        limit: int,
        at: int | None,
        settled: int,
        *,
        keys_only: bool,
    ) -> Listing:
        found = super().list(bounds, 10**6, at, settled, keys_only=keys_only)
        gone = [
            v
            for key in self._versions.keys
            if (v := self._versions.newest(key, at))
            and not v.present
            and bounds[0] <= key < bounds[1]
        ]
        shown = sorted((*found.versions, *gone), key=lambda version: version.key)
        return msgspec.structs.replace(
            found, versions=tuple(shown[:limit]), more=len(shown) > limit
        )


class EmptyRows(MemoryDatabase):
    """Rows without intents are listed with the others."""

    def rows(self, after: int, limit: int) -> tuple[LedgerRow, ...]:
        super().rows(after, limit)
        return tuple(row for row in self._rows if row.last > after)[:limit]


class SupersededDue(MemoryDatabase):
    """A version that was superseded is still due."""

    def append(self, group: Group) -> Appended | Fenced:
        before = dict(self._versions.due)
        result = super().append(group)
        self._versions.due = before | self._versions.due
        return result


class FallingCursor(MemoryDatabase):
    """A cursor goes back."""

    def move_cursor(self, name: str, to: int) -> None:
        self._cursors[name] = to


class LoneTombstone(MemoryDatabase):
    """Tombstones go without the versions that they hide."""

    def prune(self, retention: Retention) -> Pruning:
        for key in self._versions.keys:
            newest = self._versions.newest(key, retention.revision_below)
            if newest is not None and not newest.present:
                self._versions.by_key[key] = [
                    v for v in self._versions.by_key[key] if v is not newest
                ] or [newest]
        return super().prune(retention)


class LateFloor(MemoryDatabase):
    """Versions go before the floor is raised."""

    def prune(self, retention: Retention) -> Pruning:
        before = self._floor
        done = super().prune(retention)
        self._floor = before
        return msgspec.structs.replace(done, floor=before)


class TooEager(MemoryDatabase):
    """The version at the floor itself goes too."""

    def prune(self, retention: Retention) -> Pruning:
        done = super().prune(retention)
        for key in list(self._versions.keys):
            self._versions.by_key[key] = self._versions.by_key[key][-1:]
        return done


class SweepsUsed(MemoryDatabase):
    """Values that the ledger refers to are swept."""

    def _sweepable(self, retention: Retention) -> Iterator[tuple[str, bytes]]:
        yield from (place for place in self._blobs if place[0] in self._recorded)


class SweepsPending(MemoryDatabase):
    """Values whose intent may still be ordered are swept."""

    def _sweepable(self, retention: Retention) -> Iterator[tuple[str, bytes]]:
        yield from super()._sweepable(
            msgspec.structs.replace(retention, operations_before_ms=2**60)
        )


class ServesDamaged(MemoryDatabase):
    """What the disk holds is taken for what was written."""

    def damage(self, key: bytes, revision: int) -> None:
        self._versions.by_key[key][0] = msgspec.structs.replace(
            self._versions.by_key[key][0], value=b"another"
        )


class TakesBackAnothers(MemoryDatabase):
    """A value goes although somebody else has staged it too."""

    def unstage(self, reference: Reference) -> None:
        self._blobs.pop((reference.op_id, reference.hash), None)


class NeverFull(MemoryDatabase):
    """Any number of bytes may wait for their intents."""

    def stage(self, op_id: str, value: bytes, bytes_max: int = 0) -> Reference:
        return super().stage(op_id, value, 2**60)


class KeepsUnordered(MemoryDatabase):
    """What nobody ordered stays for ever."""

    def _sweepable(self, retention: Retention) -> Iterator[tuple[str, bytes]]:
        yield from super()._sweepable(msgspec.structs.replace(retention, staged_before_ms=0))


class PrunesHead(MemoryDatabase):
    """The ledger's newest row is pruned."""

    def prune(self, retention: Retention) -> Pruning:
        done = super().prune(retention)
        if self._rows and self._rows[-1].last <= retention.revision_below:
            self._rows.clear()
        return done


class Dangling(MemoryDatabase):
    """A version may refer to a value that was never staged."""

    def append(self, group: Group) -> Appended | Fenced:
        kept = dict(self._blobs)
        for version in group.versions:
            if isinstance(version.value, msgspec.Struct):
                self.stage(version.value.op_id, b"")
                self._blobs.setdefault(
                    (version.value.op_id, version.value.hash), next(iter(self._blobs.values()))
                )
        try:
            return super().append(group)
        finally:
            self._blobs = kept


subclass("INV-6", NoDigest, memory, "MemoryDatabase")
subclass("INV-6", NoPlace, memory, "MemoryDatabase")
subclass("INV-1", NoRank, memory, "MemoryDatabase")
subclass("INV-1", NoRow, memory, "MemoryDatabase")
subclass("INV-2", HalfOnly, memory, "MemoryDatabase")
subclass("INV-3", OpsTwice, memory, "MemoryDatabase")
subclass("INV-1", NoRevision, memory, "MemoryDatabase")
subclass("INV-1", NoFloor, memory, "MemoryDatabase")
subclass("INV-1", Tombstones, memory, "MemoryDatabase")
subclass("INV-6", EmptyRows, memory, "MemoryDatabase")
subclass("INV-2", SupersededDue, memory, "MemoryDatabase")
subclass("INV-6", FallingCursor, memory, "MemoryDatabase")
subclass("INV-1", LoneTombstone, memory, "MemoryDatabase")
subclass("INV-1", LateFloor, memory, "MemoryDatabase")
subclass("INV-1", TooEager, memory, "MemoryDatabase")
subclass("INV-2", SweepsUsed, memory, "MemoryDatabase")
subclass("INV-2", SweepsPending, memory, "MemoryDatabase")
subclass("INV-1", ServesDamaged, memory, "MemoryDatabase")
subclass("INV-2", TakesBackAnothers, memory, "MemoryDatabase")
subclass("bounds", NeverFull, memory, "MemoryDatabase")
subclass("bounds", KeepsUnordered, memory, "MemoryDatabase")
subclass("INV-6", PrunesHead, memory, "MemoryDatabase")
subclass("INV-2", Dangling, memory, "MemoryDatabase")
