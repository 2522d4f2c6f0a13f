"""Answer the clients whose outcomes were skipped by a snapshot, from the ledger's rows.

A client whose outcome is not within the rows searched, or whose store does not answer, runs into
its timeout and has to look its op_id up.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from coordinator.clients.waits import Waits
from coordinator.settings import CoordinatorSettings
from kv.errors import BackendUnavailable, Pruned
from kv.ports import StoreReader

_log = structlog.get_logger("acordo.consensus")
_PAGE: Final = 256


class Recovery:
    """The search for outcomes in the rows that a snapshot skipped. Call `run` once."""

    def __init__(self, waits: Waits, store: StoreReader, settings: CoordinatorSettings) -> None:
        self._waits, self._store, self._settings = waits, store, settings
        self._gaps: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    def stepped_over(self, after: int, to: int) -> None:
        """Queue the range of revisions that were settled by a snapshot instead of by the log."""
        if self._waits:
            self._gaps.put_nowait((after, to))

    async def run(self) -> None:
        """Search the queued ranges one after another, forever."""
        while True:
            after, to = await self._gaps.get()
            try:
                await self._search(after, to)
            except (BackendUnavailable, Pruned, TimeoutError) as exc:
                _log.warning("waiting clients stay unanswered", after=after, to=to, error=str(exc))

    async def _search(self, after: int, to: int) -> None:
        left = self._settings.recover_rows_max
        while after < to and left > 0 and self._waits:
            page = await self._store.rows(
                after, min(left, _PAGE), timeout_s=self._settings.store_timeout_s
            )
            if not page:
                return
            for row in page:
                self._waits.answer_records(row.first, row.body)
            after, left = page[-1].last, left - len(page)
