"""Draw who led in which term, and when no write was acknowledged, as lanes above a chart.

It judges nothing.
"""

from __future__ import annotations

from typing import Any, Final

from chaos.records.history import History
from chaos.records.intervals import leaderships
from chaos.report.outages import outages

LEADERS: Final = ("#5b8def", "#3fa66b", "#c98a1b", "#a06cc9", "#4aa8b8", "#c96c6c", "#8a8f99")
OUTAGE: Final = "#d92d20"
NAMED_S: Final = 0.05
"""Share of the picture's width that a leadership needs to be named in it."""


def draw(axes: Any, history: History, origin: int, end: int) -> None:
    """Fill the lanes `leader` and `no write`, from the first operation to the last."""
    whole = max(0.1, (end - origin) / 1e9)
    led = leaderships(history)
    names = sorted({each.leader for each in led if each.leader is not None})
    for n, each in enumerate(led):
        start = max(0.0, (each.since_ns - origin) / 1e9)
        stop = (led[n + 1].since_ns - origin) / 1e9 if n + 1 < len(led) else whole
        if stop <= start or each.leader is None:
            continue
        colour = LEADERS[names.index(each.leader) % len(LEADERS)]
        axes.broken_barh([(start, stop - start)], (1.1, 0.8), color=colour, linewidth=0)
        axes.plot([start, start], [1.1, 1.9], color="white", linewidth=1)
        if stop - start > NAMED_S * whole:
            term = "?" if each.term is None else str(each.term)
            axes.text(
                (start + stop) / 2, 1.5, f"{each.leader} · term {term}",
                ha="center", va="center", fontsize=8, color="white", clip_on=True,
            )  # fmt: skip
    for outage in outages(history):
        start = (outage.start_ns - origin) / 1e9
        axes.broken_barh([(start, outage.seconds)], (0.1, 0.8), color=OUTAGE, linewidth=0)
    axes.set_ylim(0, 2)
    axes.set_yticks([0.5, 1.5], ["no write", "leader"])
    axes.tick_params(axis="y", length=0)


def mark(axes: Any, history: History, origin: int) -> None:
    """Mark the outages in a chart below the lanes by a line at each end."""
    for outage in outages(history):
        for at in (outage.start_ns, outage.end_ns):
            axes.axvline((at - origin) / 1e9, color=OUTAGE, linewidth=0.8, linestyle=":", zorder=1)
