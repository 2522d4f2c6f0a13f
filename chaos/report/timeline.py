"""Draw operations as a self-contained HTML page with an SVG.

It has one lane per client, fault windows behind, and the leader at the top. It loads nothing from
elsewhere, and escapes everything that comes from a history. Long idle gaps are drawn shorter than
they were.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Final

from chaos.records.history import Client, ClientOperation
from chaos.report.explain import Explanation, in_words, unit_of
from chaos.report.explain import text as explained

OPERATIONS_MAX: Final = 400
"""Most operations that are drawn, because more would not be readable; the page says how many are
left out.
"""
LEFT: Final = 110
LANE: Final = 44
BAR: Final = 26
TOP: Final = 58
RIGHT: Final = 40
LETTER: Final = 6.6
"""Width of a letter in a bar, in pixels."""
WORDS_MAX: Final = 40
"""Most letters of an operation that a bar shows."""

STYLE: Final = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2330; --quiet: #667085;
  --line: #d5dae3;
  --ok: #cfe3d4; --ok-edge: #2f7d4f; --info: #f3e3bd; --info-edge: #a77400; --fail: #e4e7ec;
  --fail-edge: #98a2b3;
  --stuck: #f6c9c6; --stuck-edge: #b42318; --fault: #b4231814; --fault-edge: #b42318;
  --lead: #dbe6f7; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e6e9ef; --quiet: #98a2b3;
  --line: #323a48;
  --ok: #1f4030; --ok-edge: #5fbf86; --info: #4b3b14; --info-edge: #e0b152; --fail: #2a303b;
  --fail-edge: #778195;
  --stuck: #5a211d; --stuck-edge: #ff8177; --fault: #ff817722; --fault-edge: #ff8177;
  --lead: #22324d; } }
body { margin: 24px; background: var(--paper); color: var(--ink);
  font: 14px/1.5 system-ui, sans-serif; }
h1 { font-size: 18px; margin: 0 0 4px; } p { margin: 0 0 14px; max-width: 90ch; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
svg { display: block; font: 12px ui-monospace, monospace; } text { fill: var(--ink); }
.quiet { fill: var(--quiet); } .lane { stroke: var(--line); } .tick { stroke: var(--line);
  stroke-dasharray: 2 4; }
.ok { fill: var(--ok); stroke: var(--ok-edge); } .info { fill: var(--info);
  stroke: var(--info-edge); }
.fail { fill: var(--fail); stroke: var(--fail-edge); } .stuck { fill: var(--stuck);
  stroke: var(--stuck-edge); }
.fault { fill: var(--fault); stroke: var(--fault-edge); stroke-dasharray: 4 3; stroke-opacity: .5; }
.lead { fill: var(--lead); } .number { fill: var(--ok-edge); font-weight: 700; } .no {
  fill: var(--stuck-edge); }
pre { overflow-x: auto; padding: 12px; border: 1px solid var(--line); border-radius: 6px;
  font-size: 12px; }
ul.key { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0;
  color: var(--quiet); }
"""


@dataclass(frozen=True)
class _Scale:
    """A map from times to pixels that keeps the order and a minimum width of every gap, and
    compresses long gaps.
    """

    times: tuple[float, ...]
    places: tuple[float, ...]

    def x(self, t: float) -> float:
        n = bisect_right(self.times, t) - 1
        if n < 0:
            return self.places[0]
        if n + 1 >= len(self.times):
            return self.places[-1]
        share = (t - self.times[n]) / (self.times[n + 1] - self.times[n])
        return self.places[n] + share * (self.places[n + 1] - self.places[n])


def page(e: Explanation) -> str:
    """Return the page for one explanation."""
    title = f"{e.checker}: {e.anomaly}" + (f", key {e.key}" if e.key is not None else "")
    left_out = len(e.operations) - OPERATIONS_MAX
    note = (
        f" The first {OPERATIONS_MAX} are drawn, {left_out} are left out." if left_out > 0 else ""
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>{escape(e.message)}{note}</p>{figure(e)}"
        '<ul class="key"><li>numbers: longest legal order</li><li>✗ red: cannot follow it</li>'
        "<li>bar to the edge: outcome unknown</li><li>shaded: fault active</li></ul>"
        f"<pre>{escape(explained(e))}</pre></body></html>"
    )


def figure(e: Explanation) -> str:
    """Return only the picture, for a larger report. Its CSS classes are those of STYLE."""
    ops = e.operations[:OPERATIONS_MAX]
    if not ops:
        return ""
    clients = list(dict.fromkeys(o.client for o in sorted(ops, key=lambda o: o.start_ns)))
    scale = _scale(ops)
    width = scale.places[-1] + RIGHT
    height = TOP + LANE * len(clients) + 34
    parts = [
        *_faults(e, scale, height),
        *_leaders(e, scale, width),
        *_lanes(clients, width),
        *_ticks(ops, scale, height),
    ]
    numbers = {id(o): n for n, o in enumerate(e.prefix, 1)}
    stuck = {id(o): why for o, why in e.stuck}
    for o in ops:
        y = TOP + LANE * clients.index(o.client) + (LANE - BAR) / 2
        parts += _bar(o, scale, y, width, number=numbers.get(id(o)), why=stuck.get(id(o)))
    label = escape(f"{len(ops)} operations of {len(clients)} clients")
    return (
        f'<div class="scroll"><svg role="img" aria-label="{label}" width="{width:.0f}" '
        f'height="{height}" viewBox="0 0 {width:.0f} {height}">{"".join(parts)}</svg></div>'
    )


