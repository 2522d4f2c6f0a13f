"""Leases as evaluation sees them: what attaches, what is refused by name, what ends together."""

from __future__ import annotations

import pytest

from coordinator.machine.evaluate import evaluate
from coordinator.machine.needs import needs
from kv.leases import LEASE_KEYS_MAX, LEASES_PREFIX, lease_for, lease_key, lease_of, ttl_of
from kv.model import (
    FROM_KEY,
    Applied,
    DeleteRange,
    EndLease,
    Expired,
    Head,
    Intent,
    Put,
    PutWith,
    Refused,
    Version,
    Write,
)
from kv.ports import Facts, LeaseAsk, LeaseFacts
from tests.unit.coordinator.test_evaluate import FAR, NOW, group

THERE = Version(lease_key(7), 1, b"5000")


def facts(*attached: bytes, total: int | None = None, lease: Version | None = THERE) -> Facts:
    versions = {} if lease is None else {lease.key: lease}
    known = LeaseFacts(len(attached) if total is None else total, attached)
    return Facts(Head(last=9), {}, versions, {}, frozenset(), {}, {7: known})


def intent(op_id: str, *writes: Write) -> Intent:
    return Intent(op_id, FAR, writes=writes)


def test_the_facts_that_leases_need_are_asked_for() -> None:
    asks = needs(group(intent("a", PutWith(b"k", b"v", lease=7)), intent("b", EndLease(8))))
    assert asks.leases == (LeaseAsk(7, False), LeaseAsk(8, True))
    assert {lease_key(7), lease_key(8), b"k"} <= set(asks.keys)


def test_a_lease_ends_with_what_the_group_attached_and_without_what_it_took_away() -> None:
    batch = group(
        intent("a", PutWith(b"new", b"v", lease=7)),
        intent("b", Put(b"left", b"v")),
        intent("c", EndLease(7)),
        intent("d", PutWith(b"late", b"v", lease=7)),
    )
    ended = evaluate(batch, facts(b"left", b"old"), NOW)
    assert ended.records[2].keys == (lease_key(7), b"new", b"old")
    assert ended.records[3].outcome == Refused(-1, 0, (), "lease_not_found")
    assert [v.value for v in ended.versions if v.revision == batch[2].revision] == [None] * 3


def test_an_end_without_a_lease_writes_nothing() -> None:
    ended = evaluate(group(intent("a", EndLease(7))), facts(lease=None), NOW)
    assert (ended.records[0].outcome, ended.versions) == (Applied(), ())


@pytest.mark.parametrize(("term", "outcome"), [(0, Applied()), (3, Applied()), (2, Expired())])
def test_an_end_takes_effect_in_a_row_of_its_own_term_alone(term: int, outcome: object) -> None:
    ended = evaluate(group(intent("a", EndLease(7, term))), facts(), NOW, 3)
    assert ended.records[0].outcome == outcome


def test_one_key_more_than_a_lease_may_have_is_refused_by_name() -> None:
    one, two = (intent(key, PutWith(key.encode(), b"v", lease=7)) for key in "ab")
    ended = evaluate(group(one, two), facts(total=LEASE_KEYS_MAX - 1), NOW)
    assert ended.records[0].outcome == Applied()
    assert ended.records[1].outcome == Refused(-1, 0, (), "lease_full")
    both = intent("c", PutWith(b"a", b"v", lease=7), PutWith(b"b", b"v", lease=7))
    ended = evaluate(group(both), facts(total=LEASE_KEYS_MAX - 1), NOW)
    assert (ended.records[0].outcome, ended.versions) == (Refused(-1, 0, (), "lease_full"), ())


def test_no_delete_of_a_range_takes_a_lease_away() -> None:
    batch = group(intent("a", DeleteRange(b"\0", FROM_KEY)))
    (span,) = needs(batch, level=1).spans
    there = (Version(b"a", 1, b""), THERE)
    known = Facts(Head(last=9), {}, {}, {}, frozenset(), {span: there})
    assert evaluate(batch, known, NOW, level=1).records[0].keys == (b"a",)
    before, behind = needs(batch).spans
    known = Facts(Head(last=9), {}, {}, {}, frozenset(), {before: there[:1], behind: ()})
    assert evaluate(batch, known, NOW).records[0].keys == (b"a",)


def test_a_lease_is_named_by_its_key() -> None:
    assert lease_key(0xAB) == LEASES_PREFIX + b"00000000000000ab"
    for lease in (1, 0xAB, (1 << 63) - 1, lease_for("op"), lease_for("other")):
        assert lease_of(lease_key(lease)) == lease
    for wrong in (b"ab", b"00000000000000AB", b"zz", b"ffffffffffffffff", b"0" * 15, b"0" * 16):
        assert lease_of(LEASES_PREFIX + wrong) == 0
    assert lease_for("op") == lease_for("op") != lease_for("other")
    assert (ttl_of(b"5000"), ttl_of(b""), ttl_of(b"-1"), ttl_of(b"x")) == (5000, 0, 0, 0)
