"""Order the floor as the leader, and prune the member's own store below it, as every member (R8).

The floor is ordered, the deletion is not: each member deletes when it likes, but nothing that its
newest durable dump needs.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from coordinator.commit.leadership import LeadersPart
from coordinator.log import Log
from coordinator.machine.commands import Floor, encode
from coordinator.machine.machine import Machine
from coordinator.replicated.condition import Condition
from coordinator.replicated.cursors import OrderedCursors
from coordinator.replicated.keeping import Keeping
from coordinator.settings import CoordinatorSettings
from kv.errors import BackendUnavailable, NotApplied, OutcomeUnknown, Pruned
from kv.model import LedgerRow
from kv.ports.member_store import LocalRetention, MemberStore

_log = structlog.get_logger("acordo.sweeper")
REST_S: Final = 0.5
"""Pause between two rounds while more is to be pruned: there is a row for every command."""


class Pruning:
    """The two loops of pruning. Call `run` once."""

    def __init__(
        self,
        machine: Machine,
        own: MemberStore,
        log: Log,
        *,
        leading: LeadersPart,
        condition: Condition,
        keeping: Keeping,
        cursors: OrderedCursors,
        settings: CoordinatorSettings,
    ) -> None:
        self._machine, self._own, self._log = machine, own, log
        self._leading, self._condition, self._keeping = leading, condition, keeping
        self._cursors, self._settings = cursors, settings
        self.versions = self.rows = self.operations = 0
        """What this member pruned."""

    async def run(self) -> None:
        """Order floors while this member leads, and prune, forever."""
        more = False
        while True:
            await asyncio.sleep(REST_S if more else self._settings.prune_interval_s)
            more = False
            try:
                if self._leading.taken_over:
                    await self.order()
                more = await self.prune()
            except (BackendUnavailable, NotApplied, OutcomeUnknown, TimeoutError) as exc:
                _log.info("pruning waits", error=str(exc) or type(exc).__name__)

    # ---------------------------------------------------------------------------- the ordered floor

    async def order(self) -> None:
        """Order the floor that the retentions and the publisher allow, if it is higher than the
        present one.
        """
        below = await self._old_below(self._needed_from())
        if below > self._machine.book.floor:
            async with asyncio.timeout(self._settings.propose_timeout_s):
                await self._log.propose(encode(Floor(below)))

    def _needed_from(self) -> int:
        """Return the revision from which on everything is needed, whatever its age: the floor never
        passes what the publisher has not confirmed (R8).
        """
        machine = self._machine
        needed = machine.settled.revision - machine.limits.retention_revisions
        held = self._cursors.held_at()
        return needed if held is None else min(needed, held)

    async def _old_below(self, needed: int) -> int:
        """Return the revision, at most `needed`, below which all rows are past the retention in
        time. Rows carry rising times, so it is found by halving.
        """
        machine = self._machine
        young_ms = machine.log_time_ms - machine.limits.retention_ms
        old, young = machine.book.floor, needed
        while old < young:
            middle = (old + young) // 2
            row = await self._row_at(middle)
            if row is not None and row.log_time_ms < young_ms:
                old = min(row.last + 1, young)
            else:
                young = max(old, middle if row is None else min(row.first, middle))
        return old

    async def _row_at(self, revision: int) -> LedgerRow | None:
        """Return the row that a revision is in, or the oldest one kept if that is gone."""
        after, timeout_s = max(revision - 1, 0), self._settings.store_timeout_s
        try:
            rows = await self._own.rows(after, 1, timeout_s=timeout_s)
        except Pruned:
            rows = await self._own.ledger(0, 1, timeout_s=timeout_s)
        return rows[0] if rows else None

    # ------------------------------------------------------------------------------ the own deletes

    async def prune(self) -> bool:
        """Prune the own store in small steps, as far as the newest durable dump allows. Return
        whether there is more to prune.
        """
        settings = self._settings
        for _ in range(settings.prune_steps_max):
            retention = self._retention()
            if retention is None or self._condition.refusal is not None:
                return False
            done = await self._own.prune(retention, timeout_s=settings.store_timeout_s)
            self.versions += done.versions
            self.rows += done.ledger_rows
            self.operations += done.operations
            if not done.more:
                return False
        return True

    def _retention(self) -> LocalRetention | None:
        """Return how far this member may prune: nothing goes that its newest durable dump needs
        (R8). None: there is no dump yet, and everything stays.
        """
        dump = self._keeping.prunable_to
        if dump is None:
            return None
        return LocalRetention(
            dump.index, dump.floor, dump.known_since_ms, self._settings.prune_rows_max
        )
