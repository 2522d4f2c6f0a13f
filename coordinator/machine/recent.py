"""Remember the revision that touched each key last, and each range as a whole, and a floor for what
was forgotten (INV-5).

Pure and bounded. An entry is never forgotten without raising the floor to its revision, so an
answer can only err towards "refresh".
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final, TypeAlias

from kv.branches import within

RANGES_MAX: Final = 64
"""The number of ranges that are remembered: each is compared with every key that is asked for."""
Range: TypeAlias = tuple[bytes, bytes, int]
"""(begin, end, revision): a range as `kv.model.DeleteRange` names it, and what touched it."""


class Recent:
    """For each key the revision of the newest *ordered* intent that may write it, oldest touch
    first, and the same for whole ranges, plus the floor: every forgotten revision is at or below
    it.
    """

    __slots__ = ("_last", "_max", "floor", "ranges")

    def __init__(self, entries_max: int) -> None:
        self._last: dict[bytes, int] = {}
        self._max = entries_max
        self.floor = 0
        self.ranges: tuple[Range, ...] = ()
        """The ranges that were touched last, oldest first; never changed in place."""

    def __len__(self) -> int:
        return len(self._last)

    def bound(self, entries_max: int) -> None:
        """Change the bound, and forget the entries that exceed it."""
        self._max = entries_max
        if len(self._last) > self._max:
            self._forget()

    def touch(self, key: bytes, revision: int) -> None:
        """Record that `revision` may write `key`. Revisions must come in rising order."""
        last = self._last
        last.pop(key, None)  # moves the key to the young end
        last[key] = revision
        if len(last) > self._max:
            self._forget()

    def touch_range(self, begin: bytes, end: bytes, revision: int) -> None:
        """Record that `revision` may write any key of a range. Revisions must come in rising
        order.
        """
        kept = [each for each in self.ranges if each[:2] != (begin, end) and each[2] > self.floor]
        if len(kept) >= RANGES_MAX:
            self._forgot(kept.pop(0)[2])
        self.ranges = (*kept, (begin, end, revision))

    def touched(self, key: bytes) -> int:
        """Return max(last[key], that of each range around it, floor): no intent touched the key
        after that revision.
        """
        found = max(self._last.get(key, 0), self.floor)
        for begin, end, revision in self.ranges:
            if revision > found and within(key, begin, end):
                found = revision
        return found

    def last(self, key: bytes) -> int | None:
        """Return the revision remembered for the key itself, without ranges and floor."""
        return self._last.get(key)

    def raise_floor(self, to: int) -> None:
        """Invalidate every cached entry older than `to`, whatever its key."""
        self.floor = max(self.floor, to)

    def entries(self) -> dict[bytes, int]:
        """Return a copy of the entries, oldest first."""
        return self._last.copy()

    def restore(
        self, entries: Iterable[tuple[bytes, int]], floor: int, ranges: Iterable[Range] = ()
    ) -> None:
        """Replace all entries and ranges (given oldest first), and the floor."""
        self._last = dict(entries)
        self.floor = floor
        self.ranges = tuple(ranges)
        if len(self._last) > self._max:
            self._forget()

    def clear(self) -> None:
        """Forget all entries and reset the floor: the machine starts from scratch."""
        self._last = {}
        self.floor = 0
        self.ranges = ()

    def _forget(self) -> None:
        """Drop the oldest entries, 1/16 of the bound at a time: removing the first entry of a dict
        again and again takes quadratic time.
        """
        for key in list(islice(self._last, len(self._last) - self._max + self._max // 16)):
            self._forgot(self._last.pop(key))

    def _forgot(self, revision: int) -> None:
        """Raise the floor to the revision of a forgotten entry: else its key would seem
        untouched.
        """
        self.raise_floor(revision)
