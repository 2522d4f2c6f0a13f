"""Say how long to wait before the next try: doubling, bounded, jittered.

Pure but for the generator of random numbers that it is given.
"""

from __future__ import annotations

import random


class Backoff:
    """The waits between the tries of something that fails again and again."""

    def __init__(self, rng: random.Random, *, min_s: float, max_s: float) -> None:
        self._rng, self._min_s, self._max_s = rng, min_s, max_s
        self._next_s = min_s

    def reset(self) -> None:
        """Begin with the shortest wait again: it worked."""
        self._next_s = self._min_s

    def next_s(self) -> float:
        """Return the next wait, between half of it and all of it."""
        wait_s = self._next_s
        self._next_s = min(wait_s * 2, self._max_s)
        return wait_s * (0.5 + self._rng.random() / 2)
