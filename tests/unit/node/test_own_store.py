"""A node over its member's own store (R7, R11): no staging, and nothing linearizable without a
quorum.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from backends.memory.store import MemoryStore
from kv.model import VALUE_BYTES_MAX, Intent, Put
from node.api.openapi.answers import ClusterView
from node.reads.rounds import LEADER_CHANGES
from tests.unit.node.conftest import Api, opened


@pytest.fixture
async def own() -> AsyncIterator[Api]:
    async with opened(kind="replicated") as one:
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


async def test_what_state_it_is_in_is_said_everywhere(own: Api) -> None:
    """R15 and R9: /v1/cluster, /readyz and metrics name the own store's state, and a log that is
    not synced.
    """
    detail = "nothing gets into the file: disk full"
    own.consensus.shown = {
        "store_kind": "replicated",
        "store_state": "full",
        "store_detail": detail,
        "unwritten_bytes": 512,
        "fsync": "off",
    }
    view = (await own.ask("GET", "/v1/cluster")).json()
    msgspec.convert(view, ClusterView)
    assert (view["store_kind"], view["unsafe_fsync"]) == ("replicated", True)
    assert (view["store_state"], view["unwritten_bytes"]) == ("full", 512)
    ready = await own.ask("GET", "/readyz?verbose")
    assert ready.status == 200, "it serves on: the log holds what the file does not"
    assert f"[-]own_store degraded (does not count): full: {detail}" in ready.body.decode()
    assert "[-]fsync degraded (does not count): fsync=off: a power cut" in ready.body.decode()
    metrics = (await own.ask("GET", "/metrics")).body.decode()
    assert 'acordo_own_store{state="full"} 1.0' in metrics
    assert 'acordo_own_store{state="sound"} 0.0' in metrics
    assert "acordo_own_store_unwritten_bytes 512.0" in metrics
    assert "acordo_unsafe_fsync 1.0" in metrics


async def test_an_emptied_member_is_shown_everywhere(own: Api) -> None:
    """R13: it never votes again under its id, and an operator gives its place to another."""
    own.consensus.shown = {
        "store_kind": "replicated",
        "store_state": "emptied",
        "store_detail": "log and votes are gone",
        "unfit": "disk_lost",
    }
    view = (await own.ask("GET", "/v1/cluster")).json()
    assert (view["unfit"], view["store_state"]) == ("disk_lost", "emptied")
    assert [each["code"] for each in view["unready"]] == ["disk_lost"]
    ready = await own.ask("GET", "/readyz?verbose")
    assert ready.status == 503
    told = ready.body.decode()
    assert "[-]member failed: what this member had acknowledged is not on its disk" in told
    assert "[-]own_store degraded (does not count): emptied: log and votes are gone" in told
    metrics = (await own.ask("GET", "/metrics")).body.decode()
    assert 'acordo_own_store{state="emptied"} 1.0' in metrics
    assert 'acordo_own_store{state="sound"} 0.0' in metrics
    assert 'acordo_unready{reason="disk_lost"} 1.0' in metrics


async def test_a_copy_that_cannot_be_used_is_told_to_clients(own: Api) -> None:
    own.consensus.refusal = "own_store_catching_up"
    (await own.ask("PUT", "/v1/kv/a", data=b"1")).problem(503, "starting")
    (await own.ask("GET", "/v1/kv/a")).problem(503, "starting")
    own.consensus.refusal = "own_store_undecided"
    (await own.ask("PUT", "/v1/kv/a", data=b"1")).problem(503, "own_store_undecided")


async def test_nothing_comes_from_memory_while_the_copy_cannot_be_used(own: Api) -> None:
    """R3, R5: what a diverged member remembers is as wrong as its file."""
    done = await own.ask("PUT", "/v1/kv/a", data=b"1", headers={"Idempotency-Key": "op"})
    assert done.status == 201
    watch = await own.session.get(own.url + "/v1/watch?prefix=")
    assert await watch.content.readuntil(b"event: progress")
    own.consensus.refusal = "own_store_diverged"
    for level in ("linearizable", "session", "stale"):
        (await own.ask("GET", f"/v1/kv/a?consistency={level}")).problem(503, "starting")
    (await own.ask("GET", "/v1/operations/op")).problem(504, "outcome_unknown", "unknown")
    await watch.content.readuntil(b"event: error")
    assert b"starting" in await watch.content.readuntil(b"\n\n")
    watch.close()


async def test_a_change_of_leader_costs_a_read_no_refusal(own: Api) -> None:
    await own.ask("PUT", "/v1/kv/a", data=b"1")
    for reason in sorted(LEADER_CHANGES):
        own.consensus.no_leader = reason
        asked = own.consensus.read_indexes
        async with asyncio.TaskGroup() as tasks:
            read = tasks.create_task(own.ask("GET", "/v1/kv/a"))
            snapshot = tasks.create_task(own.ask("POST", "/v1/txn", json={"reads": ["a"]}))
            while own.consensus.read_indexes < asked + 2:  # both were refused once, and go on
                await asyncio.sleep(0)
            own.consensus.no_leader = None
        assert (read.result().status, read.result().body) == (200, b"1")
        assert snapshot.result().status == 200


async def test_where_no_leader_follows_reads_are_refused_as_soon_as_before() -> None:
    async with opened(kind="replicated", leader_change_s=0.05, quorum_retry_s=60) as own:
        await own.ask("PUT", "/v1/kv/a", data=b"1")
        own.consensus.no_leader = "no_leader"
        (await own.ask("GET", "/v1/kv/a")).problem(503, "no_leader")
        asked = own.consensus.read_indexes
        assert asked > 1
        (await own.ask("GET", "/v1/kv/a")).problem(503, "no_leader")
        assert own.consensus.read_indexes == asked
