"""Infer which transactions must precede which others, from versions, clients and real time."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

from chaos.checkers.lists.case import Case
from chaos.checkers.lists.cycles import PROCESS, REALTIME, RW, WR, WW, add_edge


def depend_by_versions(case: Case) -> None:
    """Add the edges that follow from reads and appends.

    ww: from the writer of one version to the writer of the next. wr: from a writer to a reader of
    its version. rw: from a reader to the writer of the next version.
    """
    tails = _tails(case)
    for key, order in case.orders.items():
        _writers_in_order(case, [case.writers.get((key, value)) for value in order], tails[key])
    places = {key: {value: n for n, value in enumerate(o)} for key, o in case.orders.items()}
    for t, txn in enumerate(case.txns):
        if txn.operation.outcome == "ok":
            for key in txn.external:
                if (t, key) not in case.broken:
                    _reader(case, t, key, places[key], tails[key])


def _tails(case: Case) -> defaultdict[str, list[int]]:
    """Return by key the committed transactions whose appends no read has seen.

    They come at some point after the longest read.
    """
    tails: defaultdict[str, list[int]] = defaultdict(list)
    for t, txn in enumerate(case.txns):
        if txn.committed:
            for key, values in txn.appends.items():
                if not set(values) & set(case.orders.get(key, ())):
                    tails[key].append(t)
    return tails


def _writers_in_order(case: Case, writers: list[int | None], tails: list[int]) -> None:
    for one, other in pairwise(writers):
        if one is not None and other is not None:
            add_edge(case.graph, one, other, WW)
    if writers and writers[-1] is not None:
        for t in tails:
            add_edge(case.graph, writers[-1], t, WW)


def _reader(case: Case, t: int, key: str, places: dict[Any, int], tails: list[int]) -> None:
    seen = case.txns[t].external[key]
    if seen and (writer := case.writers.get((key, seen[-1]))) is not None:
        add_edge(case.graph, writer, t, WR)
    order = case.orders[key]
    after = places.get(seen[-1], len(order)) + 1 if seen else 0
    if after < len(order):
        # A transaction's own appends directly follow what it read, so the version after those was
        # written by another transaction.
        if (overwriter := case.writers.get((key, order[after]))) is not None:
            add_edge(case.graph, t, overwriter, RW)
    elif after == len(order):
        for tail in tails:
            add_edge(case.graph, t, tail, RW)


def depend_by_time(case: Case) -> None:
    """Add the edges that follow from each client's order and from real time.

    Real-time edges start only at a frontier of transactions, which keeps them few.
    """
    by_client: dict[Any, int] = {}
    starts = sorted(
        (t for t, x in enumerate(case.txns) if x.committed),
        key=lambda t: case.txns[t].operation.start_ns,
    )
    for t in starts:
        client = case.txns[t].operation.client
        if client in by_client:
            add_edge(case.graph, by_client[client], t, PROCESS)
        by_client[client] = t
    ends = sorted(
        (t for t in starts if case.txns[t].operation.outcome == "ok"),
        key=lambda t: case.txns[t].operation.returned_ns,
    )
    # Transactions that have ended and that no other ended transaction certainly followed, by their
    # end.
    frontier: dict[int, float] = {}
    n = 0
    for t in starts:
        start = case.txns[t].operation.start_ns
        while n < len(ends) and case.txns[ends[n]].operation.returned_ns < start:
            ended = case.txns[ends[n]].operation
            frontier = {other: end for other, end in frontier.items() if end >= ended.start_ns}
            frontier[ends[n]] = ended.returned_ns
            n += 1
        for other in frontier:
            add_edge(case.graph, other, t, REALTIME)
