"""Provoke planted product bugs, one after another, until the clients' observations show them.

This module defines which bug needs which load and which faults. The command that starts a node
plants them; nothing here knows how a bug is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.checkers.verdict import Judgement, Verdict
from chaos.runs.conduct import run
from chaos.runs.opening import TargetUnfit
from chaos.runs.plan import Plan
from chaos.runs.result import RunResult
from chaos.runs.schedule import Step

BUDGET_S: Final = 60.0
"""Seconds of load within which a bug must be caught."""
ROUND_S: Final = 8.0
"""Seconds of load in one round; then the history is judged before the next round with another seed.
"""
BUG: Final = "{bug}"
"""Placeholder for the bug's name in the command that starts a node."""
NO_BUG: Final = "none"
STORE: Final = "replicated"
"""The kind of store on which bugs are provoked."""


@dataclass(frozen=True)
class Provocation:
    """The load and the faults that make one bug visible."""

    bug: str
    workload: str
    nemeses: tuple[str, ...] = ()
    """Faults that every round inflicts, one after another."""
    clients: int = 8
    pause_s: float = 0.004
    hot: int = 0
    """Number of keys in use at a time, read back at once (`register`); 0: the usual number."""
    servers: tuple[str, ...] = ()
    """Private servers that the nodes share, for a bug that no member with a store of its own has.
    """


PROVOCATIONS: Final = (
    Provocation("reads-without-a-round", "register", ("isolate-follower", "isolate-follower")),
    Provocation("leader-trusts-itself", "register", ("late-echo",), clients=12, hot=4),
    Provocation(
        "late-reads-join-a-round", "register", ("slow-follower", "slow-follower"), clients=12, hot=4
    ),
    Provocation("no-quorum-reads-memory", "register", ("isolate-follower", "isolate-leader")),
    Provocation(
        "judge-off-by-one", "register", clients=9, pause_s=0.0005, hot=1, servers=("postgres",)
    ),
    Provocation(
        "touch-at-settle",
        "register",
        ("postgres-slow",),
        clients=12,
        pause_s=0.0005,
        hot=2,
        servers=("postgres",),
    ),
    Provocation(
        "answer-before-commit", "register", ("postgres-slow",), hot=4, servers=("postgres",)
    ),
    Provocation("as-of-ordered", "register", ("slow",)),
    Provocation("session-position-ignored", "session", ("slow",)),
    Provocation("stale-age-from-now", "stale", ("isolate-follower",)),
    Provocation("snapshot-in-two-reads", "bank"),
    Provocation("first-version-of-a-group-kept", "register"),
    Provocation("op-id-forgotten", "register"),
    Provocation("repeated-op-id-off-by-one", "register"),
    Provocation("revision-guard-blind-in-group", "counter"),
    Provocation("value-guard-blind-in-group", "register"),
    Provocation("absent-blind-to-tombstones", "register"),
    Provocation("transaction-loses-its-last-write", "bank"),
    Provocation("delete-of-nothing-counts", "register"),
    Provocation("answers-before-a-quorum", "register", ("isolate-leader", "isolate-leader")),
    Provocation("journal-is-not-synced", "register", ("power-cut-all", "power-cut-all")),
    Provocation("forgets-unsynced-versions", "register", ("power-cut", "power-cut")),
    Provocation("evaluates-by-its-own-clock", "ttl", ("clock-jump", "clock-jump")),
    Provocation("new-leader-ends-leases", "lease", ("kill-leader", "kill-leader")),
    Provocation("lock-is-given-out-of-turn", "etcd"),
    Provocation("fence-of-a-lost-lock-holds", "etcd"),
    Provocation("keep-alive-moves-no-deadline", "etcd"),
    Provocation("leases-end-by-the-wall-clock", "etcd", ("clock-jump-most", "clock-jump-most")),
    Provocation("answer-revision-off-by-one", "register"),
    Provocation("watch-resumes-one-late", "watch"),
    Provocation("watch-forgets-deletes", "watch"),
    Provocation("watch-splits-a-transaction", "watch"),
    Provocation("watch-position-ordered", "watch", ("postgres-slow",), servers=("postgres",)),
    Provocation("ring-loses-its-oldest", "watch"),
    Provocation("watch-takes-a-change-for-nobodys", "watch"),
    Provocation("log-time-takes-the-wall-clock", "ttl", ("clock-jump", "clock-jump-most")),
)


