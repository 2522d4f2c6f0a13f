"""Define what may go wrong with a call of a store in memory, and when.

It decides nothing by itself: a test or the simulation provides the `Faults`.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeAlias

import msgspec


class Lands(msgspec.Struct, frozen=True):
    """The fate of a transaction that runs, and whose answer arrives."""


class Fails(msgspec.Struct, frozen=True):
    """The fate of a transaction that is rolled back, and whose caller learns it:
    BackendUnavailable.
    """


class AnswerLost(msgspec.Struct, frozen=True):
    """The fate of a transaction whose answer is lost: OutcomeUnknown. It runs after this many
    seconds of loop time; None: never.
    """

    lands_after_s: float | None


Fate: TypeAlias = Lands | Fails | AnswerLost


class Faults(Protocol):
    """The source of faults for the calls of a MemoryStore.

    `call` is the port's method name, `session` the name given to the MemoryStore.

    A delay is awaited on the loop and counts against the call's `timeout_s`: one that is too long
    before the transaction is BackendUnavailable, one that is too long after a write's transaction
    is OutcomeUnknown.
    """

    async def before(self, session: str, call: str) -> None:
        """Delay the request, or raise BackendUnavailable: nothing happened."""
        ...

    def fate(self, session: str, call: str) -> Fate:
        """Return how a write ends. It is not called for calls that only read."""
        ...

    async def after(self, session: str, call: str) -> None:
        """Delay the answer."""
        ...


class NoFaults:
    """The faults of a store that has none: every write lands at once."""

    async def before(self, session: str, call: str) -> None:
        """Yield to the event loop once."""
        # without it a call would complete within one step of the loop, as no real store does
        await asyncio.sleep(0)

    def fate(self, session: str, call: str) -> Fate:
        """Let the write land."""
        return Lands()

    async def after(self, session: str, call: str) -> None:
        """Do nothing."""
