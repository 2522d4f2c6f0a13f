"""`python -m chaos teeth`: plant product bugs one at a time and show that each is caught from
outside.

A bug has a workload and the faults that should show it, and a bounded time. A control run without a
bug must be clean.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.checkers.verdict import Judgement, Verdict
from chaos.commands.run import commit, commit_seed
from chaos.runs.conduct import run
from chaos.runs.opening import TargetUnfit
from chaos.runs.plan import Plan
from chaos.runs.result import RunResult
from chaos.runs.schedule import Step

NODE: Final = (sys.executable, "-m", "tests.bugs")
BUDGET_S: Final = 60.0
"""Seconds of load in which a bug must be caught."""
ROUND_S: Final = 8.0
"""Seconds of load after which the history is judged, before the next round with another seed."""
QUICK: Final = 2


@dataclass(frozen=True)
class Tooth:
    """How one bug is provoked."""

    bug: str
    workload: str
    nemeses: tuple[str, ...] = ()
    """Inflicted one after another, in every round."""
    clients: int = 8
    pause_s: float = 0.004
    hot: int = 0
    """Keys in use at a time, read back at once (`register`); 0: the usual number."""


TEETH: Final = (
    Tooth("reads-without-a-round", "register", ("isolate-follower", "isolate-follower")),
    Tooth("leader-trusts-itself", "register", ("late-echo",), clients=12, hot=4),
    Tooth(
        "late-reads-join-a-round", "register", ("slow-follower", "slow-follower"), clients=12, hot=4
    ),
    Tooth("no-quorum-reads-memory", "register", ("isolate-follower", "isolate-leader")),
    Tooth("judge-off-by-one", "register", clients=9, pause_s=0.0005, hot=1),
    Tooth("touch-at-settle", "register", clients=12, pause_s=0.0005, hot=2),
    Tooth("as-of-ordered", "register", ("slow",)),
    Tooth("session-position-ignored", "session", ("slow",)),
    Tooth("stale-age-from-now", "stale", ("isolate-follower",)),
    Tooth("snapshot-in-two-reads", "bank"),
    Tooth("first-version-of-a-group-kept", "register"),
    Tooth("op-id-forgotten", "register"),
    Tooth("repeated-op-id-off-by-one", "register"),
    Tooth("revision-guard-blind-in-group", "counter"),
    Tooth("value-guard-blind-in-group", "register"),
    Tooth("absent-blind-to-tombstones", "register"),
    Tooth("transaction-loses-its-last-write", "bank"),
    Tooth("delete-of-nothing-counts", "register"),
    Tooth("answer-before-commit", "register", ("store-busy",), hot=4),
    Tooth("answer-revision-off-by-one", "register"),
    Tooth("watch-resumes-one-late", "watch"),
    Tooth("watch-forgets-deletes", "watch"),
    Tooth("watch-splits-a-transaction", "watch"),
    Tooth("watch-position-ordered", "watch", ("slow",)),
    Tooth("ring-loses-its-oldest", "watch"),
    Tooth("watch-takes-a-change-for-nobodys", "watch"),
    Tooth("log-time-takes-the-wall-clock", "ttl", ("clock-jump", "clock-jump-most")),
)


@dataclass(frozen=True)
class Caught:
    """What became of one bug."""

    tooth: Tooth
    by: tuple[str, ...] = ()
    """checker: anomaly."""
    after_s: float | None = None
    """Seconds of load until the operation that shows it."""
    weak: tuple[str, ...] = ()
    seed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument(
        "--only", action="append", choices=[t.bug for t in TEETH], help="this bug; may be repeated"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two of them, other ones each commit, and no control run",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=BUDGET_S,
        help="seconds of load per bug (default: %(default)g)",
    )
    parser.add_argument("--seed", type=int, help="default: derived from the commit")
    parser.add_argument("--keep", type=Path, help="keep the runs in this directory")


def main(args: argparse.Namespace) -> int:
    """Print the table; return 0 when every bug was caught and the control run is clean, else 1."""
    seed = args.seed if args.seed is not None else commit_seed()
    teeth = [t for t in TEETH if args.only is None or t.bug in args.only]
    if args.quick:
        teeth = [teeth[(seed * QUICK + n) % len(teeth)] for n in range(min(QUICK, len(teeth)))]
    print(
        f"seed {seed}, commit {commit() or '?'}; each bug has {args.budget:g} s of load, judged every {ROUND_S:g} s"
    )
    with tempfile.TemporaryDirectory(prefix="acordo-teeth-") as folder:
        return asyncio.run(
            _all(
                teeth,
                seed,
                args.keep or Path(folder),
                args.budget,
                control=not args.quick and args.only is None,
            )
        )


async def _all(
    teeth: Sequence[Tooth], seed: int, folder: Path, budget_s: float, *, control: bool
) -> int:
    clean = True
    if control:
        clean = await _control(seed, folder)
    print(f"{'bug':<34} {'workload':<9} {'nemesis':<46} {'caught after':<13} by", flush=True)
    caught = 0
    for tooth in teeth:
        found = await bite(tooth, seed, folder, budget_s)
        caught += found.after_s is not None
        after = f"{found.after_s:.1f} s" if found.after_s is not None else "NOT CAUGHT"
        faults = ", ".join(tooth.nemeses) or "none"
        print(
            f"{tooth.bug:<34} {tooth.workload:<9} {faults:<46} {after:<13} {', '.join(found.by[:3])}"
            + (f"  ({found.weak[0][:90]})" if found.after_s is None and found.weak else ""),
            flush=True,
        )
    print(f"{caught} of {len(teeth)} caught")
    return 0 if caught == len(teeth) and clean else 1


async def _control(seed: int, folder: Path) -> bool:
    """Run every workload and every nemesis of the table without a bug: nothing may be found."""
    workloads = tuple(dict.fromkeys(t.workload for t in TEETH))
    names = tuple(dict.fromkeys(n for t in TEETH for n in t.nemeses))
    result = await run(
        Plan(
            folder=folder / "control",
            workloads=workloads,
            families=dict.fromkeys(names, ()),
            seconds=15,
            seed=seed,
            clients=4,
            quiet=True,
            node_command=NODE,
            node_environ={"ACORDO_TEST_ALLOW_BUGS": "1"},
            steps=steps_of(names),
        )
    )
    clean = result.verdict is Verdict.OK
    operations = 0 if result.run is None else len(result.run.history.operations)
    print(
        f"control run without a bug: {operations} operations, {'clean' if clean else 'NOT CLEAN'}"
    )
    for judged in (*result.judgements, *result.resolved):
        for finding in judged.findings[:3]:
            print(f"  {judged.checker}: {finding.anomaly}: {finding.message}")
    return clean


async def bite(tooth: Tooth, seed: int, folder: Path, budget_s: float = BUDGET_S) -> Caught:
    """Run one bug, round after round, until it is caught or its time is over."""
    spent_s = 0.0
    weak: tuple[str, ...] = ()
    round_ = 0
    while spent_s < budget_s:
        plan = Plan(
            folder=folder / f"{tooth.bug}-{round_}",
            workloads=(tooth.workload,),
            families={},
            seconds=ROUND_S,
            seed=seed + round_,
            clients=tooth.clients,
            pause_s=tooth.pause_s,
            hot=tooth.hot,
            quiet=True,
            node_command=NODE,
            node_environ={"ACORDO_TEST_ALLOW_BUGS": "1", "ACORDO_TEST_BUG": tooth.bug},
            steps=steps_of(tooth.nemeses),
        )
        try:
            result = await run(plan)
        except TargetUnfit as exc:
            return Caught(tooth, weak=(str(exc),), seed=plan.seed)
        load_s = _load_s(result)
        illegal = [
            j for j in (*result.judgements, *result.resolved) if j.verdict is Verdict.ILLEGAL
        ]
        if illegal:
            by = tuple(dict.fromkeys(f"{j.checker}: {a}" for j in illegal for a in j.anomalies))
            return Caught(
                tooth, by, spent_s + min(_shown_s(result, illegal), load_s), seed=plan.seed
            )
        spent_s += max(load_s, 1.0)
        weak = tuple(result.weak)
        round_ += 1
    return Caught(tooth, weak=weak, seed=seed)


def steps_of(nemeses: Iterable[str]) -> tuple[Step, ...]:
    """Return one step for each, close behind one another."""
    return tuple(Step(n + 1, name, 1.0, 2.0) for n, name in enumerate(nemeses))


def _origin(result: RunResult) -> int:
    assert result.run is not None
    return min((o.start_ns for o in result.run.history.operations), default=0)


def _load_s(result: RunResult) -> float:
    if result.run is None or not result.run.history.operations:
        return 0.0
    ends = max(o.end_ns or o.start_ns for o in result.run.history.operations)
    return (ends - _origin(result)) / 1e9


def _shown_s(result: RunResult, illegal: Sequence[Judgement]) -> float:
    """Return when the last operation of the earliest finding had ended."""
    told = [
        max(o.end_ns or o.start_ns for o in finding.operations)
        for j in illegal
        for finding in j.findings
        if finding.verdict is Verdict.ILLEGAL and finding.operations
    ]
    return (min(told) - _origin(result)) / 1e9 if told else float("inf")
