"""Refute a register history, or settle its unknown writes, from which values were observed when.

After Gibbons and Korach, "Testing shared memories" (1997), and Golab et al., "Analyzing consistency
properties for fun and profit" (2011). Both functions are exact where they speak: `refute` never
accuses a legal history, `tighten` never changes whether a history is legal. Neither decides that a
history is fine.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from chaos.checkers.registers.encode import (
    ABSENT,
    BEFORE,
    CAS,
    NEVER,
    NOT,
    READ,
    TAKE,
    WRITE,
    Column,
)

INITIAL: Final = -1
"""Index that stands for the write of the initial value."""


@dataclass(frozen=True)
class Refutation:
    """Why no order can exist: indices into the column (INITIAL for the initial value), in the order
    of the story.
    """

    anomaly: str
    reason: str
    indices: tuple[int, ...]
    state: int


@dataclass(frozen=True)
class _Zone:
    state: int
    low: int
    high: int
    first: int
    """The operation that returned first, at `low`."""
    last: int
    """The operation that started last, at `high`."""
    writer: int


def tighten(column: Column) -> Column:
    """Settle unknown writes of values that nobody else writes; return the column without those that
    cannot matter.

    Observed: it happened, and returned at the latest when its first observer did (an unknown CAS
    thereby observes what it expected, which may settle the next). Not observed, expected by no
    unknown CAS, and no operation on the key learned that a value was *not* there: whether it
    happened makes no difference, drop it.
    """
    if column.appends or all(column.required):
        return column
    kinds, a, b, returns, required = (
        column.kinds,
        column.a,
        column.b,
        column.returns,
        column.required,
    )
    writers = _writers(column)
    seen_by: dict[int, int] = {}
    hoped: dict[int, int] = {}
    negative = False
    for i, kind in enumerate(kinds):
        if kind in (READ, CAS):
            if required[i]:
                seen_by[a[i]] = min(seen_by.get(a[i], NEVER), returns[i])
            else:
                hoped[a[i]] = hoped.get(a[i], 0) + 1
        negative = negative or kind in (NOT, TAKE)
    dropped: set[int] = set()
    todo = [
        i
        for i, kind in enumerate(kinds)
        if not required[i] and kind in (WRITE, CAS) and len(writers[b[i]]) == 1
    ]
    changed = True
    while changed:
        changed = False
        for i in todo:
            if required[i] or i in dropped:
                continue
            first = seen_by.get(b[i])
            if first is not None:
                required[i] = True
                returns[i] = min(returns[i], first)
                if kinds[i] == CAS:
                    hoped[a[i]] -= 1
                    seen_by[a[i]] = min(seen_by.get(a[i], NEVER), returns[i])
                changed = True
            elif not hoped.get(b[i]) and not negative:
                dropped.add(i)
                if kinds[i] == CAS:
                    hoped[a[i]] -= 1
                changed = True
    return _without(column, dropped) if dropped else column


def refute(column: Column) -> Refutation | None:
    """Return a contradiction between observations, or None if there is none of the kinds looked
    for.
    """
    if column.appends:
        return None
    writers = _writers(column)
    observers = _observers(column)
    for state, seen in observers.items():
        if state not in writers:
            return Refutation(
                "phantom_value", "observed, but nobody ever wrote it", (seen[0],), state
            )
    zones = []
    for state, possible in writers.items():
        if len(possible) != 1:
            continue
        seen = observers.get(state, [])
        writer = possible[0]
        if not seen and writer == INITIAL:
            continue
        # An unknown write that nobody observed makes a zone without end, which lies inside no
        # other.
        zone = _zone(column, state, writer, seen)
        early = next(
            (i for i in seen if writer != INITIAL and column.returns[i] < column.calls[writer]),
            None,
        )
        if early is not None:
            reason = "observed by an operation that had returned before the only writer started"
            return Refutation("value_from_the_future", reason, (early, writer), state)
        zones.append(zone)
    return _collide(column, zones)


def _writers(column: Column) -> dict[int, list[int]]:
    """Return for each state every operation that may have made it, the initial value included."""
    writers: dict[int, list[int]] = {column.initial: [INITIAL]}
    for i, kind in enumerate(column.kinds):
        if kind in (WRITE, CAS, TAKE):
            writers.setdefault(column.b[i], []).append(i)
    return writers


def _observers(column: Column) -> dict[int, list[int]]:
    """Return for each state the operations that certainly saw it."""
    observers: dict[int, list[int]] = {}
    for i, kind in enumerate(column.kinds):
        if kind in (READ, CAS) and column.required[i]:
            observers.setdefault(column.a[i], []).append(i)
    return observers


def _zone(column: Column, state: int, writer: int, seen: list[int]) -> _Zone:
    low, high, first, last = (BEFORE, BEFORE, INITIAL, INITIAL)
    if writer != INITIAL:
        low, high, first, last = column.returns[writer], column.calls[writer], writer, writer
    for i in seen:
        if column.returns[i] < low:
            low, first = column.returns[i], i
        if column.calls[i] > high:
            high, last = column.calls[i], i
    return _Zone(state, low, high, first, last, writer)


def _collide(column: Column, zones: list[_Zone]) -> Refutation | None:
    """Find two values that must both be current at once. Touching zones are legal: intervals are
    closed.
    """
    forward = sorted((z for z in zones if z.low < z.high), key=lambda z: z.low)
    for one, other in pairwise(forward):
        if other.low < one.high:
            return _clash(column, one, other)
    # Forward zones do not overlap from here on, so the last one that begins before a moment is the
    # only candidate.
    lows = [z.low for z in forward]
    for zone in zones:
        if (
            zone.low >= zone.high
            and (around := _around(forward, lows, zone.high, zone.low)) is not None
        ):
            return _clash(column, around, zone)
    for i, kind in enumerate(column.kinds):
        if kind in (NOT, TAKE) and column.required[i]:
            around = _around(forward, lows, column.calls[i], column.returns[i])
            if around is not None and around.state == column.a[i]:
                what = (
                    "existed, but was absent"
                    if column.a[i] == ABSENT
                    else "was different, but was current"
                )
                reason = f"learned that the value {what} throughout its interval"
                return Refutation("wrong_refusal", reason, _story(around, (i,)), around.state)
    return None


def _around(forward: list[_Zone], lows: list[int], start: int, end: int) -> _Zone | None:
    """Return the forward zone that has [start, end] strictly inside it."""
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


def _without(column: Column, dropped: set[int]) -> Column:
    keep = [i for i in range(len(column)) if i not in dropped]
    return Column(
        column.key,
        column.initial,
        column.values,
        [column.kinds[i] for i in keep],
        [column.a[i] for i in keep],
        [column.b[i] for i in keep],
        [column.calls[i] for i in keep],
        [column.returns[i] for i in keep],
        [column.required[i] for i in keep],
        [column.sources[i] for i in keep],
        column.appends,
    )
