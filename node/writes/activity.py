"""Count what a node acknowledged: how many writes, how long they took, and when they waited long.

It holds figures only, and never anything of a key.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Final

import msgspec

BOUNDS_MS: Final = tuple(round(0.25 * 1.25**n, 3) for n in range(48))
"""Upper bounds of the buckets in milliseconds: 0.25 ms to 9 s, each a quarter above the one before,
so that a percentile read from them is at most a quarter too high.
"""
LONG_S: Final = 0.15
"""A write that was acknowledged after a longer time waited for something: a leader, a quorum."""
WAITS_MAX: Final = 32


class WriteWait(msgspec.Struct, frozen=True):
    """A time in which writes waited long, and were acknowledged in the end."""

    ended_ms: int
    """By the wall clock of the node."""
    lasted_ms: int
    """From the beginning of the first of them until the last of them was acknowledged."""
    writes: int


class WriteActivity:
    """What one node acknowledged since it started."""

    __slots__ = ("_began", "buckets", "total", "waits")

    def __init__(self) -> None:
        self.total = 0
        """Writes acknowledged to this node's clients as applied, not counting repetitions
        (`Again`).
        """
        self.buckets = [0] * (len(BOUNDS_MS) + 1)
        self.waits: deque[WriteWait] = deque(maxlen=WAITS_MAX)
        """The newest times in which writes waited long, oldest first."""
        self._began = (0.0, 0.0)
        """When the newest of them began and ended, by the monotonic clock."""

    def note(self, began: float, now: float, wall_ms: int) -> None:
        """Count a write that began at `began` and is acknowledged `now` (monotonic seconds)."""
        self.total += 1
        seconds = now - began
        self.buckets[bisect_left(BOUNDS_MS, seconds * 1000)] += 1
        if seconds > LONG_S:
            self._note_long(began, now, wall_ms)

    def _note_long(self, began: float, now: float, wall_ms: int) -> None:
        """Count a long wait; one that overlaps the newest is a part of it."""
        first, last = self._began
        writes = 1
        if self.waits and began <= last:
            began, writes = min(first, began), self.waits.pop().writes + 1
        self._began = (began, now)
        self.waits.append(WriteWait(wall_ms, int((now - began) * 1000), writes))
