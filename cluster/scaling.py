"""Decide whether the cluster gets an observer more or less. Pure: figures and time go in, a decision comes out.

It never asks for fewer than the minimum, more than the maximum, or two changes within the cool-down; and it never acts
on figures that are missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

Reason = Literal[
    "below_minimum", "above_maximum", "busy", "idle", "no_figures", "steady", "waiting", "cooling_down", "at_maximum",
    "at_minimum",
]  # fmt: skip
REASONS: Final[tuple[Reason, ...]] = (
    "below_minimum", "above_maximum", "busy", "idle", "no_figures", "steady", "waiting", "cooling_down", "at_maximum",
    "at_minimum",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Band:
    """Above `high` is too much, below `low` is little; between them nothing follows."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What Prometheus said, per node in the mean; None: it said nothing."""

    in_flight: float | None
    p99_s: float | None
    """None also while nobody asks anything."""
    cpu: float | None


@dataclass(frozen=True, slots=True)
class Bounds:
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
    """What one decision hands to the next."""

    high: int = 0
    """Decisions in a row that found too much."""
    low: int = 0
    changed_at: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    change: Literal[-1, 0, 1]
    reason: Reason
    because: str
    memory: Memory


def plan(figures: Figures, observers: int, bounds: Bounds, memory: Memory, now: float) -> Decision:
    """Return what to do with `observers` observers at the monotonic time `now`."""
    if observers < bounds.observers_min:
        return Decision(1, "below_minimum", f"{observers} of at least {bounds.observers_min}", Memory(changed_at=now))
    if observers > bounds.observers_max:
        return Decision(-1, "above_maximum", f"{observers} of at most {bounds.observers_max}", Memory(changed_at=now))
    if figures.in_flight is None and figures.cpu is None:
        return Decision(0, "no_figures", "Prometheus knows no node", replace(memory, high=0, low=0))
    high, low = _pressing(figures, bounds), _little(figures, bounds)
    memory = replace(memory, high=memory.high + 1 if high else 0, low=memory.low + 1 if low and not high else 0)
    if memory.high >= bounds.rounds_high:
        return _change(1, "busy", high, observers=observers, bounds=bounds, memory=memory, now=now)
    if memory.low >= bounds.rounds_low:
        return _change(-1, "idle", "all figures are low", observers=observers, bounds=bounds, memory=memory, now=now)
    if high or low:
        seen, wanted = (memory.high, bounds.rounds_high) if high else (memory.low, bounds.rounds_low)
        return Decision(0, "waiting", f"{high or 'all figures are low'}, {seen} of {wanted} rounds", memory)
    return Decision(0, "steady", "no figure is high, and not all are low", memory)


def _change(
    change: Literal[-1, 1], reason: Reason, why: str, *, observers: int, bounds: Bounds, memory: Memory, now: float
) -> Decision:
    if change > 0 and observers >= bounds.observers_max:
        return Decision(0, "at_maximum", f"{why}, but there are {observers}", memory)
    if change < 0 and observers <= bounds.observers_min:
        return Decision(0, "at_minimum", f"{why}, but there are {observers}", memory)
    if memory.changed_at is not None and now - memory.changed_at < bounds.cool_down_s:
        left = bounds.cool_down_s - (now - memory.changed_at)
        return Decision(0, "cooling_down", f"{why}; {left:.0f} s of rest left", memory)
    return Decision(change, reason, why, Memory(changed_at=now))


def _pressing(figures: Figures, bounds: Bounds) -> str:
    """Return the figures that are too high, as text; empty: none."""
    found = [
        f"{name} {value:.3g} > {band.high:g}"
        for name, value, band in _banded(figures, bounds)
        if value is not None and value > band.high
    ]
    return ", ".join(found)


def _little(figures: Figures, bounds: Bounds) -> bool:
    """Say whether every figure is low. One that is missing is not, but for the latency of an idle cluster."""
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
