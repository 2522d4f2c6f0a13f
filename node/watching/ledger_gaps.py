"""Read for watchers what has left the ring from the ledger, once for all who are at the same place.

It never takes a restored store for "no change", nor lets watchers become the store's main load.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from kv.errors import NotApplied, Pruned, store_refused
from kv.model import LedgerRow
from kv.ports import Change, Consensus, Store
from node.judging.store_identity import check_store_identity
from node.settings import ServerSettings
from node.watching.ring import Portion, bytes_of_changes
from node.watching.single_flight import SingleFlight

ROWS_MAX: Final = 32
"""Ledger rows read at a time to fill a gap."""
GAP_VERSIONS: Final = 128
"""Versions fetched at a time to fill a gap; the last revision of a portion comes whole."""
READS_MAX: Final = 2
"""Reads of the store at a time for all watchers together: the others wait."""
ROWS_HELD: Final = 4
"""Reads of the ledger kept for those who come to the same place."""
STRETCHES_HELD: Final = 64
PORTIONS_BYTES: Final = 16 * 1024 * 1024
"""Portions with their values kept for those who come to the same place; one may have 8 MiB."""


class WantedRevision(NamedTuple):
    """One revision of a ledger row, with the keys under a prefix that it changed."""

    revision: int
    op_id: str
    keys: tuple[bytes, ...]
    log_time_ms: int


class Stretch(NamedTuple):
    """Some rows of the ledger, as they are under a prefix after a position: cuts, each with the
    position after it.
    """

    prefix: bytes
    cuts: list[tuple[list[WantedRevision], int]]


class LedgerGaps:
    """The reads of the ledger for all watchers of a node, each shared by all at the same place."""

    def __init__(self, consensus: Consensus, store: Store, settings: ServerSettings) -> None:
        self._consensus, self._store, self._timeout_s = consensus, store, settings.store_timeout_s
        self._reads = asyncio.Semaphore(READS_MAX)
        self._rows: SingleFlight[int, tuple[LedgerRow, ...]] = SingleFlight(ROWS_HELD)
        self._stretches: SingleFlight[tuple[bytes, int], Stretch] = SingleFlight(STRETCHES_HELD)
        self._portions: SingleFlight[tuple[bytes, int, int], Portion] = SingleFlight(
            PORTIONS_BYTES, _portion_bytes
        )
        self.reads_total = 0
        """Reads of the ledger."""
        self.fetches_total = 0
        """Reads of versions."""

    def forget(self) -> None:
        """Keep nothing: the ledger may be another one."""
        self._rows.clear()
        self._stretches.clear()
        self._portions.clear()

    async def after(self, position: int, prefix: bytes) -> Stretch:
        """Return what the ledger has under a prefix after a position: some rows of it.

        Raises Pruned, NotApplied("store_refused"), BackendUnavailable.
        """
        refusal = self._consensus.refusal
        if refusal is not None:
            self.forget()
            raise store_refused(refusal)
        # Behind an adoption watchers get the ledger up to where it was kept, and not past it.
        upto = self._consensus.undone.cut(position)
        settled = self._consensus.settled.last if upto is None else upto

        async def cut() -> Stretch | None:
            rows = await self._rows.get(position, lambda: self._read(position))
            if upto is not None:
                rows = tuple(row for row in rows or () if row.last <= upto)
            return Stretch(prefix, portions(rows, position, prefix)) if rows else None

        found = await self._stretches.get((prefix, position), cut)
        return found if found is not None else Stretch(prefix, [([], max(position, settled))])

    async def _read(self, position: int) -> tuple[LedgerRow, ...] | None:
        async with self._reads:
            self.reads_total += 1
            settled = self._consensus.settled
            rows = await self._store.rows(position, ROWS_MAX, timeout_s=self._timeout_s)
            # A store that was restored has fewer rows, or others: what it lacks must not be taken
            # for "no change".
            if settled.last:
                row = await self._store.row_ending(settled.last, timeout_s=self._timeout_s)
                if row is None or row.digest != settled.digest:
                    self.forget()
                    raise NotApplied(
                        "store_refused", f"the store is not what was settled up to {settled.last}"
                    )
            await check_store_identity(
                self._consensus, self._store, settled, timeout_s=self._timeout_s
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
        for revision, op_id, keys, log_time_ms in wanted:
            versions = [made[key, revision] for key in keys]
            whole = tuple(version for version in versions if version is not None)
            if len(whole) < len(versions):
                raise Pruned(max(await self._store.floor(timeout_s=self._timeout_s), revision + 1))
            changes.append(Change(revision, op_id, log_time_ms, whole))
        return Portion(tuple(changes), reached)


def _portion_bytes(portion: Portion) -> int:
    return bytes_of_changes(portion.changes)


def portions(
    rows: tuple[LedgerRow, ...], position: int, prefix: bytes
) -> list[tuple[list[WantedRevision], int]]:
    """Cut ledger rows into portions: revisions after a position that changed keys under a prefix,
    and where each ends.

    The last one ends where the rows do, so that revisions which changed nothing are stepped over.
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
            if count and count + len(keys) > GAP_VERSIONS:
                cut.append((wanted, wanted[-1].revision))
                wanted, count = [], 0
            wanted.append(WantedRevision(revision, record.op_id, keys, row.log_time_ms))
            count += len(keys)
    cut.append((wanted, max(position, rows[-1].last)))
    return cut
