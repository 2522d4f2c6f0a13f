"""Plan the faults of a run from a seed alone: the same seed gives the same plan.

It never looks at a cluster; what a fault hits is decided when it begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import Final

GAP_S: Final = (0.5, 2.0)
"""Shortest and longest quiet time before a fault, once the cluster has recovered."""
HOLD_S: Final = (1.0, 4.0)
RECOVERY_S: Final = 3.0
"""Rough time that a fault takes in addition to its hold time, to be proved, healed and recovered
from. Only the planning uses it.
"""


@dataclass(frozen=True)
class Step:
    """One fault of the plan, with its times in seconds."""

    number: int
    nemesis: str
    gap_s: float
    hold_s: float

    def __str__(self) -> str:
        return (
            f"{self.number:>3}  {self.nemesis:<28} after {self.gap_s:.1f} s of quiet, for "
            f"{self.hold_s:.1f} s"
        )


def schedule(families: Mapping[str, Sequence[str]], seconds: float, seed: int) -> list[Step]:
    """Return enough steps for `seconds`, taking the families in turn.

    Each family goes through its nemeses in its own order. There is at least one step per family,
    however short the time.
    """
    rng = Random(f"{seed}/schedule")
    orders = {}
    for family, names in families.items():
        shuffled = list(names)
        rng.shuffle(shuffled)
        orders[family] = cycle(shuffled)
    steps: list[Step] = []
    spent_s = 0.0
    turns = cycle(orders)
    while orders and (len(steps) < len(orders) or spent_s < seconds):
        step = Step(
            len(steps) + 1, next(orders[next(turns)]), rng.uniform(*GAP_S), rng.uniform(*HOLD_S)
        )
        steps.append(step)
        spent_s += step.gap_s + step.hold_s
    return steps
