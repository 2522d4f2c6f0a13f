"""Write the result of a fail-over measurement: figures as JSON, and a page with a bar per kill."""

from __future__ import annotations

import os
import platform
from html import escape
from pathlib import Path
from typing import Final

import msgspec

from chaos.report.outages import quantile
from chaos.runs.failover import Gap

LONGEST_S: Final = 1.2
"""Longest gap that passes the measurement, in seconds."""
BAR_PX: Final = 600
COLUMNS: Final = 24
"""Columns of the histogram, from nothing to the longest gap."""
STYLE: Final = """\
:root{color-scheme:light dark}
body{font:14px/1.5 system-ui,sans-serif;max-width:1000px;margin:32px auto;padding:0 16px}
td,th{padding:2px 16px 2px 0;text-align:left;font-variant-numeric:tabular-nums}
.bar,.bad{height:12px;background:#2f7d4f;border-radius:2px}.bad{background:#b42318}
svg{width:100%;font:12px system-ui,sans-serif}svg text{fill:CanvasText}
rect.bar{fill:#2f7d4f}rect.bad{fill:#b42318}"""
HEAD: Final = "".join(f"<th>{name}</th>" for name in ("kill", "leader", "gap", "writes before", ""))


def summary(gaps: list[Gap]) -> str:
    """Return the figures in one line."""
    if not gaps:
        return "no kill was measured"
    values = [g.gap_s for g in gaps]
    return (
        f"{len(gaps)} leader kills: longest gap between acknowledged writes "
        f"p50 {quantile(values, 0.5):.2f} s, p90 {quantile(values, 0.9):.2f} s, "
        f"longest {max(values):.2f} s (limit {LONGEST_S:g} s)"
    )


def write(folder: Path, gaps: list[Gap], command: str, began: str, commit: str = "") -> None:
    """Write failover.json and the page."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"command": command, "began": began, "commit": commit, "system": platform.platform()}
    document = {**facts, "processors": os.cpu_count(), "summary": summary(gaps), "kills": gaps}
    text = msgspec.json.format(msgspec.json.encode(document), indent=2)
    (folder / "failover.json").write_bytes(text)
    most = max([LONGEST_S, *(g.gap_s for g in gaps)])
    rows = "".join(_row(n, gap, most) for n, gap in enumerate(gaps, 1))
    said = "<br>".join(f"{escape(k)}: <code>{escape(v)}</code>" for k, v in facts.items())
    (folder / "failover.html").write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Acordo fail-over</title><style>{STYLE}</style></head><body>"
        f"<h1>Fail-over</h1><p><b>{escape(summary(gaps))}</b></p><p>{said}</p>"
        f"{_histogram([g.gap_s for g in gaps], most)}"
        f"<table><tr>{HEAD}</tr>{rows}</table></body></html>\n",
        encoding="utf-8",
    )


def _histogram(values: list[float], most_s: float) -> str:
    """Return how many gaps lasted how long, as SVG."""
    counts = [0] * COLUMNS
    for value in values:
        counts[min(COLUMNS - 1, int(value / most_s * COLUMNS))] += 1
    tallest, parts = max([1, *counts]), []
    for n, count in enumerate(counts):
        kind = "bad" if n / COLUMNS * most_s >= LONGEST_S else "bar"
        high = 120 * count / tallest
        parts.append(
            f'<rect class="{kind}" x="{n * 40}" y="{140 - high:.1f}" width="36" '
            f'height="{high:.1f}"/>'
        )
        if count:
            parts.append(f'<text x="{n * 40 + 12}" y="{134 - high:.1f}">{count}</text>')
        if n % 4 == 0:
            parts.append(f'<text x="{n * 40}" y="158">{n / COLUMNS * most_s:.2f} s</text>')
    return f'<svg viewBox="0 0 {COLUMNS * 40} 164" role="img">{"".join(parts)}</svg>'


def _row(n: int, gap: Gap, most_s: float) -> str:
    kind = "bad" if gap.gap_s > LONGEST_S else "bar"
    width_px = gap.gap_s / most_s * BAR_PX
    return (
        f"<tr><td>{n}</td><td>{escape(gap.killed)} → {escape(gap.then or '?')}</td>"
        f"<td>{gap.gap_s:.2f} s</td><td>{gap.rate:.0f}/s</td>"
        f'<td><div class="{kind}" style="width:{width_px:.0f}px"></div></td></tr>'
    )
