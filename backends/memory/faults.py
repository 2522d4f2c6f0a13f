"""Say what may go wrong with a call of a store in memory, and when.

It decides nothing by itself: a test or the simulation brings the `Faults`.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeAlias

import msgspec


class Lands(msgspec.Struct, frozen=True):
    """The transaction runs, and its answer is heard."""


class Fails(msgspec.Struct, frozen=True):
    """The transaction is rolled back, and that is heard: BackendUnavailable."""


class AnswerLost(msgspec.Struct, frozen=True):
    """The answer is lost: OutcomeUnknown. The transaction runs after so many seconds of loop time;
    None: never.
    """

    lands_after_s: float | None


Fate: TypeAlias = Lands | Fails | AnswerLost


class Faults(Protocol):
    """What decides what goes wrong.

    `call` is the port's method name, `session` the name given to the MemoryStore.

    A delay is awaited on the loop. It counts against the call's `timeout_s`: too long before the
    transaction is BackendUnavailable, too long after a write's is OutcomeUnknown.
    """

    async def before(self, session: str, call: str) -> None:
        """Delay the request, or raise BackendUnavailable: nothing happened."""
        ...

    def fate(self, session: str, call: str) -> Fate:
        """Say how a write ends. Not asked for calls that only read."""
        ...

    async def after(self, session: str, call: str) -> None:
        """Delay the answer."""
        ...


class NoFaults:
    """The faults of a store that has none: everything lands at once."""

    async def before(self, session: str, call: str) -> None:
        """Go round the loop once."""
        await asyncio.sleep(0)  # no real store answers without the loop going round

    def fate(self, session: str, call: str) -> Fate:
        """Let it land."""
        return Lands()

    async def after(self, session: str, call: str) -> None:
        """Do nothing."""
