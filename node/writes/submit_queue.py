"""Queue intents and submit them to consensus in groups: all queued intents go as one Raft command
(group commit 1).

An intent that was handed over is never reported "not applied" unless consensus or the recorded
outcome says so. An intent that was not handed over is never reported "unknown".
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, TypeAlias

from kv.branches import ranges_in
from kv.errors import KvError, NotApplied, OutcomeUnknown
from kv.model import Answer, Cancel, Intent
from kv.ports import Clock, Consensus
from node.http.steps import Told

SUBMITS_MAX: Final = 4
"""Submits in flight at a time, at most. While one is ordered and committed, the next one collects
intents, and begins before that only when it is full: each Submit costs every member a round, so few
large ones take less than many small ones.
"""
SUBMIT_INTENTS_MAX: Final = 512
SUBMIT_BYTES_MAX: Final = 1024 * 1024
"""Inline bytes in one Submit; a single larger intent goes alone."""
SUBMIT_RANGES_MAX: Final = 2
"""Ranges in one Submit; a single intent with more goes alone. Every member reads them while it
applies the Submit, up to 10,000 keys each, and does nothing else meanwhile.
"""
SUBMIT_PATIENCE_S: Final = 0.2
"""After this time an unanswered Submit no longer holds back the next one, because its leader may be
gone.
"""
TICK_S: Final = 0.01
"""How long after its deadline an intent may still wait, at most."""
MOVES: Final = frozenset({"not_leader", "deposed"})
"""Refusals by a leader that has just lost the leadership; the next attempt finds the new leader."""
MOVE_PATIENCE_S: Final = 1.0
"""How long an intent is submitted again after such a refusal. Submitting again is safe because the
refusal is definite: the intent is in no log.
"""
MOVE_PAUSE_S: Final = 0.05

Result: TypeAlias = Answer | KvError


class SubmitQueue:
    """The queue of one node's intents that wait to be handed to consensus."""

    def __init__(self, consensus: Consensus, clock: Clock) -> None:
        self._consensus, self._clock = consensus, clock
        self.deadlines = Deadlines()
        self.waiting: deque[QueuedIntent] = deque()
        self._out = 0
        """Submits in flight that still count towards SUBMITS_MAX."""
        self._pumping = False
        self._waiting_bytes = 0
        self.submits_total = 0
        self.intents_total = 0

    def add(self, waiting: QueuedIntent) -> None:
        """Queue an intent. It is submitted together with all others queued in this pass of the
        event loop.
        """
        self.waiting.append(waiting)
        self._waiting_bytes += waiting.size
        if not self._pumping and self._may_submit():
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _may_submit(self) -> bool:
        """Return whether queued intents may go: none is in flight, or they fill a Submit."""
        if self._out == 0:
            return bool(self.waiting)
        full = len(self.waiting) >= SUBMIT_INTENTS_MAX or self._waiting_bytes >= SUBMIT_BYTES_MAX
        return full and self._out < SUBMITS_MAX

    def _pump(self) -> None:
        """Submit queued intents as far as they may go now."""
        self._pumping = False
        while self._may_submit():
            group = self._next_group()
            if group:
                self._submit(group)

    def _next_group(self) -> list[QueuedIntent]:
        group: list[QueuedIntent] = []
        size, ranges, now = 0, 0, self._clock.monotonic()
        while self.waiting and len(group) < SUBMIT_INTENTS_MAX:
            next_ = self.waiting[0]
            if group and (
                size + next_.size > SUBMIT_BYTES_MAX
                or (next_.ranges and ranges + next_.ranges > SUBMIT_RANGES_MAX)
            ):
                break
            waiting = self.waiting.popleft()
            self._waiting_bytes -= waiting.size
            if waiting.result.done():
                continue
            if waiting.deadline <= now:
                waiting.expire()
                continue
            group.append(waiting)
            size += waiting.size
            ranges += waiting.ranges
        return group

    def _submit(self, group: list[QueuedIntent]) -> None:
        now, now_ms = self._clock.monotonic(), self._consensus.now_ms()
        ordered = [
            waiting.with_deadline(
                now_ms + int(max(waiting.deadline - now, waiting.lifetime_s) * 1000)
            )
            for waiting in group
        ]
        for waiting in group:
            waiting.handed = True
        try:
            futures = self._consensus.submit(ordered)
        except NotApplied as exc:
            for waiting in group:
                waiting.end(exc)
            return
        self.submits_total += 1
        self.intents_total += len(group)
        self._out += 1
        current = SubmitSlot(self, len(group))
        for waiting, future in zip(group, futures, strict=True):
            waiting.submit, waiting.queue = current, self
            future.add_done_callback(waiting.answered)

    def again(self, waiting: QueuedIntent) -> None:
        """Queue an intent again after MOVE_PAUSE_S."""
        asyncio.get_running_loop().call_later(MOVE_PAUSE_S, self.add, waiting)

    def release(self) -> None:
        """Free the place of a Submit, and start the next one if intents wait."""
        self._out -= 1
        if not self._pumping and self._may_submit():
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)


