"""Queue intents and hand them to consensus in groups: all that is queued goes as one Raft command
(group commit 1).

It never says "not applied" of an intent that was handed over, unless consensus or the recorded
outcome says so; it never says "unknown" of one that was not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, TypeAlias

from kv.errors import KvError, NotApplied, OutcomeUnknown
from kv.model import Answer, Cancel, Intent
from kv.ports import Clock, Consensus

SUBMITS_MAX: Final = 2
"""Submits on their way at a time: while one is ordered and committed the next collects."""
SUBMIT_INTENTS_MAX: Final = 512
SUBMIT_BYTES_MAX: Final = 1024 * 1024
"""Inline bytes in one Submit; a single larger intent goes alone."""
SUBMIT_PATIENCE_S: Final = 0.2
"""A Submit unanswered for so long no longer holds back the next: its leader may be gone."""
MOVES: Final = frozenset({"not_leader", "deposed"})
"""Refusals that speak of a leader that has just given way: the next attempt finds the new one."""
MOVE_PATIENCE_S: Final = 1.0
"""How long an intent is handed over again after such a refusal, which is definite: nothing is in
any log.
"""
MOVE_PAUSE_S: Final = 0.05

Result: TypeAlias = Answer | KvError


class SubmitQueue:
    """The intents of one node that wait to be handed to consensus."""

    def __init__(self, consensus: Consensus, clock: Clock) -> None:
        self._consensus, self._clock = consensus, clock
        self.waiting: deque[QueuedIntent] = deque()
        self._out = 0
        """Submits on their way that hold their place."""
        self._pumping = False
        self.submits_total = 0
        self.intents_total = 0

    def add(self, waiting: QueuedIntent) -> None:
        """Queue an intent. It goes with all others that come in this pass of the loop."""
        self.waiting.append(waiting)
        if not self._pumping and self._out < SUBMITS_MAX:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Hand over what is queued, while there is room for another Submit."""
        self._pumping = False
        while self.waiting and self._out < SUBMITS_MAX:
            group = self._next_group()
            if group:
                self._submit(group)

    def _next_group(self) -> list[QueuedIntent]:
        group: list[QueuedIntent] = []
        size, now = 0, self._clock.monotonic()
        while self.waiting and len(group) < SUBMIT_INTENTS_MAX:
            if group and size + self.waiting[0].size > SUBMIT_BYTES_MAX:
                break
            waiting = self.waiting.popleft()
            if waiting.result.done():
                continue
            if waiting.deadline <= now:
                waiting.expire()
                continue
            group.append(waiting)
            size += waiting.size
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
        """Hand an intent over once more, a moment later."""
        asyncio.get_running_loop().call_later(MOVE_PAUSE_S, self.add, waiting)

    def release(self) -> None:
        """Let the next Submit go."""
        self._out -= 1
        if self.waiting and not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)


class SubmitSlot:
    """One Raft command on its way. It holds its place until all its intents are answered, or its
    patience ends.
    """

    __slots__ = ("_left", "_queue", "_timer")

    def __init__(self, queue: SubmitQueue, count: int) -> None:
        self._queue, self._left = queue, count
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            SUBMIT_PATIENCE_S, self._give_up
        )

    def answered(self) -> None:
        """Count an answered intent; the last one gives the Submit's place free."""
        self._left -= 1
        if self._left == 0 and self._timer is not None:
            self._timer.cancel()
            self._give_up()

    def _give_up(self) -> None:
        self._timer = None
        self._queue.release()


class QueuedIntent:
    """An intent and whoever waits for it. Its `result` never fails: it brings an Answer or an
    KvError.
    """

    __slots__ = (
        "_patient_until",
        "_timer",
        "deadline",
        "handed",
        "intent",
        "lifetime_s",
        "queue",
        "result",
        "size",
        "submit",
    )  # fmt: skip

    def __init__(
        self, intent: Intent | Cancel, size: int, deadline: float, lifetime_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        self.intent, self.size = intent, size
        self.deadline, self.lifetime_s = deadline, lifetime_s
        self.result: asyncio.Future[Result] = loop.create_future()
        self.handed = False
        self.submit: SubmitSlot | None = None
        self.queue: SubmitQueue | None = None
        self._patient_until: float | None = None
        self._timer = loop.call_at(deadline, self.expire)

    def with_deadline(self, deadline_ms: int) -> Intent | Cancel:
        """Return the intent with its deadline in log time. A Cancel has none."""
        intent = self.intent
        if isinstance(intent, Cancel):
            return intent
        return Intent(
            intent.op_id, deadline_ms, intent.guards, intent.writes, intent.otherwise, intent.reads
        )

    def answered(self, future: asyncio.Future[Answer]) -> None:
        """Take what consensus says. Called for every intent that was handed over, also when nobody
        waits any more.
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
        """Say whether somebody still waits, and a leader that gives way has not been met for too
        long.
        """
        now = asyncio.get_running_loop().time()
        if self._patient_until is None:
            self._patient_until = now + MOVE_PATIENCE_S
        return not self.result.done() and now + MOVE_PAUSE_S < min(
            self.deadline, self._patient_until
        )

    def expire(self) -> None:
        """Say what is true when time is out: unknown once handed over, else definitely not
        applied.
        """
        if self.handed:
            self.end(OutcomeUnknown("no outcome was heard in time", op_id=self.intent.op_id))
        else:
            self.end(NotApplied("timeout", "it waited for its turn until its time was out"))

    def end(self, result: Result) -> None:
        """Bring the result, unless there is one."""
        if not self.result.done():
            self.result.set_result(result)
            self._timer.cancel()

    def leave(self) -> None:
        """Stop waiting. What was not handed over yet never will be."""
        self._timer.cancel()
        self.result.cancel()
