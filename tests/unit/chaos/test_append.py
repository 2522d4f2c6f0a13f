"""Each anomaly of list-append transactions, in the smallest history that has it and no other."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from chaos.checkers.lists import append, cycles
from chaos.checkers.verdict import Verdict
from chaos.records.history import ClientOperation, HistoryError


def txn(
    client: int, start: int, end: int, *micros: list[Any], outcome: Any = "ok"
) -> ClientOperation:
    asked = [["r", k, None] if f == "r" else [f, k, v] for f, k, v in micros]
    return ClientOperation(
        client, "txn", outcome, start, end, value=asked, result=[list(m) for m in micros]
    )


def a(key: str, value: int) -> list[Any]:
    return ["append", key, value]


def r(key: str, *values: int) -> list[Any]:
    return ["r", key, list(values)]


# All operations of one case are concurrent unless their times say otherwise.
CASES: dict[str, list[ClientOperation]] = {
    # Version orders of x and y contradict each other; only writes are involved.
    "G0": [
        txn(1, 0, 99, a("x", 1), a("y", 1)),
        txn(2, 0, 99, a("x", 2), a("y", 2)),
        txn(3, 100, 199, r("x", 1, 2)),
        txn(4, 100, 199, r("y", 2, 1)),
    ],
    "G1a": [txn(1, 0, 99, a("x", 1), outcome="fail"), txn(2, 0, 99, r("x", 1))],
    "G1b": [
        txn(1, 0, 99, a("x", 1), a("x", 2)),
        txn(2, 0, 99, r("x", 1)),
        txn(3, 0, 99, r("x", 1, 2)),
    ],
    "G1c": [txn(1, 0, 99, a("x", 1), r("y", 2)), txn(2, 0, 99, a("y", 2), r("x", 1))],
    "G-single": [txn(1, 0, 99, a("x", 1), a("y", 1)), txn(2, 0, 99, r("x", 1), r("y"))],
    "G2-item": [
        txn(1, 0, 99, r("x"), a("y", 1)),
        txn(2, 0, 99, r("y"), a("x", 1)),
        txn(3, 200, 299, r("x", 1), r("y", 1)),
    ],
    # A long fork: two readers see two writes in opposite orders.
    "G-nonadjacent": [
        txn(1, 0, 99, a("x", 1)),
        txn(2, 0, 99, a("y", 1)),
        txn(3, 0, 99, r("x", 1), r("y")),
        txn(4, 0, 99, r("y", 1), r("x")),
    ],
    "lost_update": [
        txn(1, 0, 99, r("x"), a("x", 1)),
        txn(2, 0, 99, r("x"), a("x", 2)),
        txn(3, 0, 99, r("x", 1, 2)),
    ],
    "internal": [txn(1, 0, 99, a("x", 1), r("x")), txn(2, 0, 99, r("x", 1))],
    "duplicate_elements": [txn(1, 0, 99, a("x", 1)), txn(2, 0, 99, r("x", 1, 1))],
    "incompatible_order": [
        txn(1, 0, 99, a("x", 1)),
        txn(2, 0, 99, a("x", 2)),
        txn(3, 0, 99, r("x", 1, 2)),
        txn(4, 0, 99, r("x", 2, 1)),
    ],
    "phantom_element": [txn(1, 0, 99, a("x", 1)), txn(2, 0, 99, r("x", 1, 7))],
    "dirty_update": [
        txn(1, 0, 99, a("x", 1), outcome="fail"),
        txn(2, 0, 99, a("x", 2)),
        txn(3, 0, 99, r("x", 1, 2)),
    ],
    # An acknowledged append that a later transaction does not see.
    "G-single-realtime": [
        txn(1, 0, 9, a("x", 1)),
        txn(2, 20, 29, r("x")),
        txn(3, 40, 49, r("x", 1)),
    ],
    "G-single-process": [
        txn(1, 0, 9, a("x", 1)),
        txn(1, 20, 29, r("x")),
        txn(3, 40, 49, r("x", 1)),
    ],
    # The later append lies before the earlier one, though it started after that was acknowledged.
    "G0-realtime": [
        txn(1, 0, 9, a("x", 1)),
        txn(2, 20, 29, a("x", 2)),
        txn(3, 0, 99, r("x", 2, 1)),
    ],
    "G1c-realtime": [txn(1, 0, 9, r("x", 2)), txn(2, 20, 29, a("x", 2))],
}


@pytest.mark.parametrize("anomaly", CASES)
def test_the_anomaly_is_named_and_told(anomaly: str) -> None:
    judged = append.check(CASES[anomaly])
    assert judged.verdict is Verdict.ILLEGAL
    assert anomaly in judged.anomalies
    found = next(f for f in judged.findings if f.anomaly == anomaly)
    assert "T" in found.message
    assert found.operations


CLEAN = (
    "G0",
    "G1c",
    "G-single",
    "G2-item",
    "G-nonadjacent",
    "G-single-realtime",
    "G-single-process",
    "G0-realtime",
)


@pytest.mark.parametrize("anomaly", CLEAN)
def test_a_cycle_is_given_no_graver_name_than_it_has(anomaly: str) -> None:
    assert append.check(CASES[anomaly]).anomalies == (anomaly,)


def test_a_lost_append_is_a_cycle_in_real_time_although_nobody_ever_read_it() -> None:
    ops = [txn(1, 0, 9, a("x", 1)), txn(2, 20, 29, a("x", 2)), txn(3, 40, 49, r("x", 1))]
    assert append.check(ops).anomalies == ("G-single-realtime",)


def test_an_unknown_append_may_be_seen_or_not() -> None:
    unknown = txn(1, 0, 99, a("x", 1), outcome="info")
    assert append.check([unknown, txn(2, 200, 299, r("x"))]).verdict is Verdict.OK
    assert (
        append.check([unknown, txn(2, 200, 299, r("x")), txn(3, 300, 399, r("x", 1))]).verdict
        is Verdict.OK
    )
    back = [unknown, txn(2, 200, 299, r("x", 1)), txn(3, 300, 399, r("x"))]
    assert append.check(back).verdict is Verdict.ILLEGAL


def test_a_transaction_whose_answer_was_lost_says_nothing_of_what_it_read() -> None:
    lost = ClientOperation(
        9, "txn", "ok", 200, 299, value=[["r", "x", None], a("y", 1)], resolved=True
    )
    assert (
        append.check([txn(1, 0, 9, a("x", 1)), txn(2, 20, 29, r("x", 1)), lost]).verdict
        is Verdict.OK
    )


def test_a_transaction_sees_its_own_appends() -> None:
    ops = [txn(1, 0, 9, r("x"), a("x", 1), r("x", 1)), txn(2, 20, 29, a("x", 2), r("x", 1, 2))]
    assert append.check(ops).verdict is Verdict.OK


def test_a_value_appended_twice_is_the_generators_fault() -> None:
    with pytest.raises(HistoryError, match="appended twice"):
        append.check([txn(1, 0, 9, a("x", 1)), txn(2, 0, 9, a("x", 1))])


def test_nothing_read_is_not_fine() -> None:
    assert append.check([txn(1, 0, 9, a("x", 1))]).verdict is Verdict.UNKNOWN
    assert append.check([]).verdict is Verdict.UNKNOWN


def test_the_story_of_a_cycle_is_a_short_one_however_large_its_component() -> None:
    """Two transactions that see each other, in the middle of hundreds that they drag into one
    component.
    """
    ops = [txn(n, 10 * n, 10 * n + 5, r("x", *range(n)), a("x", n)) for n in range(400)]
    ops[200] = txn(200, 2000, 2005, r("x", *range(200)), a("x", 200), r("z", 1))
    ops[203] = txn(203, 2030, 2035, r("x", *range(203)), a("x", 203), a("z", 1))
    ops.append(txn(999, 5000, 5005, r("x", *range(400))))
    judged = append.check(ops)
    assert judged.verdict is Verdict.ILLEGAL
    assert max(len(f.operations) for f in judged.findings) <= 5


def test_components_agree_with_reachability_on_random_graphs() -> None:
    for seed in range(200):
        rng = Random(seed)
        n = rng.randint(2, 12)
        graph: cycles.Graph = {}
        for _ in range(rng.randint(0, 20)):
            cycles.add_edge(
                graph, rng.randrange(n), rng.randrange(n), rng.choice((cycles.WW, cycles.RW))
            )
        reach = {x: _reached(graph, x) for x in range(n)}
        expected = {
            frozenset(y for y in range(n) if y in reach[x] and x in reach[y]) for x in range(n)
        }
        found = {frozenset(c) for c in cycles.components(graph, cycles.WW | cycles.RW)}
        assert found == {c for c in expected if len(c) > 1}


def _reached(graph: cycles.Graph, start: int) -> set[int]:
    seen: set[int] = set()
    todo = [start]
    while todo:
        for b in graph.get(todo.pop(), {}):
            if b not in seen:
                seen.add(b)
                todo.append(b)
    return seen
