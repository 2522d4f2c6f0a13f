"""Confirm with a quorum (ReadIndex) that this node may read at its own position.

Linearizable reads that arrive before a round begins share it: load makes rounds larger, not more
frequent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from kv.errors import NotApplied
from kv.ports import Clock, Consensus
from node.http.steps import Told, in_task
from node.settings import ServerSettings

ROUNDS_REMEMBERED: Final = 16
"""Successful rounds kept to bound the age of settled versions."""
LEADER_CHANGES: Final = frozenset({"no_leader", "not_leader", "not_taken_over", "deposed"})
"""Reasons of a failed round that pass by themselves once the next leader serves."""
CHANGE_PAUSE_S: Final = 0.02
"""Pause before a read asks again while there is no leader."""


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
        self._arrived: list[Told[str | None]] = []
        self._under_way = False
        self._closed = False
        self.confirmed_at: float | None = None
        """When the newest successful round began, in loop time."""
        self._confirmed: deque[tuple[float, int]] = deque(maxlen=ROUNDS_REMEMBERED)
        """(start time, newest revision ordered here at its end) of successful rounds, newest last.
        """
        self._no_quorum_until = 0.0
        self._no_quorum_why = ""
        self._failing_since: float | None = None
        """When the first of the failed rounds began that no successful one has followed yet."""
        self.rounds_total = 0
        self.failed_total = 0

    def close(self) -> None:
        """Start no further rounds. Later callers of `join` get "draining"."""
        self._closed = True

    def newer_than(self, revision: int) -> float | None:
        """Return the latest known time at which nothing above `revision` was acknowledged yet; None
        if no remembered round proves one.

        Everything acknowledged before a round began is ordered here when the round ends. So a
        version above the revision ordered at that point is at least as new as everything
        acknowledged when the round began.
        """
        for began, ordered in reversed(self._confirmed):
            if ordered <= revision:
                return began
        return None

    async def confirmed_by(self, deadline: float) -> str | None:
        """Await `confirm` until `deadline` (loop time) and return its result. Raises
        NotApplied("timeout") when the deadline comes first.
        """
        left = deadline - self._clock.monotonic()
        # A read waits for at most two rounds, each bounded by the ReadIndex time-out. With more
        # time left than that, the common case needs no timer of its own.
        if left > 2 * self._settings.read_index_timeout_s:
            return await self.confirm()
        await in_task()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                return await self.confirm()
        except TimeoutError as exc:
            raise NotApplied("timeout", "no quorum answered within the time limit") from exc

    async def confirmed_over_change(self, deadline: float) -> str | None:
        """As `confirmed_by`, but while a leader is replaced by another one, ask again, so that a
        hand-over costs a read some milliseconds and no refusal.

        Reads wait like this for `leader_change_s` after the first failed round, all of them
        together. Where there is no leader for longer, the others are refused as soon as before.
        """
        failed = await self.confirmed_by(deadline)
        tries = int(self._settings.leader_change_s / CHANGE_PAUSE_S) + 2
        while failed in LEADER_CHANGES and tries > 0 and self._change_may_end(deadline):
            tries -= 1
            await asyncio.sleep(CHANGE_PAUSE_S)
            # Not `confirm`: it would answer with the failure that is remembered.
            failed = await self.join()
        return failed

    def _change_may_end(self, deadline: float) -> bool:
        since = self._failing_since
        ends = deadline if since is None else min(deadline, since + self._settings.leader_change_s)
        # A round may take its whole time-out, twice for a read that arrives during another's.
        left = deadline - 2 * self._settings.read_index_timeout_s
        return self._clock.monotonic() < min(ends, left)

    def confirm(self) -> Told[str | None]:
        """Return what is told None once a round that began after this call succeeds, or the reason
        of its failure.

        For `quorum_retry_s` after a failed round it resolves at once to that failure. Otherwise
        every read that the store can answer would first wait for an unreachable quorum.
        """
        if self._no_quorum_until and self._clock.monotonic() < self._no_quorum_until:
            told: Told[str | None] = Told()
            told.set_result(self._no_quorum_why)
            return told
        return self.join()

    def join(self) -> Told[str | None]:
        """Return what is told how the next round ends. The round in progress cannot be shared: it
        may have asked the quorum before this read arrived, and the read would miss a write
        acknowledged in between.
        """
        told: Told[str | None] = Told()
        if self._closed:
            told.set_result("draining")
            return told
        self._arrived.append(told)
        if not self._under_way:
            self._under_way = True
            self._tasks.create_task(self._run())
        return told

    async def _run(self) -> None:
        """Run rounds until no read waits for one."""
        try:
            while self._arrived:
                covered, self._arrived = self._arrived, []
                failed = await self._round()
                # Told from no task, each read goes on at once.
                asyncio.get_running_loop().call_soon(tell, covered, failed)
        finally:
            self._under_way = False

    async def _round(self) -> str | None:
        """Run one round; return None, or why it failed."""
        began = self._clock.monotonic()
        failed: str | None = None
        try:
            await self._consensus.read_index(timeout_s=self._settings.read_index_timeout_s)
            self.confirmed_at, self._no_quorum_until, self._failing_since = began, 0.0, None
            self._confirmed.append((began, self._consensus.ordered))
        except NotApplied as exc:
            failed = exc.reason
        except TimeoutError:
            failed = "no_quorum"
        self.rounds_total += 1
        if failed is not None:
            self.failed_total += 1
            self._failing_since = began if self._failing_since is None else self._failing_since
            self._no_quorum_why = failed
            self._no_quorum_until = self._clock.monotonic() + self._settings.quorum_retry_s
        return failed


def tell(covered: list[Told[str | None]], failed: str | None) -> None:
    """Tell reads how the round ended that they waited for."""
    for read in covered:
        read.set_result(failed)
