"""Replay a run: its writes, leaders, faults and outages along a time that the reader moves. Pure.

What it shows is in the records; it judges nothing, and loads nothing from elsewhere.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Final

import msgspec

from chaos.records.history import History
from chaos.records.intervals import fault_windows, leaderships
from chaos.report.outages import acknowledged, outages

BIN_S: Final = 0.25
BINS_MAX: Final = 4000
"""Bins of a long run are wider than BIN_S instead of more than these."""

STYLE: Final = """
.replay { border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.replay svg { width: 100%; height: 120px; display: block; }
.replay input { width: 100%; margin: 6px 0; }
.replay .now { font-size: 18px; font-weight: 700; min-height: 1.6em;
  font-variant-numeric: tabular-nums; }
.replay .bad { color: var(--stuck-edge); }
"""

SCRIPT: Final = """
const run = JSON.parse(document.getElementById("replay-data").textContent);
const at = (id) => document.getElementById("replay-" + id);
let playing = null;
function show() {
  const s = Number(at("time").value);
  const led = run.leaders.filter((each) => each.at <= s).at(-1);
  const faults = run.faults.filter((each) => each.from <= s && s < (each.to ?? run.seconds));
  const bin = Math.min(run.writes.length - 1, Math.floor(s / run.bin_s));
  const stopped = run.outages.find((each) => each.from <= s && s < each.to);
  const words = [s.toFixed(2) + " s", led && led.leader
    ? led.leader + " leads" + (led.term === null ? "" : ", term " + led.term) : "no leader known",
    Math.round(run.writes[bin] / run.bin_s) + " writes/s acknowledged"];
  at("now").textContent = words.join(" \\u00b7 ");
  at("faults").textContent = faults.map((each) => each.name + " " + each.targets.join(", "))
    .join(" \\u00b7 ") || "no fault";
  at("stopped").textContent = stopped
    ? "writes have stopped for " + (s - stopped.from).toFixed(2) + " s of "
      + (stopped.to - stopped.from).toFixed(2) + " s" : "";
  const x = 1000 * s / run.seconds;
  at("cursor").setAttribute("x1", x);
  at("cursor").setAttribute("x2", x);
}
function stop() {
  cancelAnimationFrame(playing);
  playing = null;
  at("play").textContent = "Play";
}
function step(before, now) {
  const next = Number(at("time").value) + (now - before) / 1000;
  at("time").value = Math.min(next, run.seconds);
  show();
  if (next >= run.seconds) stop();
  else playing = requestAnimationFrame((later) => step(now, later));
}
at("time").addEventListener("input", show);
at("play").addEventListener("click", () => {
  if (playing !== null) return stop();
  if (Number(at("time").value) >= run.seconds) at("time").value = 0;
  at("play").textContent = "Pause";
  playing = requestAnimationFrame((now) => step(now, now));
});
show();
"""


def figures(history: History) -> dict[str, Any]:
    """Return what is replayed, in seconds since the first operation began."""
    origin = min(o.start_ns for o in history.operations)
    end = max(o.end_ns or o.start_ns for o in history.operations)
    seconds = max(BIN_S, (end - origin) / 1e9)
    bin_s = max(BIN_S, seconds / BINS_MAX)
    writes = [0] * (ceil(seconds / bin_s) + 1)

    def since(t_ns: int) -> float:
        return round(max(0, t_ns - origin) / 1e9, 3)

    for t_ns in acknowledged(history.operations):
        writes[int(since(t_ns) / bin_s)] += 1
    return {
        "seconds": round(seconds, 3),
        "bin_s": bin_s,
        "writes": writes,
        "leaders": [
            {"at": since(each.since_ns), "leader": each.leader, "term": each.term}
            for each in leaderships(history)
        ],
        "faults": [
            {
                "name": each.nemesis,
                "targets": each.targets,
                "from": since(each.start_ns),
                "to": None if each.healed_ns is None else since(each.healed_ns),
            }
            for each in fault_windows(history.faults)
        ],
        "outages": [
            {"from": since(each.start_ns), "to": since(each.end_ns)} for each in outages(history)
        ],
    }


def section(history: History) -> str:
    """Return the part of the page that replays a history; empty for one without operations."""
    if not history.operations:
        return ""
    run = figures(history)
    data = msgspec.json.encode(run).decode().replace("<", "\\u003c")  # it ends no script
    return (
        f'<h2>Replay</h2><style>{STYLE}</style><div class="replay">{_strip(run)}'
        f'<input id="replay-time" type="range" min="0" max="{run["seconds"]}" step="0.01" '
        'value="0" aria-label="Time of the run, in seconds">'
        '<button type="button" id="replay-play">Play</button> '
        '<div id="replay-now" class="now"></div><div id="replay-faults"></div>'
        '<div id="replay-stopped" class="bad"></div></div>'
        f'<script type="application/json" id="replay-data">{data}</script>'
        f"<script>{SCRIPT}</script>"
    )


def _strip(run: dict[str, Any]) -> str:
    """Return a picture of the whole run: faults as bands, outages in red, writes as bars."""
    scale, most = 1000 / run["seconds"], max(1, *run["writes"])
    parts = []
    for each in run["faults"]:
        to = run["seconds"] if each["to"] is None else each["to"]
        parts.append(_box(each["from"] * scale, (to - each["from"]) * scale, 100, "var(--info)"))
    for each in run["outages"]:
        wide = (each["to"] - each["from"]) * scale
        parts.append(_box(each["from"] * scale, wide, 100, "var(--stuck)"))
    width = run["bin_s"] * scale
    for n, count in enumerate(run["writes"]):
        if count:
            parts.append(_box(n * width, width, 90 * count / most, "var(--ok-edge)"))
    return (
        '<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        'aria-label="Acknowledged writes over time, with faults and outages">'
        + "".join(parts)
        + '<line id="replay-cursor" y1="0" y2="100" stroke="currentColor" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )


def _box(x: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:.2f}" y="{100 - height:.2f}" width="{max(0.5, width):.2f}" '
        f'height="{height:.2f}" fill="{fill}"/>'
    )
