"""Draw throughput and latency over time, with shaded fault windows, as PNG, on light or on dark. It
judges nothing.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from chaos.nemeses.catalogue import FAMILIES
from chaos.records.history import History
from chaos.records.intervals import FaultWindow, fault_windows
from chaos.report import lanes

POINTS_MAX: Final = 20_000
"""Most latencies drawn as points per outcome; a longer run is thinned evenly."""
OUTCOMES: Final = {
    "light": {"ok": "#2f7d4f", "fail": "#b7791f", "info": "#b42318"},
    "dark": {"ok": "#5fbf86", "fail": "#e0b152", "info": "#ff8177"},
}
SHADED: Final = {"light": 0.5, "dark": 0.28}
"""How much a fault that bit shades the chart."""
NAMES: Final = {"ok": "took effect", "fail": "failed for certain", "info": "unknown"}
SHADES: Final = ("#f4a3a0", "#a9c7f2", "#f7d794", "#b9e0c3", "#d7b9ec", "#c9ced6", "#f5b7d5")
PAPER: Final = {"light": "#ffffff", "dark": "#14181f"}
INK: Final = {"light": "#1c2330", "dark": "#e6e9ef"}
GRID: Final = {"light": "#e4e7ec", "dark": "#323a48"}
LOOKS: Final = tuple(PAPER)
"""The backgrounds that a picture is drawn for."""


def throughput(history: History, look: str = "light") -> bytes:
    """Draw operations per second over time, by workload and by outcome, below who led."""
    with _on(look):
        return _throughput(history, look)


def latency(history: History, look: str = "light") -> bytes:
    """Draw the latency of each operation as a point, by outcome, on a logarithmic scale, below who
    led.
    """
    with _on(look):
        return _latency(history, look)


@contextmanager
def _on(look: str) -> Iterator[None]:
    paper, ink = PAPER[look], INK[look]
    settings: dict[Any, Any] = {
        "figure.facecolor": paper, "axes.facecolor": paper, "savefig.facecolor": paper,
        "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": GRID[look],
        "xtick.color": ink, "ytick.color": ink, "legend.facecolor": paper,
        "legend.edgecolor": GRID[look],
    }  # fmt: skip
    with plt.rc_context(settings):
        yield


def _throughput(history: History, look: str) -> bytes:
    origin, end = _span(history)
    figure, (led, top, bottom) = plt.subplots(
        3, 1, figsize=(12, 7.2), sharex=True, layout="constrained", height_ratios=[0.7, 3, 3]
    )
    lanes.draw(led, history, origin, end)
    width = max(0.5, (end - origin) / 1e9 / 240)
    count = max(1, int((end - origin) / 1e9 / width) + 1)
    by_workload: dict[str, list[float]] = defaultdict(lambda: [0.0] * count)
    by_outcome: dict[str, list[float]] = {name: [0.0] * count for name in NAMES}
    for o in history.operations:
        at = min(count - 1, max(0, int(((o.end_ns or o.start_ns) - origin) / 1e9 / width)))
        by_outcome[o.outcome][at] += 1 / width
        if o.outcome == "ok":
            by_workload[o.workload or "?"][at] += 1 / width
    times = [n * width for n in range(count)]
    for name in sorted(by_workload):
        top.plot(times, by_workload[name], label=name, linewidth=1.4)
    for name, rates in by_outcome.items():
        bottom.plot(times, rates, label=NAMES[name], color=OUTCOMES[look][name], linewidth=1.4)
    top.set_ylabel("took effect / s, by workload")
    bottom.set_ylabel("operations / s, by outcome")
    for axes in (top, bottom):
        axes.set_ylim(bottom=0)
    return _finish(figure, [top, bottom], history, (origin, end), look)


def _latency(history: History, look: str) -> bytes:
    origin, end = _span(history)
    figure, (led, axes) = plt.subplots(
        2, 1, figsize=(12, 5.4), sharex=True, layout="constrained", height_ratios=[0.7, 4.6]
    )
    lanes.draw(led, history, origin, end)
    for outcome in NAMES:
        mine = [o for o in history.operations if o.outcome == outcome and o.end_ns is not None]
        mine = mine[:: max(1, len(mine) // POINTS_MAX)]
        if mine:
            x = [(o.start_ns - origin) / 1e9 for o in mine]
            y = [max(0.05, ((o.end_ns or 0) - o.start_ns) / 1e6) for o in mine]
            axes.scatter(
                x,
                y,
                s=8,
                alpha=0.6,
                linewidths=0,
                color=OUTCOMES[look][outcome],
                label=NAMES[outcome],
                zorder=3,
            )
    unknown = [o for o in history.operations if o.outcome == "info"]
    if unknown:
        top = axes.get_ylim()[1] if axes.collections else 1.0
        x = [(o.start_ns - origin) / 1e9 for o in unknown]
        axes.scatter(
            x,
            [top] * len(x),
            s=14,
            marker="x",
            color=OUTCOMES[look]["info"],
            label=NAMES["info"],
            zorder=3,
        )
    axes.set_yscale("log")
    axes.set_ylabel("latency, ms")
    return _finish(figure, [axes], history, (origin, end), look)


def _span(history: History) -> tuple[int, int]:
    starts = [o.start_ns for o in history.operations] or [0]
    ends = [o.end_ns or o.start_ns for o in history.operations] or [1]
    return min(starts), max(ends)


def family_of(nemesis: str) -> str:
    """Return the family that a nemesis belongs to."""
    return next((family for family, names in FAMILIES.items() if nemesis in names), nemesis)


def _finish(
    figure: Figure, drawn: list[Any], history: History, span: tuple[int, int], look: str
) -> bytes:
    origin, end = span
    shaded = fault_windows(history.faults)
    families = list(dict.fromkeys(family_of(w.nemesis) for w in shaded))
    for axes in drawn:
        axes.grid(color=GRID[look], linewidth=0.6)
        lanes.mark(axes, history, origin)
        axes.set_xlim(0, max(0.1, (end - origin) / 1e9))
        for w in shaded:
            _shade(axes, w, families, span, SHADED[look])
    drawn[-1].set_xlabel("seconds since the first operation")
    handles, labels = drawn[0].get_legend_handles_labels()
    patches = [
        Patch(facecolor=SHADES[n % len(SHADES)], alpha=SHADED[look], label=f)
        for n, f in enumerate(families)
    ]
    drawn[0].legend(
        [*handles, *patches],
        [*labels, *families],
        loc="upper left",
        bbox_to_anchor=(1.005, 1),
        fontsize=9,
        markerscale=2,
    )
    for axes in drawn[1:]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1), fontsize=9)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100)
    plt.close(figure)
    return out.getvalue()


def _shade(
    axes: Any, w: FaultWindow, families: list[str], span: tuple[int, int], alpha: float
) -> None:
    origin, end = span
    colour = SHADES[families.index(family_of(w.nemesis)) % len(SHADES)]
    start = (w.start_ns - origin) / 1e9
    stop = ((w.healed_ns or end) - origin) / 1e9
    axes.axvspan(
        start,
        stop,
        color=colour,
        alpha=alpha if w.bit_ns is not None else alpha * 0.3,
        zorder=0,
        linewidth=0,
    )
