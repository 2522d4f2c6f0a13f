"""Judge list-append transactions for strict serializability, in the manner of Elle.

After Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations"
(2020). Appended values are unique per key, so a read of a list tells the order of all versions
before it; from these orders come dependencies, and a cycle among them is an anomaly with a name. It
reports the named ones it can show, and never accuses without a story.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

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
    add_edge,
    components,
    cycle_through,
)
from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import HistoryError, Operation

FINDINGS_MAX: Final = 10
"""More of one kind are counted, not told."""
Micro = Sequence[Any]
"""["append", key, value] or ["r", key, list]."""


@dataclass
class _Txn:
    operation: Operation
    micros: list[Micro]
    committed: bool
    """Known to have taken effect. An unknown one is, once a value of its is seen."""
    external: dict[str, list[Any]] = field(default_factory=dict)
    """First read of each key, without what it had appended itself by then. None when its answer was
    lost.
    """
    reads: list[tuple[str, list[Any]]] = field(default_factory=list)
    """Every read in order, with elements as they can be compared."""
    appends: dict[str, list[Any]] = field(default_factory=dict)


@dataclass
class _Judging:
    txns: list[_Txn] = field(default_factory=list)
    writers: dict[tuple[str, Any], int] = field(default_factory=dict)
    orders: dict[str, list[Any]] = field(default_factory=dict)
    broken: set[tuple[int, str]] = field(default_factory=set)
    """(transaction, key) of reads that contradict the version order: they say nothing of
    dependencies.
    """
    graph: Graph = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def say(self, anomaly: str, message: str, key: str | None, *txns: int) -> None:
        self.counts[anomaly] = self.counts.get(anomaly, 0) + 1
        if self.counts[anomaly] <= FINDINGS_MAX:
            operations = tuple(self.txns[t].operation for t in txns)
            self.findings.append(Finding(anomaly, message, key=key, operations=operations))

    def told(self, t: int) -> str:
        return (
            f"T{t} (client {self.txns[t].operation.client!r} at {self.txns[t].operation.start_ns})"
        )


def check(operations: Iterable[Operation]) -> Judgement:
    """Judge operations `txn`: value, and result once known, are lists of ["append", key, value] and
    ["r", key, list].

    Raises:
        HistoryError: a value was appended twice to one key; the generator is broken, and nothing
        can be judged.
    """
    j = _Judging()
    _index(j, [o for o in operations if o.op == "txn"])
    for t, txn in enumerate(j.txns):
        _internal(j, t, txn)
    _commit_what_was_seen(j)
    _order(j)
    _reads(j)
    _lost_updates(j)
    _dependencies(j)
    _time(j)
    _cycles(j)
    reads = sum(len(txn.external) for txn in j.txns if txn.operation.outcome == "ok")
    if not reads:
        j.findings.append(Finding("nothing_read", "no transaction read anything", Verdict.UNKNOWN))
    figures = {
        "transactions": len(j.txns),
        "reads": reads,
        "keys": len(j.orders),
        "anomalies": dict(j.counts),
    }
    return Judgement("append", tuple(j.findings), len(j.txns), figures)


# ------------------------------------------------------------------------------ what was done, read


def _index(j: _Judging, operations: Sequence[Operation]) -> None:
    for t, o in enumerate(operations):
        told = o.result if o.outcome == "ok" and isinstance(o.result, list) else o.value
        txn = _Txn(o, [tuple(m) for m in told], o.outcome == "ok")
        j.txns.append(txn)
        for kind, key, value in txn.micros:
            if kind == "append":
                element = _hashable(value)
                if (key, element) in j.writers:
                    raise HistoryError(
                        f"the value {value!r} was appended twice to {key!r} by the generator"
                    )
                j.writers[key, element] = t
                txn.appends.setdefault(key, []).append(element)
            elif o.outcome == "ok" and told is o.result:
                seen = _elements(value)
                txn.reads.append((key, seen))
                if key in txn.external:
                    continue
                own = txn.appends.get(key, [])
                txn.external[key] = (
                    seen[: len(seen) - len(own)] if own and seen[-len(own) :] == own else seen
                )


def _internal(j: _Judging, t: int, txn: _Txn) -> None:
    """Inside one transaction reads agree with earlier reads and own appends."""
    if txn.operation.outcome != "ok":
        return
    known: dict[str, list[Any]] = {}
    own: dict[str, list[Any]] = {}
    if not txn.reads:
        return
    reads = iter(txn.reads)
    for kind, key, value in txn.micros:
        if kind == "append":
            if key in known:
                known[key] = [*known[key], _hashable(value)]
            else:
                own.setdefault(key, []).append(_hashable(value))
            continue
        _, seen = next(reads)
        mine = own.get(key, [])
        if key in known and seen != known[key]:
            j.say(
                "internal", f"{j.told(t)} expected {known[key]} in {key!r}, and read {seen}", key, t
            )
        elif key not in known and mine and seen[-len(mine) :] != mine:
            j.say("internal", f"{j.told(t)} appended {mine} to {key!r}, and read {seen}", key, t)
        known[key] = seen


def _commit_what_was_seen(j: _Judging) -> None:
    for txn in list(j.txns):
        for key, seen in txn.reads:
            for value in seen:
                writer = j.writers.get((key, value))
                if writer is not None and j.txns[writer].operation.outcome == "info":
                    j.txns[writer].committed = True


# ----------------------------------------------------------------------------------- version orders


def _order(j: _Judging) -> None:
    """The order of a key's versions is its longest read; every other read must be a prefix
    of it.
    """
    longest: dict[str, tuple[list[Any], int]] = {}
    for t, txn in enumerate(j.txns):
        for key, seen in txn.reads:
            if key not in longest or len(seen) > len(longest[key][0]):
                longest[key] = (seen, t)
    j.orders = {key: list(dict.fromkeys(seen)) for key, (seen, _) in longest.items()}
    for t, txn in enumerate(j.txns):
        for key, seen in txn.reads:
            whole, reader = longest[key]
            if seen != j.orders[key][: len(seen)]:
                j.broken.add((t, key))
            if len(set(seen)) < len(seen):
                twice = next(v for v in seen if seen.count(v) > 1)
                writer = j.writers.get((key, twice))
                why = f"{j.told(t)} read {twice!r} twice in {key!r}: {seen}"
                j.say("duplicate_elements", why, key, *([writer] if writer is not None else []), t)
            elif seen != whole[: len(seen)] and len(set(whole)) == len(whole):
                why = f"{j.told(t)} read {seen} in {key!r}, {j.told(reader)} read {whole}: neither continues the other"
                j.say("incompatible_order", why, key, t, reader)


def _reads(j: _Judging) -> None:
    """Aborted reads (G1a), values from nowhere, intermediate reads (G1b), dirty updates."""
    for t, txn in enumerate(j.txns):
        for key, seen in txn.reads:
            for value in seen:
                writer = j.writers.get((key, value))
                if writer is None:
                    j.say(
                        "phantom_element",
                        f"{j.told(t)} read {value!r} in {key!r}, which nobody appended",
                        key,
                        t,
                    )
                elif j.txns[writer].operation.outcome == "fail":
                    why = f"{j.told(t)} read {value!r} in {key!r}; {j.told(writer)} had been refused for good"
                    j.say("G1a", why, key, writer, t)
            last = seen[-1] if seen else None
            writer = j.writers.get((key, last)) if seen else None
            if writer is not None and writer != t and j.txns[writer].appends[key][-1] != last:
                why = f"{j.told(t)} read {key!r} up to {last!r}, which {j.told(writer)} had not finished"
                j.say("G1b", why, key, writer, t)
    for key, order in j.orders.items():
        for before, after in pairwise(order):
            one, other = j.writers.get((key, before)), j.writers.get((key, after))
            if one is None or other is None or j.txns[one].operation.outcome != "fail":
                continue
            if j.txns[other].committed:
                why = f"{j.told(other)} appended {after!r} in {key!r} on top of the refused {before!r}"
                j.say("dirty_update", why, key, one, other)


def _lost_updates(j: _Judging) -> None:
    """Two committed transactions that read the same version of a key and both append to it."""
    first: dict[tuple[str, tuple[Any, ...]], int] = {}
    for t, txn in enumerate(j.txns):
        if txn.operation.outcome != "ok":
            continue
        for key in txn.appends:
            if key not in txn.external:
                continue
            version = (key, tuple(txn.external[key]))
            if version in first:
                why = f"{j.told(first[version])} and {j.told(t)} both read {list(version[1])} in {key!r} and appended"
                j.say("lost_update", why, key, first[version], t)
            first.setdefault(version, t)


# ------------------------------------------------------------------------------------- dependencies


def _dependencies(j: _Judging) -> None:
    """ww: writer of one version to writer of the next. wr: writer to reader. rw: reader to writer
    of the next.
    """
    tails: dict[str, list[int]] = {}
    for t, txn in enumerate(j.txns):
        if not txn.committed:
            continue
        for key, values in txn.appends.items():
            # Never read, but committed: it lies somewhere behind the longest read.
            if not set(values) & set(j.orders.get(key, ())):
                tails.setdefault(key, []).append(t)
    places = {key: {value: n for n, value in enumerate(order)} for key, order in j.orders.items()}
    for key, order in j.orders.items():
        writers = [j.writers.get((key, value)) for value in order]
        for one, other in pairwise(writers):
            if one is not None and other is not None:
                add_edge(j.graph, one, other, WW)
        if writers and writers[-1] is not None:
            for t in tails.get(key, ()):
                add_edge(j.graph, writers[-1], t, WW)
    for t, txn in enumerate(j.txns):
        if txn.operation.outcome == "ok":
            for key in txn.external:
                if (t, key) not in j.broken:
                    _reader(j, t, key, places[key], tails.get(key, []))


def _reader(j: _Judging, t: int, key: str, places: dict[Any, int], tails: list[int]) -> None:
    seen = j.txns[t].external[key]
    if seen and (writer := j.writers.get((key, seen[-1]))) is not None:
        add_edge(j.graph, writer, t, WR)
    order = j.orders[key]
    after = places.get(seen[-1], len(order)) + 1 if seen else 0
    if after < len(order):
        # A transaction's own appends follow what it read; what follows those was written by
        # somebody else.
        if (overwriter := j.writers.get((key, order[after]))) is not None:
            add_edge(j.graph, t, overwriter, RW)
    elif after == len(order):
        for tail in tails:
            add_edge(j.graph, t, tail, RW)


def _time(j: _Judging) -> None:
    """Edges of each client's order, and of real time, the latter over a frontier so that they stay
    few.
    """
    by_client: dict[Any, int] = {}
    starts = sorted(
        (t for t, x in enumerate(j.txns) if x.committed), key=lambda t: j.txns[t].operation.start_ns
    )
    for t in starts:
        client = j.txns[t].operation.client
        if client in by_client:
            add_edge(j.graph, by_client[client], t, PROCESS)
        by_client[client] = t
    ends = sorted(
        (t for t in starts if j.txns[t].operation.outcome == "ok"),
        key=lambda t: j.txns[t].operation.returned_ns,
    )
    frontier: dict[int, float] = {}
    """Ended transactions that no other ended transaction certainly followed, with their ends."""
    n = 0
    for t in starts:
        start = j.txns[t].operation.start_ns
        while n < len(ends) and j.txns[ends[n]].operation.returned_ns < start:
            ended = j.txns[ends[n]].operation
            frontier = {other: end for other, end in frontier.items() if end >= ended.start_ns}
            frontier[ends[n]] = ended.returned_ns
            n += 1
        for other in frontier:
            add_edge(j.graph, other, t, REALTIME)


# ------------------------------------------------------------------------------------------- cycles

_NAMES: Final = ("", "-process", "-realtime")
_EXTRA: Final = (0, PROCESS, PROCESS | REALTIME)


def _cycles(j: _Judging) -> None:
    """Name the cycles, the gravest name first; one story per component and name."""
    told: list[frozenset[int]] = []
    for suffix, extra in zip(_NAMES, _EXTRA, strict=True):
        needed = extra and (REALTIME if suffix == "-realtime" else PROCESS)
        for component in components(j.graph, WW | WR | RW | extra):
            nodes = frozenset(component)
            if any(cycle <= nodes for cycle in told):
                continue  # the same component shows it without such edges
            found = list(_named(j.graph, nodes, extra, needed))
            for name, cycle in found:
                j.say(name + suffix, _story(j, cycle), None, *(t for t, _ in cycle))
                told.append(frozenset(t for t, _ in cycle))
            if not found:
                some = sorted(nodes)[:8]
                j.say(
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


def _story(j: _Judging, cycle: Cycle) -> str:
    """Tell a cycle as sentences: what each transaction saw or did that puts it before the next."""
    lines = []
    for n, (t, kind) in enumerate(cycle):
        other = cycle[(n + 1) % len(cycle)][0]
        lines.append(f"{j.told(t)} {_because(j, t, other, kind)} T{other}")
    return "; ".join(lines) + ": a cycle"


def _because(j: _Judging, t: int, other: int, kind: int) -> str:
    one, two = j.txns[t], j.txns[other]
    if kind == REALTIME:
        gap = two.operation.start_ns - int(one.operation.returned_ns)
        return f"was acknowledged {gap} ns before the start of"
    if kind == PROCESS:
        return "was followed by the same client's"
    if kind == RW:
        for key, seen in one.external.items():
            if key in two.appends and not set(two.appends[key]) & set(seen):
                return f"read {seen} in {key!r} without {two.appends[key]}, appended by"
    if kind == WR:
        for key, seen in two.external.items():
            if seen and seen[-1] in one.appends.get(key, ()):
                return f"appended {seen[-1]!r} to {key!r}, read by"
    for key in one.appends:
        if key in two.appends:
            return f"appended {one.appends[key]} to {key!r} before {two.appends[key]} of"
    return f"comes ({KINDS[kind]}) before"


def _elements(value: Any) -> list[Any]:
    return [v if v.__class__ is int or v.__class__ is str else _hashable(v) for v in value or ()]


def _hashable(value: Any) -> Any:
    return (
        (type(value).__name__, repr(value))
        if isinstance(value, list | dict | bool | float)
        else value
    )
