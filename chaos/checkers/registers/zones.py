"""Refute a register history, or settle its unknown writes, from the times at which values were
seen.

After Gibbons and Korach, "Testing shared memories" (1997), and Golab et al., "Analyzing consistency
properties for fun and profit" (2011). `refute` never rejects a legal history, and `tighten` never
changes whether a history is legal. Neither can prove that a history is legal.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from chaos.checkers.registers.encode import (
    ABSENT,
    BEFORE,
    CAS,
    MAKERS,
    MUST_DIFFER,
    MUST_MATCH,
    NEVER,
    WRITE,
    Column,
)

INITIAL: Final = -1
"""Index that represents the write of the initial value."""


@dataclass(frozen=True)
class Refutation:
    """A contradiction that shows why no order can exist.

    `indices` are those of the column (INITIAL for the initial value), in explanatory order.
    """

    anomaly: str
    reason: str
    indices: tuple[int, ...]
    state: int


@dataclass(frozen=True)
class _Zone:
    """The period of one value, from its first return to its last start; forward if low < high."""

    state: int
    low: int
    high: int
    first: int
    """Operation that returned first, at `low`."""
    last: int
    """Operation that started last, at `high`."""
    writer: int


def tighten(column: Column) -> Column:
    """Settle unknown writes of values with a single writer; return the column without irrelevant
    ones.

    If the value was observed, the write happened, and returned no later than its first observer. (A
    CAS settled so also observed the value that it expected, which may settle the next.) If the
    value was not observed, no unknown CAS expects it, and no operation on the key learned that a
    value was *not* there, then it makes no difference whether the write happened, and it is
    dropped.
    """
    if column.appends or all(column.required):
        return column
    writers = _writers(column)
    lone = [
        i
        for i, kind in enumerate(column.kinds)
        if not column.required[i] and kind in (WRITE, CAS) and len(writers[column.makes[i]]) == 1
    ]
    dropped = _Settling(column).settle(lone)
    return column.without(dropped) if dropped else column


class _Settling:
    """The state of settling one column's unknown writes until no more can be settled."""

    def __init__(self, column: Column) -> None:
        self.column = column
        self.first_seen: dict[int, int] = {}
        """By state: the return time of the first operation that certainly saw it."""
        self.hoped: dict[int, int] = {}
        """By state: the number of unknown CAS operations that expect it."""
        self.dropped: set[int] = set()
        for i, kind in enumerate(column.kinds):
            if kind in MUST_MATCH:
                if column.required[i]:
                    self._observe(i)
                else:
                    self.hoped[column.asks[i]] = self.hoped.get(column.asks[i], 0) + 1
        self.negative = any(kind in MUST_DIFFER for kind in column.kinds)
        """Whether an operation learned that a value was not there."""

    def settle(self, writes: list[int]) -> set[int]:
        """Settle these writes repeatedly, for one may settle the next; return those to drop."""
        required = self.column.required
        changed = True
        while changed:
            changed = False
            for i in writes:
                if not required[i] and i not in self.dropped and self._settle(i):
                    changed = True
        return self.dropped

    def _settle(self, i: int) -> bool:
        column = self.column
        first = self.first_seen.get(column.makes[i])
        if first is not None:
            column.required[i] = True
            column.returns[i] = min(column.returns[i], first)
            if column.kinds[i] == CAS:
                self.hoped[column.asks[i]] -= 1
                self._observe(i)
            return True
        if not self.hoped.get(column.makes[i]) and not self.negative:
            self.dropped.add(i)
            if column.kinds[i] == CAS:
                self.hoped[column.asks[i]] -= 1
            return True
        return False

    def _observe(self, i: int) -> None:
        state, returns = self.column.asks[i], self.column.returns[i]
        self.first_seen[state] = min(self.first_seen.get(state, NEVER), returns)


