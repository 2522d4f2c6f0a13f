"""Keep the positions of the ledger's readers in the log, so that every leader knows them (R10)."""

from __future__ import annotations

import asyncio

from coordinator.log import Log
from coordinator.machine.commands import Cursor, encode
from coordinator.machine.machine import Machine


class OrderedCursors:
    """The positions that were ordered. Moving one is a command of the log."""

    def __init__(self, machine: Machine, log: Log, *, holds: bool) -> None:
        """Keep positions if `holds`: a broker has to be told of everything. If not, a reader
        begins at what is settled, and the floor does not wait for it.
        """
        self._machine, self._log, self._holds = machine, log, holds

    def held_at(self, name: str = "broadcast") -> int | None:
        """Return the revision that the floor may not pass for a reader's sake; None: any."""
        return self.ordered(name) if self._holds else None

    def ordered(self, name: str) -> int:
        """Return the newest position of a reader that was ordered and is applied here."""
        return self._machine.book.cursors.get(name, 0)

    async def cursor(self, name: str, *, timeout_s: float) -> int:
        """Return the newest position of a reader that was ordered and is applied here."""
        return self.ordered(name) if self._holds else self._machine.settled.revision

    async def move_cursor(self, name: str, to: int, *, timeout_s: float) -> None:
        """Order a reader's position, once what lies before it is confirmed. Raises TimeoutError,
        NotApplied, OutcomeUnknown.
        """
        if not self._holds:
            return
        async with asyncio.timeout(timeout_s):
            await self._log.propose(encode(Cursor(name, to)))
