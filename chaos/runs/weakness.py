"""Find reasons why a run proves less than it should.

Little traffic, undecided checkers and faults without effect each make a run weak.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chaos.checkers.verdict import Verdict
from chaos.records.recorder import Recorder
from chaos.runs.plan import Plan
from chaos.runs.result import RunResult
from chaos.targets.base import Target
from chaos.targets.urls import UrlTarget
from chaos.workloads.base import Workload

TRAFFIC_MIN: Final = 40
"""Least number of operations per workload that must take effect for a run to prove anything; long
runs need as many per minute.
"""
UNDECIDED_SHOWN_MAX: Final = 3
"""Most undecided findings of one checker that are shown individually."""


def thin_traffic(
    plan: Plan, target: Target, recorder: Recorder, workloads: Sequence[Workload]
) -> list[str]:
    """Return reasons about traffic: too little of it, or rejected or unanswered requests."""
    found = too_little_traffic(plan, recorder)
    for workload in workloads:
        if workload.complaints:
            found.append(f"{workload.name} was told that it asks wrongly: {workload.complaints[0]}")
    if (done := recorder.count("ok")) < plan.operations:
        found.append(f"{done} operations took effect, {plan.operations} were asked for")
    # For a cluster that others run only the URLs are known, not the names of nodes, so the nodes
    # that answered are only counted.
    if isinstance(target, UrlTarget):
        silent = len(target.nodes) - len(recorder.nodes)
    else:
        silent = len(set(target.nodes) - set(recorder.nodes))
    if silent > 0:
        found.append(f"{silent} of {len(target.nodes)} nodes answered nothing")
    return found


def too_little_traffic(plan: Plan, recorder: Recorder) -> list[str]:
    """Return a reason for each workload of which too few operations took effect."""
    least = max(TRAFFIC_MIN, int(TRAFFIC_MIN * plan.seconds / 60))
    counts = {name: recorder.count("ok", workload=name) for name in plan.workloads}
    return [
        f"too little traffic: {done} operations of {name} took effect, {least} are the least"
        for name, done in counts.items()
        if done < least
    ]


def weak_judgements(result: RunResult) -> list[str]:
    """Return what checkers left undecided, and the workloads without a judged operation."""
    found = []
    for judged in (*result.judgements, *result.resolved):
        undecided = [f.message for f in judged.findings if f.verdict is Verdict.UNKNOWN]
        shown = undecided[:UNDECIDED_SHOWN_MAX]
        found += [f"undecided by {judged.checker}: {message}" for message in shown]
        if len(undecided) > len(shown):
            more = len(undecided) - len(shown)
            found.append(f"undecided by {judged.checker}: {more} more")
    for name in result.plan.workloads:
        if not any(j.operations for j in result.judgements if j.checker == name):
            found.append(f"nothing of {name} was judged")
    return found


def weak_faults(result: RunResult) -> list[str]:
    """Return the faults that had no effect or were never tried."""
    found = []
    for fault in result.inflicted:
        if fault.skipped is not None:
            found.append(f"{fault.nemesis} was skipped: {fault.skipped}")
        elif fault.proof is None:
            why = f": {fault.error}" if fault.error else ""
            found.append(f"{fault.nemesis} did not bite{why}")
        elif fault.error is not None:
            found.append(f"{fault.nemesis}: {fault.error}")
    bit = sum(f.proof is not None for f in result.inflicted)
    if bit < result.plan.faults:
        found.append(f"{bit} faults bit, {result.plan.faults} were asked for")
    tried = {f.nemesis for f in result.inflicted}
    for family, names in result.plan.families.items():
        if not tried & set(names):
            found.append(f"no fault of {family} was tried in the time given")
    return found
