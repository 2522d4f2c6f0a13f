"""Recompute the content digests of the own ledger's rows slowly, from what the file holds: what was
evaluated is compared elsewhere, what the disk made of it here (R3).
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from coordinator.log import Log
from coordinator.replicated.condition import Condition
from coordinator.settings import CoordinatorSettings
from kv.errors import BackendUnavailable
from kv.ports.member_store import MemberStore

DAMAGED_MAX: Final = 1000
"""Damaged rows that are remembered, and reported once each."""

_log = structlog.get_logger("acordo.scrubber")


class RowScrub:
    """The scrub of the own ledger's rows, on every member. Call `run` once."""

    def __init__(
        self, own: MemberStore, log: Log, condition: Condition, settings: CoordinatorSettings
    ) -> None:
        self._own, self._log, self._condition = own, log, condition
        self._settings = settings
        self._reached = 0
        self.rounds = 0
        """How often all rows were scrubbed."""
        self.damaged: set[int] = set()
        """The rows that were found damaged."""

    async def run(self) -> None:
        """Scrub all rows over and over, forever."""
        while True:
            await asyncio.sleep(self._settings.scrub_interval_s)
            try:
                more = await self.step()
                if not more:
                    await self.check_pages()
            except (BackendUnavailable, TimeoutError) as exc:
                _log.info("scrub of rows waits", error=str(exc) or type(exc).__name__)
                continue
            if not more:
                self.rounds += 1
                await asyncio.sleep(self._settings.scrub_rest_s)

    async def step(self) -> bool:
        """Scrub the next rows. Return whether there are more."""
        if self._condition.refusal is not None:
            return True  # what is there now is not what will be served
        self._reached, damaged = await self._own.damaged_rows(
            self._reached, timeout_s=self._settings.store_timeout_s
        )
        for seq in damaged:
            if seq not in self.damaged and len(self.damaged) < DAMAGED_MAX:
                self.damaged.add(seq)
                self.found(f"row {seq} of the ledger is not what was written")
        return self._reached > 0

    async def check_pages(self) -> None:
        """Check pages and indexes of the file: a key that an index lacks would look absent."""
        flaws = await self._own.broken_pages()
        if flaws and self._condition.refusal is None:
            self.found(flaws[0])

    def found(self, what: str) -> None:
        """Act on damage in the file: the state of another member replaces it, if there is one. The
        only voter keeps its file and says so, because there is no other.
        """
        _log.error("damaged in the own store", what=what)
        if sum(peer.voter for peer in self._log.status().peers) > 1:
            self._reached = 0
            self._condition.spoil("set_aside", what)
