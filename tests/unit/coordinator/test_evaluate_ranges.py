"""Guards that compare, deletes of ranges, puts that keep something, and nested transactions."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.machine.book import LEVEL
from coordinator.machine.evaluate import Evaluation, add_versions, evaluate, evaluate_plain
from coordinator.machine.needs import NOTHING, needs, read_ranges
from coordinator.machine.pending import Pending, size_of
from kv.branches import check, within
from kv.errors import BadRequest
from kv.leases import SYSTEM_END, SYSTEM_PREFIX, lease_key, ttl_value
from kv.model import (
    FROM_KEY,
    GENESIS,
    GENESIS_DIGEST,
    NESTING_MAX,
    OPERATIONS_MAX,
    RANGE_KEYS_MAX,
    RANGE_VALUES_MAX,
    Absent,
    Applied,
    Compare,
    Delete,
    DeleteRange,
    Equals,
    Exists,
    Guard,
    Intent,
    Nested,
    Outcome,
    Put,
    PutWith,
    Refused,
    Version,
    Write,
    value_hash,
)
from kv.ports import Facts, LeaseAsk, LeaseFacts, Span
from tests.simulation.reference import Evaluator, Made, State

NOW, FAR = 1000, 1 << 50


def batch_of(*intents: Intent) -> list[Pending]:
    return [
        Pending(10 + n, each, each.body_hash, GENESIS_DIGEST, 900, False, size_of(each))
        for n, each in enumerate(intents)
    ]


def facts_for(batch: list[Pending], state: tuple[Version, ...], level: int = LEVEL) -> Facts:
    """Return what a store with this state says to a batch, and nothing else."""
    asked = needs(batch, numbered=True, level=level)
    there = {version.key: version for version in state}

    def span(of: Span) -> tuple[Version, ...]:
        found = [
            version if of.whole else msgspec.structs.replace(version, value=b"")
            for key, version in sorted(there.items())
            if version.present and within(key, of.key, of.end)
        ]
        return tuple(found[: of.limit])

    def attached(to: LeaseAsk) -> LeaseFacts:
        keys = [key for key, version in sorted(there.items()) if version.lease == to.lease]
        return LeaseFacts(len(keys), tuple(keys) if to.whole else ())

    return Facts(
        GENESIS,
        {},
        {
            key: msgspec.structs.replace(there[key], value=None if not there[key].present else b"")
            for key in asked.keys
            if key in there
        },
        {
            key: value_hash(version.value)
            for key in asked.hashed
            if (version := there.get(key)) is not None and isinstance(version.value, bytes)
        },
        frozenset(),
        {each: span(each) for each in asked.spans if not each.end or not asked.ranges}
        | dict(read_ranges(asked, span)),
        {each.lease: attached(each) for each in asked.leases},
    )


def judged(state: tuple[Version, ...], batch: list[Pending], level: int = LEVEL) -> Evaluation:
    """Evaluate a batch as a member with its own store does."""
    if needs(batch, numbered=True) is NOTHING:
        numbers = {v.key: (v.create_revision, v.version) for v in state if v.present}
        return evaluate_plain(batch, NOW, numbers)
    return evaluate(batch, facts_for(batch, state, level), NOW, level=level)


def ended(state: tuple[Version, ...], *intents: Intent) -> Evaluation:
    return judged(state, batch_of(*intents))


def outcome(state: tuple[Version, ...], *guards: Guard) -> Outcome:
    return ended(state, Intent("~n", FAR, guards)).records[0].outcome


STATE = (
    Version(b"a", 3, b"one", None, 2, 2),
    Version(b"b", 4, b"two", None, 4, 1, 77),
    Version(b"c", 5, None),
)
LEASES = tuple(Version(lease_key(lease), 1, ttl_value(1000), None, 1, 1) for lease in (5, 77))


@pytest.mark.parametrize(
    ("guard", "holds"),
    [
        (Compare(b"a", b"", "create", "=", 2), True),
        (Compare(b"a", b"", "create", ">", 2), False),
        (Compare(b"a", b"", "mod", "<", 4), True),
        (Compare(b"a", b"", "mod", "!=", 3), False),
        (Compare(b"a", b"", "version", ">", 1), True),
        (Compare(b"a", b"", "lease", "=", 0), True),
        (Compare(b"b", b"", "lease", "=", 77), True),
        (Compare(b"a", b"", "value", "=", b"one"), True),
        (Compare(b"a", b"", "value", "!=", b"one"), False),
        (Compare(b"a", b"", "value", "!=", b"two"), True),
        (Compare(b"a", b"", "value", "<", b"p"), True),
        (Compare(b"a", b"", "value", ">", b"one"), False),
        # absent keys: all numbers are 0, and no value compares
        (Compare(b"c", b"", "version", "=", 0), True),
        (Compare(b"x", b"", "create", "=", 0), True),
        (Compare(b"x", b"", "mod", "<", 1), True),
        (Compare(b"x", b"", "mod", ">", 0), False),
        (Compare(b"x", b"", "value", "=", b""), False),
        (Compare(b"c", b"", "value", "!=", b"one"), False),
        (Compare(b"c", b"", "value", "<", b"z"), False),
        # ranges: every present key
        (Compare(b"a", b"z", "version", ">", 0), True),
        (Compare(b"a", b"z", "version", ">", 1), False),
        (Compare(b"b", FROM_KEY, "mod", "=", 4), True),
        (Compare(b"a", b"z", "value", "!=", b"x"), True),
        (Compare(b"a", b"z", "value", "=", b"one"), False),
        (Compare(b"a", b"b", "value", "=", b"one"), True),
        (Compare(b"c", b"z", "version", "=", 0), True),
        (Compare(b"c", b"z", "create", ">", 0), False),
        (Compare(b"c", FROM_KEY, "value", "=", b""), False),
        (Compare(b"z", b"a", "lease", "=", 0), True),
    ],
)
def test_compare(guard: Compare, holds: bool) -> None:
    assert outcome(STATE, guard) == (Applied() if holds else Refused(0, _at(guard.key)))


@pytest.mark.parametrize("end", [b"z", FROM_KEY])
def test_a_guard_over_a_range_sees_no_lease(end: bytes) -> None:
    lease = Version(lease_key(7), 6, ttl_value(1000), None, 6, 1)
    assert outcome((*STATE, lease), Compare(b"ab", end, "mod", "=", 4)) == Applied()
    assert outcome((lease,), Compare(b"a", end, "version", "=", 0)) == Applied()
    assert outcome((lease,), Compare(b"a", end, "value", "!=", b"x")) == Refused(0, 0)


def _at(key: bytes) -> int:
    return {b"a": 3, b"b": 4}.get(key, 0)


def test_a_guard_compares_what_the_group_made() -> None:
    found = ended(
        STATE,
        Intent("~1", FAR, (), (Put(b"a", b"new"), Delete(b"b"))),
        Intent("~2", FAR, (Compare(b"a", b"", "version", "=", 3),)),
        Intent("~3", FAR, (Compare(b"a", b"", "value", ">", b"neq"),)),
        Intent("~4", FAR, (Compare(b"a", b"z", "mod", "=", 10),)),
        Intent("~5", FAR, (Compare(b"b", b"", "lease", "=", 0),)),
    )
    assert [record.outcome for record in found.records] == [Applied()] * 5


def test_a_range_that_is_too_large_to_look_at_is_refused_by_name() -> None:
    many = tuple(Version(b"%05d" % n, 1, b"v", None, 1, 1) for n in range(RANGE_KEYS_MAX + 1))
    every = Compare(b"0", b"9", "mod", "=", 1)
    assert outcome(many[1:], every) == Applied()
    assert outcome(many, every) == Refused(-1, 0, (), "too_many_keys")
    whole = Compare(b"0", b"9", "value", "<", b"w")
    assert outcome(many[:RANGE_VALUES_MAX], whole) == Applied()
    assert outcome(many[: RANGE_VALUES_MAX + 1], whole) == Refused(-1, 0, (), "too_many_keys")


def test_a_delete_of_a_range_deletes_what_is_there_by_then() -> None:
    found = ended(
        STATE,
        Intent("~1", FAR, (), (Put(b"bb", b""), Delete(b"a"))),
        Intent("~2", FAR, (), (DeleteRange(b"a", b"c"), Put(b"c", b"new"))),
        Intent("~3", FAR, (), (DeleteRange(b"a", b"c"),)),
    )
    assert [record.keys for record in found.records] == [(b"bb", b"a"), (b"b", b"bb", b"c"), ()]
    assert [(v.key, v.revision, v.value) for v in found.versions[2:]] == [
        (b"b", 11, None),
        (b"bb", 11, None),
        (b"c", 11, b"new"),
    ]


def test_a_delete_of_too_many_keys_changes_nothing() -> None:
    many = tuple(Version(b"%05d" % n, 1, b"v", None, 1, 1) for n in range(RANGE_KEYS_MAX + 1))
    delete = DeleteRange(b"0", FROM_KEY)
    refused = ended(many, Intent("~1", FAR, (), (Put(b"!", b""), delete)), Intent("~2", FAR))
    assert refused.records[0].outcome == Refused(-1, 0, (), "too_many_keys")
    assert (refused.records[0].keys, refused.versions) == ((), ())
    assert len(ended(many[1:], Intent("~1", FAR, (), (delete,))).versions) == RANGE_KEYS_MAX
    two = (DeleteRange(b"0", b"00001"), DeleteRange(b"00001", b"2"))
    assert ended(many, Intent("~1", FAR, (), two)).records[0].outcome == refused.records[0].outcome


MANY = tuple(Version(b"%05d" % n, 1, b"v", None, 1, 1) for n in range(RANGE_KEYS_MAX))
ALL = (b"\0", FROM_KEY)


def test_keys_of_the_system_are_in_no_range_and_count_in_none() -> None:
    other = Version(SYSTEM_PREFIX + b"other", 1, b"v", None, 1, 1)
    state = (*MANY, *LEASES, other, Version(SYSTEM_END, 1, b"v", None, 1, 1))[1:]
    compare = Intent("~1", FAR, (Compare(*ALL, "mod", "=", 1),))
    delete = Intent("~2", FAR, (), (DeleteRange(*ALL),))
    for intent in (compare, delete):
        assert judged(state, batch_of(intent)).records[0].outcome == Applied()
        found = judged(state, batch_of(intent), 1).records[0].outcome
        assert found == Refused(-1, 0, (), "too_many_keys")  # as version 0.2.0 does
    assert len(judged(state, batch_of(delete)).versions) == RANGE_KEYS_MAX
    inside = Intent("~3", FAR, (), (DeleteRange(SYSTEM_PREFIX, SYSTEM_END),))
    assert judged(state, batch_of(inside)).versions == ()
    assert judged(state, batch_of(inside), 1).records[0].keys == (other.key,)
    two = Intent("~4", FAR, (Compare(lease_key(1), SYSTEM_END, "version", "=", 0),))
    assert judged(state, batch_of(two)).records[0].outcome == Applied()


@pytest.mark.parametrize("same", [False, True])
def test_the_ranges_of_an_intent_have_a_bound_together(same: bool) -> None:
    ends = [b"%05d" % (RANGE_KEYS_MAX - (0 if same else n)) for n in range(OPERATIONS_MAX)]
    guards = [Compare(b"0", end, "mod", "=", 1) for end in ends]
    few = Intent("~1", FAR, tuple(guards[:2]))
    more = Intent("~2", FAR, tuple(guards))
    nested = Intent("~3", FAR, (), (Nested(tuple(guards[:2]), (), (DeleteRange(b"0", b"1"),)),))
    batch = batch_of(few, more, nested, few)
    outcomes = [record.outcome for record in judged(MANY, batch).records]
    refused = Refused(-1, 0, (), "too_many_keys")
    assert outcomes == [Applied(), refused, refused, Applied()]
    read = 0

    def one(span: Span) -> tuple[Version, ...]:
        nonlocal read
        found = MANY[: min(int(span.end), span.limit)]
        read += len(found)
        return found

    read_ranges(needs(batch_of(more)), one)
    assert read == (RANGE_KEYS_MAX if same else 2 * RANGE_KEYS_MAX + 1)


def test_a_put_keeps_value_or_lease() -> None:
    found = ended(
        (*STATE, *LEASES),
        Intent("~1", FAR, (), (PutWith(b"b", b"", lease=5, keep_value=True),)),
        Intent("~2", FAR, (), (PutWith(b"b", b"new", 7, keep_lease=True),)),
        Intent("~3", FAR, (), (PutWith(b"b", b"", keep_value=True, keep_lease=True),)),
        Intent("~4", FAR, (), (Put(b"b", b"plain"),)),
        Intent("~5", FAR, (), (Put(b"j", b""), PutWith(b"c", b"", keep_value=True))),
        Intent("~6", FAR, (), (PutWith(b"x", b"v", keep_lease=True),)),
    )
    assert found.versions == (
        Version(b"b", 10, b"two", None, 4, 2, 5),
        Version(b"b", 11, b"new", NOW + 7, 4, 3, 5),
        Version(b"b", 12, b"new", None, 4, 4, 5),
        Version(b"b", 13, b"plain", None, 4, 5, 0),
    )
    assert [r.outcome for r in found.records[4:]] == [Refused(-1, 0, (), "key_absent")] * 2


def test_nested_transactions_see_what_the_outer_guards_see() -> None:
    inner = Nested((Exists(b"a"),), (Put(b"p", b"1"),), (Put(b"q", b"1"),))
    outer = Nested((Absent(b"x"),), (Put(b"x", b""), inner), (DeleteRange(b"a", b"z"),))
    found = ended(
        STATE,
        Intent("~1", FAR, (), (Delete(b"a"), outer)),
        Intent("~2", FAR, (), (outer, Nested((), (), ()))),
    )
    assert found.records[0].outcome == Applied("then", (), (True, True))
    assert found.records[0].keys == (b"a", b"x", b"p")
    assert found.records[1].outcome == Applied("then", (), (False, True))
    assert found.records[1].keys == (b"b", b"p", b"x")


# ----------------------------------------------------------- against the simulation's own evaluator

KEYS = [b"a", b"ab", b"b", b"c"]
ENDS = [b"", b"", b"ab", b"c", FROM_KEY]
VALUES = [b"", b"1", b"2"]
keys, ends = st.sampled_from(KEYS), st.sampled_from(ENDS)
compares = st.one_of(
    st.builds(
        Compare,
        keys,
        ends,
        st.sampled_from(["create", "mod", "version", "lease"]),
        st.sampled_from(["=", "!=", "<", ">"]),
        st.sampled_from([0, 1, 2, 10, 11]),
    ),
    st.builds(
        Compare,
        keys,
        ends,
        st.just("value"),
        st.sampled_from(["=", "!=", "<", ">"]),
        st.sampled_from(VALUES),
    ),
)
guards = st.lists(
    st.one_of(
        compares,
        st.builds(Absent, keys),
        st.builds(Equals, keys, st.sampled_from([value_hash(v) for v in VALUES])),
    ),
    max_size=2,
).map(tuple)
plain = st.one_of(
    st.builds(Put, keys, st.sampled_from(VALUES), st.sampled_from([None, 7])),
    st.builds(Delete, keys),
    st.builds(DeleteRange, keys, ends),
    st.builds(
        PutWith,
        keys,
        st.sampled_from(VALUES),
        st.none(),
        st.sampled_from([0, 5]),
        st.booleans(),
        st.booleans(),
    ),
)
some = st.lists(plain, max_size=3).map(tuple)
writes = st.lists(
    st.one_of(
        plain,
        st.builds(Nested, guards, some, some),
        st.builds(Nested, guards, st.builds(lambda n: (n,), st.builds(Nested, guards, some)), some),
    ),
    max_size=3,
).map(tuple)


def is_allowed(intent: Intent) -> bool:
    try:
        check(intent)
    except BadRequest:
        return False
    return True


intents = st.builds(
    Intent,
    st.just("~n"),
    st.just(FAR),
    guards,
    writes,
    st.one_of(st.none(), some),
    st.lists(keys, max_size=2).map(tuple),
).filter(is_allowed)
versions = st.one_of(
    st.builds(lambda revision: (revision, None, 0, 0, 0), st.sampled_from([1, 2])),
    st.tuples(
        st.just(2),
        st.sampled_from(VALUES),
        st.sampled_from([1, 2]),
        st.sampled_from([1, 2]),
        st.sampled_from([0, 5]),
    ),
)
states = st.dictionaries(keys, versions).map(
    lambda found: (
        tuple(
            Version(key, revision, value, None, created, count, lease)
            for key, (revision, value, created, count, lease) in found.items()
        )
        + LEASES
    )
)


def by_the_simulation(state: tuple[Version, ...], batch: list[Pending]) -> Evaluator:
    reference = Evaluator(State(Made(revision=9, versions=state)), NOW)
    for pending in batch:
        reference.add(pending.intent, dated=True)
    return reference


@settings(max_examples=400, deadline=None)
@given(st.lists(intents, max_size=4), states)
def test_every_group_ends_as_the_simulation_says(
    batch: list[Intent], state: tuple[Version, ...]
) -> None:
    entries = batch_of(*batch)
    found = judged(state, entries)
    said = by_the_simulation(state, entries)
    assert found.records == tuple(said.records)
    assert found.versions == tuple(said.versions)


@settings(max_examples=300, deadline=None)
@given(st.lists(intents, max_size=4), states)
def test_versions_can_be_made_again_from_a_settle(
    batch: list[Intent], state: tuple[Version, ...]
) -> None:
    entries = batch_of(*batch)
    found = judged(state, entries)
    for entry, record in zip(entries, found.records, strict=True):
        made = tuple(each for each in found.versions if each.revision == entry.revision)
        if not isinstance(record.outcome, Applied):
            assert made == ()
            continue
        numbers = tuple((each.create_revision, each.version, each.lease) for each in made)
        again: list[Version] = []
        told = msgspec.structs.replace(record, numbers=numbers)
        assert isinstance(entry.intent, Intent)
        if add_versions(entry.intent, told, entry.revision, NOW, again):
            assert tuple(again) == made


# ------------------------------------------------------------------------------ what may be ordered


def deep(depth: int) -> Write:
    write: Write = Put(b"k", b"")
    for _ in range(depth):
        write = Nested((), (write,))
    return write


@pytest.mark.parametrize(
    ("writes", "code"),
    [
        ((Put(b"a", b""), Put(b"a", b"")), "duplicate_key"),
        ((Put(b"a", b""), Delete(b"a")), "duplicate_key"),
        ((PutWith(b"a", b""), DeleteRange(b"a", FROM_KEY)), "duplicate_key"),
        ((Nested((), (), (Put(b"a", b""),)), Put(b"a", b"")), "duplicate_key"),
        ((Put(b"a", b""), Nested((), (DeleteRange(b"", b"b"),))), "duplicate_key"),
        ((Nested((), (Put(b"a", b""),)), Nested((), (Put(b"a", b""),))), "duplicate_key"),
        ((Nested((), (Put(b"a", b""),), (Put(b"a", b""),)), Delete(b"b")), ""),
        ((Delete(b"a"), Delete(b"a"), DeleteRange(b"a", b"c")), ""),
        ((DeleteRange(b"b", b"a"), Put(b"b", b"")), ""),
        ((deep(NESTING_MAX - 1),), ""),
        ((deep(NESTING_MAX),), "too_deep"),
        (tuple(Put(b"%d" % n, b"") for n in range(OPERATIONS_MAX)), ""),
        (
            (
                *(Put(b"%d" % n, b"") for n in range(OPERATIONS_MAX)),
                Nested((Absent(b"a"),), (Delete(b"x"),)),
            ),
            "too_many_operations",
        ),
    ],
)
def test_what_may_be_ordered(writes: tuple[Write, ...], code: str) -> None:
    intent = Intent("op", FAR, (), writes)
    if not code:
        check(intent)
        return
    with pytest.raises(BadRequest) as refused:
        check(intent)
    assert refused.value.code == code
