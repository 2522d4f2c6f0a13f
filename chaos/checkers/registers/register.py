"""Check whether put, get, cas and delete behaved as one register per key (linearizability, INV-1).

The steps are: partition by key → tighten → refute → search under a budget → ok | illegal | unknown.
It never takes parts of transactions over several keys, and never trusts revisions: `versions` does
that in addition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.checkers.registers.encode import Column, encode, partition
from chaos.checkers.registers.search import Search
from chaos.checkers.registers.zones import INITIAL, Refutation, refute, tighten
from chaos.checkers.verdict import Finding, Judgement, Verdict, merge
from chaos.records.history import ClientOperation

PASSES_STEPS: Final = (4_000, 100_000, 2_000_000)
"""Steps per key in each pass, about 20 ms, 0.5 s and 10 s. Each pass goes over all keys that are
still undecided.
"""

LINEARIZABLE: Final = frozenset({None, "linearizable"})


@dataclass(frozen=True)
class KeyReport:
    """The result for one key, with the evidence if it is not ok."""

    key: str
    verdict: Verdict
    operations: int
    steps: int = 0
    reason: str = ""
    anomaly: str = ""
    story: tuple[ClientOperation, ...] = ()
    """Operations that contradict each other, in order (for refuted keys)."""
    prefix: tuple[ClientOperation, ...] = ()
    """Longest legal order found (for searched keys)."""
    stuck: tuple[ClientOperation, ...] = ()
    """Operations that could be called next, none of which is legal."""
    state: Any = None
    """Value after the prefix."""


@dataclass
class _Undecided:
    """A key that is not decided yet, with its search, which continues in the next pass."""

    key: str
    column: Column
    search: Search = field(init=False)

    def __post_init__(self) -> None:
        self.search = Search(self.column)


def check(
    operations: Iterable[ClientOperation],
    *,
    initial: Any = None,
    passes: Sequence[int] = PASSES_STEPS,
    first_only: bool = True,
) -> Judgement:
    """Check all keys. Session and stale reads promise nothing here and are left out.

    `first_only`: once a key is illegal, do not spend the remaining budget; keys that are undecided
    then are reported as unknown.
    """
    reports = check_keys(operations, initial=initial, passes=passes, first_only=first_only)
    findings = tuple(
        Finding(
            r.anomaly or "undecided",
            f"key {r.key!r}: {r.reason}",
            r.verdict,
            r.key,
            r.story or r.stuck,
        )
        for r in reports
        if r.verdict is not Verdict.OK
    )
    figures = {
        "keys": len(reports),
        "undecided_keys": sum(r.verdict is Verdict.UNKNOWN for r in reports),
        "steps": sum(r.steps for r in reports),
    }
    return Judgement("register", findings, sum(r.operations for r in reports), figures)


def check_keys(
    operations: Iterable[ClientOperation],
    *,
    initial: Any = None,
    passes: Sequence[int] = PASSES_STEPS,
    first_only: bool = True,
) -> list[KeyReport]:
    """Check each key and return the reports, in order of first appearance."""
    by_key = partition(o for o in operations if o.level in LINEARIZABLE)
    reports: dict[str, KeyReport] = {}
    pending: list[_Undecided] = []
    for key, mine in by_key.items():
        column, refuted = prepare(key, mine, initial)
        if refuted is not None:
            reports[key] = _refuted(column, refuted, mine)
        elif not any(column.required):
            reports[key] = KeyReport(key, Verdict.OK, len(column))
        else:
            # The cheap pass runs immediately, right after the key's columns were built.
            one = _Undecided(key, column)
            verdict = one.search.advance(passes[0])
            if verdict is Verdict.UNKNOWN:
                pending.append(one)
            else:
                reports[key] = _searched(one, verdict)
    for steps in passes[1:]:
        pending.sort(key=lambda p: len(p.column))
        undecided = []
        for one in pending:
            stop = first_only and any(r.verdict is Verdict.ILLEGAL for r in reports.values())
            verdict = Verdict.UNKNOWN if stop else one.search.advance(steps)
            if verdict is Verdict.UNKNOWN:
                undecided.append(one)
            else:
                reports[one.key] = _searched(one, verdict)
        pending = undecided
    for one in pending:
        reports[one.key] = _searched(one, Verdict.UNKNOWN)
    return [reports[key] for key in by_key]


def verdict_of(operations: Iterable[ClientOperation], *, initial: Any = None) -> Verdict:
    """Return only the verdict."""
    return merge(r.verdict for r in check_keys(operations, initial=initial))


def prepare(
    key: str, operations: Sequence[ClientOperation], initial: Any
) -> tuple[Column, Refutation | None]:
    """Encode, tighten and refute: everything that needs no search.

    A column that is refuted before tightening is also refuted after it.
    """
    column = encode(key, operations, initial)
    if not all(column.required):
        column = tighten(column)
    return column, refute(column)


def _refuted(
    column: Column, refuted: Refutation, operations: Sequence[ClientOperation]
) -> KeyReport:
    story = tuple(column.sources[i] for i in refuted.indices if i != INITIAL)
    value = column.values.values[refuted.state]
    anomaly, reason = refuted.anomaly, refuted.reason
    if anomaly == "phantom_value":
        failed = [
            o
            for o in operations
            if o.outcome == "fail" and o.op != "get" and column.values.same(o.value, value)
        ]
        if failed:
            anomaly, reason = (
                "failed_write_seen",
                "observed, but its write had been refused for good (INV-4)",
            )
            story = (failed[0], *story)
    return KeyReport(
        column.key,
        Verdict.ILLEGAL,
        len(column),
        reason=f"{value!r}: {reason}",
        anomaly=anomaly,
        story=story,
        state=value,
    )


def _searched(one: _Undecided, verdict: Verdict) -> KeyReport:
    column, search = one.column, one.search
    if verdict is Verdict.OK:
        return KeyReport(one.key, verdict, len(column), search.steps)
    if verdict is Verdict.UNKNOWN:
        why = (
            "the cache of configurations is full"
            if search.exhausted
            else f"not decided within {search.steps} steps"
        )
        return KeyReport(one.key, verdict, len(column), search.steps, reason=why)
    prefix = tuple(column.sources[i] for i in search.longest)
    stuck = tuple(column.sources[i] for i in search.stuck)
    reason = (
        f"no order exists; the longest legal prefix has {len(prefix)} of {len(column)} operations"
    )
    state = column.values.values[search.state_after_longest()]
    return KeyReport(
        one.key,
        verdict,
        len(column),
        search.steps,
        reason=reason,
        anomaly="not_linearizable",
        prefix=prefix,
        stuck=stuck,
        state=state,
    )
