"""Broadcast the ledger, row after row, from a durable cursor, while this member leads (INV-6).

Changes are published at least once, in revision order, without a gap, and never before they are
committed. The publisher never delays a write: while the broker is down only its lag grows, and the
ledger is not pruned past its cursor.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from coordinator.backoff import Backoff
from coordinator.commit.leadership import LeadersPart
from coordinator.machine.machine import Machine
from coordinator.machine.pending import Mark
from coordinator.settings import CoordinatorSettings
from kv.access import ACCESS_PREFIX
from kv.errors import BackendUnavailable, NotApplied, OutcomeUnknown, Pruned
from kv.model import LedgerRow, Recorded, Version
from kv.ports import Broadcast, Change, Clock, Settled, StoreReader

_log = structlog.get_logger("acordo.publisher")

CURSOR: Final = "broadcast"
ADOPTION: Final = "~adopt"
"""The op_id under which an adoption is published. It belongs to no intent."""


class PublishingMember(Protocol):
    """The member that a publisher runs on, as far as the publisher needs it."""

    @property
    def machine(self) -> Machine:
        """Its machine."""
        ...

    @property
    def leading(self) -> LeadersPart:
        """Its leader's part. Nothing is published before it has taken over."""
        ...

    @property
    def refusal(self) -> str | None:
        """Why it refuses the store, if it does."""
        ...


class Cursors(Protocol):
    """Where the publisher's position is kept: in the shared store, or in the log."""

    async def cursor(self, name: str, *, timeout_s: float) -> int:
        """Return a durable position (0 if never set)."""
        ...

    async def move_cursor(self, name: str, to: int, *, timeout_s: float) -> None:
        """Raise a durable position; a lower one changes nothing."""
        ...


class _Part(NamedTuple):
    """The changes to publish next, and the position after them."""

    changes: tuple[Change, ...]
    position: int


