"""An intent is judged on each of its paths, and its ranges spare hidden keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.access import ACCESS_PREFIX, UNCONTROLLED, Policy, Rights, Role, Rule, Spans
from kv.errors import NotAllowed
from kv.model import (
    FROM_KEY,
    Absent,
    Compare,
    Delete,
    DeleteRange,
    EndLease,
    Exists,
    Intent,
    Nested,
    Put,
    PutWith,
)
from node.access.judging import check, check_intent, overlaps, sparing
from node.etcd.kv import NO_KEYS
from node.etcd.spans import covers, is_empty

OWN = Rights("me", (Role("own", (Rule(b"a/", read=True, write=True),)),))
ALL = Rights("me", (Role("all", (Rule(b"", read=True, write=True),)),))
MINE, THEIRS = Put(b"a/1", b""), Put(b"b/1", b"")


def intent(*writes: object, **more: object) -> Intent:
    return Intent("x", 0, writes=writes, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "asked",
    [
        intent(THEIRS),
        intent(MINE, otherwise=(THEIRS,)),
        intent(Nested((), (Nested((), (MINE,), (THEIRS,)),))),
        intent(Nested((Absent(b"b/1"),), (MINE,))),
        intent(MINE, guards=(Exists(b"b/1"),)),
        intent(MINE, guards=(Compare(b"a/", b"b", "mod", ">", 0),)),
        intent(MINE, reads=(b"b/1",)),
        intent(Delete(b"b/1")),
        intent(DeleteRange(b"a/", FROM_KEY)),
        intent(EndLease(7)),
        intent(PutWith(b"a/1", b"", lease=7)),
        intent(Put(ACCESS_PREFIX + b"switch", b"")),
    ],
)
def test_an_intent_is_judged_on_each_of_its_paths(asked: Intent) -> None:
    with pytest.raises(NotAllowed):
        check_intent(OWN, asked)


def test_a_put_that_keeps_what_is_there_reads_it() -> None:
    writer = Rights("me", (Role("w", (Rule(b"a/", write=True),)),))
    check_intent(writer, intent(MINE))
    for kept in ({"keep_value": True}, {"keep_lease": True}):
        with pytest.raises(NotAllowed):
            check_intent(writer, intent(PutWith(b"a/1", b"", **kept)))


def test_what_may_be_done_is_not_refused() -> None:
    guards = (Compare(b"a/", b"a0", "mod", ">", 0), Absent(b"a/2"))
    writes = (Nested((Exists(b"a/1"),), (MINE,), (Delete(b"a/2"),)), DeleteRange(b"a/", b"a0"))
    check_intent(OWN, intent(*writes, guards=guards, reads=(b"a/1",)))
    check_intent(UNCONTROLLED, intent(THEIRS, PutWith(b"c", b"", lease=7)))


def test_a_rule_on_everything_reaches_no_key_of_the_system() -> None:
    check(ALL, "read", b"", FROM_KEY)
    for key, end in ((b"acordo/x", b""), (b"acordo/", b"acordo0"), (b"acordo/a", b"acordo/b")):
        with pytest.raises(NotAllowed):
            check(ALL, "read", key, end)
    with pytest.raises(NotAllowed):
        check_intent(ALL, intent(MINE, guards=(Compare(b"a", b"b", "value", "<", b"x"),)))


keys = st.binary(min_size=1, max_size=4).map(
    lambda raw: raw.translate(bytes([97, 98, 255, 0]) * 64)
)
ends = st.one_of(st.just(b""), st.just(FROM_KEY), keys)


@given(st.lists(keys, max_size=4), keys, ends, keys)
def test_a_range_is_covered_only_if_each_of_its_keys_is(
    prefixes: list[bytes], begin: bytes, end: bytes, key: bytes
) -> None:
    if Spans(prefixes).covers(begin, end) and covers(begin, end, key):
        assert any(key.startswith(prefix) for prefix in prefixes)


@given(st.lists(keys, max_size=4), keys)
def test_a_prefix_of_a_rule_is_covered_as_a_range(prefixes: list[bytes], key: bytes) -> None:
    spans = Spans(prefixes)
    assert spans.covers(key, b"") == any(key.startswith(prefix) for prefix in prefixes)


@given(keys, st.one_of(st.just(FROM_KEY), keys), keys, keys)
def test_a_range_that_spares_hidden_keys_deletes_all_others(
    begin: bytes, end: bytes, hidden: bytes, key: bytes
) -> None:
    if hidden.strip(b"\xff"):
        spared = sparing(intent(DeleteRange(begin, end)), hidden).writes
        assert all(isinstance(each, DeleteRange) for each in spared)
        deleted = any(
            covers(each.key, each.end, key) for each in spared if isinstance(each, DeleteRange)
        )
        assert deleted == (covers(begin, end, key) and not key.startswith(hidden))
        if covers(begin, end, key) and key.startswith(hidden):
            assert overlaps(begin, end, hidden)


def test_the_range_that_tells_the_revision_alone_has_no_keys() -> None:
    assert is_empty(*NO_KEYS)


def test_records_that_cannot_be_read_grant_nothing() -> None:
    policy = Policy(
        {
            ACCESS_PREFIX + b"switch": b"?",
            ACCESS_PREFIX + b"tokens/1": b"{}",
            ACCESS_PREFIX + b"roles/x": b"\xff",
        }
    )
    assert policy.on
    assert not policy.tokens
    assert set(policy.roles) == {"admin", "metrics"}
