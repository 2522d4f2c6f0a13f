"""Account for the log's tail: how long its oldest entry has waited for this disk, how much of it no
quorum has.

Pure: it never reads a log or a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

MARKS_MAX: Final = 1000
"""Moments that are kept apart; beyond them what is newer is dated back to the newest kept: too old,
never too young.
"""
DISK_PATIENCE: Final = 3.0
"""Longest election time-outs that a leader's own disk may be behind those of a majority, before it
steps aside.
"""
UNCOMMITTED_BYTES_MAX: Final = 64 << 20
"""Bytes of entries that no quorum has; a leader orders no more meanwhile. One command may overshoot
it.
"""


class Unsynced:
    """When entries were added that are not on this member's disk yet."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque()
        """(last index, since when at the latest) of entries added together, oldest first."""

    def note(self, synced: int, last: int, now: float) -> None:
        """Take in where the disk and the log stand: called after whatever changes either."""
        marks = self._marks
        while marks and marks[0][0] <= synced:
            marks.popleft()
        while marks and marks[-1][0] > last:
            _, since = marks.pop()
            before = marks[-1][0] if marks else synced
            if before < last:  # the rest of them was cut
                marks.append((last, since))
                return
        if last > (marks[-1][0] if marks else synced):
            if len(marks) < MARKS_MAX:
                marks.append((last, now))
            else:
                marks[-1] = (last, marks[-1][1])

    def age_s(self, now: float) -> float:
        """Return for how many seconds the oldest entry has waited; 0: none waits."""
        return now - self._marks[0][1] if self._marks else 0.0

    @property
    def oldest(self) -> int | None:
        """The last of the entries that have waited longest."""
        return self._marks[0][0] if self._marks else None


def steps_aside(unsynced: Unsynced, committed: int, election_max_s: float, now: float) -> bool:
    """Say whether a leader hinders the others: they have had on their disks for long what its own
    has not.

    While no majority has it either, nobody else would do better.
    """
    oldest = unsynced.oldest
    return (
        oldest is not None
        and oldest <= committed
        and unsynced.age_s(now) > DISK_PATIENCE * election_max_s
    )


class Uncommitted:
    """How many bytes of entries a leader has in its log that no quorum is known to have."""

    def __init__(self) -> None:
        self._entries: deque[tuple[int, int]] = deque()
        self.bytes = 0

    def begin(self, entries: Iterable[tuple[bytes, int, int]]) -> None:
        """Count a new leader's own tail."""
        self._entries.clear()
        self.bytes = 0
        for command, index, _ in entries:
            self.add(index, len(command))

    def add(self, index: int, size: int) -> None:
        """Count an entry that was appended."""
        self._entries.append((index, size))
        self.bytes += size

    def commit(self, index: int) -> None:
        """Count no more what is committed."""
        while self._entries and self._entries[0][0] <= index:
            self.bytes -= self._entries.popleft()[1]
