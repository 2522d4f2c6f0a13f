"""Each anomaly that a checker names is planted once, in a history small enough to read, and must
come back by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as changed
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from chaos.checkers import (
    bank,
    convergence,
    counter,
    leases,
    ledger,
    lock,
    members,
    session,
    set_full,
    staleness,
    ttl,
    watch,
)
from chaos.checkers.registers import register, versions
from chaos.checkers.verdict import Finding, Judgement, Verdict, merge
from chaos.records.final_state import LEVELS, Evidence, FinalRead, MemberState
from chaos.records.history import ClientOperation, Fault, Lookup, NodeStatus, Watched
from chaos.records.ledger import Ledger, LedgerIntent, LedgerRow
from chaos.records.resolution import resolve
from tests.unit.chaos.ideal import Ideal

MS = 1_000_000


def op(
    client: int, name: str, start: int, end: int, outcome: Any = "ok", **fields: Any
) -> ClientOperation:
    return ClientOperation(client, name, outcome, start, end, **({"key": "k"} | fields))


def put(
    client: int, start: int, end: int, value: Any, revision: int | None = None, **fields: Any
) -> ClientOperation:
    return op(client, "put", start, end, value=value, revision=revision, **fields)


def get(
    client: int, start: int, end: int, result: Any, revision: int | None = None, **fields: Any
) -> ClientOperation:
    return op(client, "get", start, end, result=result, revision=revision, **fields)


# ----------------------------------------------------------------------------------------- register

REGISTER: dict[str, list[ClientOperation]] = {
    "phantom_value": [put(1, 0, 9, "a"), get(2, 20, 29, "b")],
    "value_from_the_future": [get(2, 0, 9, "a"), put(1, 20, 29, "a")],
    "stale_or_lost_value": [put(1, 0, 9, "a"), put(1, 20, 29, "b"), get(2, 40, 49, "a")],
    "wrong_refusal": [
        put(1, 0, 9, "a"),
        op(2, "cas", 20, 29, expected="a", value="b", result=False),
        get(3, 40, 49, "a"),
    ],
    "not_linearizable": [
        put(1, 0, 9, "a"),
        put(2, 0, 9, "a"),
        op(3, "delete", 20, 29, result=True),
        get(4, 40, 49, "a"),
    ],
}


@pytest.mark.parametrize("anomaly", REGISTER)
def test_register(anomaly: str) -> None:
    judged = register.check(REGISTER[anomaly])
    assert judged.anomalies == (anomaly,)
    assert judged.findings[0].operations


def test_a_register_that_cannot_be_decided_in_time_is_unknown_and_never_fine() -> None:
    ops = [put(n, n, 500, n % 3) for n in range(40)] + [
        get(100 + n, 300, 900, n % 3) for n in range(12)
    ]
    ops += [
        op(200 + n, "cas", 300, 900, expected=n % 3, value=(n + 1) % 3, result=True)
        for n in range(9)
    ]
    judged = register.check(
        [*ops, get(999, 1_000, 1_001, "x"), put(998, 0, 5, "x"), put(997, 0, 5, "x")], passes=(3, 3)
    )
    assert judged.verdict is Verdict.UNKNOWN
    assert judged.anomalies == ()
    assert "not decided within 6 steps" in judged.findings[0].message


# ----------------------------------------------------------------------------------------- versions

VERSIONS: dict[str, list[ClientOperation]] = {
    "revision_reused": [put(1, 0, 9, "a", 1), put(2, 0, 9, "b", 1)],
    "failed_write_seen": [
        put(1, 0, 9, "a", 1),
        put(2, 0, 9, "b", outcome="fail"),
        get(3, 20, 29, "b", 5, version=4),
    ],
    "phantom_version": [put(1, 0, 9, "a", 1), get(3, 20, 29, "b", 5, version=4)],
    "wrong_version": [
        put(1, 0, 9, "a", 1),
        put(2, 20, 29, "a", 2),
        get(3, 40, 49, "a", 2, version=1),
    ],
    "wrong_content": [put(1, 0, 9, "a", 1), get(3, 20, 29, "b", 1, version=1)],
    "stale_version": [
        put(1, 0, 9, "a", 1),
        put(1, 20, 29, "b", 2),
        get(3, 20, 29, "a", 3, version=1),
    ],
    "wrong_position": [put(1, 0, 9, "a", 5), get(3, 0, 9, "a", 3, version=5)],
    "wrong_guard": [
        put(1, 0, 9, "a", 1),
        op(2, "cas", 20, 29, expected="a", value="b", result=False, revision=2),
    ],
    "real_time_order": [put(1, 0, 9, "a", 5), put(2, 20, 29, "b", 4)],
}


VERSIONS["stale_version in a snapshot"] = [
    ClientOperation(1, "txn", "ok", 0, 9, value=[["w", "x", 1], ["w", "y", 1]], revision=1),
    ClientOperation(1, "txn", "ok", 10, 19, value=[["w", "x", 2], ["w", "y", 2]], revision=2),
    ClientOperation(
        2, "txn", "ok", 0, 29, value=[], result=[["r", "x", 1], ["r", "y", 2]], revision=2
    ),
]


@pytest.mark.parametrize("anomaly", VERSIONS)
def test_versions(anomaly: str) -> None:
    judged = versions.check(VERSIONS[anomaly])
    assert anomaly.split(maxsplit=1)[0] in judged.anomalies
    assert judged.verdict is Verdict.ILLEGAL


def test_versions_see_what_no_single_key_shows() -> None:
    """x is overwritten before y, a reader sees the new y and, later, the old x: each key alone is
    linearizable.
    """
    ops = [
        put(1, 0, 9, "x0", 1, key="x"),
        put(1, 20, 99, "x1", 2, key="x"),
        put(2, 20, 29, "y1", 3, key="y"),
        get(3, 40, 49, "y1", 3, key="y", version=3),
        get(3, 50, 59, "x0", 1, key="x", version=1),
    ]
    assert register.check(ops).verdict is Verdict.OK
    assert versions.check(ops).anomalies == ("real_time_order",)


def test_versions_follow_lists_and_do_not_guess_what_was_not_read() -> None:
    def txn(revision: int, start: int, *micros: list[Any]) -> ClientOperation:
        told = list(micros)
        return ClientOperation(
            revision, "txn", "ok", start, start + 9, value=told, result=told, revision=revision
        )

    ops = [
        txn(1, 0, ["r", "l", []], ["append", "l", 1]),
        txn(2, 20, ["append", "l", 2], ["append", "l", 3], ["r", "l", [1, 2, 3]]),
        txn(3, 40, ["r", "l", [1, 2, 3]], ["append", "l", 4]),
        txn(4, 60, ["r", "l", [1, 2, 3, 4]], ["r", "m", []]),
    ]
    assert versions.check(ops).verdict is Verdict.OK
    late = txn(5, 80, ["r", "l", [1, 2, 3]])
    assert versions.check([*ops, late]).anomalies == ("stale_version",)


def test_versions_let_an_unknown_write_own_a_revision_or_none() -> None:
    unknown = put(1, 0, 9, "a", outcome="info")
    assert versions.check([unknown, get(2, 20, 29, "a", 7, version=7)]).verdict is Verdict.OK
    assert versions.check([unknown, get(2, 20, 29, None, 7, version=0)]).verdict is Verdict.OK
    gone = op(1, "delete", 40, 49, outcome="info")
    assert (
        versions.check([put(3, 0, 9, "a", 1), gone, get(2, 60, 69, None, 7, version=0)]).verdict
        is Verdict.OK
    )


# ------------------------------------------------------------------------------ sets, banks, counts


def add(start: int, value: Any, outcome: Any = "ok") -> ClientOperation:
    return op(start, "add", start, start + 9, outcome, value=value)


def read(start: int, *result: Any) -> ClientOperation:
    return op(1_000 + start, "read", start, start + 9, result=list(result))


SET: dict[str, list[ClientOperation]] = {
    "lost_element": [add(0, "a"), add(0, "b"), read(20, "a", "b"), read(40, "b")],
    "stale_read": [add(0, "a"), add(0, "b"), read(20, "b"), read(40, "a", "b")],
    "phantom_element": [add(0, "a"), read(20, "a", "b")],
    "aborted_read": [add(0, "a"), add(0, "b", "fail"), read(20, "a", "b")],
    "duplicate_element": [add(0, "a"), read(20, "a", "a")],
    "from_the_future": [add(40, "a"), add(0, "b"), read(20, "a", "b"), read(60, "a", "b")],
}


@pytest.mark.parametrize("anomaly", SET)
def test_set(anomaly: str) -> None:
    assert set_full.check(SET[anomaly]).anomalies == (anomaly,)


def test_sets_are_judged_one_by_one() -> None:
    other = [replace(o, key="other") for o in (add(0, "a"), read(20, "a"))]
    assert set_full.check([add(0, "b"), read(20, "b"), *other]).verdict is Verdict.OK
    assert set_full.check(
        [add(0, "b"), read(20, "b"), *other, replace(read(40), key="other")]
    ).anomalies == ("lost_element",)


def test_an_unknown_element_may_come_late_but_never_go() -> None:
    assert (
        set_full.check(
            [add(0, "a"), add(0, "u", "info"), read(20, "a"), read(40, "a", "u")]
        ).verdict
        is Verdict.OK
    )
    went = [add(0, "a"), add(0, "u", "info"), read(20, "a", "u"), read(40, "a")]
    assert set_full.check(went).anomalies == ("lost_element",)


BANK: dict[str, dict[str, Any]] = {
    "wrong_total": {"a": 5, "b": 6},
    "negative_balance": {"a": -1, "b": 11},
    "missing_account": {"a": 10},
    "unknown_account": {"a": 5, "b": 5, "c": 0},
    "no_balance": {"a": 10, "b": None},
}


@pytest.mark.parametrize("anomaly", BANK)
def test_bank(anomaly: str) -> None:
    judged = bank.check([op(1, "read", 0, 9, result=BANK[anomaly])], accounts=["a", "b"], total=10)
    assert judged.anomalies == (anomaly,)


def test_bank_tells_the_first_and_the_worst() -> None:
    reads = [op(n, "read", n, n + 1, result={"a": 10 + n, "b": 0}) for n in (0, 1, 7, 3)]
    judged = bank.check(reads, accounts=["a", "b"], total=10)
    assert ["11" in judged.findings[0].message, "17" in judged.findings[1].message] == [True, True]
    assert judged.figures["errors"] == 3


def inc(start: int, amount: int, outcome: Any = "ok") -> ClientOperation:
    return op(start, "increment", start, start + 9, outcome, value=amount)


def count(start: int, result: Any) -> ClientOperation:
    return op(1_000 + start, "read", start, start + 9, result=result)


COUNTER: dict[str, list[ClientOperation]] = {
    "lost_increment": [inc(0, 1), inc(0, 2), count(20, 2)],
    "increment_applied_twice": [inc(0, 1), inc(0, 2), count(20, 5)],
    "counter_fell": [inc(0, 1, "info"), count(20, 1), count(40, None)],
}


@pytest.mark.parametrize("anomaly", COUNTER)
def test_counter(anomaly: str) -> None:
    assert anomaly in counter.check(COUNTER[anomaly]).anomalies


def test_an_unknown_increment_counts_once_or_never() -> None:
    assert counter.check([inc(0, 1), inc(0, 2, "info"), count(20, 1)]).verdict is Verdict.OK
    assert counter.check([inc(0, 1), inc(0, 2, "info"), count(20, 3)]).verdict is Verdict.OK
    assert counter.check([inc(0, 1), inc(0, 2, "info"), count(20, 5)]).verdict is Verdict.ILLEGAL


# ---------------------------------------------------------------------------------------------- ttl

S = 1_000_000_000


def give(start_s: float, ttl_ms: int, outcome: Any = "ok") -> ClientOperation:
    return op(1, "give", int(start_s * S), int((start_s + 0.01) * S), outcome, value=ttl_ms)


def there(start_s: float, result: bool) -> ClientOperation:
    return op(
        int(start_s * 100), "read", int(start_s * S), int((start_s + 0.01) * S), result=result
    )


TTL: dict[str, list[ClientOperation]] = {
    "ended_early": [give(0, 2_000), there(1.7, False), there(4.0, False)],
    "lives_on": [give(0, 2_000), there(3.6, True), there(4.0, False)],
    "came_back": [give(0, 2_000), there(2.5, False), there(2.6, True), there(4.0, False)],
}


@pytest.mark.parametrize("anomaly", TTL)
def test_ttl(anomaly: str) -> None:
    assert ttl.check(TTL[anomaly]).anomalies == (anomaly,)


def test_a_key_lives_its_ttl_and_ends_within_the_sweep_interval_and_half_a_second() -> None:
    good = [give(0, 2_000), there(1.7, True), there(1.85, False), there(4.0, False)]
    assert ttl.check(good).verdict is Verdict.OK
    assert ttl.check([give(0, 2_000), there(3.4, True), there(4.0, False)]).verdict is Verdict.OK
    assert ttl.check([give(0, 2_000), there(1.0, True)]).verdict is Verdict.UNKNOWN


def test_an_end_is_not_judged_while_a_sweep_may_be_kept_from_its_work() -> None:
    late = TTL["lives_on"]
    for nemesis, verdict in (("kill-leader", Verdict.OK), ("clock-jump", Verdict.ILLEGAL)):
        faults = [Fault(nemesis, "start", 1 * S), Fault(nemesis, "healed", 2 * S)]
        assert ttl.check([*late, there(9.0, False)], faults).verdict is verdict
    early = TTL["ended_early"]
    # whatever holds
    assert ttl.check(early, [Fault("kill-leader", "start", 1 * S)]).verdict is Verdict.ILLEGAL


def test_who_gave_a_key_and_does_not_know_it_proves_nothing_late() -> None:
    known = [give(0, 2_000), there(4.0, False)]
    unknown = op(2, "give", 0, 1, "info", key="other", value=2_000)
    seen = op(3, "read", 9 * S, 9 * S + 1, key="other", result=True)
    assert ttl.check([*known, unknown, seen]).verdict is Verdict.OK


# ---------------------------------------------------------------------------- sessions, stale reads

SESSION: dict[str, list[ClientOperation]] = {
    "monotonic_writes": [
        put(1, 0, 9, "a", 5),
        put(1, 20, 29, "b", 4),
        get(1, 40, 49, "a", 5, version=5),
    ],
    "writes_follow_reads": [get(1, 0, 9, "z", 9, version=9), put(1, 20, 29, "a", 8)],
    "monotonic_reads": [get(1, 0, 9, "z", 9, version=9), get(1, 20, 29, "y", 9, version=7)],
    "read_your_writes": [put(1, 0, 9, "a", 5), get(1, 20, 29, "z", 5, version=3)],
    "wrong_content": [put(1, 0, 9, "a", 5), get(2, 20, 29, "z", 5, version=5)],
}


@pytest.mark.parametrize("anomaly", SESSION)
def test_session(anomaly: str) -> None:
    assert session.check(SESSION[anomaly]).anomalies == (anomaly,)


def test_a_session_that_reads_an_older_position_went_back() -> None:
    assert session.check([get(1, 0, 9, None, 9), get(1, 20, 29, None, 8)]).anomalies == (
        "monotonic_reads",
    )
    assert session.check([put(1, 0, 9, "a", 9), get(1, 20, 29, None, 8, key="q")]).anomalies == (
        "read_your_writes",
    )


def stale(start: int, end: int, result: Any, **fields: Any) -> ClientOperation:
    return get(9, start * MS, end * MS, result, level="stale", **fields)


def write(
    start: int, end: int, value: Any, revision: int | None, outcome: Any = "ok"
) -> ClientOperation:
    return put(start, start * MS, end * MS, value, revision, outcome=outcome)


STALE: dict[str, list[ClientOperation]] = {
    "too_stale": [write(0, 9, "a", 1), write(20, 29, "b", 2), stale(50, 59, "a", max_age_ms=20.0)],
    "wrong_age": [
        write(0, 9, "a", 1),
        write(20, 29, "b", 2),
        stale(50, 59, "a", max_age_ms=900.0, age_ms=5),
    ],
    "from_the_future": [stale(0, 9, "a"), write(20, 29, "a", 1)],
    "dirty_read": [write(0, 9, "a", 1), write(20, 29, "b", None, "fail"), stale(50, 59, "b")],
    "phantom_value": [write(0, 9, "a", 1), stale(50, 59, "b")],
    "wrong_position": [write(0, 9, "a", 1), write(20, 29, "b", 2), stale(30, 39, "a", revision=2)],
}


@pytest.mark.parametrize("anomaly", STALE)
def test_stale(anomaly: str) -> None:
    assert staleness.check(STALE[anomaly]).anomalies == (anomaly,)


def test_a_stale_read_within_its_bounds_is_fine_and_its_age_is_told() -> None:
    judged = staleness.check(
        [
            write(0, 9, "a", 1),
            write(20, 29, "b", 2),
            stale(50, 59, "a", max_age_ms=30.0, age_ms=25, revision=1),
        ]
    )
    assert judged.verdict is Verdict.OK
    assert judged.figures["age_ms"]["max"] == 21.0


# -------------------------------------------------------------------------------------------- locks


def hold(
    client: int, start: int, end: int, token: int | None, result: bool = True
) -> ClientOperation:
    return op(client, "acquire", start, end, value=f"h{client}", token=token, result=result)


def leave(client: int, start: int, end: int) -> ClientOperation:
    return op(client, "release", start, end, value=f"h{client}", result=True)


def use(client: int, start: int, end: int, token: int, result: bool) -> ClientOperation:
    return op(client, "use", start, end, token=token, result=result)


LOCK: dict[str, list[ClientOperation]] = {
    "two_holders": [hold(1, 0, 9, 1), hold(2, 20, 29, 2), leave(1, 40, 49), leave(2, 40, 49)],
    "token_fell": [hold(1, 0, 9, 5), leave(1, 20, 29), hold(2, 40, 49, 4)],
    "no_token": [hold(1, 0, 9, None)],
    "late_use_accepted": [
        hold(1, 0, 9, 1),
        leave(1, 10, 11),
        hold(2, 20, 29, 2),
        use(2, 30, 39, 2, True),
        use(1, 50, 59, 1, True),
    ],
    "use_refused": [hold(1, 0, 9, 1), use(1, 30, 39, 1, False)],
}


@pytest.mark.parametrize("anomaly", LOCK)
def test_lock(anomaly: str) -> None:
    assert lock.check(LOCK[anomaly]).anomalies == (anomaly,)


def test_with_leases_the_lock_may_pass_on_while_its_holder_sleeps() -> None:
    leased = [replace(o, max_age_ms=10.0) if o.op == "acquire" else o for o in LOCK["two_holders"]]
    judged = lock.check([*leased, use(2, 30, 31, 2, True), use(1, 50, 59, 1, False)])
    assert judged.verdict is Verdict.OK
    assert judged.figures["late_uses_refused"] == 1


# -------------------------------------------------------------------------------------------- watch


def ideal() -> Ideal:
    made = Ideal(Random(5))
    made.pairs(30)
    return made


def told(events: list[Watched]) -> tuple[str, ...]:
    return watch.check(events, ideal().ledger).anomalies


def at(events: list[Watched], revision: int) -> list[int]:
    return [n for n, w in enumerate(events) if w.kind == "event" and w.revision == revision]


def test_watch_ordered() -> None:
    events = ideal().watched("w", "w/x")
    events[4], events[5] = events[5], events[4]
    assert "not_ordered" in told(events)


def test_watch_unique() -> None:
    events = ideal().watched("w", "w/")
    assert told([*events[:6], events[5], *events[6:]]) == ("not_unique",)


def test_watch_atomic() -> None:
    events = [w for w in ideal().watched("w", "w/") if w.kind != "bookmark"]
    assert told([w for n, w in enumerate(events) if n != at(events, 7)[1]]) == ("not_atomic",)
    one, other = at(events, 7)[1], at(events, 8)[0]
    assert "not_atomic" in told([*events[:one], events[other], events[one], *events[other + 1 :]])


def test_watch_reliable() -> None:
    events = [w for w in ideal().watched("w", "w/") if w.kind != "bookmark"]
    assert told([w for w in events if w.revision != 7]) == ("not_reliable",)


def test_watch_resumable() -> None:
    first, again = ideal().watched("w", "w/", until=10), ideal().watched("w", "w/", after=10)
    assert told([*first, *again]) == ()
    assert told([*first, *[w for w in again if w.revision != 11]]) == ("not_resumable",)
    assert told([*first, again[0], replace(first[-1]), *again[1:]]) == ("not_resumable",)
    assert told([*first, *ideal().watched("w", "w/", after=12)]) == ("not_resumable",)
    gone = [Watched("w", "gone", 1)]
    assert told([*first, *gone, *ideal().watched("w", "w/", after=12)]) == ()


def test_watch_bookmarkable() -> None:
    events = [w for w in ideal().watched("w", "w/") if w.kind != "bookmark"]
    n = at(events, 9)[0]
    early = [*events[:n], Watched("w", "bookmark", 1, 9), *events[n:]]
    assert "not_bookmarkable" in told(early)
    n = at(events, 10)[0]
    assert told(
        [*[w for w in events[:n] if w.revision != 9], Watched("w", "bookmark", 1, 9), *events[n:]]
    ) == ("not_bookmarkable",)
    assert "bookmark_fell" in told([*events[:n], Watched("w", "bookmark", 1, 3), *events[n:]])


def test_watch_filtered_committed_and_right() -> None:
    events = ideal().watched("w", "w/")
    n = at(events, 7)[0]
    assert told([*events[:n], replace(events[n], key="other/0"), *events[n:]]) == ("not_filtered",)
    assert told([*events[:n], replace(events[n], key="w/none"), *events[n:]]) == ("uncommitted",)
    wrote = ClientOperation(
        1, "put", "ok", 0, 9, key=events[n].key, value="something else", revision=7
    )
    assert watch.check(events, ideal().ledger, [wrote]).anomalies == ("wrong_content",)


def test_a_watcher_that_did_not_reach_the_end_is_undecided() -> None:
    events = ideal().watched("w", "w/", until=20)
    judged = watch.check([*events, Watched("w", "end", 0, 30)], ideal().ledger)
    assert judged.verdict is Verdict.UNKNOWN
    assert watch.check([], ideal().ledger).verdict is Verdict.UNKNOWN
    judged = watch.check([*events, Watched("never connected", "end", 0, 30)], ideal().ledger)
    assert judged.verdict is Verdict.UNKNOWN


def test_the_broker_may_repeat_but_neither_skip_nor_swap() -> None:
    events = [replace(w, channel="broker") for w in ideal().watched("b", "") if w.kind == "event"]
    assert told([*events[:9], *events[4:]]) == ()
    assert told([*events[:9], *events[12:]]) != ()
    swapped = [*events[:9], *reversed(events[9:15]), *events[15:]]
    assert "not_ordered" in told(swapped)


# ------------------------------------------------------------------------------------------- ledger


def rows() -> list[LedgerRow]:
    return list(ideal().ledger.rows)


def with_entry(row: LedgerRow, **fields: Any) -> LedgerRow:
    return changed(row, body=(changed(row.body[0], **fields),))


CHAIN: dict[str, Callable[[list[LedgerRow]], list[LedgerRow]]] = {
    "a row is missing": lambda r: [*r[:5], *r[6:]],
    "two rows are swapped": lambda r: [*r[:5], r[6], r[5], *r[7:]],
    "an intent was replaced": lambda r: [*r[:5], with_entry(r[5], op_id="other"), *r[6:]],
    "a body was altered": lambda r: [*r[:5], with_entry(r[5], body_hash=b"x"), *r[6:]],
    "a digest was altered": lambda r: [*r[:5], changed(r[5], digest=bytes(32)), *r[6:]],
    "a term fell": lambda r: [*r[:5], changed(r[5], term=0), *r[6:]],
    "a gap in revisions": lambda r: [*r[:5], changed(r[5], first=7, last=7), *r[6:]],
    "a body too long": lambda r: [*r[:5], changed(r[5], body=r[5].body * 2), *r[6:]],
}


@pytest.mark.parametrize("kind", CHAIN)
def test_a_broken_chain(kind: str) -> None:
    assert "broken_chain" in ledger.check(Ledger(tuple(CHAIN[kind](rows())))).anomalies


def test_a_take_over_row_has_no_body_and_keeps_the_digest() -> None:
    r = rows()
    empty = LedgerRow(6, r[4].term, "n2", 6, 5, r[4].digest)
    later = [changed(row, seq=row.seq + 1) for row in r[5:]]
    assert ledger.check(Ledger((*r[:5], empty, *later))).verdict is Verdict.OK


def test_a_pruned_ledger_is_judged_from_where_it_begins() -> None:
    assert ledger.check(Ledger(tuple(rows()[10:]))).verdict is Verdict.OK


def test_applied_twice_and_refused_with_effect() -> None:
    r = rows()
    assert (
        "applied_twice"
        in ledger.check(Ledger((*r[:5], with_entry(r[5], op_id="op2"), *r[6:]))).anomalies
    )
    assert (
        "refusal_with_effect"
        in ledger.check(Ledger((with_entry(r[0], outcome="refused"),))).anomalies
    )


LEDGER: dict[str, ClientOperation] = {
    "failed_write_applied": put(1, 0, 9, "a", op_id="op3", outcome="fail"),
    "acknowledged_write_lost": put(1, 0, 9, "a", 77, op_id="nowhere"),
    "wrong_revision": put(1, 0, 9, "a", 9, op_id="op3"),
}


@pytest.mark.parametrize("anomaly", LEDGER)
def test_the_ledger_and_what_clients_heard(anomaly: str) -> None:
    assert ledger.check(ideal().ledger, [LEDGER[anomaly]]).anomalies == (anomaly,)
    fine = put(1, 0, 9, "a", 4, op_id="op3")
    assert ledger.check(ideal().ledger, [fine]).verdict is Verdict.OK


def test_a_delete_of_nothing_that_changed_something() -> None:
    o = op(1, "delete", 0, 9, result=False, revision=4, op_id="op3")
    assert ledger.check(ideal().ledger, [o]).anomalies == ("effect_of_nothing",)


def test_a_refused_cas_that_took_effect() -> None:
    o = op(1, "cas", 0, 9, expected="a", value="b", result=False, op_id="op3")
    assert ledger.check(ideal().ledger, [o]).anomalies == ("failed_write_applied",)


def test_lookups_that_change_their_answer_or_are_wrong() -> None:
    right = Lookup("op3", "applied", 5, 4)
    assert ledger.check(ideal().ledger, lookups=[right, right]).verdict is Verdict.OK
    assert (
        "answer_changed"
        in ledger.check(ideal().ledger, lookups=[right, Lookup("op3", "expired", 9)]).anomalies
    )
    assert ledger.check(ideal().ledger, lookups=[Lookup("op3", "expired", 9)]).anomalies == (
        "wrong_answer",
    )
    assert ledger.check(ideal().ledger, lookups=[Lookup("no", "applied", 9, 3)]).anomalies == (
        "wrong_answer",
    )


# -------------------------------------------------------------------------------------- convergence


def evidence(made: Ideal) -> Evidence:
    nodes = ("n1", "n2", "n3")
    members = tuple(MemberState(n, made.revision, made.digest.hex()) for n in nodes)
    keys = sorted({k for _, k, _ in made.log})
    reads = tuple(
        FinalRead(n, level, k, *made.get(k)) for n in nodes for level in LEVELS for k in keys
    )
    return Evidence(nodes, members, reads)


def converged(**fields: Any) -> Judgement:
    made = ideal()
    broker = fields.pop("events", [])
    return convergence.check(replace(evidence(made), **fields), made.ledger, broker=broker)


def test_a_converged_cluster_passes() -> None:
    assert converged().verdict is Verdict.OK
    events = [w for w in ideal().watched("b", "") if w.kind == "event"]
    assert converged(broker=True, events=[*events[:7], *events[3:]]).verdict is Verdict.OK


def test_a_member_that_diverged_stayed_behind_or_kept_silent() -> None:
    members = evidence(ideal()).members
    other = replace(members[1], digest="00" * 32)
    assert {"diverged", "differs_from_ledger"} <= set(
        converged(members=(members[0], other, members[2])).anomalies
    )
    behind = replace(members[1], settled=20, digest=ideal().ledger.rows[19].digest.hex())
    assert converged(members=(members[0], behind, members[2])).anomalies == ("not_converged",)
    assert converged(members=members[:2]).verdict is Verdict.UNKNOWN
    early = tuple(
        replace(m, settled=20, digest=ideal().ledger.rows[19].digest.hex()) for m in members
    )
    assert converged(members=early).anomalies == ("not_converged",)


def test_reads_that_differ_from_each_other_the_ledger_or_what_was_written() -> None:
    reads = evidence(ideal()).reads
    one = replace(reads[0], value="something else")
    assert converged(reads=(one, *reads[1:])).anomalies == ("reads_differ",)
    key = reads[0].key
    old = tuple(replace(r, version=r.version - 1) if r.key == key else r for r in reads)
    assert converged(reads=old).anomalies == ("differs_from_ledger",)
    more = tuple(FinalRead(r.node, r.level, "new", "x", 3) for r in reads)
    assert "not_in_ledger" in converged(reads=(*reads, *more)).anomalies
    assert converged(reads=reads[1:]).verdict is Verdict.UNKNOWN
    made = ideal()
    wrote = ClientOperation(1, "put", "ok", 0, 9, key=key, value="never", revision=made.get(key)[1])
    assert convergence.check(evidence(made), made.ledger, [wrote]).anomalies == ("wrong_content",)


def test_a_broker_that_forgets_invents_or_swaps() -> None:
    events = [w for w in ideal().watched("b", "") if w.kind == "event"]
    assert converged(broker=True, events=[*events[:7], *events[9:]]).anomalies == ("not_broadcast",)
    extra = replace(events[4], key="nobody/1")
    assert converged(broker=True, events=[*events, extra]).anomalies != ()
    assert (
        "not_ordered"
        in converged(broker=True, events=[*events[:7], events[12], *events[7:]]).anomalies
    )
    assert converged(broker=True, events=[]).verdict is not Verdict.OK
    wiped = converged(broker=True, wiped=True, events=[*events[:7], *events[9:]])
    assert wiped.verdict is Verdict.OK, "what a wiped broker held is gone with it"
    assert converged(broker=True, wiped=True, events=[*events, extra]).anomalies != ()


# ------------------------------------------------------------------------------------------ members

MEMBERS: dict[str, list[NodeStatus]] = {
    "two_leaders": [NodeStatus("n1", 1, 3, "leader", "n1"), NodeStatus("n2", 2, 3, "leader", "n2")],
    "term_fell": [
        NodeStatus("n1", 1, 3, "follower", "n2"),
        NodeStatus("n1", 2, 2, "follower", "n3"),
    ],
    "diverged": [
        NodeStatus("n1", 1, 3, settled=9, digest="aa"),
        NodeStatus("n2", 2, 3, settled=9, digest="bb"),
    ],
}


@pytest.mark.parametrize("anomaly", MEMBERS)
def test_members(anomaly: str) -> None:
    assert members.check(MEMBERS[anomaly]).anomalies == (anomaly,)


def test_a_member_that_is_emptied_forgets_its_term_and_no_other_does() -> None:
    def at(t_ns: int, nemesis: str) -> list[Fault]:
        return [Fault(nemesis, "start", t_ns, ("n1",)), Fault(nemesis, "healed", t_ns + 9, ("n1",))]

    seen = [NodeStatus("n1", 10, 3, "follower"), NodeStatus("n1", 20, 0, "candidate")]
    assert members.check(seen, at(15, "member-wiped")).verdict is Verdict.OK
    assert members.check(seen, at(15, "kill-leader")).anomalies == ("term_fell",)
    assert members.check(seen, at(5, "member-wiped")).anomalies == ("term_fell",)


@pytest.mark.parametrize("state", ["diverged", "undecided"])
def test_a_member_that_finds_itself_different(state: str) -> None:
    seen = [NodeStatus("n1", 10, 3, "follower", store="sound"), NodeStatus("n2", 12, store=state)]
    assert members.check(seen).anomalies == ("contents_differ",)
    flipped = [Fault("store-flipped", "start", 5, ("n2",))]
    assert members.check(seen, flipped).verdict is Verdict.OK
    full = [NodeStatus("n1", 10, 3, "follower", store="full")]
    assert members.check(full).verdict is Verdict.OK


def test_members_may_lead_one_after_another_and_start_again_from_below() -> None:
    seen = [
        NodeStatus("n1", 1, 3, "leader", "n1", settled=9, digest="aa"),
        NodeStatus("n2", 2, 4, "leader", "n2", settled=9, digest="aa"),
        NodeStatus("n1", 3, 4, "follower", "n2", settled=5, digest="55"),
        NodeStatus("n1", 4, 4, "follower", "n2", settled=9, digest="aa"),
    ]
    assert members.check(seen).verdict is Verdict.OK
    assert members.check([]).verdict is Verdict.UNKNOWN


def test_verdicts_merge_to_the_worst() -> None:
    ok, unknown, illegal = Verdict.OK, Verdict.UNKNOWN, Verdict.ILLEGAL
    assert merge([ok, unknown, illegal, ok]) is illegal
    assert merge([ok, unknown]) is unknown
    assert merge([]) is ok
    assert Judgement("x", (Finding("a", "b", unknown),)).anomalies == ()


def test_an_entry_says_what_it_is() -> None:
    assert LedgerIntent(1, "a", b"", "applied").keys == ()


def test_an_acquire_that_is_looked_up_has_its_revision_for_a_token() -> None:
    unknown = ClientOperation(1, "acquire", "info", 0, None, key="k", value="h", op_id="o1")
    (found,) = resolve([unknown], [Lookup("o1", "applied", 9, 4)])
    assert (found.outcome, found.token) == ("ok", 4)
    assert "no_token" not in lock.check([found]).anomalies


# ------------------------------------------------------------------------------------------- leases


def leased(what: str, start_s: float, result: Any = None) -> ClientOperation:
    fields = {} if result is None else {"result": result}
    at, end = int(start_s * S), int((start_s + 0.01) * S)
    return op(1, what, at, end, "ok", value=1_000, **fields)


LEASED = [
    leased("grant", 0),
    leased("attach", 0.1, True),
    leased("keep", 0.5, True),
    leased("read", 0.6, True),
    leased("keep", 1.2, True),
]
LEASES: dict[str, list[ClientOperation]] = {
    "ended_early": [*LEASED, leased("read", 1.9, False)],
    "came_back": [*LEASED, leased("keep", 2.5, False), leased("read", 2.6, True)],
}


@pytest.mark.parametrize("anomaly", LEASES)
def test_leases(anomaly: str) -> None:
    assert leases.check(LEASES[anomaly]).anomalies == (anomaly,)


def test_a_lease_that_ends_in_time_is_right() -> None:
    found = leases.check([*LEASED, leased("read", 2.3, False), leased("keep", 2.4, False)])
    assert (found.anomalies, found.verdict) == ((), Verdict.OK)
    assert leases.check(LEASED).verdict is Verdict.UNKNOWN  # none has ended
