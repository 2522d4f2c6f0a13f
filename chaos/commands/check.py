"""`python -m chaos check`: judge a saved run or history again, and explain its anomalies."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from chaos.checkers.judge import MODELS, judge, overall_verdict
from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import HistoryError
from chaos.records.saved import SavedRun, open_run
from chaos.report.explain import Explanation, explain, text
from chaos.report.timeline import page

EXPLAINED_MAX: Final = 5
"""Most findings that are explained at length; the others are counted."""
EXIT: Final = {Verdict.OK: 0, Verdict.ILLEGAL: 1, Verdict.UNKNOWN: 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument(
        "path", type=Path, metavar="DIR|FILE.jsonl", help="a recorded run, or one history"
    )
    parser.add_argument(
        "--initial",
        default="null",
        help="value of every key at the start, as JSON (default: null, absent)",
    )
    parser.add_argument(
        "--model",
        action="append",
        choices=MODELS,
        default=[],
        help="only this checker; may be repeated",
    )
    parser.add_argument(
        "--timeline", type=Path, help="write a picture of the first anomaly to this HTML file"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def main(args: argparse.Namespace) -> int:
    """Check and print the result. Return 0: legal, 1: anomaly, 2: undecided or unreadable."""
    try:
        initial = json.loads(args.initial)
    except json.JSONDecodeError:
        print(
            f"--initial {args.initial!r} is no JSON; a string is written with quotes: "
            f"--initial '\"\"'",
            file=sys.stderr,
        )
        return 2
    try:
        run = open_run(args.path)
        judgements = judge(run, initial=initial, models=args.model)
        if run.history.lookups:
            judgements += judge(run, initial=initial, models=args.model, resolved=True)
    except HistoryError as exc:
        print(f"cannot be judged: {exc}", file=sys.stderr)
        return 2
    worst = overall_verdict(judgements)
    illegal = [(j, f) for j, f in _worst_first(judgements) if f.verdict is Verdict.ILLEGAL]
    explained = [explain(f, j, run.history, initial=initial) for j, f in illegal[:EXPLAINED_MAX]]
    if args.json:
        print(msgspec.json.encode(_as_json(run, worst, judgements, explained)).decode())
    else:
        _print(run, worst, judgements, explained)
    if args.timeline is not None and explained:
        args.timeline.write_text(page(explained[0]), encoding="utf-8")
    return EXIT[worst]


def _worst_first(judgements: list[Judgement]) -> list[tuple[Judgement, Finding]]:
    # The same finding occurs twice if the history was judged both as recorded and with look-ups.
    unique: dict[tuple[str, str], tuple[Judgement, Finding]] = {}
    for j in judgements:
        for f in j.findings:
            unique.setdefault((j.checker, f.message), (j, f))
    return sorted(unique.values(), key=lambda each: -each[1].verdict)


def _print(
    run: SavedRun, worst: Verdict, judgements: list[Judgement], explained: list[Explanation]
) -> None:
    history = run.history
    faults = sum(f.phase == "start" for f in history.faults)
    print(f"{run.name}: {len(history.operations)} operations, {faults} faults")
    for j in judgements:
        figures = ", ".join(f"{k} {v}" for k, v in j.figures.items() if not isinstance(v, dict))
        print(
            f"  {j.checker:<12} {j.verdict!s:<8} {j.operations} judged"
            + (f" ({figures})" if figures else "")
        )
        for f in j.findings:
            if f.verdict is Verdict.UNKNOWN:
                print(f"    undecided: {f.message}")
    for e in explained:
        print()
        print(text(e))
    anomalies = sum(f.verdict is Verdict.ILLEGAL for j in judgements for f in j.findings)
    if anomalies > len(explained):
        print(
            f"\n{anomalies - len(explained)} more findings of the same run are not told at length."
        )
    print(f"\nverdict: {worst}")


def _as_json(
    run: SavedRun, worst: Verdict, judgements: list[Judgement], explained: list[Explanation]
) -> dict[str, Any]:
    return {
        "run": run.name,
        "verdict": str(worst),
        "operations": len(run.history.operations),
        "judgements": [
            {
                "checker": j.checker,
                "verdict": str(j.verdict),
                "operations": j.operations,
                "figures": j.figures,
                "findings": [
                    {
                        "anomaly": f.anomaly,
                        "verdict": str(f.verdict),
                        "key": f.key,
                        "message": f.message,
                    }
                    for f in j.findings
                ],
            }
            for j in judgements
        ],
        "explanations": [text(e) for e in explained],
    }
