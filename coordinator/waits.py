"""Keep the waits of this member's clients, each for the outcome of one attempt, and bring it to all who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from kv.errors import OutcomeUnknown
from kv.model import Answer, Recorded

Attempt: TypeAlias = tuple[str, bytes]
"""op_id and body hash."""

SWEEP_MIN: Final = 1024
"""Waits that are kept without a look at who gave up."""


class Wait(NamedTuple):
    """One client's wait for an attempt."""

    attempt: Attempt
    answered: asyncio.Future[Answer]

    def fail(self, exc: Exception) -> None:
        fail(self.answered, exc)


class Waits:
    """All waits of one member. Those that their callers gave up are forgotten whenever the number has doubled."""

    def __init__(self) -> None:
        self._waiting: dict[Attempt, list[asyncio.Future[Answer]]] = {}
        self._sweep_at = SWEEP_MIN

    def __len__(self) -> int:
        """Return how many attempts are waited for."""
        return len(self._waiting)

    def attempts(self) -> list[Attempt]:
        return list(self._waiting)

    def add(self, attempt: Attempt) -> Wait:
        if len(self._waiting) > self._sweep_at:
            self._sweep()
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(attempt, []).append(answered)
        return Wait(attempt, answered)

    def drop(self, wait: Wait) -> None:
        waiting = self._waiting.get(wait.attempt)
        if waiting is not None and wait.answered in waiting:
            waiting.remove(wait.answered)
            if not waiting:
                del self._waiting[wait.attempt]

    def answer(self, attempt: Attempt, answer: Answer) -> None:
        for answered in self._waiting.pop(attempt, ()):
            if not answered.done():
                answered.set_result(answer)

    def answer_records(self, first: int, records: Iterable[Recorded]) -> None:
        """Answer by what was recorded at revision `first` and those after it."""
        waiting = self._waiting
        if not waiting:
            return
        for revision, record in enumerate(records, first):
            if (record.op_id, record.body_hash) in waiting:
                self.answer((record.op_id, record.body_hash), Answer(revision, record.outcome))

    def end(self, why: str) -> None:
        """Tell all who still wait that they will not hear their outcome here."""
        while self._waiting:
            (op_id, _), waiting = self._waiting.popitem()
            for answered in waiting:
                fail(answered, OutcomeUnknown(why, op_id=op_id))

    def _sweep(self) -> None:
        for attempt, waiting in list(self._waiting.items()):
            left = [answered for answered in waiting if not answered.done()]
            if left:
                self._waiting[attempt] = left
            else:
                del self._waiting[attempt]
        self._sweep_at = max(SWEEP_MIN, 2 * len(self._waiting))


def fail(answered: asyncio.Future[Answer], exc: Exception) -> None:
    """Fail a wait, unless it has ended; its caller may have given up."""
    if not answered.done():
        answered.set_exception(exc)
        answered.exception()  # marks it retrieved