class SubmitSlot:
    """The place of one Submit among those in flight. It is held until all its intents are answered,
    or for SUBMIT_PATIENCE_S.
    """

    __slots__ = ("_left", "_queue", "_timer")

    def __init__(self, queue: SubmitQueue, count: int) -> None:
        self._queue, self._left = queue, count
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            SUBMIT_PATIENCE_S, self._give_up
        )

    def answered(self) -> None:
        """Count an answered intent; the last one frees the place."""
        self._left -= 1
        if self._left == 0 and self._timer is not None:
            self._timer.cancel()
            self._give_up()

    def _give_up(self) -> None:
        self._timer = None
        self._queue.release()


class Deadlines:
    """The deadlines of waiting intents: one timer for all that end within a tick.

    Almost every intent is answered long before its deadline, so a timer for each would be made to
    be cancelled.
    """

    def __init__(self) -> None:
        self._ticks: dict[int, dict[QueuedIntent, None]] = {}
        """The intents that wait, by the number of the tick in which their deadline lies."""

    def __len__(self) -> int:
        """Return the number of ticks that have a timer."""
        return len(self._ticks)

    def add(self, waiting: QueuedIntent) -> dict[QueuedIntent, None]:
        """Call `expire` at the deadline, at most TICK_S later. Returns what the intent must be
        removed from when it is answered.
        """
        number = int(waiting.deadline / TICK_S) + 1
        tick = self._ticks.get(number)
        if tick is None:
            tick = self._ticks[number] = {}
            asyncio.get_running_loop().call_at(number * TICK_S, self._passed, number)
        tick[waiting] = None
        return tick

    def _passed(self, number: int) -> None:
        for waiting in list(self._ticks.pop(number)):
            waiting.expire()


class QueuedIntent:
    """An intent that waits for its outcome. Its `result` never fails: it is an Answer or a
    KvError.
    """

    __slots__ = (
        "_patient_until",
        "_tick",
        "deadline",
        "handed",
        "intent",
        "lifetime_s",
        "queue",
        "ranges",
        "result",
        "size",
        "submit",
    )  # fmt: skip

    def __init__(
        self,
        intent: Intent | Cancel,
        size: int,
        deadline: float,
        lifetime_s: float,
        deadlines: Deadlines,
    ) -> None:
        self.intent, self.size = intent, size
        self.ranges = 0 if isinstance(intent, Cancel) else ranges_in(intent)
        self.deadline, self.lifetime_s = deadline, lifetime_s
        self.result: Told[Result] = Told()
        self.handed = False
        self.submit: SubmitSlot | None = None
        self.queue: SubmitQueue | None = None
        self._patient_until: float | None = None
        self._tick = deadlines.add(self)

    def with_deadline(self, deadline_ms: int) -> Intent | Cancel:
        """Return the intent with this deadline in log time. A Cancel has no deadline and is
        returned as it is.
        """
        intent = self.intent
        if isinstance(intent, Cancel):
            return intent
        return Intent(
            intent.op_id, deadline_ms, intent.guards, intent.writes, intent.otherwise, intent.reads
        )

    def answered(self, future: asyncio.Future[Answer]) -> None:
        """Take the outcome from consensus. It is called for every intent that was handed over, even
        when its client no longer waits.
        """
        if self.submit is not None:
            self.submit.answered()
        if future.cancelled():
            self.end(
                OutcomeUnknown("the wait for the outcome was broken off", op_id=self.intent.op_id)
            )
            return
        error = future.exception()
        if error is None:
            self.end(future.result())
        elif isinstance(error, NotApplied) and error.reason in MOVES and self._may_go_again():
            self.handed = False
            assert self.queue is not None
            self.queue.again(self)
        elif isinstance(error, NotApplied | OutcomeUnknown):
            self.end(error)
        else:
            self.end(OutcomeUnknown(f"{type(error).__name__}: {error}", op_id=self.intent.op_id))

    def _may_go_again(self) -> bool:
        """Return whether the client still waits and the retries after lost leaderships have lasted
        less than MOVE_PATIENCE_S.
        """
        now = asyncio.get_running_loop().time()
        if self._patient_until is None:
            self._patient_until = now + MOVE_PATIENCE_S
        return not self.result.done() and now + MOVE_PAUSE_S < min(
            self.deadline, self._patient_until
        )

    def expire(self) -> None:
        """End the wait at the deadline: unknown if the intent was handed over, otherwise definitely
        not applied.
        """
        if self.handed:
            self.end(OutcomeUnknown("no outcome was heard in time", op_id=self.intent.op_id))
        else:
            self.end(NotApplied("timeout", "it waited for its turn until its time was out"))

    def end(self, result: Result) -> None:
        """Resolve the result, unless it is already resolved."""
        if not self.result.done():
            self._tick.pop(self, None)
            self.result.set_result(result)

    def leave(self) -> None:
        """Stop waiting. An intent that is still queued is then never handed over."""
        self._tick.pop(self, None)
        self.result.cancel()
