"""What a client may conclude from each thing it observes, row by row, and how attempts add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acordo._outcomes import Certainty, Judgement, Observation, classify, conclude

OK, FAIL, UNKNOWN = Certainty.OK, Certainty.FAIL, Certainty.UNKNOWN


def node(status: int, **more: object) -> Observation:
    fields: dict[str, object] = {"complete": True, "parsed": True, "from_node": True, **more}
    return Observation(mutation=True, sent=True, status=status, **fields)  # type: ignore[arg-type]


def proxy(status: int) -> Observation:
    return Observation(mutation=True, sent=True, status=status, complete=True)


TABLE = [
    # what was observed, what a mutation came to, what a read came to
    (Observation(mutation=True, sent=False), FAIL, FAIL),
    (Observation(mutation=True, sent=True), UNKNOWN, FAIL),
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


@pytest.mark.parametrize(("observed", "mutation", "read"), TABLE)
def test_table(observed: Observation, mutation: Certainty, read: Certainty) -> None:
    import msgspec

    assert classify(observed).certainty is mutation
    assert classify(msgspec.structs.replace(observed, mutation=False)).certainty is read


seen_anything = st.builds(
    Observation,
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
def test_never_definite_without_grounds(observed: Observation) -> None:
    """INV-4: a definite "no effect" needs an unsent request or a refusal; success needs a whole
    answer.
    """
    judged = classify(observed)
    if judged.certainty is OK:
        assert observed.sent
        assert observed.status is not None
    if judged.certainty is FAIL and observed.mutation and observed.sent:
        assert observed.outcome != "unknown"
        assert observed.status is not None
        assert observed.status < 500 or (observed.outcome == "not_applied" and observed.from_node)
    if not observed.mutation:
        assert judged.certainty is not UNKNOWN


def test_a_later_refusal_leaves_the_operation_unknown() -> None:
    lost = classify(Observation(mutation=True, sent=True))
    refused = classify(node(503, outcome="not_applied"))
    unsent = classify(Observation(mutation=True, sent=False))
    assert conclude([lost, refused]).certainty is UNKNOWN
    assert conclude([refused, lost, unsent, refused]).certainty is UNKNOWN
    assert conclude([refused, unsent]).certainty is FAIL
    assert conclude([]).certainty is FAIL


def test_an_answer_for_the_op_id_settles_the_operation() -> None:
    lost = classify(Observation(mutation=True, sent=True))
    assert conclude([lost, classify(node(200))]).certainty is OK
    assert conclude([lost, classify(node(412))]) == classify(node(412))
    expired = classify(node(503, code="expired", outcome="not_applied"))
    assert conclude([lost, expired]).certainty is FAIL
    mismatch = classify(node(422, code="mismatch"))
    assert conclude([lost, mismatch]).certainty is FAIL
    assert conclude([lost, classify(node(422))]).certainty is UNKNOWN


def test_a_refused_guard_without_op_id_may_be_the_echo_of_the_first_attempt() -> None:
    lost = classify(Observation(mutation=True, sent=True, idempotent=False))
    echo = classify(node(412, idempotent=False))
    assert conclude([lost, echo]).certainty is UNKNOWN
    assert conclude([echo]).certainty is OK


@given(st.lists(seen_anything, max_size=5))
def test_an_unknown_attempt_is_only_undone_by_what_settles(history: list[Observation]) -> None:
    judged: list[Judgement] = [classify(observed) for observed in history]
    whole = conclude(judged)
    if any(j.certainty is UNKNOWN for j in judged) and not any(j.settles for j in judged):
        assert whole.certainty is UNKNOWN
