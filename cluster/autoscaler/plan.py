"""Decide whether to add or remove an observer. Pure: figures and time in, a decision out.

It never goes below the minimum or above the maximum, and never acts on missing figures. Between two
changes that figures ask for lies the cool-down; between changes that only restore the bounds lies a
quarter of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

Reason = Literal[
    "below_minimum", "above_maximum", "busy", "idle", "no_figures", "steady", "waiting",
    "cooling_down", "at_maximum", "at_minimum",
]  # fmt: skip
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
REPAIR_REST: Final = 0.25
"""Fraction of the cool-down that must pass before a change that restores the bounds. Without that
pause, an observer that always dies would be started in a tight loop.
"""


@dataclass(frozen=True, slots=True)
class Band:
    """Two limits of a figure: above `high` it is too high, below `low` it is low, and in between it
    asks for no change.
    """

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one round, each the mean per node. None: Prometheus has no value."""

    in_flight: float | None
    p99_s: float | None
    """None also while there are no requests."""
    cpu: float | None


@dataclass(frozen=True, slots=True)
class Bounds:
    """The settings that bound and trigger decisions."""

    observers_min: int
    observers_max: int
    in_flight: Band
    p99_s: Band
    cpu: Band
    rounds_high: int
    rounds_low: int
    cool_down_s: float


@dataclass(frozen=True, slots=True)
class Memory:
    """The state that one decision passes to the next."""

    high: int = 0
    """Consecutive decisions that found a figure too high; `low`: that found all figures low."""
    low: int = 0
    changed_at: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A change in the number of observers, with its reason and the state for the next decision."""

    change: Literal[-1, 0, 1]
    reason: Reason
    because: str
    memory: Memory


def plan(figures: Figures, observers: int, bounds: Bounds, memory: Memory, now: float) -> Decision:
    """Decide what to do, given `observers` observers at the monotonic time `now`."""
    if observers < bounds.observers_min:
        why = f"{observers} of at least {bounds.observers_min}"
        return _repair(1, "below_minimum", why, bounds=bounds, memory=memory, now=now)
    if observers > bounds.observers_max:
        why = f"{observers} of at most {bounds.observers_max}"
        return _repair(-1, "above_maximum", why, bounds=bounds, memory=memory, now=now)
    if figures.in_flight is None and figures.cpu is None:
        return Decision(0, "no_figures", "Prometheus knows no node", replace(memory, high=0, low=0))
    high, low = _pressing(figures, bounds), _little(figures, bounds)
    memory = replace(
        memory, high=memory.high + 1 if high else 0, low=memory.low + 1 if low and not high else 0
    )
    if memory.high >= bounds.rounds_high:
        return _change(1, "busy", high, observers=observers, bounds=bounds, memory=memory, now=now)
    if memory.low >= bounds.rounds_low:
        return _change(
            -1,
            "idle",
            "all figures are low",
            observers=observers,
            bounds=bounds,
            memory=memory,
            now=now,
        )
    if high or low:
        seen, wanted = (
            (memory.high, bounds.rounds_high) if high else (memory.low, bounds.rounds_low)
        )
        return Decision(
            0, "waiting", f"{high or 'all figures are low'}, {seen} of {wanted} rounds", memory
        )
    return Decision(0, "steady", "no figure is high, and not all are low", memory)


def _repair(
    change: Literal[-1, 1], reason: Reason, why: str, *, bounds: Bounds, memory: Memory, now: float
) -> Decision:
    left_s = _rest_left_s(memory, bounds.cool_down_s * REPAIR_REST, now)
    if left_s > 0:
        return Decision(
            0, "cooling_down", f"{why}; {left_s:.0f} s of rest left", replace(memory, high=0, low=0)
        )
    return Decision(change, reason, why, Memory(changed_at=now))


def _rest_left_s(memory: Memory, rest_s: float, now: float) -> float:
    return 0.0 if memory.changed_at is None else rest_s - (now - memory.changed_at)


def _change(
    change: Literal[-1, 1],
    reason: Reason,
    why: str,
    *,
    observers: int,
    bounds: Bounds,
    memory: Memory,
    now: float,
) -> Decision:
    if change > 0 and observers >= bounds.observers_max:
        return Decision(0, "at_maximum", f"{why}, but there are {observers}", memory)
    if change < 0 and observers <= bounds.observers_min:
        return Decision(0, "at_minimum", f"{why}, but there are {observers}", memory)
    left_s = _rest_left_s(memory, bounds.cool_down_s, now)
    if left_s > 0:
        return Decision(0, "cooling_down", f"{why}; {left_s:.0f} s of rest left", memory)
    return Decision(change, reason, why, Memory(changed_at=now))


def _pressing(figures: Figures, bounds: Bounds) -> str:
    """Describe the figures that are too high; return an empty string if there are none."""
    found = [
        f"{name} {value:.3g} > {band.high:g}"
        for name, value, band in _banded(figures, bounds)
        if value is not None and value > band.high
    ]
    return ", ".join(found)


def _little(figures: Figures, bounds: Bounds) -> bool:
    """Return whether every figure is low.

    A missing figure does not count as low, except for the latency: an idle cluster has none.
    """
    idle = figures.in_flight is not None and figures.in_flight < bounds.in_flight.low
    return idle and all(
        (value is None and name == "p99_s") or (value is not None and value < band.low)
        for name, value, band in _banded(figures, bounds)
    )


def _banded(figures: Figures, bounds: Bounds) -> tuple[tuple[str, float | None, Band], ...]:
    return (
        ("in_flight", figures.in_flight, bounds.in_flight),
        ("p99_s", figures.p99_s, bounds.p99_s),
        ("cpu", figures.cpu, bounds.cpu),
    )
