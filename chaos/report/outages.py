"""Compute from a history its rates, and the pauses between acknowledged writes. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from chaos.records.history import READS, ClientOperation, History
from chaos.records.intervals import fault_windows, leaderships

OUTAGE_NS: Final = 500_000_000
"""Shortest pause between two acknowledged writes that counts as an outage."""
SEEN_NS: Final = 400_000_000
"""Longest delay with which a new leader appears in the records, because nodes are polled for it."""


@dataclass(frozen=True)
class Outage:
    """A pause from `start_ns` to `end_ns` in which no write of any client was acknowledged."""

    start_ns: int
    end_ns: int
    before: str | None
    """Leader when the pause began, as far as the records say; `after`: when it ended."""
    after: str | None
    faults: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Return its duration."""
        return (self.end_ns - self.start_ns) / 1e9


def acknowledged(operations: Iterable[ClientOperation]) -> list[int]:
    """Return the times at which writes were acknowledged, in order."""
    return sorted(
        o.end_ns for o in operations if o.outcome == "ok" and o.end_ns is not None and _writes(o)
    )


def _writes(o: ClientOperation) -> bool:
    """Return whether an operation writes. A transaction may only read, like those of `append` at
    the end of a run.
    """
    if o.op == "txn" and isinstance(o.value, list):
        return any(micro and micro[0] != "r" for micro in o.value)
    return o.op not in READS


def outages(history: History, least_ns: int = OUTAGE_NS) -> list[Outage]:
    """Return every pause of at least `least_ns` between two acknowledged writes, by time."""
    led = leaderships(history)
    since = [r.since_ns for r in led]
    faults = fault_windows(history.faults)

    def leader(at: int) -> str | None:
        n = bisect_right(since, at) - 1
        return led[n].leader if n >= 0 else None

    found = []
    for a, b in pairwise(acknowledged(history.operations)):
        if b - a >= least_ns:
            hit = tuple(
                f"{w.nemesis} {', '.join(w.targets)}"
                for w in faults
                if w.start_ns <= b and (w.healed_ns is None or w.healed_ns >= a - least_ns)
            )
            found.append(Outage(a, b, leader(a), leader(b + SEEN_NS), hit))
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of the values lies; 0.0 if there are none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
