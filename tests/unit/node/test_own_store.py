"""A node over its member's own store (R7, R11): no staging, and nothing linearizable without a
quorum.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from backends.memory.database import MemoryDatabase
from backends.memory.store import MemoryStore
from kv.model import VALUE_BYTES_MAX, Intent, Put
from tests.unit.node.conftest import Api, opened


@pytest.fixture
async def own() -> AsyncIterator[Api]:
    async with opened(own=MemoryStore(MemoryDatabase())) as one:
        yield one


async def test_values_of_every_size_go_inline_and_come_back(own: Api) -> None:
    value = b"v" * VALUE_BYTES_MAX
    assert (await own.ask("PUT", "/v1/kv/large", data=value)).status == 201
    (submitted,) = own.consensus.submits[-1]
    assert isinstance(submitted, Intent)
    assert submitted.writes == (Put(b"large", value),)
    own.server.services.reads.memory.clear()
    found = await own.ask("GET", "/v1/kv/large")
    assert (found.status, found.body) == (200, value)


async def test_several_large_values_of_one_transaction_go_inline(own: Api) -> None:
    writes = [{"put": f"k{n}", "value": "v" * (1 << 20)} for n in range(3)]
    done = await own.ask("POST", "/v1/txn", json={"writes": writes})
    assert done.status == 200, done.body
    (submitted,) = own.consensus.submits[-1]
    assert isinstance(submitted, Intent)
    assert [type(w.value) for w in submitted.writes if isinstance(w, Put)] == [bytes] * 3
    listed = await own.ask("GET", "/v1/kv?prefix=k")
    shown = listed.json()
    assert [item["key"] for item in shown["items"]] == ["k0", "k1"]
    rest = await own.ask("GET", f"/v1/kv?prefix=k&continue={shown['continue']}")
    assert [item["key"] for item in rest.json()["items"]] == ["k2"]


async def test_without_a_quorum_nothing_is_read_linearizably(own: Api) -> None:
    done = await own.ask("PUT", "/v1/kv/a", data=b"1")
    revision = done.json()["revision"]
    own.consensus.no_leader = "no_quorum"
    for path in ("/v1/kv/a", "/v1/kv/a?max_age=0", "/v1/kv?prefix="):
        level = "&consistency=stale" if "max_age" in path else ""
        (await own.ask("GET", path + level)).problem(503, "no_quorum")
    (await own.ask("POST", "/v1/txn", json={"reads": ["a"]})).problem(503, "no_quorum")
    (await own.ask("GET", f"/v1/kv/a?revision={revision + 1}")).problem(503, "behind")
    (await own.ask("GET", "/v1/ledger?from=99")).problem(503, "no_quorum")


async def test_without_a_quorum_session_and_stale_reads_go_on(own: Api) -> None:
    done = await own.ask("PUT", "/v1/kv/a", data=b"1")
    revision = done.json()["revision"]
    own.consensus.no_leader = "no_quorum"
    own.server.services.reads.memory.clear()
    for ask in ("consistency=session", "consistency=stale", f"revision={revision}"):
        found = await own.ask("GET", f"/v1/kv/a?{ask}")
        assert (found.status, found.body) == (200, b"1"), ask
    ahead = await own.ask("GET", f"/v1/kv/a?consistency=session&min_revision={revision + 1}")
    ahead.problem(503, "behind")
    listed = await own.ask("GET", "/v1/kv?prefix=&consistency=session")
    assert [item["key"] for item in listed.json()["items"]] == ["a"]
    assert listed.headers["Acordo-Level"] == "session"
    assert (await own.ask("GET", "/v1/ledger")).status == 200


async def test_with_a_quorum_a_revision_that_was_not_given_is_refused(own: Api) -> None:
    await own.ask("PUT", "/v1/kv/a", data=b"1")
    (await own.ask("GET", "/v1/kv/a?revision=99")).problem(400, "future_revision")
    (await own.ask("GET", "/v1/ledger?from=99")).problem(400, "future_revision")
    before = own.consensus.read_indexes
    assert (await own.ask("POST", "/v1/txn", json={"reads": ["a"]})).status == 200
    assert (await own.ask("GET", "/v1/kv?prefix=")).headers["Acordo-Level"] == "linearizable"
    assert own.consensus.read_indexes == before + 2


async def test_the_own_store_is_never_asked_whose_it_is(
    own: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(MemoryStore, "claim")
    assert (await own.ask("GET", "/v1/kv/a")).status == 404
    assert (await own.ask("GET", "/v1/kv?prefix=")).json()["items"] == []
