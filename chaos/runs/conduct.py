"""Carry out one plan from start to end: bring the target up, load and disturb it, collect, judge.

No fault is left behind: an interrupted run heals everything, collects what it can, and is judged
all the same.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from chaos.checkers.judge import judge
from chaos.checkers.verdict import Verdict
from chaos.records.history import HistoryError
from chaos.records.saved import open_run
from chaos.runs.interrupt import Interrupt
from chaos.runs.keeping import SETTINGS_FILE, collect_final_state, versions_of, write_settings
from chaos.runs.load import load_and_disturb
from chaos.runs.opening import TargetUnfit, opened_target
from chaos.runs.plan import HEALTHY_WITHIN_S, Plan
from chaos.runs.progress import say
from chaos.runs.result import RunResult
from chaos.runs.weakness import weak_faults, weak_judgements

STEPS_SHOWN_MAX: Final = 40


async def run(plan: Plan, *, interrupt: Interrupt | None = None) -> RunResult:
    """Carry out the plan and return its result. Raises TargetUnfit."""
    interrupt = interrupt or Interrupt()
    plan.folder.mkdir(parents=True, exist_ok=True)
    result = RunResult(plan, plan.schedule)
    _announce(result)
    seen = False
    try:
        async with opened_target(plan) as target:
            if not await target.healthy(HEALTHY_WITHIN_S):
                raise TargetUnfit(f"the target was not healthy within {HEALTHY_WITHIN_S:g} s")
            result.versions = await versions_of(plan, target)
            write_settings(result)
            if await load_and_disturb(target, result, interrupt):
                await collect_final_state(target, result)
            seen = True
    except TargetUnfit as exc:
        if not seen:
            raise
        # Leaving the target failed. What was recorded until then is judged anyway: a container that
        # cannot be healed must not hide a lost write.
        result.weak.append(str(exc))
    say(plan, "judging …")
    judge_result(result)
    if plan.target == "local" and result.verdict is not Verdict.ILLEGAL:
        _drop_data(plan.folder / "data")
    return result


def judge_result(result: RunResult) -> None:
    """Judge the run as recorded (trusting no server) and with look-ups; note what makes either
    weak.
    """
    try:
        result.run = open_run(result.plan.folder)
    except HistoryError as exc:
        result.weak.append(f"cannot be judged: {exc}")
        return
    result.judgements = judge(result.run)
    if result.run.history.lookups:
        result.resolved = judge(result.run, resolved=True)
    found = [*result.weak, *weak_judgements(result), *weak_faults(result)]
    result.weak = list(dict.fromkeys(found))


def _announce(result: RunResult) -> None:
    plan, steps = result.plan, result.schedule
    say(plan, f"seed {plan.seed}, workloads {', '.join(plan.workloads)}, run kept in {plan.folder}")
    if not steps:
        say(plan, "no faults injected")
        return
    fits = f"those that fit into {plan.seconds:g} s are inflicted, in this order"
    say(plan, f"faults planned ({fits}):")
    for step in steps[:STEPS_SHOWN_MAX]:
        say(plan, f"  {step}")
    if len(steps) > STEPS_SHOWN_MAX:
        say(plan, f"  … and {len(steps) - STEPS_SHOWN_MAX} more (all of them: {SETTINGS_FILE})")


def _drop_data(folder: Path) -> None:
    """Delete stores and journals of a run without findings, to save disk space. The logs stay."""
    for file in folder.glob("**/*.sqlite*"):
        file.unlink()
    for journals in folder.glob("*/raft"):
        shutil.rmtree(journals, ignore_errors=True)
