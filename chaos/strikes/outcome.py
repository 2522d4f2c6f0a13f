"""Measure the effect of a fault on the load, compare it with the limits, and describe it.

It is computed only from the times of successes, and never reads a clock.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

Span = tuple[float, float]
"""Start and end of one successful operation."""


@dataclass(frozen=True)
class StrikeLimits:
    """The limits promised for one fault, in seconds; None: nothing is promised."""

    writes_after_s: float | None = None
    """Limit from the strike until writes work, and for any interruption of writes."""
    after_healing_s: float | None = None
    """Limit from the container's return until writes work."""
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
    """The outcome of one fault. Times count from just before the first container was hit."""

    name: str
    whom: str
    acked: int
    before: int
    """Number of these that were acknowledged before the strike."""
    lost: list[str]
    writes_gap_s: float
    """Longest time without an acknowledged write."""
    reads_gap_s: float
    writes_after_s: float
    """Time from the strike until the end of the interruption that it caused."""
    after_healing_s: float
    """Time from the moment everything ran again until the acknowledgement of a write that began
    after it.
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
        """Return the limits that were exceeded, or exceeded `times` over; empty if none."""
        return tuple(
            f"{what} {value:.1f} s, promised within {limit:g} s"
            for what, value, limit in self._measured()
            if limit is not None and value > limit * times
        )

    def _measured(self) -> list[tuple[str, float, float | None]]:
        """Return each measurement with its limit, in the order of the table's columns."""
        return [
            ("writes again after", self.writes_after_s, self.limits.writes_after_s),
            ("writes again after it was back", self.after_healing_s, self.limits.after_healing_s),
            ("longest gap of writes", self.writes_gap_s, self.limits.writes_after_s),
            ("longest gap of reads", self.reads_gap_s, self.limits.reads_gap_s),
        ]

    @property
    def row(self) -> str:
        """Return the outcome as a row of a Markdown table; an exceeded limit is shown beside the
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
    """Return how long after the strike the interruption ended.

    The interruption is the longest one that the strike can have caused. It began before the engine
    reported that the container was gone (`landed`), so a write that began after that ends it.
    """
    last = next_after(done, landed)
    ends = [struck, *sorted(end for _, end in done if struck < end <= last)]
    _, ended = max(
        itertools.pairwise(ends), key=lambda pair: pair[1] - pair[0], default=(struck, struck)
    )
    return ended - struck


def next_after(done: list[Span], since: float) -> float:
    """Return the end of the first success that began after a moment; the moment itself if there is
    none.
    """
    return min((end for began, end in done if began > since), default=since)
