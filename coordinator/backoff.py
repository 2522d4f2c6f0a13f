"""Say how long to wait before the next try: doubling, bounded, jittered. Pure but for the chance it
is given.
"""

from __future__ import annotations

import random


class Backoff:
    """The waits of one row of failures."""

    def __init__(self, chance: random.Random, *, min_s: float, max_s: float) -> None:
        self._chance, self._min_s, self._max_s = chance, min_s, max_s
        self._next_s = min_s

    def reset(self) -> None:
        self._next_s = self._min_s

    def next_s(self) -> float:
        """Return the next wait, between half of it and all of it."""
        wait_s = self._next_s
        self._next_s = min(wait_s * 2, self._max_s)
        return wait_s * (0.5 + self._chance.random() / 2)
