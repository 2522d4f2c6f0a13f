"""/v1/operations/{op_id}: known, pending, not ordered, or honestly unknown; made definite only
where asked to.
"""

from __future__ import annotations

import asyncio

import pytest

from kv.errors import BackendUnavailable
from kv.model import Cancel
from tests.unit.node.conftest import Api


async def test_outcomes_are_found_in_the_window_and_in_ops(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/a", data=b"1", headers={"Idempotency-Key": "x 1"})
    await api.ask(
        "PUT", "/v1/kv/a", data=b"1", headers={"Idempotency-Key": "x2", "If-None-Match": "*"}
    )
    for _ in range(2):
        found = await api.ask("GET", "/v1/operations/x%201")
        assert found.json() == {"op_id": "x 1", "outcome": "applied", "revision": 1, "seen": [0]}
        assert int(found.headers["Acordo-Revision"]) >= 1
        refused = (await api.ask("GET", "/v1/operations/x2")).json()
        assert (refused["outcome"], refused["guard"], refused["current"]) == ("refused", 0, 1)
        api.consensus.pruned_window = {"x 1", "x2"}


async def test_to_look_cancels_nothing(api: Api) -> None:
    for op_id in ("never-sent", "async-never-sent"):
        found = (await api.ask("GET", f"/v1/operations/{op_id}")).json()
        assert (found["outcome"], found["code"]) == ("unknown", "not_ordered")
        assert "not ordered" in found["detail"]
    assert api.consensus.submits == []
    late = await api.ask("PUT", "/v1/kv/a", data=b"1", headers={"Idempotency-Key": "never-sent"})
    assert late.status == 201


async def test_what_nobody_knows_is_cancelled_for_good_where_that_is_asked_for(api: Api) -> None:
    found = (await api.ask("POST", "/v1/operations/late")).json()
    assert (found["outcome"], found["revision"]) == ("expired", 1)
    assert isinstance(api.consensus.submits[-1][0], Cancel)
    again = await api.ask("PUT", "/v1/kv/a", data=b"1", headers={"Idempotency-Key": "late"})
    again.problem(503, "expired")
    (await api.ask("GET", "/v1/kv/a")).problem(404, "key_not_found", None)
    assert (await api.ask("GET", "/v1/operations/late")).json()["outcome"] == "expired"
    assert (await api.ask("POST", "/v1/operations/late", json={})).json()["outcome"] == "expired"
    assert len([s for s in api.consensus.submits if isinstance(s[0], Cancel)]) == 1


async def test_what_is_known_is_not_cancelled(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/a", data=b"1", headers={"Idempotency-Key": "x"})
    assert (await api.ask("POST", "/v1/operations/x")).json()["outcome"] == "applied"
    assert all(not isinstance(s[0], Cancel) for s in api.consensus.submits)


async def test_a_pending_operation_is_waited_for(api: Api) -> None:
    api.consensus.hold = True
    asking = asyncio.create_task(
        api.ask("PUT", "/v1/kv/a", data=b"1", headers={"Idempotency-Key": "p"})
    )
    while not api.consensus.held:
        await asyncio.sleep(0)
    looking = asyncio.create_task(api.ask("GET", "/v1/operations/p"))
    hurried = await api.ask("GET", "/v1/operations/p", headers={"Acordo-Timeout": "0.02"})
    assert hurried.json()["outcome"] == "pending"
    api.consensus.commit_held()
    assert (await looking).json()["outcome"] == "applied"
    assert (await asking).status == 201


async def test_without_a_quorum_it_is_found_in_the_store_or_stays_unknown(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/a", data=b"1", headers={"Idempotency-Key": "x"})
    api.consensus.pruned_window = {"x"}
    api.consensus.no_leader = "no_quorum"
    assert (await api.ask("GET", "/v1/operations/x")).json()["outcome"] == "applied"
    form = (await api.ask("GET", "/v1/operations/y")).problem(504, "outcome_unknown", "unknown")
    assert form["op_id"] == "y"
    assert form["lookup_until_ms"] > 0
    assert all(not isinstance(s[0], Cancel) for s in api.consensus.submits)


async def test_a_store_that_does_not_answer_leaves_it_unknown(api: Api, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    async def broken(*_: object, **__: object) -> object:
        raise BackendUnavailable("store", "gone")

    monkeypatch.setattr(api.server.services.store, "operations", broken)
    (await api.ask("GET", "/v1/operations/y")).problem(504, "outcome_unknown", "unknown")
    assert api.consensus.submits == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_store_that_is_behind_does_not_say_that_there_was_no_such_operation(
    api: Api, method: str
) -> None:
    """An asynchronous standby was promoted without the newest rows, and this node does not know it
    yet: an operation that was told applied is never told expired, nor not ordered.
    """
    await api.ask("PUT", "/v1/kv/a", data=b"0")
    await api.ask("PUT", "/v1/kv/a", data=b"1", headers={"Idempotency-Key": "x"})
    api.consensus.pruned_window = {"x"}
    api.database.lose_rows(1)
    form = (await api.ask(method, "/v1/operations/x")).problem(504, "outcome_unknown", "unknown")
    assert "acordo adopt" in form["detail"]
    assert all(not isinstance(s[0], Cancel) for s in api.consensus.submits)
    api.consensus.refusal = "store_behind"  # as soon as the leader has found it out
    (await api.ask(method, "/v1/operations/y")).problem(504, "outcome_unknown", "unknown")


async def test_a_lost_cancel_leaves_it_unknown(api: Api) -> None:
    api.consensus.lose = True
    (await api.ask("POST", "/v1/operations/y")).problem(504, "outcome_unknown", "unknown")
    api.consensus.lose = False
    assert (await api.ask("GET", "/v1/operations/y")).json()["outcome"] == "expired"


async def test_op_ids_made_by_nodes_are_never_cancelled(api: Api) -> None:
    op_id = (await api.ask("PUT", "/v1/kv/a", data=b"1")).json()["op_id"]
    assert (await api.ask("GET", f"/v1/operations/{op_id}")).json()["outcome"] == "applied"
    api.consensus.pruned_window = {op_id}
    form = (await api.ask("POST", f"/v1/operations/{op_id}")).problem(
        504, "outcome_forgotten", "unknown"
    )
    assert "read the key" in form["advice"]
    api.consensus.no_leader = "no_quorum"
    (await api.ask("GET", f"/v1/operations/{op_id}")).problem(504, "outcome_unknown", "unknown")
    assert len(api.consensus.submits) == 1
