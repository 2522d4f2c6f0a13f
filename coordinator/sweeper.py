"""Delete what has expired and prune what nobody may ask for any more, in small steps, while this member leads.

Expiry is an ordered, guarded write like any other. Pruning never passes the head, the publisher's cursor, or what the
slowest voter has settled, and never both retentions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import count
from typing import Final, Protocol

import structlog

from coordinator.codec import TICK, encode
from coordinator.committer import Committer
from coordinator.log import Log
from coordinator.machine import Machine
from coordinator.publisher import CURSOR
from coordinator.settings import Settings
from kv.errors import BackendUnavailable, NotApplied, OutcomeUnknown
from kv.model import NODE_OP_ID_PREFIX, Answer, Applied, AtRevision, Cancel, Delete, Intent
from kv.ports import Clock, Retention, Store

_slog = structlog.get_logger("acordo.sweeper")

_ROUNDS_MAX: Final = 10
"""Full rounds of due keys in one sweep."""
_LEDGER_PAGE: Final = 256


class Node(Protocol):
    """What the sweeper asks of the member it runs on."""

    @property
    def machine(self) -> Machine: ...

    @property
    def committer(self) -> Committer: ...

    def now_ms(self) -> int: ...

    def submit(self, intents: Sequence[Intent | Cancel]) -> list[asyncio.Future[Answer]]: ...

    def voters_settled(self) -> int | None: ...


class Sweeper:
    """The leader's loop. `run` it once."""

    def __init__(self, node: Node, store: Store, log: Log, clock: Clock, *, name: str, settings: Settings) -> None:
        self._node, self._store, self._log, self._clock = node, store, log, clock
        self._settings = settings
        self._op_ids = (f"{NODE_OP_ID_PREFIX}{name}.x{n}" for n in count(1))
        self._shift = asyncio.Event()
        self._term: int | None = None
        self.expired = self.pruned_versions = self.pruned_rows = self.pruned_operations = self.pruned_blobs = 0
        self.floor = 0
        """Newest prune floor that this member knows of."""

    def led(self, term: int) -> None:
        self._term = term
        self._shift.set()

    def deposed(self) -> None:
        self._term = None
        self._shift.set()

    async def run(self) -> None:
        """Sweep whenever this member leads, for ever."""
        next_prune_s = 0.0
        while True:
            await self._pause(self._settings.sweep_interval_s if self._term is not None else None)
            if self._term is None or not self._node.committer.taken_over:
                continue
            try:
                await self.tick_if_behind()
                await self.sweep()
                if self._clock.monotonic() >= next_prune_s:
                    next_prune_s = self._clock.monotonic() + self._settings.prune_interval_s
                    await self.prune()
            except (BackendUnavailable, OutcomeUnknown, TimeoutError) as exc:
                _slog.info("sweep waits", error=str(exc) or type(exc).__name__)

    async def tick_if_behind(self) -> None:
        """Order a time stamp when this leader's wall clock has run ahead of log time: the next intent would otherwise
        be stamped past a deadline that was set by log time."""
        if self._clock.wall_ms() - self._node.now_ms() > self._settings.tick_drift_ms:
            with contextlib.suppress(NotApplied, OutcomeUnknown):
                await self._log.propose(encode(TICK))

    async def sweep(self) -> int:
        """Propose the deletes of due keys, each guarded by the revision that is due; return how many took effect."""
        settings, swept = self._settings, 0
        for _ in range(_ROUNDS_MAX):
            now_ms = self._node.now_ms()
            due = await self._store.due(now_ms, settings.sweep_keys_max, timeout_s=settings.store_timeout_s)
            if not due or self._term is None:
                break
            deadline_ms = now_ms + int(settings.sweep_deadline_s * 1000)
            intents = [
                Intent(next(self._op_ids), deadline_ms, (AtRevision(key, (revision,)),), (Delete(key),))
                for key, revision in due
            ]
            done, waiting = await asyncio.wait(self._node.submit(intents), timeout=settings.sweep_deadline_s)
            for future in waiting:
                future.cancel()
            ended = [future.result() for future in done if not future.cancelled() and future.exception() is None]
            applied = sum(1 for answer in ended if _took_effect(answer))
            swept += applied
            if len(due) < settings.sweep_keys_max or waiting or applied < len(due):
                break  # the rest is for the next time: no tight loop over what does not work
        self.expired += swept
        return swept

    async def prune(self) -> None:
        """Prune in small steps as far as the retentions, the cursor and the voters allow."""
        settings = self._settings
        for _ in range(settings.prune_steps_max):
            if self._term is None:
                return
            below = await self._prunable_below()
            operations_before_ms = self._node.now_ms() - self._node.machine.limits.window_ms
            retention = Retention(below, operations_before_ms, settings.prune_rows_max)
            done = await self._store.prune(retention, timeout_s=settings.store_timeout_s)
            self.floor = done.floor
            self.pruned_versions += done.versions
            self.pruned_rows += done.ledger_rows
            self.pruned_operations += done.operations
            self.pruned_blobs += done.blobs
            if not done.more and not done.ledger_rows:
                return

    async def _prunable_below(self) -> int:
        """Return the revision below which nothing is needed any more; 0: all is."""
        settings = self._settings
        voters = self._node.voters_settled()
        if voters is None:
            return 0  # a voter was never heard: it may need everything
        cursor = await self._store.cursor(CURSOR, timeout_s=settings.store_timeout_s)
        limits = self._node.machine.limits
        below = min(self._node.machine.settled.revision - limits.retention_revisions, cursor, voters)
        if below <= 0:
            return 0
        young_ms = self._node.now_ms() - limits.retention_ms
        old = 0
        for row in await self._store.ledger(0, _LEDGER_PAGE, timeout_s=settings.store_timeout_s):
            if row.log_time_ms >= young_ms:
                break
            old = row.last + 1
        return min(below, old)

    async def _pause(self, seconds: float | None) -> None:
        self._shift.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._shift.wait()


def _took_effect(answer: Answer) -> bool:
    return isinstance(answer.outcome, Applied)
