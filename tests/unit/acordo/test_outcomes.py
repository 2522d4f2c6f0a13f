"""The table of research/checking.md 3.1, row by row, and how attempts add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acordo._outcomes import Judgement, Seen, Verdict, classify, conclude

OK, FAIL, UNKNOWN = Verdict.OK, Verdict.FAIL, Verdict.UNKNOWN


def node(status: int, **more: object) -> Seen:
    fields: dict[str, object] = {"complete": True, "parsed": True, "from_node": True, **more}
    return Seen(mutation=True, sent=True, status=status, **fields)  # type: ignore[arg-type]


def proxy(status: int) -> Seen:
    return Seen(mutation=True, sent=True, status=status, complete=True)


TABLE = [
    # what was seen, verdict of a mutation, verdict of a read
    (Seen(mutation=True, sent=False), FAIL, FAIL),
    (Seen(mutation=True, sent=True), UNKNOWN, FAIL),
    (node(200), OK, OK),
    (node(201), OK, OK),
    (node(200, complete=False, parsed=False), UNKNOWN, FAIL),
    (node(200, parsed=False), UNKNOWN, FAIL),
    (node(404), OK, OK),
    (node(404, code="key_not_found"), OK, OK),
    (node(404, code="unknown_path"), FAIL, FAIL),
    (proxy(404), UNKNOWN, FAIL),
    (proxy(502), UNKNOWN, FAIL),
    (proxy(503), UNKNOWN, FAIL),
    (proxy(504), UNKNOWN, FAIL),
    (node(412), OK, OK),
    (node(409), OK, OK),
    (node(412, parsed=False), UNKNOWN, FAIL),
    (proxy(412), UNKNOWN, FAIL),
    *[(node(status), FAIL, FAIL) for status in (400, 401, 403, 405, 413, 415, 422, 429)],
    *[(proxy(status), FAIL, FAIL) for status in (400, 401, 403, 413, 429)],
    (node(503, outcome="not_applied"), FAIL, FAIL),
    (node(503), UNKNOWN, FAIL),
    (node(503, outcome="unknown"), UNKNOWN, FAIL),
    (node(501, outcome="not_applied"), FAIL, FAIL),
    (node(504, outcome="unknown"), UNKNOWN, FAIL),
    (node(504), UNKNOWN, FAIL),
    (node(504, outcome="not_applied"), UNKNOWN, FAIL),
    (node(500), UNKNOWN, FAIL),
    (node(502), UNKNOWN, FAIL),
    (node(409, outcome="unknown"), UNKNOWN, FAIL),
    (node(410), FAIL, FAIL),
    (proxy(301), UNKNOWN, FAIL),
    (proxy(307), FAIL, FAIL),
    (node(100), UNKNOWN, FAIL),
    (node(418), UNKNOWN, FAIL),
    (node(417, outcome="not_applied"), FAIL, FAIL),
    (node(500, outcome="not_applied"), UNKNOWN, FAIL),
]


@pytest.mark.parametrize(("seen", "mutation", "read"), TABLE)
def test_table(seen: Seen, mutation: Verdict, read: Verdict) -> None:
    import msgspec

    assert classify(seen).verdict is mutation
    assert classify(msgspec.structs.replace(seen, mutation=False)).verdict is read


seen_anything = st.builds(
    Seen,
    mutation=st.booleans(),
    sent=st.booleans(),
    status=st.none() | st.integers(100, 599),
    complete=st.booleans(),
    parsed=st.booleans(),
    from_node=st.booleans(),
    outcome=st.sampled_from([None, "not_applied", "unknown"]),
    code=st.sampled_from([None, "mismatch", "expired", "key_not_found", "unknown_path"]),
    idempotent=st.booleans(),
)


@given(seen_anything)
def test_never_definite_without_grounds(seen: Seen) -> None:
    """INV-4: a definite "no effect" needs an unsent request or a refusal; success needs a whole
    answer.
    """
    judged = classify(seen)
    if judged.verdict is OK:
        assert seen.sent
        assert seen.status is not None
    if judged.verdict is FAIL and seen.mutation and seen.sent:
        assert seen.outcome != "unknown"
        assert seen.status is not None
        assert seen.status < 500 or (seen.outcome == "not_applied" and seen.from_node)
    if not seen.mutation:
        assert judged.verdict is not UNKNOWN


def test_a_later_refusal_leaves_the_operation_unknown() -> None:
    lost = classify(Seen(mutation=True, sent=True))
    refused = classify(node(503, outcome="not_applied"))
    unsent = classify(Seen(mutation=True, sent=False))
    assert conclude([lost, refused]).verdict is UNKNOWN
    assert conclude([refused, lost, unsent, refused]).verdict is UNKNOWN
    assert conclude([refused, unsent]).verdict is FAIL
    assert conclude([]).verdict is FAIL


def test_an_answer_for_the_op_id_settles_the_operation() -> None:
    lost = classify(Seen(mutation=True, sent=True))
    assert conclude([lost, classify(node(200))]).verdict is OK
    assert conclude([lost, classify(node(412))]) == classify(node(412))
    expired = classify(node(503, code="expired", outcome="not_applied"))
    assert conclude([lost, expired]).verdict is FAIL
    mismatch = classify(node(422, code="mismatch"))
    assert conclude([lost, mismatch]).verdict is FAIL
    assert conclude([lost, classify(node(422))]).verdict is UNKNOWN


def test_a_refused_guard_without_op_id_may_be_the_echo_of_the_first_attempt() -> None:
    lost = classify(Seen(mutation=True, sent=True, idempotent=False))
    echo = classify(node(412, idempotent=False))
    assert conclude([lost, echo]).verdict is UNKNOWN
    assert conclude([echo]).verdict is OK


@given(st.lists(seen_anything, max_size=5))
def test_an_unknown_attempt_is_only_undone_by_what_settles(history: list[Seen]) -> None:
    judged: list[Judgement] = [classify(seen) for seen in history]
    whole = conclude(judged)
    if any(j.verdict is UNKNOWN for j in judged) and not any(j.settles for j in judged):
        assert whole.verdict is UNKNOWN
