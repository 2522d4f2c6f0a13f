"""Remember which revision touched each key last, and up to which revision that is forgotten
(INV-5).

Pure and bounded. It never forgets an entry without raising the floor to that entry's revision, so
an answer can only err towards "refresh".
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice


class Recent:
    """For each key the revision of the newest *ordered* intent that may write it, oldest touch
    first, and the floor: what was forgotten lies at or below it.
    """

    __slots__ = ("_last", "_max", "floor")

    def __init__(self, entries_max: int) -> None:
        self._last: dict[bytes, int] = {}
        self._max = entries_max
        self.floor = 0

    def __len__(self) -> int:
        return len(self._last)

    def bound(self, entries_max: int) -> None:
        """Keep to another bound from here on, and forget what is over it."""
        self._max = entries_max
        if len(self._last) > self._max:
            self._forget()

    def touch(self, key: bytes, revision: int) -> None:
        """Note that `revision` may write `key`. Revisions come in rising order."""
        last = self._last
        last.pop(key, None)  # moves the key to the young end
        last[key] = revision
        if len(last) > self._max:
            self._forget()

    def touched(self, key: bytes) -> int:
        """Return max(last[key], floor): no intent touched the key after that revision."""
        return max(self._last.get(key, 0), self.floor)

    def last(self, key: bytes) -> int | None:
        """Return the revision remembered for the key alone."""
        return self._last.get(key)

    def raise_floor(self, to: int) -> None:
        """Let no entry from before `to` hold, whatever its key."""
        self.floor = max(self.floor, to)

    def entries(self) -> dict[bytes, int]:
        """Return a copy, oldest first."""
        return self._last.copy()

    def restore(self, entries: Iterable[tuple[bytes, int]], floor: int) -> None:
        """Take the place of all entries (oldest first) and of the floor."""
        self._last = dict(entries)
        self.floor = floor
        if len(self._last) > self._max:
            self._forget()

    def clear(self) -> None:
        """Forget all, the floor too: the machine begins again."""
        self._last = {}
        self.floor = 0

    def _forget(self) -> None:
        """Drop the oldest entries, some at once: taking a dict's first entry again and again is
        quadratic.
        """
        for key in list(islice(self._last, len(self._last) - self._max + self._max // 16)):
            self._forgot(self._last.pop(key))

    def _forgot(self, revision: int) -> None:
        """Raise the floor to a forgotten entry's revision: else its key would seem untouched."""
        self.raise_floor(revision)
