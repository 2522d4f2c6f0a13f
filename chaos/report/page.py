"""Write the report of a run: one self-contained page, its pictures as PNG files, and a summary.

It judges nothing, and the page loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import History
from chaos.records.intervals import FaultWindow, fault_windows, leaderships
from chaos.report import charts, replay, timeline
from chaos.report.explain import explain, text
from chaos.report.outages import Outage, outages, quantile
from chaos.runs.result import RunResult

EXPLAINED_MAX: Final = 5
WORDS: Final = {Verdict.OK: "no anomaly", Verdict.UNKNOWN: "undecided", Verdict.ILLEGAL: "anomaly"}

STYLE: Final = """
main { max-width: 1240px; margin: 0 auto; } h2 { font-size: 16px; margin: 28px 0 8px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--quiet); font-weight: 600; } td.n, th.n { text-align: right; padding-right: 28px; }
.wide { overflow-x: auto; } img { width: 100%; border: 1px solid var(--line); border-radius: 6px;
  background: var(--paper); }
.verdict { font-size: 20px; font-weight: 700; padding: 10px 16px; margin: 12px 0;
  border-radius: 8px; border: 1px solid; }
.verdict.good { background: var(--ok); border-color: var(--ok-edge); }
.verdict.weak { background: var(--info); border-color: var(--info-edge); }
.verdict.bad { background: var(--stuck); border-color: var(--stuck-edge); }
td.bad { color: var(--stuck-edge); font-weight: 700; } td.good { color: var(--ok-edge);
  font-weight: 700; }
td.weak { color: var(--info-edge); font-weight: 700; } code { font-size: 12.5px;
  overflow-wrap: anywhere; }
"""


def headline(result: RunResult) -> str:
    """Return the result of the run in one line."""
    faults = sum(i.proof is not None for i in result.inflicted)
    under = f"under {faults} faults" if faults else "no faults injected"
    if result.run is None:
        return "weak: nothing could be judged"
    operations = len(result.run.history.operations)
    words = f"{operations} operations, {under}"
    match result.code:
        case 1:
            names = dict.fromkeys(
                a for j in (*result.judgements, *result.resolved) for a in j.anomalies
            )
            return f"ANOMALY ({', '.join(names)}): {words}"
        case 2:
            return f"WEAK: no anomaly, but the run proves less than it should ({words})"
    return f"OK: no anomaly in {words}"


def summary(result: RunResult) -> str:
    """Return the text shown on the terminal at the end."""
    lines = []
    for j in result.judgements:
        lines.append(
            f"  {j.checker:<12} {j.verdict!s:<8} {j.operations:>8} judged  {', '.join(j.anomalies)}"
        )
    for j in result.resolved:
        if j.verdict is Verdict.ILLEGAL:
            lines.append(
                f"  {j.checker:<12} {j.verdict!s:<8} with look-ups    {', '.join(j.anomalies)}"
            )
    if result.run is not None:
        gaps = outages(result.run.history)
        longest = f", longest {max(o.seconds for o in gaps):.2f} s" if gaps else ""
        lines.append(f"  outages      {len(gaps)}{longest}")
    lines += [f"  weak: {why}" for why in result.weak]
    return "\n".join([*lines, "", headline(result)])


def write(result: RunResult) -> Path:
    """Write report.html and the PNGs into the run's directory; return the page's path."""
    folder = result.plan.folder
    pictures: dict[str, dict[str, bytes]] = {}
    if result.run is not None and result.run.history.operations:
        history = result.run.history
        pictures = {
            "throughput": {look: charts.throughput(history, look) for look in charts.LOOKS},
            "latency": {look: charts.latency(history, look) for look in charts.LOOKS},
        }
    for name, looks in pictures.items():
        (folder / f"{name}.png").write_bytes(looks["light"])
    page = folder / "report.html"
    page.write_text(_page(result, pictures), encoding="utf-8")
    return page


def _picture(name: str, looks: dict[str, bytes]) -> str:
    """Return both forms of a picture, of which the reader's setting takes one."""
    data = {
        look: f"data:image/png;base64,{base64.b64encode(png).decode()}"
        for look, png in looks.items()
    }
    return (
        f'<h2>{name.title()}</h2><picture><source media="(prefers-color-scheme: dark)" '
        f'srcset="{data["dark"]}"><img alt="{name} over time, below who led in which term" '
        f'src="{data["light"]}"></picture>'
    )


