"""Write the result of a benchmark: its figures as JSON, and a page with the distributions of its
latencies. The page loads nothing, and follows the reader's light or dark setting.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from html import escape
from math import log10
from pathlib import Path
from typing import Any, Final

import msgspec

OUT: Final = Path("out/bench")
POINTS: Final = 200
"""Points that a distribution is kept with, whatever was measured."""
WIDTH: Final = 760
HEIGHT: Final = 260
LEFT: Final = 46
BOTTOM: Final = 28
COLOURS: Final = ("#3b7ddd", "#d9822b", "#2f9e62", "#a05cc4")
STYLE: Final = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2330;--quiet:#667085;--line:#d5dae3}
@media(prefers-color-scheme:dark){:root{--paper:#14181f;--ink:#e6e9ef;--quiet:#98a2b3;
--line:#323a48}}
body{margin:24px auto;max-width:900px;padding:0 16px;background:var(--paper);color:var(--ink);
font:14px/1.5 system-ui,sans-serif}h1{font-size:20px}h2{font-size:16px;margin:28px 0 6px}
td,th{padding:4px 18px 4px 0;text-align:left;border-bottom:1px solid var(--line);
font-variant-numeric:tabular-nums}svg{width:100%;font:12px system-ui,sans-serif}
svg text{fill:var(--quiet)}.g{stroke:var(--line)}.c{fill:none;stroke-width:2}.key{font-weight:700}
"""

Row = Sequence[str]
Curves = Mapping[str, Mapping[str, Sequence[float]]]
"""Latencies in seconds, by what was measured and by what it was measured of."""


def write(name: str, head: Row, rows: Sequence[Row], curves: Curves, out: Path = OUT) -> Path:
    """Write `report.json` and `report.html` into a new directory below `out`; return the page."""
    folder = out / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        what: {of: distribution(values) for of, values in each.items() if values}
        for what, each in curves.items()
    }
    facts = about()
    document: dict[str, Any] = {
        "benchmark": name,
        "about": facts,
        "figures": [dict(zip(head, row, strict=True)) for row in rows],
        "latencies_ms": kept,
    }
    text = msgspec.json.format(msgspec.json.encode(document), indent=2)
    (folder / "report.json").write_bytes(text)
    page = folder / "report.html"
    page.write_text(_page(name, facts, (head, *rows), kept), encoding="utf-8")
    return page


def about() -> dict[str, str]:
    """Return what the figures depend on: the commit, the machine, its load, the time."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "commit": asked.stdout.strip() or "unknown",
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def distribution(latencies_s: Sequence[float]) -> list[tuple[float, float]]:
    """Return (milliseconds, share of the requests that took no longer), by rising share."""
    ordered = sorted(latencies_s)
    last = len(ordered) - 1
    places = sorted({round(last * n / (POINTS - 1)) for n in range(POINTS)})
    return [(round(ordered[place] * 1000, 4), (place + 1) / len(ordered)) for place in places]


def curve(series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return distributions as SVG, the milliseconds on a logarithmic scale."""
    points = [ms for each in series.values() for ms, _ in each if ms > 0]
    low, high = log10(min(points)), log10(max(points))
    span = max(high - low, 0.1)

    def x(ms: float) -> float:
        return LEFT + (log10(max(ms, 10**low)) - low) / span * (WIDTH - LEFT - 10)

    def y(share: float) -> float:
        return 10 + (1 - share) * (HEIGHT - BOTTOM - 10)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path class="g" d="M{LEFT} {y(share):.1f}H{WIDTH - 10}"/>')
        parts.append(f'<text x="8" y="{y(share) + 4:.1f}">{share:.0%}</text>')
    for n in range(6):
        ms = 10 ** (low + span * n / 5)
        left = x(ms) - 8 * n
        parts.append(f'<text x="{left:.1f}" y="{HEIGHT - 8}">{ms:.3g} ms</text>')
    for n, (of, each) in enumerate(series.items()):
        line = "L".join(f"{x(ms):.1f} {y(share):.1f}" for ms, share in each)
        colour = COLOURS[n % len(COLOURS)]
        parts.append(f'<path class="c" stroke="{colour}" d="M{line}"/>')
        place = f'x="{LEFT + 14}" y="{28 + 18 * n}"'
        parts.append(f'<text class="key" {place} style="fill:{colour}">{escape(of)}</text>')
    return "".join([*parts, "</svg>"])


def _page(
    name: str, facts: Mapping[str, str], table: Sequence[Row], kept: Mapping[str, Any]
) -> str:
    def row(cells: Row, tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(each)}</{tag}>' for each in cells)}</tr>"

    said = " · ".join(f"{escape(key)} {escape(value)}" for key, value in facts.items())
    rows = row(table[0], "th") + "".join(row(each, "td") for each in table[1:])
    curves = "".join(
        f"<h2>{escape(what)}</h2>{curve(series)}" for what, series in kept.items() if series
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Acordo, {escape(name)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(name)}</h1><p>{said}</p><table>{rows}</table>{curves}</body></html>\n"
    )
