"""Let many tasks take turns: a bounded amount of work per pass of the event loop, so that
everything else (liveness too) gets its turn.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """The turns of one kind of work: `budget` units per pass of the event loop. A turn costs at
    least `least`; a single one may cost more than the budget.
    """

    def __init__(self, budget: int, least: int = 1) -> None:
        self._budget, self._least = budget, least
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._spent = 0
        self._due = False
        """A call of `_pass` is scheduled."""
        self.passes_total = 0

    def taken(self, count: int = 1) -> bool:
        """Take a turn of cost `count` in this pass if there is one; False: `wait` for a later
        pass.
        """
        if self._waiting or self._spent >= self._budget:
            return False
        self._spent += max(count, self._least)
        self._look_at_end()
        return True

    async def take(self, count: int = 1) -> None:
        """Wait until work of this cost may be done."""
        if not self.taken(count):
            await self.wait(count)

    async def wait(self, count: int = 1) -> None:
        """Wait for a later pass; turns are given in the order of calls."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, max(count, self._least)))
        self._look_at_end()
        await turn

    def _look_at_end(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._pass)

    def _pass(self) -> None:
        """Begin a new pass. No further pass is scheduled while nobody works, so that the loop can
        sleep.
        """
        self.passes_total += 1
        self._spent = 0
        self._due = False
        while self._waiting and self._spent < self._budget:
            turn, cost = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._spent += cost
        if self._spent:
            self._look_at_end()
