"""The client's whole face against an Acordo in memory."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

import acordo
from acordo import Change, Client, NotApplied, PreconditionFailed, Pruned, TransactionRefused
from tests.unit.acordo.fake_cluster import FakeCluster, problem

pytestmark = pytest.mark.usefixtures("both_forms")


async def test_put_get_delete_cas() -> None:
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        first = await client.put("k", "v1")
        assert (first.revision, first.existed) == (1, False)
        second = await client.cas("k", b"\xff\x00", if_revision=1)
        assert (second.revision, second.existed) == (2, True)
        with pytest.raises(PreconditionFailed) as caught:
            await client.cas("k", "v3", if_revision=1)
        assert (caught.value.current, caught.value.key) == (2, b"k")
        with pytest.raises(PreconditionFailed):
            await client.put("k", "v3", exists=False)
        found = await client.get("k")
        assert found is not None
        assert (found.value, found.revision) == (b"\xff\x00", 2)
        assert (await client.delete("k", if_revision=2)).existed is True
        assert await client.get("k") is None
        assert (await client.delete("k")).existed is False
        created = await client.cas("k", "new", if_revision=0)
        assert created.existed is False


async def test_a_lost_answer_is_found_again_by_its_op_id() -> None:
    """INV-3: the write whose answer is lost is repeated, and takes effect once."""
    async with FakeCluster(2) as cluster, Client(cluster.urls) as client:
        drops = iter(["drop", "drop"])
        cluster.trouble = lambda request: next(drops, None)
        written = await client.put("k", "v")
        assert (written.revision, written.again, written.attempts) == (1, True, 3)
        assert cluster.applied == 1


async def test_txn() -> None:
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        await client.put("a", "1")
        done = await client.txn(
            guards=[acordo.at_revision("a", 1), acordo.absent("b")],
            writes=[acordo.put("a", "2"), acordo.put("b", "2")],
            reads=["a", "b"],
        )
        assert (done.revision, done.branch) == (2, "then")
        assert [(r.key, r.value) for r in done.reads] == [(b"a", b"1"), (b"b", None)]
        with pytest.raises(TransactionRefused) as caught:
            await client.txn(
                guards=[acordo.exists("a"), acordo.equals("b", "x")], writes=[acordo.delete("a")]
            )
        assert (caught.value.guard, caught.value.current) == (1, 2)
        other = await client.txn(
            guards=[acordo.absent("a")],
            writes=[acordo.delete("a")],
            otherwise=[acordo.put("c", "3")],
        )
        assert other.branch == "otherwise"
        reading = await client.txn(reads=["a", "c"])
        assert [r.value for r in reading.reads] == [b"2", b"3"]
        assert reading.op_id is None


async def test_list_keeps_one_revision_over_pages() -> None:
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        await client.batch([acordo.put(f"p/{n:02}", str(n)) for n in range(25)])
        keys: list[str] = []
        async for found in client.list("p/", limit=10):
            if not keys:
                await client.delete("p/24")
                await client.put("p/05x", "late")
            keys.append(found.key.decode())
        assert keys == [f"p/{n:02}" for n in range(25)]
        assert [key async for key, _ in client.keys("p/", limit=7)][-1] == b"p/23"
        pages = client.pages("p/", limit=10)
        await anext(pages)
        cluster.floor = cluster.revision + 1
        with pytest.raises(Pruned):
            await anext(pages)


async def test_operation_look_up_settles() -> None:
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        written = await client.put("k", "v", op_id="mine")
        found = await client.operation("mine")
        assert (found.outcome, found.revision, found.definite) == (
            "applied",
            written.revision,
            True,
        )
        looked = await client.operation("nobody's")
        assert (looked.outcome, looked.code, looked.definite) == ("unknown", "not_ordered", False)
        assert (await client.put("k", "v", op_id="nobody's")).revision == written.revision + 1
        assert (await client.operation("nobody else's", settle=True)).outcome == "expired"
        with pytest.raises(NotApplied):
            await client.put("k", "v", op_id="nobody else's")


async def test_leader_cluster_ledger_transfer_async() -> None:
    async with FakeCluster(3) as cluster, Client(cluster.urls) as client:
        for n in range(5):
            await client.put("k", str(n))
        assert (await client.leader()).id == "n1"
        assert await client.transfer("n3") == "n3"
        seen = await client.cluster()
        assert (seen.leader, len(seen.members), seen.members[2].role) == ("n3", 3, "leader")
        rows = [row async for row in client.ledger(2, limit=2)]
        assert [row.seq for row in rows] == [2, 3, 4, 5]
        accepted = await client.submit_async(writes=[acordo.put("later", "1")])
        assert (await client.operation(accepted.op_id)).outcome == "applied"


async def test_a_dead_node_costs_one_attempt() -> None:
    async with FakeCluster(3) as cluster, Client(cluster.urls, spread=True) as client:
        cluster.dead.add("n2")
        for n in range(9):
            await client.put("k", str(n))
        found = await client.get("k")
        assert found is not None
        assert (found.text, cluster.applied) == ("8", 9)


async def test_elections_are_waited_out() -> None:
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        answers = iter([problem(503, "no_leader", outcome="not_applied") for _ in range(4)])
        cluster.trouble = lambda request: next(answers, None)
        assert (await client.put("k", "v")).attempts == 5


async def test_watch_follows_writes_over_cuts() -> None:
    async with FakeCluster(2) as cluster, Client(cluster.urls) as client:
        seen: list[Change] = []

        async def follow() -> None:
            async for event in client.watch("w/", after=0):
                assert isinstance(event, Change)
                seen.append(event)
                if event.key == b"w/end":
                    return

        cuts = iter(["", "cut"] * 5)
        cluster.trouble = lambda request: next(cuts, None) if request.path == "/v1/watch" else None
        async with asyncio.TaskGroup() as group:
            group.create_task(follow())
            for n in range(10):
                await client.txn(
                    writes=[
                        acordo.put(f"w/{n}", "1"),
                        acordo.put(f"w/{n}b", "2"),
                        acordo.put(f"x{n}", "3"),
                    ]
                )
            await client.put("w/end", "")
        revisions = [c.revision for c in seen]
        assert revisions == sorted(revisions)
        assert len({(c.key, c.revision) for c in seen}) == len(seen) == 21


async def test_every_answer_may_fail_once_and_nothing_is_doubled() -> None:
    async with FakeCluster(3) as cluster, Client(cluster.urls, spread=True) as client:
        count = 0

        def trouble(request: web.Request) -> web.StreamResponse | str | None:
            nonlocal count
            count += 1
            match count % 4:
                case 1:
                    return "drop"
                case 2:
                    return problem(503, "no_quorum", outcome="not_applied")
                case 3:
                    return web.Response(status=502, text="bad gateway", headers={"Acordo-Node": ""})
            return None

        cluster.trouble = trouble
        written = [await client.put(f"k{n}", "v") for n in range(20)]
        assert len({w.revision for w in written}) == cluster.applied == 20


async def test_a_poll_tells_what_a_watch_tells_and_ends() -> None:
    async with FakeCluster() as cluster, Client(cluster.urls, attempt_timeout_s=0.2) as client:
        begin = await client.poll("w/")
        assert (begin.events, begin.position) == ((), "0")
        await client.put("w/a", "1")
        await client.put("other", "2")
        await client.txn(writes=[acordo.put("w/b", "3"), acordo.delete("w/a")])
        found = await client.poll("w/", after=begin.position, wait_s=10)
        assert [(c.kind, c.key, c.value, c.last) for c in found.events] == [
            ("put", b"w/a", b"1", True),
            ("put", b"w/b", b"3", False),
            ("delete", b"w/a", None, True),
        ]
        assert (await client.poll("w/", after=found.position, wait_s=0.3)).events == ()
        waiting = asyncio.create_task(client.poll("w/", after=found.position, wait_s=60))
        await client.put("w/c", "4")
        assert [c.key for c in (await waiting).events] == [b"w/c"]
        cluster.floor = cluster.revision + 1
        with pytest.raises(Pruned):
            await client.poll("w/", after=1)


async def test_expiry_is_told_as_a_moment() -> None:
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        cluster.expires_ms[b"k"] = 1_796_000_000_500
        await client.put("k", "v")
        reading = await client.read("k")
        assert reading.expires_at is not None
        assert reading.expires_at.isoformat() == "2026-11-30T00:53:20.500000+00:00"
        await client.put("other", "v")
        assert (await client.read("other")).expires_at is None
