"""Check list-append transactions for strict serializability, in the manner of Elle.

After Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations"
(2020). Appended values are unique per key, so a read of a list reveals the order of all versions
before it. Dependencies follow from these orders, and a cycle among them is an anomaly with a name.
Only anomalies that can be shown by a concrete cycle of operations get a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from chaos.checkers.lists import version_order
from chaos.checkers.lists.case import Case, Transaction, opened
from chaos.checkers.lists.cycles import (
    KINDS,
    PROCESS,
    REALTIME,
    RW,
    WR,
    WW,
    Cycle,
    Graph,
    Wish,
    components,
    cycle_through,
)
from chaos.checkers.lists.dependencies import depend_by_time, depend_by_versions
from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import ClientOperation


def check(operations: Iterable[ClientOperation]) -> Judgement:
    """Check the operations `txn`.

    Their value, and their result once known, are lists of ["append", key, value] and ["r", key,
    list]. Raises HistoryError if a value was appended twice to one key: then the generator is
    broken and nothing can be checked.
    """
    case = opened([o for o in operations if o.op == "txn"])
    version_order.judge(case)
    depend_by_versions(case)
    depend_by_time(case)
    _cycles(case)
    reads = sum(len(txn.external) for txn in case.txns if txn.operation.outcome == "ok")
    if not reads:
        none = Finding("nothing_read", "no transaction read anything", Verdict.UNKNOWN)
        case.findings.append(none)
    figures = {
        "transactions": len(case.txns),
        "reads": reads,
        "keys": len(case.orders),
        "anomalies": dict(case.counts),
    }
    return Judgement("append", tuple(case.findings), len(case.txns), figures)


_NAMES: Final = ("", "-process", "-realtime")
_EXTRA: Final = (0, PROCESS, PROCESS | REALTIME)


def _cycles(case: Case) -> None:
    """Report the cycles, the gravest kind first, with one example per component and name."""
    shown: list[frozenset[int]] = []
    for suffix, extra in zip(_NAMES, _EXTRA, strict=True):
        needed = extra and (REALTIME if suffix == "-realtime" else PROCESS)
        for component in components(case.graph, WW | WR | RW | extra):
            nodes = frozenset(component)
            if any(cycle <= nodes for cycle in shown):
                continue  # a cycle of it was already reported with fewer kinds of edges
            found = list(_named(case.graph, nodes, extra, needed))
            for name, cycle in found:
                case.say(name + suffix, _story(case, cycle), None, *(t for t, _ in cycle))
                shown.append(frozenset(t for t, _ in cycle))
            if not found:
                some = sorted(nodes)[:8]
                case.say(
                    "cycle" + suffix,
                    f"{len(nodes)} transactions depend on each other in a circle",
                    None,
                    *some,
                )


def _named(
    graph: Graph, nodes: frozenset[int], extra: int, needed: int
) -> Iterator[tuple[str, Cycle]]:
    def search(first: int, rest: int, apart: int = 0) -> Cycle | None:
        return cycle_through(graph, nodes, Wish(first, rest | extra, apart, needed))

    if found := search(WW, WW):
        yield "G0", found
    if found := search(WR, WW | WR):
        yield "G1c", found
    if found := search(RW, WW | WR):
        yield "G-single", found
    apart = search(RW, WW | WR | RW, apart=RW)
    if apart is not None and _count(apart, RW) > 1:
        yield "G-nonadjacent", apart
        return
    found = search(RW, WW | WR | RW)
    if found is not None and _count(found, RW) > 1:
        yield "G2-item", found


def _count(cycle: Cycle, kind: int) -> int:
    return sum(k == kind for _, k in cycle)


def _story(case: Case, cycle: Cycle) -> str:
    """Describe a cycle in words: what each transaction read or wrote that orders it before the
    next.
    """
    lines = []
    for n, (t, kind) in enumerate(cycle):
        other = cycle[(n + 1) % len(cycle)][0]
        lines.append(f"{case.named(t)} {_because(case, t, other, kind)} T{other}")
    return "; ".join(lines) + ": a cycle"


def _because(case: Case, t: int, other: int, kind: int) -> str:
    one, two = case.txns[t], case.txns[other]
    if kind == REALTIME:
        gap = two.operation.start_ns - int(one.operation.returned_ns)
        return f"was acknowledged {gap} ns before the start of"
    if kind == PROCESS:
        return "was followed by the same client's"
    seen = None
    if kind == RW:
        seen = _read_without(one, two)
    elif kind == WR:
        seen = _read_by(one, two)
    return seen or _appended_before(one, two) or f"comes ({KINDS[kind]}) before"


def _read_without(one: Transaction, two: Transaction) -> str | None:
    for key, seen in one.external.items():
        if key in two.appends and not set(two.appends[key]) & set(seen):
            return f"read {seen} in {key!r} without {two.appends[key]}, appended by"
    return None


def _read_by(one: Transaction, two: Transaction) -> str | None:
    for key, seen in two.external.items():
        if seen and seen[-1] in one.appends.get(key, ()):
            return f"appended {seen[-1]!r} to {key!r}, read by"
    return None


def _appended_before(one: Transaction, two: Transaction) -> str | None:
    for key in one.appends:
        if key in two.appends:
            return f"appended {one.appends[key]} to {key!r} before {two.appends[key]} of"
    return None
