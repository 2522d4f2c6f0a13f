"""Read changes that have left the ring from the ledger, once for all watchers at the same position.

It never takes a restored store for "no change", and never lets watchers become the store's main
load.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from kv.errors import NotApplied, Pruned, store_refused
from kv.model import LedgerRow
from kv.ports import Change, Consensus, MemberStore, Store
from node.judging.store_identity import check_store_identity
from node.judging.store_kind import reader_of
from node.settings import ServerSettings
from node.watching.ring import Portion, bytes_of_changes
from node.watching.single_flight import SingleFlight

ROWS_MAX: Final = 32
"""Ledger rows read at a time to fill a gap."""
GAP_VERSIONS: Final = 128
"""Versions fetched at a time to fill a gap; the last revision of a portion is never split."""
OWN_GAP_VERSIONS: Final = 16
"""The same where values of every size are inline (R11)."""
READS_MAX: Final = 2
"""Store reads at a time for all watchers together; further ones wait."""
ROWS_HELD: Final = 4
"""Ledger reads kept for other watchers that reach the same position."""
STRETCHES_HELD: Final = 64
PORTIONS_BYTES: Final = 16 * 1024 * 1024
"""Bytes of portions, with their values, kept for other watchers that reach the same position; one
portion may have 8 MiB.
"""


class WantedRevision(NamedTuple):
    """One revision of a ledger row, with the keys under a prefix that it changed."""

    revision: int
    op_id: str
    keys: tuple[bytes, ...]
    log_time_ms: int
    term: int
    """Of the row, where each member has its own store; 0: the store is shared."""


class Stretch(NamedTuple):
    """A run of ledger rows after a position, filtered by a prefix. `cuts`: the revisions of each
    portion, with the position after it.
    """

    prefix: bytes
    cuts: list[tuple[list[WantedRevision], int]]


class LedgerGaps:
    """The ledger reads for all watchers of a node. Watchers at the same position share one read."""

    def __init__(
        self,
        consensus: Consensus,
        store: Store | None,
        settings: ServerSettings,
        *,
        own: MemberStore | None = None,
    ) -> None:
        self._consensus, self._timeout_s = consensus, settings.store_timeout_s
        self._shared, self._store = store, reader_of(store, own)
        self._versions_max = GAP_VERSIONS if own is None else OWN_GAP_VERSIONS
        self._reads = asyncio.Semaphore(READS_MAX)
        self._rows: SingleFlight[int, tuple[LedgerRow, ...]] = SingleFlight(ROWS_HELD)
        self._stretches: SingleFlight[tuple[bytes, int], Stretch] = SingleFlight(STRETCHES_HELD)
        self._portions: SingleFlight[tuple[bytes, int, int], Portion] = SingleFlight(
            PORTIONS_BYTES, _portion_bytes
        )
        self.reads_total = 0
        """Ledger reads."""
        self.fetches_total = 0
        """Version reads."""

    def forget(self) -> None:
        """Drop everything kept, because the ledger may have been replaced by another one."""
        self._rows.clear()
        self._stretches.clear()
        self._portions.clear()

    async def after(self, position: int, prefix: bytes) -> Stretch:
        """Return the next stretch of the ledger under a prefix after a position, at most ROWS_MAX
        rows.

        Raises Pruned, NotApplied("store_refused"), BackendUnavailable.
        """
        refusal = self._consensus.refusal
        if refusal is not None:
            self.forget()
            raise store_refused(refusal)
        # A watcher whose position is below an adoption gets the ledger only up to the revision that
        # the adoption kept.
        upto = self._consensus.undone.cut(position)
        settled = self._consensus.settled.last if upto is None else upto

        async def cut() -> Stretch | None:
            rows = await self._rows.get(position, lambda: self._read(position))
            if upto is not None:
                rows = tuple(row for row in rows or () if row.last <= upto)
            if not rows:
                return None
            return Stretch(prefix, portions(rows, position, prefix, self._versions_max))

        found = await self._stretches.get((prefix, position), cut)
        return found if found is not None else Stretch(prefix, [([], max(position, settled))])

    async def _read(self, position: int) -> tuple[LedgerRow, ...] | None:
        async with self._reads:
            self.reads_total += 1
            settled = self._consensus.settled
            rows = await self._store.rows(position, ROWS_MAX, timeout_s=self._timeout_s)
            # A restored store has fewer rows, or other rows. Without this check the missing ones
            # would look like "no change".
            if settled.last:
                row = await self._store.row_ending(settled.last, timeout_s=self._timeout_s)
                if row is None or row.digest != settled.digest:
                    self.forget()
                    raise NotApplied(
                        "store_refused", f"the store is not what was settled up to {settled.last}"
                    )
            await check_store_identity(
                self._consensus, self._shared, settled, timeout_s=self._timeout_s
            )
            return rows or None

    async def portion(self, stretch: Stretch, place: int) -> Portion:
        """Return one portion of a stretch, with its values. Raises Pruned, BackendUnavailable."""
        wanted, reached = stretch.cuts[place]
        if not wanted:
            return Portion((), reached)
        key = (stretch.prefix, wanted[0].revision, reached)
        made = await self._portions.get(key, lambda: self._fetched(wanted, reached))
        assert made is not None
        return made

    async def _fetched(self, wanted: list[WantedRevision], reached: int) -> Portion:
        places = [(key, each.revision) for each in wanted for key in each.keys]
        async with self._reads:
            self.fetches_total += 1
            found = await self._store.versions(places, timeout_s=self._timeout_s)
        made = dict(zip(places, found, strict=True))
        changes: list[Change] = []
        for revision, op_id, keys, log_time_ms, term in wanted:
            versions = [made[key, revision] for key in keys]
            whole = tuple(version for version in versions if version is not None)
            if len(whole) < len(versions):
                raise Pruned(max(await self._store.floor(timeout_s=self._timeout_s), revision + 1))
            changes.append(Change(revision, op_id, log_time_ms, whole, term=term))
        return Portion(tuple(changes), reached)


def _portion_bytes(portion: Portion) -> int:
    return bytes_of_changes(portion.changes)


def portions(
    rows: tuple[LedgerRow, ...],
    position: int,
    prefix: bytes,
    versions_max: int = GAP_VERSIONS,
) -> list[tuple[list[WantedRevision], int]]:
    """Cut ledger rows into portions: the revisions after a position that changed keys under a
    prefix, each with the position where the portion ends.

    The last portion ends where the rows end, so that the watcher's position also moves past
    revisions without a change under the prefix.
    """
    cut: list[tuple[list[WantedRevision], int]] = []
    wanted: list[WantedRevision] = []
    count = 0
    for row in rows:
        for n, record in enumerate(row.body):
            revision = row.first + n
            keys = tuple(key for key in record.keys if key.startswith(prefix))
            if revision <= position or not keys:
                continue
            if count and count + len(keys) > versions_max:
                cut.append((wanted, wanted[-1].revision))
                wanted, count = [], 0
            term = row.term if row.index else 0
            wanted.append(WantedRevision(revision, record.op_id, keys, row.log_time_ms, term))
            count += len(keys)
    cut.append((wanted, max(position, rows[-1].last)))
    return cut
