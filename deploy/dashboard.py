"""Draw the dashboard's panels as a picture: `python -m deploy.dashboard PROMETHEUS_URL PICTURE`.

The queries are those of Grafana's deploy/grafana/dashboards/acordo.json; this module defines none.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DASHBOARD: Final = Path(__file__).parent / "grafana" / "dashboards" / "acordo.json"
STEP_S: Final = 2
ASK_TIMEOUT_S: Final = 20
_SCALE: Final = {
    "bytes": (1 / 2**20, "MiB"),
    "s": (1000.0, "ms"),
    "reqps": (1.0, "/s"),
    "percentunit": (100.0, "%"),
}
COLUMNS: Final = 3


@dataclass(frozen=True)
class Query:
    """A PromQL expression, with the name of its series in the legend."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A panel of the dashboard: its title, its unit and its queries."""

    title: str
    unit: str
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Line:
    """A series: its name in the legend, and its points."""

    name: str
    points: tuple[tuple[float, float], ...]


def panels() -> list[Panel]:
    """Return every panel with queries, in reading order."""
    return [
        Panel(
            panel["title"],
            panel["fieldConfig"]["defaults"]["unit"],
            tuple(Query(t["expr"], t["legendFormat"]) for t in panel["targets"]),
        )
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        if panel["type"] != "row"
    ]


def overlays() -> list[Query]:
    """Return the queries of the annotations that are drawn over every panel."""
    listed = json.loads(DASHBOARD.read_text())["annotations"]["list"]
    return [Query(a["expr"], a["titleFormat"]) for a in listed]


def ask(url: str, query: Query, start: float, end: float, step_s: float = STEP_S) -> list[Line]:
    """Run a range query on a Prometheus, as Grafana does.

    Raises OSError, and ValueError for a query that it rejects.
    """
    words = {"query": query.expression, "start": start, "end": end, "step": step_s}
    request = f"{url}/api/v1/query_range?{urllib.parse.urlencode(words)}"
    try:
        with urllib.request.urlopen(request, timeout=ASK_TIMEOUT_S) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as exc:
        raise ValueError(f"{query.expression}: {exc.read().decode(errors='replace')}") from exc
    lines = []
    for series in answer["data"]["result"]:
        name = query.legend
        for label, value in series["metric"].items():
            name = name.replace("{{" + label + "}}", value)
        points = tuple((float(at), float(v)) for at, v in series["values"])
        lines.append(Line(name, tuple(p for p in points if math.isfinite(p[1]))))
    return lines


def draw(url: str, picture: Path, start: float, end: float) -> None:
    """Run every panel's queries and draw the results. Raises OSError and ValueError."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    all_panels = panels()
    rows = -(-len(all_panels) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(15, 2.5 * rows), layout="constrained")
    windows = [line for line in ask(url, overlays()[0], start, end) if line.points]
    for axes, panel in zip(grid.flat, all_panels, strict=False):
        _panel(axes, panel, url, start, end)
        for window in windows:
            for begin, stop in _stretches(window.points):
                axes.axvspan(begin - start, stop - start, color="tab:red", alpha=0.15, lw=0)
    names = list(dict.fromkeys(w.name for w in windows))
    named = ", ".join(names) if len(names) < 6 else f"{len(names)} faults"
    figure.suptitle(f"Acordo (seconds; red: {named})" if named else "Acordo (seconds)", fontsize=11)
    figure.savefig(picture, dpi=75)
    plt.close(figure)


def _panel(axes: Any, panel: Panel, url: str, start: float, end: float) -> None:
    scale, unit = _SCALE.get(panel.unit, (1.0, ""))
    for query in panel.queries:
        for line in ask(url, query, start, end):
            for n, (begin, stop) in enumerate(_stretches(line.points)):  # do not draw over gaps
                part = [p for p in line.points if begin <= p[0] <= stop]
                style = {"color": axes.lines[-1].get_color()} if n else {"label": line.name}
                axes.plot(
                    [p[0] - start for p in part], [p[1] * scale for p in part], lw=1.2, **style
                )
    axes.set_title(f"{panel.title}{f', {unit}' if unit else ''}", fontsize=9, loc="left")
    axes.set_xlim(0, end - start)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, loc="upper left", framealpha=0.6)


def _stretches(points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    """Return the periods in which a series has points without a gap."""
    found: list[tuple[float, float]] = []
    for at, _ in points:
        if found and at - found[-1][1] <= STEP_S * 1.5:
            found[-1] = (found[-1][0], at)
        else:
            found.append((at, at))
    return [(begin, max(end, begin + STEP_S)) for begin, end in found]


def main(argv: list[str]) -> int:
    """Draw the last minutes, as the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.dashboard", description=__doc__)
    parser.add_argument("url", help="of a Prometheus: http://127.0.0.1:9091")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--minutes", type=float, default=15.0)
    given = parser.parse_args(argv)
    now = time.time()
    try:
        draw(given.url.rstrip("/"), given.picture, now - given.minutes * 60, now)
    except (OSError, ValueError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