class Publisher:
    """The leader's loop from the ledger to the broker. Call `run` once."""

    def __init__(
        self,
        member: PublishingMember,
        store: StoreReader,
        cursors: Cursors,
        broadcast: Broadcast,
        clock: Clock,
        *,
        rng: random.Random,
        settings: CoordinatorSettings,
        ordered: Callable[[], int] = lambda: 0,
    ) -> None:
        """`ordered` returns the newest position that the log ordered (R10); a shared store has
        none.
        """
        self._ordered = ordered
        self._member, self._store, self._cursors = member, store, cursors
        self._broadcast, self._clock = broadcast, clock
        self._settings = settings
        self._backoff = Backoff(rng, min_s=settings.backoff_s_min, max_s=settings.backoff_s_max)
        self._heard: deque[Settled] = deque(maxlen=settings.publish_buffer_max)
        """The newest settled groups. When the buffer is full the oldest one is dropped, and the gap
        is read from the ledger.
        """
        self._news = asyncio.Event()
        self._shift = asyncio.Event()
        self._term: int | None = None
        self._position = 0
        self.trouble: str | None = None
        """Why the broadcast is waiting; None while it is not."""
        self.published = 0
        self.failures = 0

    @property
    def lag(self) -> int | None:
        """The number of settled revisions that are not published yet; None: another member
        publishes.
        """
        if self._term is None:
            return None
        return max(0, self._member.machine.settled.revision - self._position)

    def led(self, term: int) -> None:
        """Note that this member leads `term` now."""
        self._term = term
        self._position = 0
        self._shift.set()
        self._news.set()

    def deposed(self) -> None:
        """Stop publishing: another member leads."""
        self._term = None
        self._heard.clear()
        self._shift.set()
        self._news.set()

    def taken_over(self) -> None:
        """Start publishing: the store belongs to this history, and ends where the machine does."""
        self._news.set()

    def hear(self, settled: Settled) -> None:
        """Buffer what was settled here, so that it need not be read from the ledger."""
        if self._term is not None:
            self._heard.append(settled)
            self._news.set()

    async def run(self) -> None:
        """Publish whenever this member leads, forever."""
        while True:
            term = self._term
            if term is None:
                self._news.clear()
                await self._news.wait()
                continue
            try:
                await self._publish_while(term)
            except (BackendUnavailable, NotApplied, OutcomeUnknown, TimeoutError) as exc:
                self.failures += 1
                if self.trouble is None:
                    _log.warning(
                        "broadcast waits", error=str(exc) or type(exc).__name__, lag=self.lag
                    )
                self.trouble = str(exc) or type(exc).__name__
                await self._pause(self._backoff.next_s())

    async def _publish_while(self, term: int) -> None:
        """Publish part after part while this member leads `term`."""
        settings = self._settings
        # before that the store may belong to any history
        while self._term == term and not self._member.leading.taken_over:
            await self._wait_news(None)
        position = saved = await self._begin()
        saved_at_s = self._clock.monotonic()
        while self._term == term:
            position = max(position, self._ordered_here())
            self._position = position
            part = await self._next(position)
            if part is None:
                await self._wait_news(settings.cursor_interval_s if position > saved else None)
            else:
                await self._publish(part)
                position = part.position
            if (
                position > saved
                and self._clock.monotonic() - saved_at_s >= settings.cursor_interval_s
            ):
                await self._cursors.move_cursor(
                    CURSOR, position, timeout_s=settings.store_timeout_s
                )
                saved, saved_at_s = position, self._clock.monotonic()

    def _ordered_here(self) -> int:
        """Return the newest ordered position that is applied here: an earlier leader's may arrive
        late, and the floor may have followed it (R10).
        """
        return self._ordered()

    async def _begin(self) -> int:
        """Return the position to continue from, which the previous publisher left in the store
        (INV-6).
        """
        return await self._cursors.cursor(CURSOR, timeout_s=self._settings.store_timeout_s)

    async def _publish(self, part: _Part) -> None:
        chunk_max = self._settings.publish_changes_max
        for at in range(0, len(part.changes), chunk_max):
            chunk = part.changes[at : at + chunk_max]
            await self._broadcast.publish(chunk, timeout_s=self._settings.publish_timeout_s)
            self.published += len(chunk)
        self._backoff.reset()
        if self.trouble is not None:
            _log.info("broadcast goes on", position=part.position)
        self.trouble = None

    async def _next(self, position: int) -> _Part | None:
        """Return what follows `position`: from the buffer if it has it, otherwise from the
        ledger.
        """
        heard = self._heard
        while heard and heard[0].last <= position:
            heard.popleft()
        settled_to = self._member.machine.settled.revision
        if settled_to <= position:
            return None
        if (
            heard
            and heard[0].previous <= position
            and heard[0].versions is not None
            and heard[0].records
        ):
            return self._from_heard(position)
        return await self._from_ledger(position, settled_to)

    def _from_heard(self, position: int) -> _Part:
        changes: list[Change] = []
        while self._heard and len(changes) < self._settings.publish_changes_max:
            settled = self._heard[0]
            if settled.previous > position or settled.versions is None or not settled.records:
                break
            self._heard.popleft()
            records, first = settled.records, settled.previous + 1
            changes += _changes(
                first,
                records,
                settled.versions,
                settled.log_time_ms,
                after=position,
                term=settled.term,
            )
            position = settled.last
        return _Part(tuple(changes), position)

    async def _from_ledger(self, position: int, settled_to: int) -> _Part:
        """Return the next part of the ledger, up to the revision settled here. Raises
        BackendUnavailable when the store lacks rows, even for a moment: missing rows must not count
        as published.
        """
        timeout_s = self._settings.store_timeout_s
        machine = self._member.machine
        settled, undone = machine.settled, machine.undone
        kept = self._kept(position)
        if kept is not None and position >= kept:
            return _Part(
                (Change(undone.to, ADOPTION, machine.log_time_ms, (), undone.after),), undone.to
            )
        upto = settled_to if kept is None else kept
        try:
            rows = await self._store.rows(
                position, self._settings.publish_rows_max, timeout_s=timeout_s
            )
        except Pruned:
            oldest = await self._store.ledger(0, 1, timeout_s=timeout_s)
            resumed = oldest[0].first - 1 if oldest else settled_to
            _log.error(
                "ledger was pruned past the broadcast cursor", cursor=position, resumed=resumed
            )
            return _Part((), max(position + 1, resumed))
        rows = tuple(row for row in rows if row.last <= upto)
        changes: list[Change] = []
        for row in rows:
            changes += await self._of_row(row, position)
        gapless = kept is not None or (bool(rows) and rows[0].first <= position + 1)
        await self._check_whole(position, settled, gapless=gapless)
        return _Part(tuple(changes), rows[-1].last if rows else upto)

    def _kept(self, position: int) -> int | None:
        """Return the revision up to which the ledger from before an adoption counts, behind
        `position`; None when no adoption lies ahead.
        """
        return self._member.machine.undone.cut(position)

    async def _check_whole(self, position: int, settled: Mark, *, gapless: bool) -> None:
        """Raise BackendUnavailable unless the store has what was settled after `position`.

        A store that was restored, or that is behind for a moment, has no rows there. If the
        publisher trusted it, it would pass over those revisions without publishing them (INV-6).
        """
        read = await self._store.read(
            (), settled=settled.revision, timeout_s=self._settings.store_timeout_s
        )
        if self._member.refusal is not None or read.digest_at != settled.digest or not gapless:
            raise BackendUnavailable("store", f"it has not what was settled after {position}")

    async def _of_row(self, row: LedgerRow, position: int) -> list[Change]:
        at = [(key, row.first + i) for i, record in enumerate(row.body) for key in record.keys]
        at = [place for place in at if place[1] > position]
        if not at:
            return []
        found = await self._store.versions(at, timeout_s=self._settings.store_timeout_s)
        versions = [version for version in found if version is not None]
        if len(versions) < len(at):
            _log.error(
                "versions were pruned past the broadcast cursor",
                row=row.seq,
                missing=len(at) - len(versions),
            )
        term = row.term if row.index else 0
        return _changes(row.first, row.body, versions, row.log_time_ms, after=position, term=term)

    async def _wait_news(self, seconds: float | None) -> None:
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not past a change of leadership. Newly settled groups do not end a back-off."""
        self._shift.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._shift.wait()


def _changes(
    first: int,
    records: Sequence[Recorded],
    versions: Sequence[Version],
    log_time_ms: int,
    *,
    after: int,
    term: int,
) -> list[Change]:
    """Group versions, which are in revision order, by the intent that made them. Those of access
    are told to nobody: they hold secrets.
    """
    versions = [each for each in versions if not each.key.startswith(ACCESS_PREFIX)]
    changes: list[Change] = []
    start = 0
    while start < len(versions):
        revision, end = versions[start].revision, start + 1
        while end < len(versions) and versions[end].revision == revision:
            end += 1
        if revision > after:
            op_id = records[revision - first].op_id
            changes.append(
                Change(revision, op_id, log_time_ms, tuple(versions[start:end]), term=term)
            )
        start = end
    return changes
