"""Check a saved run with every checker that applies to its records.

It never talks to a cluster and never opens a file, so the same records always get the same verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from chaos.checkers import (
    bank,
    convergence,
    copies,
    counter,
    etcd,
    leases,
    lock,
    members,
    recipes,
    session,
    set_full,
    staleness,
    ttl,
    watch,
)
from chaos.checkers import ledger as ledger_checker
from chaos.checkers.lists import append
from chaos.checkers.registers import register, versions
from chaos.checkers.verdict import Finding, Judgement, Verdict, merge
from chaos.records.final_state import Evidence
from chaos.records.history import ClientOperation, Fault, HistoryError
from chaos.records.ledger import Ledger
from chaos.records.resolution import resolve
from chaos.records.saved import SavedRun

MODELS: Final = (
    "register",
    "versions",
    "set",
    "append",
    "bank",
    "counter",
    "watch",
    "session",
    "stale",
    "lock",
    "ttl",
    "lease",
    "recipes",
    "etcd",
    "ledger",
    "members",
    "convergence",
    "copies",
)
REGISTER_OPS: Final = frozenset({"put", "get", "cas", "delete", "append"})
BY_REVISION: Final = ("register", "append")
"""Workloads whose operations the checker `versions` understands."""


def judge(
    run: SavedRun, *, initial: Any = None, models: Sequence[str] = (), resolved: bool = False
) -> list[Judgement]:
    """Run the checkers that apply and return their judgements; `models` selects some by name.

    With `resolved`, unknown operations are first settled by their look-ups. Check a run both ways,
    because only the plain way trusts no server.
    """
    history = run.history
    operations = resolve(history.operations, history.lookups) if resolved else history.operations
    chosen = [m for m in MODELS if m in models] if models else _applicable(run, operations)
    checkers = _checkers(run, operations, initial)
    return [_guarded(m, checkers[m]) for m in chosen]


def overall_verdict(judgements: Iterable[Judgement]) -> Verdict:
    """Return the worst verdict; UNKNOWN if no checker judged any operation."""
    judged = list(judgements)
    if not any(j.operations for j in judged):
        return merge([Verdict.UNKNOWN, *(j.verdict for j in judged)])
    return merge(j.verdict for j in judged)


def _applicable(run: SavedRun, operations: Sequence[ClientOperation]) -> list[str]:
    named = {o.workload for o in operations if o.workload is not None}
    found = {m for m in MODELS if m in named}
    if not named:
        found.add("register")
    if any(o.workload in BY_REVISION and o.revision is not None for o in operations):
        found.add("versions")
    if any(w for w in run.history.watched) and run.ledger is not None:
        found.add("watch")
    if run.ledger is not None:
        found.add("ledger")
    if run.history.statuses:
        found.add("members")
    if run.evidence is not None:
        found.add("convergence")
        if run.evidence.copies:
            found.add("copies")
    return [m for m in MODELS if m in found]


def _checkers(
    run: SavedRun, operations: Sequence[ClientOperation], initial: Any
) -> dict[str, Callable[[], Judgement]]:
    ledger = run.ledger

    def of(name: str) -> list[ClientOperation]:
        mine = [o for o in operations if o.workload == name]
        return mine if mine or any(o.workload for o in operations) else list(operations)

    def registers() -> list[ClientOperation]:
        return (
            [o for o in of("register") if o.op in REGISTER_OPS]
            if _mixed(operations)
            else of("register")
        )

    known = ledger or Ledger(read=False)
    settings = run.history.header.settings if run.history.header is not None else {}
    watched = run.history.watched
    return {
        "register": lambda: register.check(registers(), initial=initial),
        "versions": lambda: versions.check(
            [o for o in operations if o.workload in (*BY_REVISION, None)],
            initial=initial,
            ledger=ledger,
        ),
        "set": lambda: set_full.check(of("set")),
        "append": lambda: append.check(of("append")),
        "bank": lambda: _bank(of("bank"), settings.get("bank")),
        "counter": lambda: counter.check(of("counter")),
        "watch": lambda: watch.check(
            [w for w in watched if w.channel == "watch"], known, operations
        ),
        "session": lambda: session.check(of("session")),
        "stale": lambda: staleness.check(of("stale")),
        "lock": lambda: lock.check(of("lock")),
        "ttl": lambda: _ttl(of("ttl"), run.history.faults, settings.get("ttl")),
        "lease": lambda: leases.check(of("lease")),
        "recipes": lambda: recipes.check(of("recipes")),
        "etcd": lambda: etcd.check(of("etcd")),
        "ledger": lambda: ledger_checker.check(known, operations, run.history.lookups),
        "members": lambda: members.check(run.history.statuses, run.history.faults),
        "convergence": lambda: convergence.check(
            run.evidence or Evidence(),
            known,
            operations,
            [w for w in watched if w.channel == "broker"],
        ),
        "copies": lambda: copies.check(run.evidence or Evidence(), known),
    }


def _mixed(operations: Sequence[ClientOperation]) -> bool:
    return any(o.workload is not None for o in operations)


def _bank(operations: list[ClientOperation], settings: Any) -> Judgement:
    if not isinstance(settings, dict) or "accounts" not in settings or "total" not in settings:
        raise HistoryError("the header does not say the bank's accounts and total")
    return bank.check(operations, accounts=settings["accounts"], total=settings["total"])


def _ttl(operations: list[ClientOperation], faults: Sequence[Fault], settings: Any) -> Judgement:
    if not isinstance(settings, dict) or "sweep_interval_s" not in settings:
        raise HistoryError("the header does not say how often the nodes sweep")
    return ttl.check(operations, faults, sweep_interval_s=settings["sweep_interval_s"])


def _guarded(model: str, check: Callable[[], Judgement]) -> Judgement:
    """Run one checker. A history that it cannot handle gets the verdict UNKNOWN, never OK."""
    try:
        return check()
    except HistoryError as exc:
        return Judgement(model, (Finding("cannot_be_judged", str(exc), Verdict.UNKNOWN),))
