"""Measure the tail of the log: how long its oldest unsynced entry has waited for this disk, and how
many bytes of it no quorum holds.

Pure: it never reads a log or a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

MARKS_MAX: Final = 1000
"""Number of points in time that are tracked. When all are used, newer entries get the time of the
newest tracked point, so an age may be too high but never too low.
"""
DISK_PATIENCE: Final = 3.0
"""How long a leader's own disk may be behind the disks of a majority before it resigns, as a
multiple of the longest election time-out.
"""
UNCOMMITTED_BYTES_MAX: Final = 64 << 20
"""Bytes of entries that no quorum holds, above which a leader accepts no commands. The last command
accepted may exceed the limit.
"""


class Unsynced:
    """The times at which the entries were added that are not on this member's disk yet."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque()
        """(last index, time at which they were first noted) of entries added together, oldest
        first.
        """

    def note(self, synced: int, last: int, now: float) -> None:
        """Record the last index on the disk and in the log; call this after either has changed."""
        marks = self._marks
        while marks and marks[0][0] <= synced:
            marks.popleft()
        while marks and marks[-1][0] > last:
            _, since = marks.pop()
            before = marks[-1][0] if marks else synced
            if before < last:  # part of these entries is still in the log
                marks.append((last, since))
                return
        if last > (marks[-1][0] if marks else synced):
            if len(marks) < MARKS_MAX:
                marks.append((last, now))
            else:
                marks[-1] = (last, marks[-1][1])

    def age_s(self, now: float) -> float:
        """Return how many seconds the oldest entry has waited; 0 if none waits."""
        return now - self._marks[0][1] if self._marks else 0.0

    @property
    def oldest(self) -> int | None:
        """The last index of the entries that have waited longest; None: none waits."""
        return self._marks[0][0] if self._marks else None


def steps_aside(unsynced: Unsynced, committed: int, election_max_s: float, now: float) -> bool:
    """Say whether a leader must resign because its disk slows the others down: they have long had
    entries on their disks that its own disk has not.

    While no majority has those entries either, another leader would do no better.
    """
    oldest = unsynced.oldest
    return (
        oldest is not None
        and oldest <= committed
        and unsynced.age_s(now) > DISK_PATIENCE * election_max_s
    )


class Uncommitted:
    """The number of bytes of entries in a leader's log that no quorum is known to hold."""

    def __init__(self) -> None:
        self._entries: deque[tuple[int, int]] = deque()
        self.bytes = 0

    def begin(self, entries: Iterable[tuple[bytes, int, int]]) -> None:
        """Start to count with the uncommitted entries of a new leader."""
        self._entries.clear()
        self.bytes = 0
        for command, index, _ in entries:
            self.add(index, len(command))

    def add(self, index: int, size: int) -> None:
        """Add an appended entry of `size` bytes."""
        self._entries.append((index, size))
        self.bytes += size

    def commit(self, index: int) -> None:
        """Stop counting the entries up to `index`, which are committed."""
        while self._entries and self._entries[0][0] <= index:
            self.bytes -= self._entries.popleft()[1]
