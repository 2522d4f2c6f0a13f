"""Ask a quorum by ReadIndex whether this node may read at its own position.

Linearizable reads that arrived before a round began share it: load makes rounds larger, not more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from kv.errors import NotApplied
from kv.ports import Clock, Consensus
from node.settings import ServerSettings

ROUNDS_REMEMBERED: Final = 16
"""Rounds by which the age of what settles can be bounded."""


class ReadIndexRounds:
    """The ReadIndex rounds of one node, one at a time."""

    def __init__(
        self,
        consensus: Consensus,
        clock: Clock,
        settings: ServerSettings,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._consensus, self._clock, self._settings = consensus, clock, settings
        self._tasks = tasks
        self._arrived: list[asyncio.Future[str | None]] = []
        self._under_way = False
        self._closed = False
        self.confirmed_at: float | None = None
        """When the newest successful round began."""
        self._confirmed: deque[tuple[float, int]] = deque(maxlen=ROUNDS_REMEMBERED)
        """(when it began, newest revision ordered here when it ended) of successful rounds, newest
        last.
        """
        self._no_quorum_until = 0.0
        self._no_quorum_why = ""
        self.rounds_total = 0
        self.failed_total = 0

    def close(self) -> None:
        """Begin no round any more: whoever asks hears that the node drains."""
        self._closed = True

    def newer_than(self, revision: int) -> float | None:
        """Return a time at which nothing above `revision` was acknowledged yet, the latest that is
        known.

        What was acknowledged before a round began is ordered here when it ends. So a version above
        what was ordered then is at least as new as everything that was acknowledged when that round
        began.
        """
        for began, ordered in reversed(self._confirmed):
            if ordered <= revision:
                return began
        return None

    async def confirmed_by(self, deadline: float) -> str | None:
        """Return what `confirm` brings. Raises NotApplied("timeout") when the request's own time
        ends before.
        """
        left = deadline - self._clock.monotonic()
        # No two rounds take longer, so that the usual read needs no timer of its own.
        if left > 2 * self._settings.read_index_timeout_s:
            return await self.confirm()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                return await self.confirm()
        except TimeoutError as exc:
            raise NotApplied("timeout", "no quorum answered within the time limit") from exc

    def confirm(self) -> asyncio.Future[str | None]:
        """Return a future that brings None once a round that began after this call succeeded, else
        why not.

        For a moment after a failed round it fails at once: reads that the store can answer must not
        each wait for a quorum that is away.
        """
        if self._no_quorum_until and self._clock.monotonic() < self._no_quorum_until:
            future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
            future.set_result(self._no_quorum_why)
            return future
        return self.join()

    def join(self) -> asyncio.Future[str | None]:
        """Return a future of the next round. A round under way will not do: it may have asked the
        quorum before this read arrived, and a write acknowledged in between would be missed.
        """
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_result("draining")
            return future
        self._arrived.append(future)
        if not self._under_way:
            self._under_way = True
            self._tasks.create_task(self._run())
        return future

    async def _run(self) -> None:
        """Run one round after the other while reads arrive."""
        try:
            while self._arrived:
                covered, self._arrived = self._arrived, []
                failed = await self._round()
                for future in covered:
                    if not future.done():
                        future.set_result(failed)
        finally:
            self._under_way = False

    async def _round(self) -> str | None:
        """Run one round; return why it failed, if it did."""
        began = self._clock.monotonic()
        failed: str | None = None
        try:
            await self._consensus.read_index(timeout_s=self._settings.read_index_timeout_s)
            self.confirmed_at, self._no_quorum_until = began, 0.0
            self._confirmed.append((began, self._consensus.ordered))
        except NotApplied as exc:
            failed = exc.reason
        except TimeoutError:
            failed = "no_quorum"
        self.rounds_total += 1
        if failed is not None:
            self.failed_total += 1
            self._no_quorum_why = failed
            self._no_quorum_until = self._clock.monotonic() + self._settings.quorum_retry_s
        return failed