@dataclass(frozen=True)
class Caught:
    """The result for one bug."""

    provocation: Provocation
    by: tuple[str, ...] = ()
    """The findings that caught it, as "checker: anomaly"."""
    after_s: float | None = None
    """Seconds of load until the operation that shows the bug."""
    weak: tuple[str, ...] = ()
    seed: int = 0
    left_out: str = ""
    """Why the bug was not tried: a private server that it needs did not start."""


async def control_run(node_command: Sequence[str], seed: int, folder: Path) -> RunResult:
    """Run every workload and every nemesis of the table without a bug: nothing may be found."""
    own = [p for p in PROVOCATIONS if not p.servers]
    names = tuple(dict.fromkeys(n for p in own for n in p.nemeses))
    plan = Plan(
        folder=folder / "control",
        workloads=tuple(dict.fromkeys(p.workload for p in PROVOCATIONS)),
        families=dict.fromkeys(names, ()),
        seconds=15,
        seed=seed,
        clients=4,
        quiet=True,
        store=STORE,
        node_command=_with_bug(node_command, NO_BUG),
        steps=steps_of(names),
    )
    return await run(plan)


async def provoke(
    provocation: Provocation,
    node_command: Sequence[str],
    seed: int,
    folder: Path,
    budget_s: float = BUDGET_S,
) -> Caught:
    """Run one bug in rounds until it is caught or its time is over."""
    spent_s = 0.0
    weak: tuple[str, ...] = ()
    round_ = 0
    while spent_s < budget_s:
        plan = Plan(
            folder=folder / f"{provocation.bug}-{round_}",
            workloads=(provocation.workload,),
            families={},
            seconds=ROUND_S,
            seed=seed + round_,
            clients=provocation.clients,
            pause_s=provocation.pause_s,
            hot=provocation.hot,
            quiet=True,
            store="" if provocation.servers else STORE,
            servers=provocation.servers,
            node_command=_with_bug(node_command, provocation.bug),
            steps=steps_of(provocation.nemeses),
        )
        try:
            result = await run(plan)
        except TargetUnfit as exc:
            if provocation.servers and round_ == 0:
                return Caught(provocation, left_out=str(exc), seed=plan.seed)
            return Caught(provocation, weak=(str(exc),), seed=plan.seed)
        load_s = _load_s(result)
        judged = (*result.judgements, *result.resolved)
        illegal = [j for j in judged if j.verdict is Verdict.ILLEGAL]
        if illegal:
            by = tuple(dict.fromkeys(f"{j.checker}: {a}" for j in illegal for a in j.anomalies))
            after_s = spent_s + min(_shown_s(result, illegal), load_s)
            return Caught(provocation, by, after_s, seed=plan.seed)
        spent_s += max(load_s, 1.0)
        weak = tuple(result.weak)
        round_ += 1
    return Caught(provocation, weak=weak, seed=seed)


def _with_bug(node_command: Sequence[str], bug: str) -> tuple[str, ...]:
    return tuple(word.replace(BUG, bug) for word in node_command)


def steps_of(nemeses: Iterable[str]) -> tuple[Step, ...]:
    """Return one step for each nemesis, with short gaps."""
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
    """Return the time at which the last operation of the earliest finding ended, in seconds of
    load.
    """
    ends = [
        max(o.end_ns or o.start_ns for o in finding.operations)
        for j in illegal
        for finding in j.findings
        if finding.verdict is Verdict.ILLEGAL and finding.operations
    ]
    return (min(ends) - _origin(result)) / 1e9 if ends else float("inf")
