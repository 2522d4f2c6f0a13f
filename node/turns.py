"""Let many tasks work in turns: so much in a pass of the loop, then everything else (liveness too) has its turn."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Turns of one kind of work: `budget` of it in a pass, each at a cost of `least` or more. One may cost more."""

    def __init__(self, budget: int, least: int = 1) -> None:
        self._budget, self._least = budget, least
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._spent = 0
        self._due = False
        self.passes_total = 0

    async def take(self, count: int = 1) -> None:
        """Return when work of this cost may be done."""
        cost = max(count, self._least)
        loop = asyncio.get_running_loop()
        if not self._due:
            self._due = True
            loop.call_soon(self._pass, loop)
        if not self._waiting and self._spent < self._budget:
            self._spent += cost
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append((turn, cost))
        await turn

    def _pass(self, loop: asyncio.AbstractEventLoop) -> None:
        self.passes_total += 1
        self._spent = 0
        while self._waiting and self._spent < self._budget:
            turn, cost = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._spent += cost
        self._due = bool(self._spent)
        if self._due:
            loop.call_soon(self._pass, loop)
