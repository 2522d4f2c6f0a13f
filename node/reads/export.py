"""Read everything that one node's store holds up to one revision, as the bytes of a backup.

It never gives what it has not checked: the order's digests, the content digests of the rows and
the hash of every value are recomputed on the way. It holds no more than a few MiB, and no lock:
versions are immutable, and pruning may go on meanwhile, unless it passes the revision.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import msgspec

from kv.backup import (
    INCREMENTAL,
    WHOLE,
    BackupEncoder,
    BackupHeader,
    BackupTrailer,
    BaseRecord,
    EarlyEnd,
    GoneRecord,
    OperationRecord,
    RowRecord,
    VersionRecord,
)
from kv.content import content_digest, hash_of
from kv.errors import BackendUnavailable, BadRequest, KvError, NotApplied, Pruned, StoreDamaged
from kv.leases import lease_of
from kv.model import Digest, LedgerRow, Reference, Version, roll
from kv.ports import Clock, Consensus, StoreReader
from node.reads.reads import Reads
from node.settings import ServerSettings
from node.wire.problems import problem_of

ROWS: Final = 64
"""Ledger rows read at a time."""
PLACES: Final = 256
"""Versions read at a time at most: of large ones so many as have HELD_BYTES together."""
PLACES_FIRST: Final = 4
HELD_BYTES: Final = 4 * 1024 * 1024
PAGE_KEYS: Final = 64
"""Present keys read at a time: 4 MiB of a shared store at most; an own one ends its pages itself.
"""
COUNTED_KEYS: Final = 1000
"""Keys counted at a time."""
OPERATIONS: Final = 500
"""Records of op_ids read at a time."""
BACKEND: Final = "store"


class Export:
    """One backup while it is read. `begun` makes one; `pieces` is called once."""

    def __init__(
        self,
        header: BackupHeader,
        store: StoreReader,
        reads: Reads,
        clock: Clock,
        *,
        timeout_s: float,
        stops: Callable[[], bool],
        after: LedgerRow | None = None,
    ) -> None:
        self.header = header
        self._after = after
        self._store, self._reads, self._clock = store, reads, clock
        self._timeout_s, self._stops = timeout_s, stops
        self._encoder, self._revision = BackupEncoder(header.format), header.revision
        self._totals = BackupTrailer(floor=0)
        self._base = 0
        """The newest revision before a row that was read with none before it: what is present as of
        a revision from there on, and the rows, tell all.
        """
        self._places = PLACES_FIRST

    @classmethod
    async def begun(
        cls,
        consensus: Consensus,
        store: StoreReader,
        reads: Reads,
        clock: Clock,
        settings: ServerSettings,
        *,
        deadline: float,
        stops: Callable[[], bool],
        since: tuple[int, Digest] | None = None,
    ) -> Export:
        """Begin a backup of everything that was acknowledged before the call; with `since`, of what
        changed after that revision, of the order with that digest. `stops` says whether it has to
        end early, or raises why. Raises NotApplied, BackendUnavailable; BadRequest, Pruned if it
        cannot go on from there.
        """
        # Before the head: what is ordered from now on is later than the time that is told, and a
        # restore as of that time does not lack it.
        asked_ms = consensus.now_ms()
        head = (await reads.snapshot((), deadline=deadline)).head
        timeout_s = settings.store_timeout_s
        row = await store.row_ending(head.last, timeout_s=timeout_s) if head.seq else None
        after = None
        if since is not None:
            after = await _row_to_go_on_from(store, *since, head=head.last, timeout_s=timeout_s)
        status = consensus.status()
        header = BackupHeader(
            format=WHOLE if after is None else INCREMENTAL,
            acordo=settings.version,
            kind=status.store_kind,
            cluster_id=status.cluster_id,
            history=status.history or "",
            revision=head.last,
            term=head.term,
            seq=head.seq,
            digest=head.digest,
            content=b"" if row is None else row.content,
            log_time_ms=max(asked_ms, 0 if row is None else row.log_time_ms),
            made_ms=clock.wall_ms(),
            node=settings.node_id,
            level=status.feature_level,
            limits=status.limits,
            since=0 if after is None else after.last,
            since_seq=0 if after is None else after.seq,
            since_digest=b"" if after is None else after.digest,
        )
        return cls(header, store, reads, clock, timeout_s=timeout_s, stops=stops, after=after)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the file, piece by piece. If it cannot be ended as a whole, its end says why."""
        yield self._encoder.header(self.header)
        try:
            parts = (self._rows, self._present, self._counted, self._recorded)
            for part in parts if self._after is None else (self._rows, *parts[2:]):
                async for piece in part():
                    if self._stops():
                        raise NotApplied("draining", "this node is stopping")
                    if piece:
                        yield piece
            floor = await self._store.floor(timeout_s=self._timeout_s)
            if floor > self._revision:
                raise Pruned(floor)
            base = max(self._base, self.header.since)
            totals = msgspec.structs.replace(self._totals, floor=max(floor, base))
            yield self._encoder.trailer(totals)
        except (KvError, TimeoutError) as exc:
            yield self._encoder.early_end(_early_end(exc))

    # --------------------------------------------------------------- the ledger and its versions

    async def _rows(self) -> AsyncIterator[bytes]:
        """Yield the kept rows up to the backup's, each with the versions that it made."""
        before = self._after
        following = 0 if before is None else before.seq + 1
        while following <= self.header.seq:
            rows = await self._store.ledger(following, ROWS, timeout_s=self._timeout_s)
            rows = tuple(row for row in rows if row.seq <= self.header.seq)
            if not rows:
                return
            async for row, versions in self._with_versions(rows):
                self._enter(before, row, versions)
                yield self._encoder.add(RowRecord(row))
                for place, version in versions:
                    yield self._encoder.add(
                        GoneRecord(*place) if version is None else VersionRecord(version)
                    )
                before = row
            following = rows[-1].seq + 1

    async def _with_versions(
        self, rows: Sequence[LedgerRow]
    ) -> AsyncIterator[tuple[LedgerRow, _Made]]:
        """Yield rows with what they made, reading the versions of several rows at once."""
        waiting: list[LedgerRow] = []
        count = 0
        for row in rows:
            waiting.append(row)
            count += sum(len(record.keys) for record in row.body)
            if count >= self._places or row is rows[-1]:
                places = [place for each in waiting for place in _places_of(each)]
                made = iter(await self._versions(places))
                for each in waiting:
                    yield each, [next(made) for _ in _places_of(each)]
                waiting, count = [], 0

    async def _versions(self, places: Sequence[_Place]) -> _Made:
        made: _Made = []
        while len(made) < len(places):
            part = places[len(made) : len(made) + self._places]
            found = await self._store.versions(part, timeout_s=self._timeout_s)
            size = 1
            for place, version in zip(part, found, strict=True):
                if version is None:
                    await self._check_pruned(*place)
                    made.append((place, None))
                else:
                    whole = await self._whole(version)
                    size += len(whole.value) if isinstance(whole.value, bytes) else 0
                    made.append((place, whole))
            self._places = max(1, min(PLACES, HELD_BYTES * len(part) // size))
        return made

    async def _check_pruned(self, key: bytes, revision: int) -> None:
        """Raise StoreDamaged for a version that is missing and was not pruned."""
        floor = await self._store.floor(timeout_s=self._timeout_s)
        if floor < revision:
            raise StoreDamaged(
                BACKEND, key, revision, f"the version of {key!r} at revision {revision} is missing"
            )

    async def _whole(self, version: Version) -> Version:
        """Return a version with its value inline."""
        if not isinstance(version.value, Reference):
            return version
        value = await self._reads.store.value_of(
            version, deadline=self._clock.monotonic() + self._timeout_s
        )
        return msgspec.structs.replace(version, value=value)

    def _enter(self, before: LedgerRow | None, row: LedgerRow, made: _Made) -> None:
        """Check a row against the one before it, and count what it brings. Raises StoreDamaged."""
        if before is None or row.seq != before.seq + 1:
            if self._after is not None:
                raise Pruned(row.first - 1)  # what was between it must not leave out
            self._base, before = row.first - 1, None  # what was between was pruned meanwhile
        versions = [version for _, version in made if version is not None]
        if before is not None:
            check_row(before.digest, before.content, row, versions, len(made) == len(versions))
        if row.seq == self.header.seq and (row.last, row.digest) != (
            self._revision,
            self.header.digest,
        ):
            raise StoreDamaged(BACKEND, b"", row.last, f"ledger row {row.seq} has changed")
        totals = self._totals
        self._totals = msgspec.structs.replace(
            totals,
            rows=totals.rows + 1,
            versions=totals.versions + len(versions),
            gone=totals.gone + len(made) - len(versions),
            value_bytes=totals.value_bytes + sum(map(_size, versions)),
        )

    # ---------------------------------------------------------------- what the rows do not name

    async def _present(self) -> AsyncIterator[bytes]:
        """Yield what was present at the oldest revision as of which that is still known: with the
        rows above it gives every later state.

        Pruning may pass that revision meanwhile: the keys that are left are then read as of a later
        one, which the rows above reach too.
        """
        after, said = b"", -1
        while True:
            self._base = max(self._base, await self._store.floor(timeout_s=self._timeout_s))
            if self._base > self._revision:
                raise Pruned(self._base)
            try:
                page = await self._store.list(
                    b"", after=after, limit=PAGE_KEYS, at=self._base, timeout_s=self._timeout_s
                )
            except Pruned:
                continue  # it rose again: a few times, as pruning has an end
            if self._base > said:
                said = self._base
                yield self._encoder.add(BaseRecord(said))
            for version in page.versions:
                whole = await self._whole(version)
                self._totals = msgspec.structs.replace(
                    self._totals,
                    versions=self._totals.versions + 1,
                    value_bytes=self._totals.value_bytes + _size(whole),
                )
                yield self._encoder.add(VersionRecord(whole))
            if not page.more or not page.versions:
                return
            after = page.versions[-1].key
            yield b""

    async def _counted(self) -> AsyncIterator[bytes]:
        """Count the keys that are present at the backup's revision."""
        after = b""
        while True:
            page = await self._store.list(
                b"",
                after=after,
                limit=COUNTED_KEYS,
                at=self._revision,
                keys_only=True,
                timeout_s=self._timeout_s,
            )
            totals, found = self._totals, page.versions
            self._totals = msgspec.structs.replace(
                totals,
                keys=totals.keys + len(found),
                leases=totals.leases + sum(lease_of(version.key) > 0 for version in found),
            )
            if not page.more or not found:
                return
            after = found[-1].key
            yield b""

    async def _recorded(self) -> AsyncIterator[bytes]:
        """Yield what is recorded of op_ids up to the revision."""
        after = self.header.since
        while True:
            found = await self._store.recorded_after(after, OPERATIONS, timeout_s=self._timeout_s)
            for operation in found:
                if operation.revision > self._revision:
                    return
                yield self._encoder.add(OperationRecord(operation))
                self._totals = msgspec.structs.replace(
                    self._totals, operations=self._totals.operations + 1
                )
            if len(found) < OPERATIONS:
                return
            after = found[-1].revision
            await asyncio.sleep(0)


_Place = tuple[bytes, int]
_Made = list[tuple[_Place, Version | None]]


async def _row_to_go_on_from(
    store: StoreReader, since: int, digest: Digest, *, head: int, timeout_s: float
) -> LedgerRow:
    """Return the row that ends where an earlier backup does. Raises Pruned, BadRequest."""
    row = await store.row_ending(since, timeout_s=timeout_s)
    if row is not None and row.digest == digest:
        return row
    floor = await store.floor(timeout_s=timeout_s)
    kept = await store.ledger(0, 1, timeout_s=timeout_s)
    if row is None and since < max(floor, kept[0].first if kept else 0):
        raise Pruned(floor)
    raise BadRequest(
        "backup_of_another_history",
        f"the order up to revision {since} is not that of the earlier backup"
        if row is not None
        else f"no row of the ledger ends at revision {since} (the newest ends at {head})",
        allowed="a backup of this cluster, taken since it was restored or its store adopted; else "
        "take a whole one",
    )


def check_row(
    digest: Digest, content: Digest, row: LedgerRow, versions: Sequence[Version], whole: bool
) -> None:
    """Recompute the digests of a row from those of the row before it. `whole`: all versions that
    it made are given. Raises StoreDamaged.
    """
    for record in row.body:
        digest = roll(digest, record.op_id, record.body_hash)
    if digest != row.digest:
        raise StoreDamaged(BACKEND, b"", row.last, f"the digest of ledger row {row.seq} is wrong")
    if not content or not row.content or not whole:
        return
    hashes = [hash_of(version) for version in versions]
    if content_digest(content, row, versions, hashes) != row.content:
        raise StoreDamaged(
            BACKEND, b"", row.last, f"what ledger row {row.seq} made is not what was written"
        )


def _places_of(row: LedgerRow) -> list[_Place]:
    return [
        (key, revision)
        for revision, record in enumerate(row.body, row.first)
        for key in record.keys
    ]


def _size(version: Version) -> int:
    value = version.value
    if value is None:
        return 0
    return value.size if isinstance(value, Reference) else len(value)


def _early_end(exc: KvError | TimeoutError) -> EarlyEnd:
    if isinstance(exc, Pruned):
        return EarlyEnd(
            "backup_overtaken",
            f"pruning passed its revision while it was read (floor {exc.floor}): a longer "
            "retention of history, or a faster reader, is needed",
        )
    if isinstance(exc, TimeoutError):
        exc = BackendUnavailable(BACKEND, "no answer in time")
    document = problem_of(exc, mutation=False)
    return EarlyEnd(document.code, document.detail)
