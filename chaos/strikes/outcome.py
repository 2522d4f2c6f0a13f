"""Measure what a disturbance did to the load, hold it against what is promised, and say it in words
and as a table.

It is computed from the times of successes alone, and never looks at a clock.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

Span = tuple[float, float]
"""Begin and end of one success."""


@dataclass(frozen=True)
class StrikeLimits:
    """What is promised of one disturbance, in seconds; None: nothing."""

    writes_after_s: float | None = None
    """From the strike until writes work, and for how long they may stop at all."""
    after_healing_s: float | None = None
    """From the container's return until writes work."""
    reads_gap_s: float | None = None

    def __str__(self) -> str:
        said = (
            ("writes again within {:g} s of the strike", self.writes_after_s),
            ("writes again within {:g} s of its return", self.after_healing_s),
            ("reads never away for more than {:g} s", self.reads_gap_s),
        )
        return (
            ", ".join(words.format(limit) for words, limit in said if limit is not None) or "none"
        )


NOTHING: Final = StrikeLimits()


@dataclass(frozen=True)
class StrikeOutcome:
    """What one disturbance did. Times count from just before the first container was struck."""

    name: str
    whom: str
    acked: int
    before: int
    """Of these, acknowledged before the strike."""
    lost: list[str]
    writes_gap_s: float
    """Longest time without an acknowledged write."""
    reads_gap_s: float
    writes_after_s: float
    """From the strike until the end of the interruption that it caused."""
    after_healing_s: float
    """From the moment at which everything ran again until a write that began after it was
    acknowledged.
    """
    failed: dict[str, int]
    limits: StrikeLimits = NOTHING

    def __str__(self) -> str:
        failed = ", ".join(f"{n} {what}" for what, n in sorted(self.failed.items())) or "none"
        return (
            f"{self.name} ({self.whom}): writes worked again after {self.writes_after_s:.1f} s "
            f"({self.after_healing_s:.1f} s after it was back); "
            f"longest gap: writes {self.writes_gap_s:.1f} s, reads {self.reads_gap_s:.1f} s; "
            f"failed: {failed}; {self.acked} acknowledged keys read again "
            f"({self.before} from before it), {len(self.lost)} lost"
        )

    def missed(self, times: float = 1.0) -> tuple[str, ...]:
        """Say which limits were missed, or which of them so many times over; empty when all were
        kept.
        """
        return tuple(
            f"{what} {value:.1f} s, promised within {limit:g} s"
            for what, value, limit in self._measured()
            if limit is not None and value > limit * times
        )

    def _measured(self) -> list[tuple[str, float, float | None]]:
        """Return what was measured and its limit, in the order of the table's columns."""
        return [
            ("writes again after", self.writes_after_s, self.limits.writes_after_s),
            ("writes again after it was back", self.after_healing_s, self.limits.after_healing_s),
            ("longest gap of writes", self.writes_gap_s, self.limits.writes_after_s),
            ("longest gap of reads", self.reads_gap_s, self.limits.reads_gap_s),
        ]

    @property
    def row(self) -> str:
        """Return it as a row of a Markdown table; a limit that was missed stands beside the
        figure.
        """
        cells = [
            f"**{value:.1f}** (limit {limit:g})"
            if limit is not None and value > limit
            else f"{value:.1f}"
            for _, value, limit in self._measured()
        ]
        row = [self.name, self.whom, *cells, str(self.acked), str(len(self.lost))]
        return f"| {' | '.join(row)} |"


HEAD: Final = """\
| disturbance | container | writes again after, s | after it was back, s \
| longest gap of writes, s | of reads, s | keys acknowledged | lost |
|---|---|---|---|---|---|---|---|"""


def gap(done: list[Span], since: float, until_: float) -> float:
    """Return the longest time without a success between two moments."""
    ends = sorted(end for _, end in done if since < end < until_)
    return max(b - a for a, b in itertools.pairwise([since, *ends, until_]))


def resumed(done: list[Span], struck: float, landed: float) -> float:
    """Return how long after the strike the interruption ended: the longest one that the strike can
    have begun.

    It began before the engine said that the container was gone (`landed`), so a write that began
    after that ends it.
    """
    last = next_after(done, landed)
    ends = [struck, *sorted(end for _, end in done if struck < end <= last)]
    _, ended = max(
        itertools.pairwise(ends), key=lambda pair: pair[1] - pair[0], default=(struck, struck)
    )
    return ended - struck


def next_after(done: list[Span], since: float) -> float:
    """Return when the first success that began after a moment ended; the moment itself when there
    is none.
    """
    return min((end for began, end in done if began > since), default=since)
