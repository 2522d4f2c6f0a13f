"""Break the keeping of log time on purpose: what each leader takes for now."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator import logtime
from coordinator.logtime import PATIENCE_S, LogTime, median
from coordinator.peers import timekeeping
from tests.planted.registry import subclass


class WallWhole(LogTime):
    """Take the leader's own wall clock whole, whenever it is ahead."""

    def lead(
        self,
        readings: Sequence[logtime.ClockReading],
        voters: int,
        waited_s: float,
        at_s: float,
        term: int,
    ) -> int:
        jump_ms = super().lead(readings, voters, waited_s, at_s, term)
        own = [reading.wall_now_ms for reading in readings if reading.age_s == 0.0]
        if self.kept and own:
            self.raise_to(own[0], at_s)
        return jump_ms


class JumpsToMedian(LogTime):
    """Do not slew: take the median of the wall clocks whenever it is ahead, though the time was
    kept.
    """

    def lead(
        self,
        readings: Sequence[logtime.ClockReading],
        voters: int,
        waited_s: float,
        at_s: float,
        term: int,
    ) -> int:
        jump_ms = super().lead(readings, voters, waited_s, at_s, term)
        walls = [reading.wall_now_ms for reading in readings if reading.voter]
        if self.kept and len(walls) > voters // 2:
            self.raise_to(median(walls), at_s)
        return jump_ms


class _Finds(LogTime):
    """Begin at something else than what was kept, or else the median."""

    heeds_kept = True

    def lead(
        self,
        readings: Sequence[logtime.ClockReading],
        voters: int,
        waited_s: float,
        at_s: float,
        term: int,
    ) -> int:
        if self.kept or (self.heeds_kept and logtime.newest_kept(readings) is not None):
            return super().lead(readings, voters, waited_s, at_s, term)
        walls = [reading.wall_now_ms for reading in readings if reading.voter]
        before_ms = self.now_ms(at_s)
        if len(walls) < voters and waited_s < PATIENCE_S:
            return 0
        self.kept, self.found_in = True, term
        self.raise_to(self._find(walls), at_s)
        return self.now_ms(at_s) - before_ms

    def _find(self, walls: list[int]) -> int:
        raise NotImplementedError


class Minimum(_Finds):
    """Take the least of the clocks: one that is behind keeps every key for ever."""

    def _find(self, walls: list[int]) -> int:
        return min(walls)


class Maximum(_Finds):
    """Take the greatest of the clocks: one that is ahead ends every key."""

    def _find(self, walls: list[int]) -> int:
        return max(walls)


class ClocksFirst(_Finds):
    """Ask the clocks though somebody kept the time."""

    heeds_kept = False

    def _find(self, walls: list[int]) -> int:
        return median(walls)


class BelievesLog(LogTime):
    """Go on from the newest stamp of its log, as if nothing had passed since."""

    def stamp(self, stamp_ms: float, at_s: float) -> None:
        super().stamp(stamp_ms, at_s)
        self.kept = True


subclass("Time", WallWhole, timekeeping, "LogTime")
subclass("Time", JumpsToMedian, timekeeping, "LogTime")
subclass("Time", Minimum, timekeeping, "LogTime")
subclass("Time", Maximum, timekeeping, "LogTime")
subclass("Time", ClocksFirst, timekeeping, "LogTime")
subclass("Time", BelievesLog, timekeeping, "LogTime")