def _scale(ops: Sequence[ClientOperation]) -> _Scale:
    times = sorted(
        {float(o.start_ns) for o in ops}
        | {o.returned_ns for o in ops if o.returned_ns != float("inf")}
    )
    gaps = [b - a for a, b in pairwise(times)]
    middle = sorted(gaps)[len(gaps) // 2] if gaps else 1.0
    # A bar must have room for its label, so gaps are widened to what the longest label over them
    # needs.
    places = [float(LEFT)]
    for gap in gaps:
        places.append(places[-1] + 16 + 110 * gap / (gap + 2 * middle))
    index = {t: n for n, t in enumerate(times)}
    for o in sorted(ops, key=lambda o: o.returned_ns - o.start_ns):
        first = index[float(o.start_ns)]
        last = index.get(o.returned_ns, len(times) - 1)
        missing = LETTER * min(len(in_words(o)), WORDS_MAX) + 34 - (places[last] - places[first])
        if o.returned_ns != float("inf") and missing > 0:
            for n in range(first + 1, len(places)):
                places[n] += missing * min(1.0, (n - first) / max(1, last - first))
    if any(o.returned_ns == float("inf") for o in ops):
        times.append(times[-1] + 1)
        places.append(places[-1] + 260)
    return _Scale(tuple(times), tuple(places))


def _bar(
    o: ClientOperation,
    scale: _Scale,
    y: float,
    width: float,
    *,
    number: int | None,
    why: str | None,
) -> Iterable[str]:
    x = scale.x(o.start_ns)
    unknown = o.returned_ns == float("inf")
    end = width if unknown else max(scale.x(o.returned_ns), x + 4)
    style = "stuck" if why is not None else o.outcome
    words = in_words(o)
    if len(words) > WORDS_MAX:
        words = words[: WORDS_MAX - 1] + "…"
    mark = '<tspan class="no">✗ </tspan>' if why else ""
    if number:
        mark = f'<tspan class="number">{number} </tspan>'
    dash = ' stroke-dasharray="5 3"' if unknown else ""
    yield (
        f'<g><title>{escape(_hover(o, why))}</title><rect class="{style}" x="{x:.1f}" y="{y}" '
        f'width="{end - x:.1f}" height="{BAR}" rx="4"{dash}/>'
        f'<text x="{x + 7:.1f}" y="{y + 17}">{mark}{escape(words)}</text></g>'
    )


def _hover(o: ClientOperation, why: str | None) -> str:
    until = "unknown" if o.returned_ns == float("inf") else str(o.end_ns)
    lines = [f"client {o.client}: {in_words(o)}", f"{o.start_ns} – {until} ns"]
    for name in (
        "node",
        "revision",
        "version",
        "level",
        "term",
        "leader",
        "op_id",
        "attempts",
        "error",
    ):
        value = getattr(o, name)
        if value is not None and value != 1:
            lines.append(f"{name}: {value}")
    return "\n".join([*lines, f"cannot follow: {why}"] if why else lines)


def _lanes(clients: Sequence[Client], width: float) -> Iterable[str]:
    for n, client in enumerate(clients):
        y = TOP + LANE * n + LANE / 2
        yield f'<line class="lane" x1="{LEFT - 8}" x2="{width:.0f}" y1="{y}" y2="{y}"/>'
        yield f'<text x="10" y="{y + 4}">client {escape(str(client))[:9]}</text>'


def _ticks(ops: Sequence[ClientOperation], scale: _Scale, height: float) -> Iterable[str]:
    start = min(o.start_ns for o in ops)
    last = -1e9
    unit, name = unit_of(ops)
    for t in sorted({o.start_ns for o in ops}):
        x = scale.x(t)
        yield f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 24}"/>'
        if x - last > 84:
            last = x
            words = f"{(t - start) / unit:.3f}".removesuffix(".000")
            yield f'<text class="quiet" x="{x:.1f}" y="{height - 10}">{words} {name}</text>'


def _faults(e: Explanation, scale: _Scale, height: float) -> Iterable[str]:
    for n, w in enumerate(e.faults):
        x = scale.x(w.start_ns)
        end = scale.x(w.healed_ns) if w.healed_ns is not None else scale.places[-1]
        words = escape(f"{w.nemesis} {', '.join(w.targets)}")
        y = 26 + 14 * (n % 2)
        yield (
            f'<rect class="fault" x="{x:.1f}" y="24" width="{max(end - x, 3):.1f}" '
            f'height="{height - 50}"/>'
        )
        yield f'<text class="no" x="{x + 4:.1f}" y="{y + 12}">{words}</text>'


def _leaders(e: Explanation, scale: _Scale, width: float) -> Iterable[str]:
    yield '<text class="quiet" x="10" y="15">leader</text>'
    for n, r in enumerate(e.leaderships):
        x = scale.x(r.since_ns)
        end = scale.x(e.leaderships[n + 1].since_ns) if n + 1 < len(e.leaderships) else width
        if end - x < 1:
            continue
        words = escape(f"{r.leader} · term {r.term if r.term is not None else '?'}")
        yield f'<rect class="lead" x="{x:.1f}" y="2" width="{end - x - 2:.1f}" height="18" rx="3"/>'
        yield f'<text x="{x + 6:.1f}" y="15">{words}</text>'
