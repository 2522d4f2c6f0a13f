"""Keep the waits of this member's clients, each for the outcome of one attempt, and resolve them.

A wait whose client gave up never delays another one.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Final, TypeAlias

from coordinator.machine.pending import Pending
from kv.errors import OutcomeUnknown
from kv.model import (
    NODE_OP_ID_PREFIX,
    Again,
    Answer,
    Applied,
    Cancel,
    Expired,
    Intent,
    Outcome,
    Recorded,
    Refused,
)

Attempt: TypeAlias = tuple[str, bytes]
"""The op_id and the body hash."""

SWEEP_MIN: Final = 1024
"""Up to this many op_ids are kept without checking for waits that were given up."""


class Wait:
    """A client's wait for the outcome of an attempt.

    `own` is True if the attempt was the first with its op_id when it was ordered here, and False if
    an earlier one was pending. It is None until the attempt is ordered here: an outcome recorded
    before that belongs to an earlier attempt.
    """

    __slots__ = ("answered", "attempt", "deadline_ms", "own")

    def __init__(self, intent: Intent | Cancel) -> None:
        self.attempt: Attempt = (intent.op_id, intent.body_hash)
        self.deadline_ms = intent.deadline_ms if type(intent) is Intent else 0
        """Distinguishes attempts with the same op_id, because each sets its own deadline."""
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.own: bool | None = None

    def fail(self, exc: Exception) -> None:
        """End the wait without an outcome."""
        fail(self.answered, exc)


class Waits:
    """All waits of one member. Those that were given up are removed whenever their number has
    doubled.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Wait]] = {}
        """The waits by op_id."""
        self._sweep_at = SWEEP_MIN

    def __len__(self) -> int:
        """Return the number of op_ids that are waited for."""
        return len(self._waiting)

    def attempts(self) -> list[Attempt]:
        """Return the attempts that are waited for, each once."""
        return list(
            dict.fromkeys(wait.attempt for waiting in self._waiting.values() for wait in waiting)
        )

    def add(self, intent: Intent | Cancel) -> Wait:
        """Start waiting for the outcome of an attempt."""
        if len(self._waiting) > self._sweep_at:
            self._sweep()
        wait = Wait(intent)
        self._waiting.setdefault(intent.op_id, []).append(wait)
        return wait

    def drop(self, wait: Wait) -> None:
        """Remove a wait that has ended without an outcome."""
        self._keep(
            wait.attempt[0],
            [other for other in self._waiting.get(wait.attempt[0], ()) if other is not wait],
        )

    def ordered(
        self, intents: Iterable[Intent | Cancel], after: int, pending: Mapping[int, Pending]
    ) -> None:
        """Note that a Submit was applied here: its intents with revisions above `after` are
        pending; the others met an earlier attempt with their op_id.
        """
        revision = after + 1
        for intent in intents:
            entry = pending.get(revision)
            first = entry is not None and entry.intent is intent
            if first:
                revision += 1
            deadline_ms = intent.deadline_ms if type(intent) is Intent else 0
            for wait in self._waiting.get(intent.op_id, ()):
                if wait.own is None and wait.deadline_ms == deadline_ms:
                    wait.own = first

    def forget_order(self) -> None:
        """Mark every attempt as the first of its op_id: a snapshot replaced the commands that would
        show whether it is.
        """
        for waiting in self._waiting.values():
            for wait in waiting:
                wait.own = True

    def answer(self, attempt: Attempt, answer: Answer) -> None:
        """Resolve all waits for an attempt with its answer."""
        for wait in self._taken(attempt):
            if not wait.answered.done():
                wait.answered.set_result(answer)

    def answer_records(self, first: int, records: Iterable[Recorded]) -> None:
        """Answer the waits by a group's records, the first of which is of revision `first`."""
        if not self._waiting:
            return
        for revision, record in enumerate(records, first):
            op_id, attempt = record.op_id, (record.op_id, record.body_hash)
            waiting = self._waiting.get(op_id)
            if waiting is None:
                continue
            if len(waiting) == 1 and waiting[0].attempt == attempt:  # as most do
                del self._waiting[op_id]
            else:
                waiting = self._taken(attempt)
            for wait in waiting:
                if not wait.answered.done():
                    wait.answered.set_result(
                        Answer(revision, _as_heard(wait, revision, record.outcome))
                    )

    def refuse(self, op_id: str, exc: Exception) -> None:
        """Fail all waits for an op_id: no attempt of it was ordered."""
        for wait in self._waiting.pop(op_id, ()):
            wait.fail(exc)

    def end(self, why: str) -> None:
        """Fail all remaining waits with OutcomeUnknown: this member will not learn their
        outcome.
        """
        while self._waiting:
            op_id, waiting = self._waiting.popitem()
            for wait in waiting:
                wait.fail(OutcomeUnknown(why, op_id=op_id))

    def _taken(self, attempt: Attempt) -> list[Wait]:
        waiting = self._waiting.get(attempt[0], [])
        self._keep(attempt[0], [wait for wait in waiting if wait.attempt != attempt])
        return [wait for wait in waiting if wait.attempt == attempt]

    def _keep(self, op_id: str, left: list[Wait]) -> None:
        if left:
            self._waiting[op_id] = left
        else:
            self._waiting.pop(op_id, None)

    def _sweep(self) -> None:
        for op_id, waiting in list(self._waiting.items()):
            self._keep(op_id, [wait for wait in waiting if not wait.answered.done()])
        self._sweep_at = max(SWEEP_MIN, 2 * len(self._waiting))


def _as_heard(wait: Wait, revision: int, outcome: Outcome) -> Outcome:
    """Return the outcome for this attempt: *again* when it is an earlier attempt's with the same
    op_id.

    An op_id made by a node is used only once, so its outcome stays as it is.
    """
    repeated = not wait.own and not wait.attempt[0].startswith(NODE_OP_ID_PREFIX)
    return (
        Again(revision, outcome)
        if repeated and isinstance(outcome, Applied | Refused | Expired)
        else outcome
    )


class RevisionWaits:
    """The waits for settled revisions. Those that were given up are removed once they are more than
    half of all.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count(1)
        self._given_up = 0

    def __len__(self) -> int:
        """Return the number of waits kept, those given up included: at most twice the number of
        live ones plus `SWEEP_MIN`.
        """
        return len(self._heap)

    async def wait(self, revision: int, *, timeout_s: float) -> None:
        """Return once `reached` was called with that revision or a later one. Raises
        TimeoutError.
        """
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._heap, (revision, next(self._numbers), reached))
        try:
            async with asyncio.timeout(timeout_s):
                await reached
        finally:
            if not reached.done() or reached.cancelled():
                reached.cancel()
                self._given_up += 1
                if self._given_up * 2 > len(self._heap) + SWEEP_MIN:
                    self._heap = [wait for wait in self._heap if not wait[2].done()]
                    heapq.heapify(self._heap)
                    self._given_up = 0

    def reached(self, revision: int) -> None:
        """Wake the waits for this revision and for earlier ones."""
        while self._heap and self._heap[0][0] <= revision:
            _, _, reached = heapq.heappop(self._heap)
            if reached.cancelled():
                self._given_up -= 1
            elif not reached.done():
                reached.set_result(None)


def fail(answered: asyncio.Future[Answer], exc: Exception) -> None:
    """Fail a wait unless it has ended already: its caller may have given up."""
    if not answered.done():
        answered.set_exception(exc)
        # marks it retrieved: else the loop reports an exception that nobody waits for
        answered.exception()
