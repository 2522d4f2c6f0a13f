"""Compute log time. Pure: moments of the monotonic clock are arguments.

Monotonic clocks carry log time on; wall clocks are asked only when no member kept it. Log time
never follows a step of any wall clock, and never goes back behind a stamp of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

READING_AGE_S_MAX: Final = 3.0
"""A reading older than this does not count: its member may be gone, or its clock may have changed
since.
"""
PATIENCE_S: Final = 1.0
"""How long a new leader that did not keep the time waits for the readings of all voters; after
that, those of a quorum suffice.
"""
SLEW: Final = 1 / 2000
"""The maximal rate at which log time approaches the median of the clocks: 0.5 ms a second, which is
what a kernel allows when it slews its own clock.
"""
SLEW_FROM_MS: Final = 50
"""Smaller differences are not slewed, because notes take some time to arrive."""
BEHIND_MS_MAX: Final = 150
"""A leader that is further than this behind the time that a quorum kept takes over theirs: its own
monotonic clock stood still.
"""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The clocks of one member, as its note of the present term reported them."""

    member: str
    voter: bool
    wall_ms: int
    kept_ms: int
    """The log time that it keeps; 0: it does not know it."""
    age_s: float
    """Seconds since the reading arrived."""
    found_in: int = 0
    """The term in which the log time that it keeps was determined."""

    @property
    def wall_now_ms(self) -> int:
        """Its wall clock now, assuming that it has run on since the reading."""
        return self.wall_ms + int(self.age_s * 1000)

    @property
    def kept_now_ms(self) -> int:
        """The log time that it keeps now, assuming that its clock has run on since the reading."""
        return self.kept_ms + int(self.age_s * 1000)


def median(readings_ms: Sequence[int]) -> int:
    """Return the middle reading, or the lower of the two middle ones: when in doubt a key lives
    longer, never shorter.
    """
    return sorted(readings_ms)[(len(readings_ms) - 1) // 2]


def fresh(readings: Iterable[ClockReading]) -> list[ClockReading]:
    """Return the readings that are young enough to count."""
    return [reading for reading in readings if reading.age_s <= READING_AGE_S_MAX]


def newest_kept(readings: Iterable[ClockReading], after: int = 0) -> ClockReading | None:
    """Return the reading to follow: of those whose time was determined in the latest term (>
    `after`), the one that is furthest ahead; None if no member keeps a time.

    A reading ages in transit, so it is never ahead of the member's own time.
    """
    kept = [reading for reading in fresh(readings) if reading.kept_ms and reading.found_in > after]
    return max(kept, key=lambda reading: (reading.found_in, reading.kept_now_ms)) if kept else None


def clocks_say(readings: Iterable[ClockReading], voters: int, waited_s: float) -> int | None:
    """Return the time at which a new leader starts when no member kept it; None until enough
    readings have arrived.

    `readings` include the leader's own. `voters` is the number of voters, `waited_s` the time since
    the leader was elected.
    """
    walls = [reading.wall_now_ms for reading in fresh(readings) if reading.voter]
    if len(walls) >= voters or (len(walls) > voters // 2 and waited_s >= PATIENCE_S):
        return median(walls) if walls else None
    return None


def kept_by_most(readings: Iterable[ClockReading], voters: int, now_ms: int) -> int:
    """Return the leader's `now`: its own time, unless a quorum of voters kept a later one."""
    kept = [reading.kept_now_ms for reading in fresh(readings) if reading.voter and reading.kept_ms]
    if len(kept) <= voters // 2:
        return now_ms
    most_ms = median(kept)
    return most_ms if most_ms - now_ms > BEHIND_MS_MAX else now_ms


def slew(readings: Iterable[ClockReading], voters: int, now_ms: int) -> float:
    """Return the rate at which a leader's log time approaches the median of a quorum's wall clocks;
    0 when no correction is needed.
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
    """The log time of one member. `at_s` is always a moment of its monotonic clock, which never
    goes back.
    """

    __slots__ = ("_anchor_s", "_base_ms", "_rate", "_stamp_ms", "found_in", "kept")

    def __init__(self, at_s: float) -> None:
        self._base_ms, self._anchor_s, self._rate = 0.0, at_s, 0.0
        self._stamp_ms = 0.0
        """The newest stamp of the log."""
        self.kept = False
        """Whether this member has learned the time from another member since this process started
        (or determined it as the leader). A stamp that its log remembers is not enough: nobody knows
        how long ago it was made.
        """
        self.found_in = 0
        """The term in which the time that it keeps was determined."""

    def now_ms(self, at_s: float) -> int:
        """Return the log time at a moment of this member's monotonic clock."""
        return int(self._at(at_s))

    def _at(self, at_s: float) -> float:
        return self._base_ms + (at_s - self._anchor_s) * 1000 * (1 + self._rate)

    def stamp(self, stamp_ms: float, at_s: float) -> None:
        """Record a stamp of the log; it never sets the time back. A leader's own stamps return to
        it later than they were made: taking them for `now` would delay its deadlines by the
        duration of a commit.
        """
        self._stamp_ms = max(self._stamp_ms, stamp_ms)
        self.raise_to(stamp_ms, at_s)

    def raise_to(self, time_ms: float, at_s: float) -> None:
        """Set the time to `time_ms` unless that would be backwards."""
        if time_ms > self._at(at_s):
            self._base_ms, self._anchor_s = time_ms, at_s

    def _go_at(self, rate: float, at_s: float) -> None:
        if rate != self._rate:
            self._base_ms, self._anchor_s, self._rate = self._at(at_s), at_s, rate

    def follow(self, leader: ClockReading, at_s: float) -> None:
        """Follow the time of the present leader, if it keeps one: its time is the log time by
        definition.
        """
        if leader.kept_ms and leader.age_s <= READING_AGE_S_MAX:
            self._take(leader, at_s)

    def _take(self, reading: ClockReading, at_s: float) -> None:
        """Adopt the time that another member keeps.

        The time may go back, though never behind a stamp, if this member keeps none yet or one that
        was determined in another term: it has just started, or it was cut off while no other member
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
        """Determine the time as a leader that does not know it, or carry it on. Return by how many
        ms it jumped.

        The time that another member kept takes precedence over all clocks.
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
