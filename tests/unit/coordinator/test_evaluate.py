"""Outcomes of a group: tables for each guard and rule, and any group against its intents applied
one at a time.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.machine.evaluate import Evaluation, add_versions, evaluate, evaluate_plain
from coordinator.machine.needs import NOTHING, needs, no_facts
from coordinator.machine.pending import Pending, size_of
from kv.model import (
    GENESIS,
    GENESIS_DIGEST,
    Absent,
    Again,
    Applied,
    AtRevision,
    Cancel,
    Delete,
    Equals,
    Exists,
    Expired,
    Guard,
    Intent,
    Mismatch,
    Ordered,
    Put,
    RecordedOperation,
    Reference,
    Refused,
    Version,
    value_hash,
)
from kv.ports import Facts

NOW = 1000
FAR = 1 << 50


def pending(
    revision: int, intent: Ordered, *, late: bool = False, ordered_ms: int = 900
) -> Pending:
    return Pending(
        revision, intent, intent.body_hash, GENESIS_DIGEST, ordered_ms, late, size_of(intent)
    )


def group(*intents: Ordered, first: int = 10) -> list[Pending]:
    return [pending(first + n, intent) for n, intent in enumerate(intents)]


def facts(
    *versions: Version,
    operations: tuple[RecordedOperation, ...] = (),
    missing: tuple[Reference, ...] = (),
) -> Facts:
    hashes = {
        v.key: v.value.hash if isinstance(v.value, Reference) else value_hash(v.value)
        for v in versions
        if v.value is not None
    }
    return Facts(
        GENESIS,
        {o.op_id: o for o in operations},
        {v.key: v for v in versions},
        hashes,
        frozenset((r.op_id, r.hash) for r in missing),
    )


PRESENT = Version(b"k", 3, b"three")
GONE = Version(b"k", 4, None)
LARGE = Version(b"k", 5, Reference("r", value_hash(b"large"), 5))


@pytest.mark.parametrize(
    ("guard", "now", "holds"),
    [
        (Absent(b"k"), None, True),
        (Absent(b"k"), GONE, True),
        (Absent(b"k"), PRESENT, False),
        (Exists(b"k"), PRESENT, True),
        (Exists(b"k"), GONE, False),
        (Exists(b"k"), None, False),
        (AtRevision(b"k", (3,)), PRESENT, True),
        (AtRevision(b"k", (1, 3)), PRESENT, True),
        (AtRevision(b"k", (2,)), PRESENT, False),
        (AtRevision(b"k", (4,)), GONE, False),
        (AtRevision(b"k", (0,)), None, False),
        (Equals(b"k", value_hash(b"three")), PRESENT, True),
        (Equals(b"k", value_hash(b"other")), PRESENT, False),
        (Equals(b"k", value_hash(b"large")), LARGE, True),
        (Equals(b"k", value_hash(b"")), None, False),
        (Equals(b"k", value_hash(b"")), GONE, False),
    ],
)
def test_guard(guard: Guard, now: Version | None, holds: bool) -> None:
    known = facts(*([now] if now else []))
    batch = group(Intent("a", FAR, (guard,), (Put(b"x", b"1"),), reads=(b"k",)))
    ended = evaluate(batch, known, NOW)
    current = now.revision if now and now.present else 0
    expected = Applied("then", (current,)) if holds else Refused(0, current, (current,))
    assert ended.records[0].outcome == expected
    assert ended.versions == ((Version(b"x", 10, b"1", None, 10, 1),) if holds else ())
    assert ended.records[0].keys == ((b"x",) if holds else ())
    # The same guard after a Put or Delete in the same group sees that, not the facts.
    before: Ordered = Intent("~p", FAR, writes=(Put(b"k", b"three"),))
    after = evaluate(group(before, batch[0].intent), known, NOW).records[1].outcome
    assert isinstance(after, Applied) == (
        isinstance(guard, Exists) or guard == Equals(b"k", value_hash(b"three"))
    )
    gone = evaluate(group(Intent("~d", FAR, writes=(Delete(b"k"),)), batch[0].intent), known, NOW)
    assert isinstance(gone.records[1].outcome, Applied) == isinstance(guard, Absent)


def test_otherwise_is_written_when_a_guard_fails_and_its_index_is_not_told() -> None:
    intent = Intent("a", FAR, (Exists(b"k"),), (Put(b"x", b"1"),), (Put(b"y", b"2"),), (b"x",))
    ended = evaluate(group(intent), facts(), NOW)
    assert ended.records[0].outcome == Applied("otherwise", (0,))
    assert ended.versions == (Version(b"y", 10, b"2", None, 10, 1),)
    empty = evaluate(group(Intent("b", FAR, (Exists(b"k"),), (Put(b"x", b"1"),), ())), facts(), NOW)
    assert empty.records[0].outcome == Applied("otherwise")
    assert empty.versions == ()


def test_first_failing_guard_is_named() -> None:
    intent = Intent(
        "a", FAR, (Exists(b"k"), Absent(b"k"), AtRevision(b"k", (9,))), (Put(b"x", b"1"),)
    )
    assert evaluate(group(intent), facts(PRESENT), NOW).records[0].outcome == Refused(1, 3)


def test_deleting_an_absent_key_writes_nothing() -> None:
    delete = Intent("a", FAR, writes=(Delete(b"k"), Put(b"x", b"1")))
    ended = evaluate(group(delete), facts(GONE), NOW)
    assert ended.records[0].outcome == Applied()
    assert ended.records[0].keys == (b"x",)
    present = evaluate(group(delete), facts(PRESENT), NOW)
    assert present.records[0].keys == (b"k", b"x")
    assert present.versions == (Version(b"k", 10, None), Version(b"x", 10, b"1", None, 10, 1))
    twice = evaluate(group(delete, Intent("b", FAR, writes=(Delete(b"k"),))), facts(PRESENT), NOW)
    assert twice.records[1].keys == ()


def test_ttl_counts_from_the_log_time_of_its_row() -> None:
    """A write that waited long for its commit loses none of it."""
    intent = Intent("a", FAR, writes=(Put(b"k", b"v", 50),))
    assert (
        evaluate([pending(10, intent, ordered_ms=900)], facts(), NOW).versions[0].expires_ms
        == NOW + 50
    )


@pytest.mark.parametrize(
    "reason", ["late when ordered", "late when committed", "staged value missing"]
)
def test_expired_has_no_effect(reason: str) -> None:
    staged = Reference("a", b"h", 9)
    deadline = NOW - 1 if reason == "late when committed" else FAR
    intent = Intent("a", deadline, (Exists(b"zz"),), (Put(b"k", b"v"),), (Put(b"k", staged),))
    entry = pending(10, intent, late=reason == "late when ordered")
    ended = evaluate(
        [entry], facts(missing=(staged,) if reason == "staged value missing" else ()), NOW
    )
    assert ended.records[0].outcome == Expired()
    assert ended.versions == ()
    assert ended.operations == (RecordedOperation("a", intent.body_hash, 10, Expired(), NOW),)


def test_deadline_itself_is_still_in_time() -> None:
    assert (
        evaluate(group(Intent("a", NOW, writes=(Put(b"k", b"v"),))), facts(), NOW)
        .records[0]
        .outcome
        == Applied()
    )


BODY = Intent("op", FAR, writes=(Put(b"k", b"v"),))
OTHER = Intent("op", FAR, writes=(Put(b"k", b"w"),))


@pytest.mark.parametrize(
    ("known", "attempt", "outcome"),
    [
        (RecordedOperation("op", BODY.body_hash, 3, Applied()), BODY, Again(3, Applied())),
        (RecordedOperation("op", BODY.body_hash, 3, Refused(0, 1)), BODY, Again(3, Refused(0, 1))),
        (RecordedOperation("op", BODY.body_hash, 3, Applied()), OTHER, Mismatch()),
        (RecordedOperation("op", BODY.body_hash, 3, Applied()), Cancel("op"), Again(3, Applied())),
        (RecordedOperation("op", b"", 3, Expired()), BODY, Again(3, Expired())),
        (RecordedOperation("op", b"", 3, Expired()), Cancel("op"), Again(3, Expired())),
    ],
)
def test_known_op_id_has_no_second_effect(
    known: RecordedOperation, attempt: Ordered, outcome: object
) -> None:
    in_store = evaluate(group(attempt), facts(operations=(known,)), NOW)
    assert in_store.records[0].outcome == outcome
    assert (in_store.versions, in_store.operations, in_store.records[0].keys) == ((), (), ())


def test_op_id_known_from_the_same_group() -> None:
    ended = evaluate(group(BODY, OTHER, Cancel("op")), facts(), NOW)
    assert [r.outcome for r in ended.records] == [Applied(), Mismatch(), Again(10, Applied())]
    assert len(ended.versions) == len(ended.operations) == 1
    late = evaluate(group(Cancel("op"), BODY), facts(), NOW)
    assert [r.outcome for r in late.records] == [Expired(), Again(10, Expired())]
    assert late.operations == (RecordedOperation("op", b"", 10, Expired(), NOW),)


def test_deadline_does_not_make_an_again_expired() -> None:
    late = Intent("op", NOW - 1, writes=BODY.writes)
    known = RecordedOperation("op", BODY.body_hash, 3, Applied())
    assert evaluate(group(late), facts(operations=(known,)), NOW).records[0].outcome == Again(
        3, Applied()
    )


def test_op_ids_of_nodes_are_spared_the_store() -> None:
    ended = evaluate(group(Intent("~n1-1", FAR, writes=(Put(b"k", b"v"),))), no_facts(), NOW)
    assert ended.records[0].outcome == Applied()
    assert ended.operations == ()


def test_needs_names_each_fact_once() -> None:
    staged = Reference("b", b"h", 9)
    batch = group(
        Intent("~n", FAR, writes=(Put(b"p", b"v"),)),
        Intent(
            "b",
            FAR,
            (Equals(b"e", b""), Exists(b"g")),
            (Put(b"p", staged), Delete(b"d")),
            (),
            (b"r", b"g"),
        ),
        Cancel("c"),
        Cancel("b"),
    )
    asked = needs(batch)
    assert asked.op_ids == ("b", "c")
    assert asked.keys == (b"e", b"g", b"r", b"d")
    assert asked.hashed == (b"e",)
    assert asked.blobs == (("b", b"h"),)
    assert not asked.nothing
    assert needs(batch[:1]).nothing


# ------------------------------------------------------------------ any group, one intent at a time

KEYS = [b"a", b"b", b"c"]
VALUES = [b"", b"1", b"2"]
guards = st.one_of(
    st.builds(Absent, st.sampled_from(KEYS)),
    st.builds(Exists, st.sampled_from(KEYS)),
    st.builds(AtRevision, st.sampled_from(KEYS), st.sampled_from([(1,), (2, 10), (11, 12)])),
    st.builds(Equals, st.sampled_from(KEYS), st.sampled_from([value_hash(v) for v in VALUES])),
)
writes = st.lists(
    st.one_of(
        st.builds(Put, st.sampled_from(KEYS), st.sampled_from(VALUES), st.sampled_from([None, 7])),
        st.builds(Delete, st.sampled_from(KEYS)),
    ),
    max_size=3,
    unique_by=lambda write: write.key,
).map(tuple)
intents = st.one_of(
    st.builds(
        Intent,
        st.sampled_from(["p", "q", "~n"]),
        st.sampled_from([NOW - 1, FAR]),
        st.lists(guards, max_size=2).map(tuple),
        writes,
        st.one_of(st.none(), writes),
        st.lists(st.sampled_from(KEYS), max_size=2).map(tuple),
    ),
    st.builds(Cancel, st.sampled_from(["p", "q"])),
)
states = st.dictionaries(
    st.sampled_from(KEYS),
    st.tuples(st.sampled_from([1, 2]), st.one_of(st.none(), st.sampled_from(VALUES))),
).map(
    lambda found: tuple(Version(key, revision, value) for key, (revision, value) in found.items())
)


@settings(max_examples=300, deadline=None)
@given(st.lists(intents, max_size=6), states, st.lists(st.booleans(), min_size=6, max_size=6))
def test_a_group_ends_as_its_intents_one_after_another_would(
    batch: list[Ordered], state: tuple[Version, ...], late: list[bool]
) -> None:
    entries = [pending(10 + n, intent, late=late[n]) for n, intent in enumerate(batch)]
    whole = evaluate(entries, facts(*state), NOW)
    newest = {version.key: version for version in state}
    operations: dict[str, RecordedOperation] = {}
    parts = []
    for entry in entries:
        part = evaluate(
            [entry], facts(*newest.values(), operations=tuple(operations.values())), NOW
        )
        newest.update((version.key, version) for version in part.versions)
        operations.update((operation.op_id, operation) for operation in part.operations)
        parts.append(part)
    assert whole == Evaluation(
        tuple(r for part in parts for r in part.records),
        tuple(v for part in parts for v in part.versions),
        tuple(o for part in parts for o in part.operations),
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(intents, max_size=6), states)
def test_versions_can_be_made_again_from_intent_and_record(
    batch: list[Ordered], state: tuple[Version, ...]
) -> None:
    """What members make of a Settle is what the committer stored, and the store's keys are the
    recorded ones.
    """
    entries = group(*batch)
    ended = evaluate(entries, facts(*state), NOW)
    again: list[Version] = []
    for entry, record in zip(entries, ended.records, strict=True):
        if isinstance(record.outcome, Applied) and isinstance(entry.intent, Intent):
            numbers = tuple(
                (version.create_revision, version.version, version.lease)
                for version in ended.versions
                if version.revision == entry.revision
            )
            told = msgspec.structs.replace(record, numbers=numbers)
            assert add_versions(entry.intent, told, entry.revision, NOW, again)
    assert tuple(again) == ended.versions
    said = [
        (entry.revision, key)
        for entry, r in zip(entries, ended.records, strict=True)
        for key in r.keys
    ]
    assert said == [(version.revision, version.key) for version in again]


PLAIN = st.builds(
    lambda n, deadline, writes, otherwise: Intent(
        f"~n.{n}", deadline, (), tuple({w.key: w for w in writes}.values()), otherwise
    ),
    st.integers(0, 3),
    st.sampled_from([NOW - 1, NOW, FAR]),
    st.lists(
        st.builds(
            Put, st.sampled_from([b"a", b"b"]), st.binary(max_size=3), st.sampled_from([None, 5])
        ),
        max_size=3,
    ),
    st.sampled_from([None, ()]),
)


@given(st.lists(st.tuples(PLAIN, st.booleans()), max_size=5))
def test_what_needs_nothing_is_evaluated_for_less_and_alike(
    intents: list[tuple[Intent, bool]],
) -> None:
    batch = [pending(7 + n, intent, late=late) for n, (intent, late) in enumerate(intents)]
    assert needs(batch) is NOTHING
    assert evaluate_plain(batch, NOW, {}) == evaluate(batch, no_facts(), NOW)


@pytest.mark.parametrize(
    "intent",
    [
        Cancel("op"),
        Intent("op", FAR, (), (Put(b"k", b"v"),)),
        Intent("~n.1", FAR, (), (Delete(b"k"),)),
        Intent("~n.1", FAR, (), (Put(b"k", Reference("~n.1", b"h" * 32, 9)),)),
        Intent("~n.1", FAR, (Absent(b"k"),), (Put(b"k", b"v"),)),
        Intent("~n.1", FAR, (), (Put(b"k", b"v"),), reads=(b"k",)),
    ],
)
def test_what_is_not_plain_needs_something(intent: Ordered) -> None:
    assert not needs(group(Intent("~n.0", FAR, (), (Put(b"k", b"v"),)), intent)).nothing
