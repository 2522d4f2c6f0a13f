"""The broadcast: the ledger in order, at least once, without a gap, whoever leads, whatever the
broker does (INV-6).
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses

from coordinator.background.publisher import CURSOR
from kv.access import ACCESS_PREFIX
from kv.model import Applied, AtRevision, Delete, Intent, Put
from tests.unit.coordinator.audit import broken_promises
from tests.unit.coordinator.cluster import FAR_MS, QUIET, Cluster, answer, cluster, delete, put
from tests.virtual import run, until


def heard(c: Cluster) -> list[int]:
    return [change.revision for change in c.broadcast.changes]


def test_changes_in_revision_order_with_all_their_versions() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a = await c.lead("a")
            await answer(a, Intent("txn", FAR_MS, writes=(Put(b"a", b"1"), Put(b"b", b"2"))))
            await answer(a, put("refused", guards=(AtRevision(b"k", (9,)),)))
            await answer(a, delete("nothing"))
            await answer(a, Intent("swap", FAR_MS, writes=(Delete(b"a"), Put(b"c", b"3"))))
            await until(lambda: len(c.broadcast.changes) == 2)
            first, second = c.broadcast.changes
            assert (first.revision, first.op_id) == (1, "txn")
            assert [(v.key, v.value) for v in first.versions] == [(b"a", b"1"), (b"b", b"2")]
            assert (second.revision, second.op_id) == (4, "swap")
            assert [(v.key, v.value) for v in second.versions] == [(b"a", None), (b"c", b"3")]
            assert first.log_time_ms == c.database.ledger(2, 1)[0].log_time_ms
            assert "rows" not in c.scripts["a"].calls  # all of it was at hand

    run(story)


def test_what_is_of_access_is_not_told_from_memory_or_from_the_ledger() -> None:
    async def story() -> None:
        for memory in (8, 1):
            settings = dataclasses.replace(QUIET, publish_buffer_max=memory)
            async with cluster("a", settings=settings) as c:
                a = await c.lead("a")
                c.broadcast.down = True
                await answer(a, put("secret", key=ACCESS_PREFIX + b"webhooks/w"))
                both = (Put(ACCESS_PREFIX + b"epoch", b"1"), Put(b"k", b"v"))
                await answer(a, Intent("both", FAR_MS, writes=both))
                await answer(a, put("last", key=ACCESS_PREFIX + b"tokens/t"))
                c.broadcast.down = False
                await until(lambda: c["a"].publisher.lag == 0)  # it is awaited here
                keys = [version.key for each in c.broadcast.changes for version in each.versions]
                assert keys == [b"k"]
                assert heard(c) == [2]

    run(story)


def test_dead_broker_slows_no_write_and_misses_nothing_afterwards() -> None:
    async def story() -> None:
        async with cluster(
            "a", settings=dataclasses.replace(QUIET, publish_buffer_max=2, publish_rows_max=3)
        ) as c:
            a = await c.lead("a")
            c.broadcast.down = True
            started_s = asyncio.get_running_loop().time()
            for n in range(20):
                assert (await answer(a, put(f"op{n}"))).outcome == Applied()
            assert asyncio.get_running_loop().time() - started_s < 1
            await c.settled()
            assert a.publisher.lag == 20
            assert a.publisher.trouble is not None
            c.broadcast.down = False
            await until(lambda: len(c.broadcast.changes) == 20)
            assert heard(c) == list(range(1, 21))
            assert a.publisher.trouble is None
            assert broken_promises(c) == set()
            await until(lambda: a.publisher.lag == 0)

    run(story)


def test_next_leader_goes_on_from_the_durable_cursor() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await until(lambda: c.database.cursor(CURSOR) == 1)
            await answer(a, put("op2"))
            await until(lambda: heard(c) == [1, 2])
            b = await c.lead("b")  # before the cursor moved: revision 2 is told again
            assert a.publisher.lag is None
            await answer(b, put("op3"))
            await until(lambda: 3 in heard(c))
            assert heard(c) == [1, 2, 2, 3]
            assert broken_promises(c) == set()
            await until(lambda: c.database.cursor(CURSOR) == 3)

    run(story)


def test_cursor_moves_seldom() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            started_s = asyncio.get_running_loop().time()
            for n in range(200):
                await answer(a, put(f"op{n}"))
            await until(lambda: c.database.cursor(CURSOR) == 200)
            took_s = asyncio.get_running_loop().time() - started_s
            assert (
                c.scripts["a"].calls.count("move_cursor")
                <= took_s / c.settings.cursor_interval_s + 2
            )

    run(story)


def test_store_down_only_delays_the_broadcast() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            c.scripts["a"].down = True
            c.shared.elect("a")
            await asyncio.sleep(5)
            c.scripts["a"].down = False
            await until(lambda: c["a"].committer.taken_over)
            await answer(c["a"], put("op1"))
            await until(lambda: heard(c) == [1])

    run(story)


def test_pruned_rows_are_stepped_over_with_a_word() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            c.broadcast.down = True
            a = await c.lead("a")
            for n in range(4):
                await answer(a, put(f"op{n}"))
            del c.database._rows[:3]  # against the rules: by hand
            b = await c.lead("b")
            c.broadcast.down = False
            await answer(b, put("last"))
            await until(lambda: 5 in heard(c))
            assert heard(c) == [3, 4, 5]

    run(story)


def test_a_store_that_is_behind_for_a_moment_makes_nothing_told() -> None:
    """An asynchronous copy, or a snapshot, in the place of the store, and then the right
    one again.
    """

    async def story() -> None:
        async with cluster("a", settings=dataclasses.replace(QUIET, publish_buffer_max=2)) as c:
            a = await c.lead("a")
            await answer(a, put("op0"))
            await until(lambda: c.database.cursor(CURSOR) == 1)
            c.broadcast.down = True
            for n in range(1, 10):
                await answer(a, put(f"op{n}"))
            await c.settled()
            for lost in (9, 5):
                right = copy.deepcopy(c.database.__dict__)
                c.database.lose_rows(lost)
                c.broadcast.down = False
                await asyncio.sleep(5)
                c.broadcast.down = True
                c.database.__dict__.update(right)
            c.broadcast.down = False
            await until(lambda: len(heard(c)) >= 10)
            await answer(a, put("op10"))
            await until(lambda: heard(c)[-1] == 11)
            assert heard(c) == list(range(1, 12))
            assert broken_promises(c) == set()

    run(story)


def test_an_adoption_is_told_between_what_the_ledger_kept_and_what_comes_after() -> None:
    async def story() -> None:
        async with cluster("ab", settings=dataclasses.replace(QUIET, publish_buffer_max=2)) as c:
            a = await c.lead("a")
            for n in range(1, 4):
                await answer(a, put(f"op{n}"))
            await until(lambda: heard(c) == [1, 2, 3] and c.database.cursor(CURSOR) == 3)
            c.broadcast.down = True
            for n in range(4, 8):
                await answer(a, put(f"op{n}"))
            await c.settled()
            c.database.lose_rows(2)
            await c.shared.members["a"].transfer("a", timeout_s=1)
            await until(lambda: c[c.shared.leader or "a"].status().gives_up is not None)
            leader = c[c.shared.leader or "a"]
            c.broadcast.down = False
            await asyncio.sleep(5)
            assert heard(c) == [1, 2, 3], "nothing is told out of a store that is refused"
            adopted = await leader.adopt(gives_up=2, timeout_s=5)
            assert adopted == 8
            await answer(leader, put("after"))
            await until(lambda: heard(c)[-1] == 9)
            assert heard(c) == [1, 2, 3, 4, 5, 8, 9]
            assert [
                (c.revision, c.undone_after)
                for c in c.broadcast.changes
                if c.undone_after is not None
            ] == [(8, 5)]
            await until(lambda: c.database.cursor(CURSOR) == 9)
            other = await c.lead("b" if leader.node == "a" else "a")
            await answer(other, put("later"))
            await until(lambda: heard(c)[-1] == 10)
            assert heard(c).count(8) == 1, "once told, it is behind the cursor"
            assert broken_promises(c) == set()

    run(story)