def refute(column: Column) -> Refutation | None:
    """Return a contradiction between observations; None if there is none of the known kinds."""
    if column.appends:
        return None
    writers = _writers(column)
    observers = _observers(column)
    for state, seen in observers.items():
        if state not in writers:
            why = "observed, but nobody ever wrote it"
            return Refutation("phantom_value", why, (seen[0],), state)
    zones = []
    for state, possible in writers.items():
        if len(possible) != 1:
            continue
        seen = observers.get(state, [])
        writer = possible[0]
        if not seen and writer == INITIAL:
            continue
        early = _too_early(column, writer, seen)
        if early is not None:
            why = "observed by an operation that had returned before the only writer started"
            return Refutation("value_from_the_future", why, (early, writer), state)
        # An unknown write that no operation observed makes a zone without end, which lies inside no
        # other.
        zones.append(_zone(column, state, writer, seen))
    return _collide(column, zones)


def _too_early(column: Column, writer: int, seen: list[int]) -> int | None:
    """Return an observer that had returned before the only writer started, or None."""
    if writer == INITIAL:
        return None
    return next((i for i in seen if column.returns[i] < column.calls[writer]), None)


def _writers(column: Column) -> dict[int, list[int]]:
    """Return for each state the operations that may have made it, including INITIAL."""
    writers: dict[int, list[int]] = {column.initial: [INITIAL]}
    for i, kind in enumerate(column.kinds):
        if kind in MAKERS:
            writers.setdefault(column.makes[i], []).append(i)
    return writers


def _observers(column: Column) -> dict[int, list[int]]:
    """Return for each state the operations that certainly saw it."""
    observers: dict[int, list[int]] = {}
    for i, kind in enumerate(column.kinds):
        if kind in MUST_MATCH and column.required[i]:
            observers.setdefault(column.asks[i], []).append(i)
    return observers


def _zone(column: Column, state: int, writer: int, seen: list[int]) -> _Zone:
    zone = _Zone(state, low=BEFORE, high=BEFORE, first=INITIAL, last=INITIAL, writer=writer)
    if writer != INITIAL:
        zone = replace(
            zone, low=column.returns[writer], high=column.calls[writer], first=writer, last=writer
        )
    for i in seen:
        if column.returns[i] < zone.low:
            zone = replace(zone, low=column.returns[i], first=i)
        if column.calls[i] > zone.high:
            zone = replace(zone, high=column.calls[i], last=i)
    return zone


def _collide(column: Column, zones: list[_Zone]) -> Refutation | None:
    """Find two values that must both be current at the same time.

    Zones that only touch are legal, because intervals are closed.
    """
    forward = sorted((z for z in zones if z.low < z.high), key=lambda z: z.low)
    for one, other in pairwise(forward):
        if other.low < one.high:
            return _clash(column, one, other)
    # From here on no forward zones overlap, so the last one that begins before a moment is the only
    # one that can contain it.
    lows = [z.low for z in forward]
    for zone in zones:
        if (
            zone.low >= zone.high
            and (around := _around(forward, lows, zone.high, zone.low)) is not None
        ):
            return _clash(column, around, zone)
    for i, kind in enumerate(column.kinds):
        if kind in MUST_DIFFER and column.required[i]:
            around = _around(forward, lows, column.calls[i], column.returns[i])
            if around is not None and around.state == column.asks[i]:
                what = (
                    "existed, but was absent"
                    if column.asks[i] == ABSENT
                    else "was different, but was current"
                )
                reason = f"learned that the value {what} throughout its interval"
                return Refutation("wrong_refusal", reason, _story(around, (i,)), around.state)
    return None


def _around(forward: list[_Zone], lows: list[int], start: int, end: int) -> _Zone | None:
    """Return the forward zone that strictly contains [start, end]; None if there is none."""
    at = bisect_left(lows, start) - 1
    if at >= 0 and forward[at].low < start and end < forward[at].high:
        return forward[at]
    return None


def _clash(column: Column, one: _Zone, other: _Zone) -> Refutation:
    names = " and ".join(repr(column.values.values[z.state]) for z in (one, other))
    reason = f"the values {names} must both be current at one moment"
    story = tuple(dict.fromkeys((*_story(one, ()), *_story(other, ()))))
    return Refutation("stale_or_lost_value", reason, story, one.state)


def _story(zone: _Zone, more: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys((zone.writer, zone.first, zone.last, *more)))
