"""Decide what time it is in the log. Pure: moments come as arguments.

Log time is carried on by monotonic clocks; wall clocks are asked only when nobody kept it. It never
follows the step of a wall clock, whoever's it is, and never goes back behind what was stamped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

READING_AGE_S_MAX: Final = 3.0
"""An older reading does not count: its member may be gone, and its clock another by now."""
PATIENCE_S: Final = 1.0
"""A new leader that did not keep the time waits so long for the readings of all voters; then a
quorum's do.
"""
SLEW: Final = 1 / 2000
"""Log time nears the clocks' median by so much at most (0.5 ms a second, what a kernel allows its
own clock).
"""
SLEW_FROM_MS: Final = 50
"""Closer than this nothing is slewed: notes take their time."""
BEHIND_MS_MAX: Final = 150
"""A leader further behind what a quorum kept takes theirs: its own monotonic clock stood still."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """A member's word on its clocks, of the present term."""

    member: str
    voter: bool
    wall_ms: int
    kept_ms: int
    """Log time as it kept it; 0: it does not know."""
    age_s: float
    """How long ago it was heard."""
    found_in: int = 0
    """The term in which the time that it keeps was found."""

    @property
    def wall_now_ms(self) -> int:
        """What its wall clock says now, if it has run on since."""
        return self.wall_ms + int(self.age_s * 1000)

    @property
    def kept_now_ms(self) -> int:
        """The log time that it keeps now, if its clock has run on since."""
        return self.kept_ms + int(self.age_s * 1000)


def median(readings_ms: Sequence[int]) -> int:
    """Return the middle one; the lower of two: a key may live longer when in doubt, never
    shorter.
    """
    return sorted(readings_ms)[(len(readings_ms) - 1) // 2]


def fresh(readings: Iterable[ClockReading]) -> list[ClockReading]:
    """Return those that are young enough to count."""
    return [reading for reading in readings if reading.age_s <= READING_AGE_S_MAX]


def newest_kept(readings: Iterable[ClockReading], after: int = 0) -> ClockReading | None:
    """Return who keeps the time that was found last (in a term > `after`), and of those the latest:
    theirs count.

    Words on their way age, so what is heard is never ahead.
    """
    kept = [reading for reading in fresh(readings) if reading.kept_ms and reading.found_in > after]
    return max(kept, key=lambda reading: (reading.found_in, reading.kept_now_ms)) if kept else None


def clocks_say(readings: Iterable[ClockReading], voters: int, waited_s: float) -> int | None:
    """Return the time that a new leader begins at when nobody kept it; None: not enough is heard
    yet.

    `readings`: its own among them. `voters`: how many there are. `waited_s`: since it leads.
    """
    walls = [reading.wall_now_ms for reading in fresh(readings) if reading.voter]
    if len(walls) >= voters or (len(walls) > voters // 2 and waited_s >= PATIENCE_S):
        return median(walls) if walls else None
    return None


def kept_by_most(readings: Iterable[ClockReading], voters: int, now_ms: int) -> int:
    """Return what a leader takes for now: its own time, unless a quorum kept a later one."""
    kept = [reading.kept_now_ms for reading in fresh(readings) if reading.voter and reading.kept_ms]
    if len(kept) <= voters // 2:
        return now_ms
    most_ms = median(kept)
    return most_ms if most_ms - now_ms > BEHIND_MS_MAX else now_ms


def slew(readings: Iterable[ClockReading], voters: int, now_ms: int) -> float:
    """Return the rate at which a leader's log time nears the median of a quorum's wall clocks; 0:
    none is needed.
    """
    walls = [reading.wall_now_ms for reading in fresh(readings) if reading.voter]
    if len(walls) <= voters // 2:
        return 0.0
    return _towards(median(walls) - now_ms)


def _towards(off_ms: int) -> float:
    if abs(off_ms) <= SLEW_FROM_MS:
        return 0.0
    return SLEW if off_ms > 0 else -SLEW


class LogTime:
    """The time that one member takes for now in the log. `at_s`: its monotonic clock, which never
    goes back.
    """

    __slots__ = ("_anchor_s", "_base_ms", "_rate", "_stamp_ms", "found_in", "kept")

    def __init__(self, at_s: float) -> None:
        self._base_ms, self._anchor_s, self._rate = 0.0, at_s, 0.0
        self._stamp_ms = 0.0
        """The newest of the log."""
        self.kept = False
        """It has heard the time since this process began, and not only from what its log remembers:
        how long ago that was stamped, nobody knows.
        """
        self.found_in = 0
        """The term in which the time that it keeps was found."""

    def now_ms(self, at_s: float) -> int:
        """Return the log time at a moment of this member's monotonic clock."""
        return int(self._at(at_s))

    def _at(self, at_s: float) -> float:
        return self._base_ms + (at_s - self._anchor_s) * 1000 * (1 + self._rate)

    def stamp(self, stamp_ms: float, at_s: float) -> None:
        """Take note of a stamp of the log. It sets nothing back: a leader's own stamps come back to
        it later than they were made, and taking them for now would slow its deadlines down by the
        time that a commit takes.
        """
        self._stamp_ms = max(self._stamp_ms, stamp_ms)
        self.raise_to(stamp_ms, at_s)

    def raise_to(self, time_ms: float, at_s: float) -> None:
        """Set it forward, if that is forward."""
        if time_ms > self._at(at_s):
            self._base_ms, self._anchor_s = time_ms, at_s

    def _go_at(self, rate: float, at_s: float) -> None:
        if rate != self._rate:
            self._base_ms, self._anchor_s, self._rate = self._at(at_s), at_s, rate

    def follow(self, leader: ClockReading, at_s: float) -> None:
        """Take the time of the present leader, who keeps it: that is what log time is."""
        if leader.kept_ms and leader.age_s <= READING_AGE_S_MAX:
            self._take(leader, at_s)

    def _take(self, reading: ClockReading, at_s: float) -> None:
        """Go by what another keeps. Back too, though never behind a stamp, when that was found
        apart from what this member went by: it has just started, or was cut off while nobody else
        had kept the time.
        """
        if self.kept and reading.found_in == self.found_in:
            self.raise_to(reading.kept_now_ms, at_s)
        else:
            self._base_ms, self._anchor_s = max(reading.kept_now_ms, self._stamp_ms), at_s
        self._go_at(0.0, at_s)
        self.kept, self.found_in = True, reading.found_in

    def lead(
        self, readings: Sequence[ClockReading], voters: int, waited_s: float, at_s: float, term: int
    ) -> int:
        """Find the time out as a leader that does not know it, or go on with it; return by how many
        ms it jumped.

        What another member kept comes before all clocks.
        """
        before_ms = self.now_ms(at_s)
        newest = newest_kept(readings, after=self.found_in if self.kept else 0)
        if newest is not None:
            self._take(newest, at_s)
        elif self.kept:
            same = [reading for reading in readings if reading.found_in == self.found_in]
            self._go_at(slew(readings, voters, before_ms), at_s)
            self.raise_to(kept_by_most(same, voters, before_ms), at_s)
        else:
            time_ms = clocks_say(readings, voters, waited_s)
            if time_ms is not None:
                self.raise_to(time_ms, at_s)
                self.kept, self.found_in = True, term
        return self.now_ms(at_s) - before_ms
