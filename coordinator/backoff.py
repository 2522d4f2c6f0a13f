"""Compute how long to wait before the next try: doubling, bounded, jittered.

Pure, except for the random number generator that it is given.
"""

from __future__ import annotations

import random


class Backoff:
    """The waits between attempts at something that keeps failing."""

    def __init__(self, rng: random.Random, *, min_s: float, max_s: float) -> None:
        self._rng, self._min_s, self._max_s = rng, min_s, max_s
        self._next_s = min_s

    def reset(self) -> None:
        """Start again with the shortest wait, after a success."""
        self._next_s = self._min_s

    def next_s(self) -> float:
        """Return the next wait: a random time between half of the current bound and all of it."""
        wait_s = self._next_s
        self._next_s = min(wait_s * 2, self._max_s)
        return wait_s * (0.5 + self._rng.random() / 2)