def _page(result: RunResult, pictures: dict[str, dict[str, bytes]]) -> str:
    plan = result.plan
    kind = {0: "good", 1: "bad", 2: "weak"}[result.code]
    parts = [
        f"<h1>Consistency under faults, seed {plan.seed}</h1>",
        f"<p><code>{escape(plan.command)}</code><br>began {escape(plan.began)}</p>",
        f'<div class="verdict {kind}">{escape(headline(result))}</div>',
    ]
    if result.weak:
        parts.append(
            "<h2>Weak points</h2><ul>"
            + "".join(f"<li>{escape(w)}</li>" for w in result.weak)
            + "</ul>"
        )
    parts.append("<h2>Verdicts</h2>" + _verdicts(result))
    history = result.run.history if result.run is not None else History()
    parts.append(replay.section(history))
    parts += [_picture(name, looks) for name, looks in pictures.items()]
    parts.append("<h2>Offending operations</h2>" + _offending(result, history))
    parts.append("<h2>Outages</h2>" + _outages(history))
    parts.append("<h2>Faults</h2>" + _faults(result, history))
    parts.append("<h2>Load</h2>" + _load(history))
    parts.append("<h2>Settings</h2>" + _settings(result))
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Acordo chaos, seed {plan.seed}</title>"
        f"<style>{timeline.STYLE}{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return an HTML table. Cells are escaped text, except those that begin with a `<td` tag."""

    def cell(n: int, value: str) -> str:
        return value if value.startswith("<td") else f"<td{_n(n)}>{escape(value)}</td>"

    def _n(n: int) -> str:
        return ' class="n"' if n in numbers else ""

    top = "".join(f"<th{_n(n)}>{escape(h)}</th>" for n, h in enumerate(head))
    body = "".join(
        "<tr>" + "".join(cell(n, v) for n, v in enumerate(row)) + "</tr>" for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _verdict_cell(j: Judgement | None) -> str:
    if j is None:
        return "–"
    kind = {Verdict.OK: "good", Verdict.UNKNOWN: "weak", Verdict.ILLEGAL: "bad"}[j.verdict]
    return f'<td class="{kind}">{escape(WORDS[j.verdict])}</td>'


def _verdicts(result: RunResult) -> str:
    resolved = {j.checker: j for j in result.resolved}
    rows = []
    for j in result.judgements:
        figures = ", ".join(f"{k} {v}" for k, v in j.figures.items() if not isinstance(v, dict))
        said = ", ".join(j.anomalies) or figures
        rows.append(
            (
                j.checker,
                _verdict_cell(j),
                _verdict_cell(resolved.get(j.checker)),
                str(j.operations),
                said,
            )
        )
    return _table(
        ("checker", "as recorded", "with look-ups", "judged", "anomalies or figures"), rows, (3,)
    )


def _offending(result: RunResult, history: History) -> str:
    unique: dict[str, tuple[Finding, Judgement]] = {}
    for j in (*result.judgements, *result.resolved):
        for f in j.findings:
            if f.verdict is Verdict.ILLEGAL:
                unique.setdefault(f"{j.checker}/{f.message}", (f, j))
    if not unique:
        return "<p>None.</p>"
    parts = []
    for f, j in list(unique.values())[:EXPLAINED_MAX]:
        e = explain(f, j, history)
        parts.append(
            f"<p><b>{escape(e.checker)}: {escape(e.anomaly)}</b> — {escape(e.message)}</p>"
        )
        parts.append(timeline.figure(e) + f"<pre>{escape(text(e))}</pre>")
    if len(unique) > EXPLAINED_MAX:
        parts.append(f"<p>{len(unique) - EXPLAINED_MAX} more findings are not told at length.</p>")
    return "".join(parts)


def _origin(history: History) -> int:
    return min((o.start_ns for o in history.operations), default=0)


def _outages(history: History) -> str:
    found = outages(history)
    if not found:
        return "<p>None: no 0.5 s went by without an acknowledged write.</p>"
    origin = _origin(history)

    def taken(o: Outage) -> str:
        if o.before == o.after:
            return f"{o.after or '?'} went on"
        return f"{o.after or '?'} took over from {o.before or '?'}"

    rows = [
        (
            f"{(o.start_ns - origin) / 1e9:.1f}",
            f"{o.seconds:.2f}",
            taken(o),
            "; ".join(o.faults) or "no fault active",
        )
        for o in found
    ]
    return _table(
        ("at, s", "seconds without an acknowledged write", "who led after", "faults"), rows, (0, 1)
    )


def _faults(result: RunResult, history: History) -> str:
    shown = fault_windows(history.faults)
    if not shown and not any(i.skipped for i in result.inflicted):
        return "<p>No faults injected.</p>"
    origin = _origin(history)

    def bit(w: FaultWindow) -> str:
        return (
            '<td class="good">bit</td>'
            if w.bit_ns is not None
            else '<td class="weak">did not bite</td>'
        )

    rows = [
        (
            f"{(w.start_ns - origin) / 1e9:.1f}",
            f"{((w.healed_ns or w.start_ns) - w.start_ns) / 1e9:.1f}",
            w.nemesis,
            ", ".join(w.targets),
            bit(w),
            (w.detail or "")[:400],
        )
        for w in shown
    ]
    for i in result.inflicted:
        if i.skipped is not None:
            rows.append(("–", "–", i.nemesis, "", '<td class="weak">skipped</td>', i.skipped))
    return _table(("at, s", "lasted, s", "nemesis", "whom", "", "proof"), rows, (0, 1))


def _load(history: History) -> str:
    counts: Counter[tuple[str, str]] = Counter(
        (o.workload or "?", o.outcome) for o in history.operations
    )
    nodes = Counter(o.node for o in history.operations if o.node is not None and o.outcome == "ok")
    rows = []
    for name in dict.fromkeys(w for w, _ in counts):
        took = [
            (o.end_ns - o.start_ns) / 1e6
            for o in history.operations
            if o.workload == name and o.outcome == "ok" and o.end_ns is not None
        ]
        quantiles = [f"{quantile(took, share):.1f}" for share in (0.5, 0.99)] + [
            f"{max(took, default=0.0):.0f}"
        ]
        rows.append(
            (name, *(str(counts[name, outcome]) for outcome in ("ok", "fail", "info")), *quantiles)
        )
    head = ("workload", "took effect", "failed", "unknown", "p50 ms", "p99 ms", "longest ms")
    led = [f"{r.leader} in term {r.term}" for r in leaderships(history)]
    notes = (
        f"<p>Answers by node: "
        f"{escape(', '.join(f'{n} {c}' for n, c in sorted(nodes.items())))}.</p>"
    )
    notes += f"<p>Leaders seen: {escape(', '.join(led[:60]))}{' …' if len(led) > 60 else ''}.</p>"
    return _table(head, rows, (1, 2, 3, 4, 5, 6)) + notes


def _settings(result: RunResult) -> str:
    plan = result.plan
    asked = {
        "command": plan.command,
        "seed": str(plan.seed),
        "target": plan.target,
        "nodes": str(plan.nodes) if plan.target == "local" else str(len(plan.target.split(","))),
        "back ends": ", ".join(plan.servers) or "own stores, in-process cache, no broker"
        if plan.target == "local"
        else "?",
        "workloads": ", ".join(plan.workloads),
        "nemeses": ", ".join(plan.families) or "none",
        "clients per workload": str(plan.clients),
        "load": f"open loop, {plan.rate:g}/s"
        if plan.rate
        else f"closed loop, mean pause {plan.pause_s * 1000:g} ms",
    }
    return _table(("setting", "value"), [*asked.items(), *result.versions.items()])
