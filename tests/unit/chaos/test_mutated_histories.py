"""What an ideal cluster does passes every checker; one thing changed in it is caught, every
time.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from chaos.checkers import bank, counter, ledger, lock, session, set_full, staleness, watch
from chaos.checkers.lists import append
from chaos.checkers.registers import register, versions
from chaos.checkers.verdict import Judgement, Verdict
from chaos.records.history import ClientOperation
from tests.unit.chaos.ideal import Ideal, changed

SEEDS = range(12)
ACCOUNTS = [f"a{n}" for n in range(5)]


def judged_bank(ops: list[ClientOperation]) -> Judgement:
    return bank.check(ops, accounts=ACCOUNTS, total=100)


GOOD: dict[
    str,
    tuple[Callable[[Ideal], list[ClientOperation]], Callable[[list[ClientOperation]], Judgement]],
] = {
    "register": (lambda i: i.register(), register.check),
    "versions": (lambda i: i.register(), versions.check),
    "set": (lambda i: i.set(), set_full.check),
    "append": (lambda i: i.append(), append.check),
    "bank": (lambda i: i.bank(), judged_bank),
    "counter": (lambda i: i.counter(), counter.check),
    "session": (lambda i: i.session(), session.check),
    "stale": (lambda i: i.stale(), staleness.check),
    "lock": (lambda i: i.lock(), lock.check),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_ideal_history_passes(name: str) -> None:
    make, judge = GOOD[name]
    for seed in range(30):
        judged = judge(make(Ideal(Random(seed))))
        assert judged.verdict is Verdict.OK, (seed, judged.findings[:2])
        assert judged.operations > 50


def test_an_ideal_ledger_passes() -> None:
    for seed in range(10):
        ideal = Ideal(Random(seed))
        ops = ideal.register()
        assert ledger.check(ideal.ledger, ops).verdict is Verdict.OK
        assert versions.check(ops, ledger=ideal.ledger).verdict is Verdict.OK


# ------------------------------------------------------------------------ one thing changed at once


def spoil_one(
    ops: list[ClientOperation], one: ClientOperation, **fields: Any
) -> list[ClientOperation]:
    return [replace(o, **fields) if o is one else o for o in ops]


def _is_read(o: ClientOperation) -> bool:
    return o.op == "get" and o.outcome == "ok"


def stale_read(ops: list[ClientOperation], rng: Random) -> list[ClientOperation]:
    """Give a read a value that had certainly been overwritten before it started."""
    ends: dict[str, list[tuple[float, ClientOperation]]] = {}
    for o in ops:
        if o.op == "put" and o.outcome == "ok":
            ends.setdefault(o.key or "", []).append((o.returned_ns, o))
    options = []
    for o in filter(_is_read, ops):
        before = [w for end, w in ends.get(o.key or "", []) if end < o.start_ns]
        last = max((w.start_ns for w in before), default=0)
        options += [(o, w) for w in before if w.returned_ns < last]
    read, write = rng.choice(options)
    return spoil_one(ops, read, result=write.value, version=write.revision)


def phantom_read(ops: list[ClientOperation], rng: Random) -> list[ClientOperation]:
    return changed(ops, _is_read, lambda o: replace(o, result="from nowhere", version=99_999), rng)


def swapped_versions(ops: list[ClientOperation], rng: Random) -> list[ClientOperation]:
    """Let two reads, one certainly after the other and with different values, exchange what they
    saw.
    """
    reads = sorted(filter(_is_read, ops), key=lambda o: o.start_ns)
    options = [
        (a, b)
        for n, a in enumerate(reads)
        for b in reads[n + 1 : n + 60]
        if a.key == b.key
        and a.result is not None
        and b.result is not None
        and (a.version or 0) < (b.version or 0)
        if any(w.op == "put" and w.value == b.result and w.start_ns > a.returned_ns for w in ops)
    ]
    one, other = rng.choice(options)
    swap = {id(one): other, id(other): one}
    return [
        replace(o, result=swap[id(o)].result, version=swap[id(o)].version) if id(o) in swap else o
        for o in ops
    ]


def lost_write(ops: list[ClientOperation], rng: Random) -> list[ClientOperation]:
    """Call a write that was observed a definite failure."""
    seen = {o.result for o in filter(_is_read, ops)}
    pick = lambda o: o.op == "put" and o.outcome == "ok" and o.value in seen  # noqa: E731 - one line reads best here
    return changed(ops, pick, lambda o: replace(o, outcome="fail"), rng)


def double_success(ops: list[ClientOperation], rng: Random) -> list[ClientOperation]:
    """Let a second CAS succeed from a value that another CAS has taken for good."""
    taken = [
        o
        for o in ops
        if o.op == "cas" and o.outcome == "ok" and o.result and o.expected is not None
    ]
    one = rng.choice(taken)
    end = max(int(o.end_ns or 0) for o in ops)
    again = ClientOperation(
        7_777,
        "cas",
        "ok",
        end + 10,
        end + 20,
        key=one.key,
        value="twice",
        expected=one.expected,
        result=True,
        revision=9_999,
    )
    return [*ops, again]


@pytest.mark.parametrize(
    "spoil", [stale_read, phantom_read, swapped_versions, lost_write, double_success]
)
@pytest.mark.parametrize("name", ["register", "versions"])
def test_every_spoiled_register_history_is_caught(
    name: str, spoil: Callable[[list[ClientOperation], Random], list[ClientOperation]]
) -> None:
    make, judge = GOOD[name]
    for seed in SEEDS:
        rng = Random(seed)
        ops = spoil(make(Ideal(rng)), rng)
        assert judge(ops).verdict is Verdict.ILLEGAL, seed


def _result(change: Callable[[Any], Any]) -> Callable[[ClientOperation], ClientOperation]:
    return lambda o: replace(o, result=change(o.result))


def _full_read(o: ClientOperation) -> bool:
    return (
        o.op == "read" and o.outcome == "ok" and isinstance(o.result, list) and len(o.result) > 20
    )


SET = {
    "lost": (lambda o: o.client == 9_000, _result(lambda r: r[1:])),
    "stale": (_full_read, _result(lambda r: r[5:])),
    "phantom": (_full_read, _result(lambda r: [*r, "nobody"])),
    "duplicate": (_full_read, _result(lambda r: [*r, r[0]])),
}


@pytest.mark.parametrize("kind", SET)
def test_every_spoiled_set_history_is_caught(kind: str) -> None:
    pick, change = SET[kind]
    for seed in SEEDS:
        rng = Random(seed)
        assert (
            set_full.check(changed(Ideal(rng).set(), pick, change, rng)).verdict is Verdict.ILLEGAL
        ), seed


def _reads_much(o: ClientOperation) -> bool:
    return (
        o.op == "txn" and o.outcome == "ok" and any(f == "r" and len(v) > 6 for f, _, v in o.result)
    )


def _in_first_long_read(
    change: Callable[[list[int]], list[int]],
) -> Callable[[ClientOperation], ClientOperation]:
    def apply(o: ClientOperation) -> ClientOperation:
        told = [list(m) for m in o.result]
        m = next(m for m in told if m[0] == "r" and len(m[2]) > 6)
        m[2] = change(m[2])
        return replace(o, result=told)

    return apply


APPEND = {
    "stale": lambda r: r[:-4],
    "lost": lambda r: r[:2] + r[3:],
    "reordered": lambda r: [r[1], r[0], *r[2:]],
    "duplicate": lambda r: [*r, r[0]],
    "phantom": lambda r: [*r, -1],
}


@pytest.mark.parametrize("kind", APPEND)
def test_every_spoiled_append_history_is_caught(kind: str) -> None:
    for seed in SEEDS:
        rng = Random(seed)
        ops = changed(Ideal(rng).append(), _reads_much, _in_first_long_read(APPEND[kind]), rng)
        assert append.check(ops).verdict is Verdict.ILLEGAL, seed


def _bank_read(o: ClientOperation) -> bool:
    return o.op == "read" and o.outcome == "ok"


@pytest.mark.parametrize("by", [1, -1, 30, -200])
def test_every_torn_bank_read_is_caught(by: int) -> None:
    for seed in SEEDS:
        rng = Random(seed)
        spoil = _result(lambda r: {**r, "a1": r["a1"] + by})
        assert (
            judged_bank(changed(Ideal(rng).bank(), _bank_read, spoil, rng)).verdict
            is Verdict.ILLEGAL
        )


@pytest.mark.parametrize("by", [1, -1])
def test_every_increment_lost_or_applied_twice_is_caught(by: int) -> None:
    for seed in SEEDS:
        rng = Random(seed)
        ops = Ideal(rng).counter(unknown=0.0)
        spoiled = changed(ops, lambda o: o.client == 9_000, _result(lambda r: r + by), rng)
        assert counter.check(spoiled).verdict is Verdict.ILLEGAL


def test_every_session_read_that_goes_back_is_caught() -> None:
    for seed in SEEDS:
        rng = Random(seed)
        ops = Ideal(rng).session()
        first = {o.client: o.start_ns for o in reversed(ops) if o.op != "get"}
        later = [o for o in ops if o.op == "get" and o.start_ns > first.get(o.client, 1 << 60)]
        spoiled = spoil_one(ops, rng.choice(later), revision=0, version=0, result=None)
        assert session.check(spoiled).verdict is Verdict.ILLEGAL


def test_every_stale_read_older_than_allowed_is_caught() -> None:
    for seed in SEEDS:
        rng = Random(seed)
        ops = Ideal(rng).stale()
        old: dict[str, ClientOperation] = {}
        for o in ops:
            if o.op == "put" and o.key is not None:
                old.setdefault(o.key, o)
        late = max(o.start_ns for o in ops) - 20_000_000
        read = rng.choice([o for o in ops if o.op == "get" and o.start_ns > late and o.key in old])
        first = old[read.key or ""]
        spoiled = spoil_one(
            ops, read, result=first.value, version=first.revision, revision=first.revision
        )
        judged = staleness.check(spoiled)
        assert {"too_stale", "wrong_age"} <= set(judged.anomalies)


def test_every_second_holder_is_caught() -> None:
    for seed in SEEDS:
        rng = Random(seed)
        ops = Ideal(rng).lock()
        refused = [o for o in ops if o.op == "acquire" and o.result is False]
        held = [o for o in ops if o.op == "acquire" and o.result]
        inside = [
            r
            for r in refused
            for h in held
            if h.returned_ns < r.start_ns
            and any(
                x.op == "release" and x.value == h.value and x.start_ns > r.returned_ns for x in ops
            )
        ]
        one = rng.choice(inside)
        spoiled = [replace(o, result=True, token=99_999) if o is one else o for o in ops]
        assert "two_holders" in lock.check(spoiled).anomalies


# ------------------------------------------------------------------------------------------- events

EVENTS: dict[str, Callable[[list[Any], int], list[Any]]] = {
    "dropped": lambda events, n: events[:n] + events[n + 1 :],
    "duplicated": lambda events, n: [*events[: n + 2], events[n], *events[n + 2 :]],
    "reordered": lambda events, n: [*events[:n], *reversed(events[n : n + 6]), *events[n + 6 :]],
    "phantom": lambda events, n: [*events[:n], replace(events[n], key="w/none"), *events[n + 1 :]],
    "stranger": lambda events, n: [*events[:n], replace(events[n], key="x"), *events[n:]],
}


@pytest.mark.parametrize("kind", EVENTS)
def test_every_spoiled_stream_is_caught(kind: str) -> None:
    for seed in SEEDS:
        rng = Random(seed)
        ideal = Ideal(rng)
        ideal.pairs()
        told = ideal.watched("w", "w/")
        assert watch.check(told, ideal.ledger).verdict is Verdict.OK
        at = rng.choice([n for n, w in enumerate(told[:-8]) if w.kind == "event"])
        judged = watch.check(EVENTS[kind](told, at), ideal.ledger)
        assert judged.verdict is Verdict.ILLEGAL, (seed, at)
