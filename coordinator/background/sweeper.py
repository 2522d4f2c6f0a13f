"""Delete expired keys, and prune what nobody may ask for any more, in small steps, while this
member leads.

An expiry is an ordered, guarded write like any other. Pruning never passes the head, the
publisher's cursor or what a voter may still need, and it deletes only what is past both retentions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import count
from typing import Final, Literal, Protocol, TypeAlias

import structlog

from coordinator.background.publisher import CURSOR
from coordinator.commit.leadership import LeadersPart
from coordinator.log import Log
from coordinator.machine.machine import Machine
from coordinator.settings import CoordinatorSettings
from kv.errors import BackendUnavailable, OutcomeUnknown
from kv.model import NODE_OP_ID_PREFIX, Answer, Applied, AtRevision, Cancel, Delete, Intent, Refused
from kv.ports import Clock, Retention, Store, StoreReader

_slog = structlog.get_logger("acordo.sweeper")

SWEEP_RETRY_S_MAX: Final = 1.0
"""The longest pause before a store that does not answer is asked for due keys again."""
_LEDGER_PAGE: Final = 256
SweepResult: TypeAlias = Literal["done", "more", "failed"]


class SweepingMember(Protocol):
    """The member that a sweeper runs on, as far as the sweeper needs it."""

    @property
    def machine(self) -> Machine:
        """Its machine."""
        ...

    @property
    def leading(self) -> LeadersPart:
        """Its leader's part. Nothing is swept before it has taken over."""
        ...

    def now_ms(self) -> int:
        """Return the log time now."""
        ...

    def submit(self, intents: Sequence[Intent | Cancel]) -> list[asyncio.Future[Answer]]:
        """Hand intents to the log, as for a client."""
        ...

    def unneeded_below(self) -> int:
        """Return the revision up to which no voter will ever need the ledger's rows again."""
        ...


