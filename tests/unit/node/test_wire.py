"""JSON ↔ model, and errors → problem documents, alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv.errors import (
    BackendUnavailable,
    BadRequest,
    InvariantViolated,
    KvError,
    NotApplied,
    OutcomeUnknown,
    Pruned,
    StoreDamaged,
)
from kv.model import (
    NESTING_MAX,
    Absent,
    Again,
    Answer,
    Applied,
    AtRevision,
    Compare,
    Delete,
    Equals,
    Exists,
    Expired,
    Intent,
    Mismatch,
    Nested,
    Put,
    PutWith,
    Refused,
    value_hash,
)
from node.wire.answers import ItemAnswer, item_of
from node.wire.byte_forms import Bytes, bytes_from, json_form
from node.wire.documents import decode, encode
from node.wire.problems import KINDS, problem_of
from node.wire.requests import BatchForm, LegacyForm, MemberForm, TransactionForm, intent_of

keys = st.binary(min_size=1, max_size=1024)
values = st.binary(max_size=2000)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_bytes_round_trip_and_both_forms_are_taken(raw: bytes) -> None:
    class Holder(msgspec.Struct):
        x: Bytes

    form = json_form(raw)
    assert bytes_from(msgspec.json.decode(encode({"x": form}), type=Holder).x, "x") == raw
    in_base64 = {"base64": msgspec.to_builtins(raw)}
    assert bytes_from(msgspec.json.decode(encode({"x": in_base64}), type=Holder).x, "x") == raw
    assert isinstance(form, str) == (raw == raw.decode("utf-8", "ignore").encode())


guards = st.one_of(
    keys.map(Absent),
    keys.map(Exists),
    st.tuples(keys, st.lists(st.integers(1, 2**53 - 1), min_size=1, max_size=5)).map(
        lambda kr: AtRevision(kr[0], tuple(kr[1]))
    ),
    st.tuples(keys, values).map(lambda kv: Equals(kv[0], value_hash(kv[1]))),
)
writes = st.one_of(
    keys.map(Delete),
    st.tuples(keys, values, st.one_of(st.none(), st.integers(1, 10**9))).map(lambda a: Put(*a)),
)
distinct = st.lists(writes, max_size=8, unique_by=lambda w: w.key).map(tuple)


@settings(deadline=None)
@given(
    st.lists(guards, max_size=5),
    distinct,
    st.one_of(st.none(), distinct),
    st.lists(keys, max_size=5),
    values,
)
def test_intents_are_what_the_json_says(
    asked: list[Any],
    then: tuple[Any, ...],
    otherwise: tuple[Any, ...] | None,
    reads: list[bytes],
    value: bytes,
) -> None:
    def guard(g: Any) -> dict[str, Any]:
        match g:
            case Absent(key):
                return {"key": json_form(key), "absent": True}
            case Exists(key):
                return {"key": json_form(key), "exists": True}
            case AtRevision(key, revisions):
                return {
                    "key": json_form(key),
                    "revision": revisions[0] if len(revisions) == 1 else list(revisions),
                }
        return {"key": json_form(g.key), "value": json_form(value)}

    def write(w: Any) -> dict[str, Any]:
        if isinstance(w, Delete):
            return {"delete": json_form(w.key)}
        assert isinstance(w.value, bytes)
        form = {"put": json_form(w.key), "value": json_form(w.value)}
        return form if w.ttl_ms is None else {**form, "ttl": w.ttl_ms / 1000}

    wanted = tuple(Equals(g.key, value_hash(value)) if isinstance(g, Equals) else g for g in asked)
    body = {
        "guards": [guard(g) for g in asked],
        "writes": [write(w) for w in then],
        "otherwise": None if otherwise is None else [write(w) for w in otherwise],
        "reads": [json_form(key) for key in reads],
    }
    form = decode(encode(body), TransactionForm)
    assert intent_of(form, "o") == Intent("o", 0, wanted, then, otherwise, tuple(reads))


def nested(depth: int) -> dict[str, Any]:
    return {"if": [], "then": [nested(depth - 1)] if depth > 1 else [{"delete": "k"}]}


def test_writes_that_keep_something_and_nested_transactions() -> None:
    body = {
        "guards": [
            {"key": "g", "compare": "lease", "is": "=", "to": "ab"},
            {"key": "g", "compare": "lease", "is": "!=", "to": 0},
        ],
        "writes": [
            {"put": "a", "keep_value": True, "lease": "ab"},
            {"put": "b", "value": "v", "keep_lease": True, "ttl": 5},
            {
                "if": [{"key": "g", "exists": True}],
                "then": [{"put": "c", "value": "1"}, {"if": [], "else": [{"delete": "d"}]}],
                "else": [{"put": "c", "value": "2"}],
            },
        ],
    }
    inner = Nested((), (), (Delete(b"d"),))
    assert intent_of(decode(encode(body), TransactionForm), "o") == Intent(
        "o",
        0,
        (Compare(b"g", b"", "lease", "=", 0xAB), Compare(b"g", b"", "lease", "!=", 0)),
        (
            PutWith(b"a", b"", None, 0xAB, True),
            PutWith(b"b", b"v", 5000, 0, False, True),
            Nested((Exists(b"g"),), (Put(b"c", b"1"), inner), (Put(b"c", b"2"),)),
        ),
    )
    intent_of(decode(encode({"writes": [nested(3)]}), TransactionForm), "o")


@pytest.mark.parametrize(
    ("writes", "code"),
    [
        ([nested(NESTING_MAX)], "too_deep"),
        ([nested(200)], "too_deep"),
        ([{"if": [{"key": "k", "exists": True}] * 200}], "too_many_operations"),
        ([{"if": [], "put": "k", "value": ""}], "bad_write"),
        ([{"if": [], "delete": "k"}], "bad_write"),
        ([{"put": "k", "value": "", "keep_value": True}], "bad_write"),
        ([{"put": "k", "value": "", "lease": "1", "keep_lease": True}], "bad_write"),
        ([{"put": "k"}], "bad_write"),
        ([{"delete": "k", "keep_value": True}], "bad_write"),
        ([{"put": "k", "value": ""}, {"then": [{"delete": "k"}]}], "duplicate_key"),
        ([{"put": "k", "keep_value": False}], "invalid_body"),
        ([{}], "bad_write"),
    ],
)
def test_what_is_no_write_is_refused(writes: list[Any], code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        intent_of(decode(encode({"writes": writes}), TransactionForm), "o")
    assert refused.value.code == code


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_nonsense_is_refused_by_name(raw: bytes) -> None:
    for kind in (BatchForm, LegacyForm, MemberForm):
        with pytest.raises(BadRequest) as refused:
            decode(raw, kind)
        assert refused.value.code in ("malformed_json", "invalid_body")


def test_outcomes_become_items() -> None:
    assert item_of("o", Answer(7, Applied("otherwise", (3, 0)))) == ItemAnswer(
        "o", "applied", 7, branch="otherwise", seen=[3, 0]
    )
    again = item_of("o", Answer(9, Again(7, Refused(1, 5))))
    assert (again.outcome, again.revision, again.again, again.guard, again.current) == (
        "refused",
        7,
        True,
        1,
        5,
    )
    assert item_of("o", Answer(9, Expired())).outcome == "expired"
    assert item_of("o", Answer(9, Mismatch())).outcome == "mismatch"


@pytest.mark.parametrize(
    ("error", "mutation", "status", "code", "outcome"),
    [
        (NotApplied("no_leader"), True, 503, "no_leader", "not_applied"),
        (NotApplied("overloaded"), True, 503, "overloaded", "not_applied"),
        (NotApplied("something new"), True, 503, "not_applied", "not_applied"),
        (OutcomeUnknown("lost"), True, 504, "outcome_unknown", "unknown"),
        (OutcomeUnknown("lost"), False, 503, "timeout", "not_applied"),
        (BackendUnavailable("store", "gone"), True, 503, "store_away", "not_applied"),
        (StoreDamaged("store", b"k", 7), False, 503, "store_damaged", "not_applied"),
        (BackendUnavailable("broker", "gone"), True, 503, "broker_unavailable", "not_applied"),
        (Pruned(5), False, 410, "pruned", "not_applied"),
        (BadRequest("key_empty", "the key is empty"), True, 400, "key_empty", "not_applied"),
        (BadRequest("something_new", "what"), True, 400, "something_new", "not_applied"),
        (BadRequest("value_too_large", "it is"), True, 413, "value_too_large", "not_applied"),
        (InvariantViolated("two leaders"), True, 500, "internal", "unknown"),
        (InvariantViolated("two leaders"), False, 500, "internal", "not_applied"),
        (KvError("what"), True, 500, "internal", "unknown"),
    ],
)
def test_errors_say_whether_anything_may_have_happened(
    error: KvError, mutation: bool, status: int, code: str, outcome: str
) -> None:
    document = problem_of(error, mutation=mutation, op_id="o")
    assert (document.status, document.code, document.outcome) == (status, code, outcome)
    assert document.op_id == "o"


def test_no_definite_status_carries_an_unknown_outcome() -> None:
    for kind in KINDS.values():
        assert kind.title
        assert kind.advice
        assert kind.status in range(400, 505)