class Sweeper:
    """The leader's loops that delete due keys and prune. Call `run` once."""

    def __init__(
        self,
        member: SweepingMember,
        store: StoreReader,
        log: Log,
        clock: Clock,
        *,
        name: str,
        settings: CoordinatorSettings,
        pruned: Store | None,
    ) -> None:
        """`pruned` is the shared store; None: members prune their own ones, not here."""
        self._member, self._store, self._pruned = member, store, pruned
        self._log, self._clock = log, clock
        self._settings = settings
        self._op_ids = (f"{NODE_OP_ID_PREFIX}{name}.x{n}" for n in count(1))
        self._shift = asyncio.Event()
        self._term: int | None = None
        self.expired = self.pruned_versions = self.pruned_rows = 0
        self.pruned_operations = self.pruned_blobs = 0
        self.floor = 0
        """The newest prune floor that this member knows of."""

    def led(self, term: int) -> None:
        """Start: this member leads `term`."""
        self._term = term
        self._shift.set()

    def deposed(self) -> None:
        """Stop: another member sweeps."""
        self._term = None
        self._shift.set()

    async def run(self) -> None:
        """Sweep and prune whenever this member leads, forever. The two loops are independent:
        neither waits for the other.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweep_for_ever())
            if self._pruned is not None:
                group.create_task(self._prune_for_ever(self._pruned))

    async def _sweep_for_ever(self) -> None:
        settings = self._settings
        away_s = 0.0
        """The monotonic time since which the store does not answer; 0 while it does."""
        retry_s = settings.sweep_retry_s
        while True:
            began_s = self._clock.monotonic()
            if not self._sweeps:  # a new leader may sweep soon, once it has taken over
                await self._pause(settings.sweep_retry_s if self._term is not None else None)
                continue
            try:
                done = await self.sweep(
                    after_outage=away_s > 0 and began_s - away_s > settings.sweep_interval_s
                )
                pause_s = self._pause_after(done)
                away_s, retry_s = 0.0, settings.sweep_retry_s
            except (BackendUnavailable, OutcomeUnknown, TimeoutError) as exc:
                if not away_s:
                    _slog.info("sweep waits", error=str(exc) or type(exc).__name__)
                away_s = away_s or began_s
                pause_s, retry_s = retry_s, min(2 * retry_s, SWEEP_RETRY_S_MAX)
            await self._pause(max(0.0, began_s + pause_s - self._clock.monotonic()))

    def _pause_after(self, swept: SweepResult) -> float:
        """Return the time from the start of a sweep to the start of the next one."""
        match swept:
            case "more":
                return 0.0
            case "failed":
                return self._settings.sweep_retry_s
            case "done":
                return self._settings.sweep_interval_s

    async def _prune_for_ever(self, store: Store) -> None:
        while True:
            await self._pause(self._settings.prune_interval_s if self._term is not None else None)
            if not self._sweeps:
                continue
            try:
                await self.prune(store)
            except (BackendUnavailable, OutcomeUnknown, TimeoutError) as exc:
                _slog.info("pruning waits", error=str(exc) or type(exc).__name__)

    @property
    def _sweeps(self) -> bool:
        return self._term is not None and self._member.leading.taken_over

    async def sweep(self, *, after_outage: bool = False) -> SweepResult:
        """Propose the deletes of due keys, each guarded by the revision that is due.

        `after_outage`: nothing is deleted yet. The holders of keys that came due during the outage
        could not renew them, and get one interval to do so.
        """
        settings = self._settings
        now_ms = self._member.now_ms()
        due = await self._store.due(
            now_ms, settings.sweep_keys_max, timeout_s=settings.store_timeout_s
        )
        if not due or self._term is None or after_outage:
            return "done"
        deadline_ms = now_ms + int(settings.sweep_deadline_s * 1000)
        intents = [
            Intent(next(self._op_ids), deadline_ms, (AtRevision(key, (revision,)),), (Delete(key),))
            for key, revision in due
        ]
        done, waiting = await asyncio.wait(
            self._member.submit(intents), timeout=settings.sweep_deadline_s
        )
        for future in waiting:
            future.cancel()
        ended = [
            future.result()
            for future in done
            if not future.cancelled() and future.exception() is None
        ]
        self.expired += sum(isinstance(answer.outcome, Applied) for answer in ended)
        # Refused means that the key was renewed.
        judged = sum(isinstance(answer.outcome, Applied | Refused) for answer in ended)
        if judged < len(due):
            return "failed"
        return "more" if len(due) == settings.sweep_keys_max else "done"

    async def prune(self, store: Store) -> None:
        """Prune in small steps as far as the retentions, the cursor and the voters allow."""
        settings = self._settings
        for _ in range(settings.prune_steps_max):
            if self._term is None:
                return
            below = await self._prunable_below(store)
            operations_before_ms = self._member.now_ms() - self._member.machine.limits.window_ms
            retention = Retention(
                below, operations_before_ms, settings.prune_rows_max, self._staged_before_ms()
            )
            done = await store.prune(retention, timeout_s=settings.store_timeout_s)
            self.floor = done.floor
            self.pruned_versions += done.versions
            self.pruned_rows += done.ledger_rows
            self.pruned_operations += done.operations
            self.pruned_blobs += done.blobs
            if not done.more and not done.ledger_rows:
                return

    def _staged_before_ms(self) -> int:
        """Return the log time such that a value staged before it, whose op_id is not recorded,
        belongs to no waiting intent.

        It is 0 (nothing may go) when the oldest pending intent has waited for its commit so long
        that the value that it refers to may be that old.
        """
        machine, before_ms = self._member.machine, self._member.now_ms() - self._settings.staged_ms
        oldest = next(iter(machine.pending.values()), None)
        if oldest is not None and oldest.ordered_ms < before_ms + self._settings.staged_ms // 2:
            return 0
        return before_ms

    async def _prunable_below(self, store: Store) -> int:
        """Return the revision below which nothing is needed any more; 0: everything is needed."""
        settings = self._settings
        unneeded = self._member.unneeded_below()
        if not unneeded:
            return 0
        cursor = await store.cursor(CURSOR, timeout_s=settings.store_timeout_s)
        limits = self._member.machine.limits
        below = min(
            self._member.machine.settled.revision - limits.retention_revisions, cursor, unneeded
        )
        if below <= 0:
            return 0
        young_ms = self._member.now_ms() - limits.retention_ms
        old = 0
        for row in await store.ledger(0, _LEDGER_PAGE, timeout_s=settings.store_timeout_s):
            if row.log_time_ms >= young_ms:
                break
            old = row.last + 1
        return min(below, old)

    async def _pause(self, seconds: float | None) -> None:
        self._shift.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._shift.wait()
