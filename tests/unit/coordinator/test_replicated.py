"""Members with a store of their own: from Submit to the same rows everywhere, and back from a
restart.
"""

from __future__ import annotations

import pytest

from kv.errors import BadRequest
from kv.model import Absent, Answer, Applied, Refused
from tests.soundness import broken
from tests.unit.coordinator.cluster import answer, put
from tests.unit.coordinator.own_cluster import own_cluster
from tests.virtual import run, until


def test_write_through_a_follower_is_the_same_row_on_every_member() -> None:
    async def story() -> None:
        async with own_cluster("abc") as c:
            await c.lead("a")
            await until(lambda: c["b"].stamped and c["c"].stamped)
            assert await answer(c["b"], put("op1", b"k", b"v")) == Answer(1, Applied())
            assert await answer(c["c"], put("op2", b"k", guards=(Absent(b"k"),))) == Answer(
                2, Refused(0, 1)
            )
            await c.level()
            assert c.rows("a") == c.rows("b") == c.rows("c")
            assert [row.seq for row in c.rows("a")] == [1, 2]
            assert c.rows("a")[0].index > 0
            assert c.rows("a")[0].committer == ""
            assert len({n.machine.book.content for n in c.nodes.values()}) == 1
            assert all(not n.machine.pending and not broken(n.machine) for n in c.nodes.values())
            status = c["b"].status()
            assert (status.store_kind, status.store_state) == ("replicated", "sound")
            assert status.content_seq == 2

    run(story)


def test_restarted_member_takes_its_outcomes_from_its_file() -> None:
    async def story() -> None:
        async with own_cluster("ab") as c:
            a = await c.lead("a")
            for n in range(5):
                await answer(a, put(f"op{n}", b"k%d" % n))
            await c.level()
            await c.stop("b")
            await answer(a, put("last"))
            b = await c.start("b")
            assert b.refusal == "own_store_catching_up"
            await c.level()
            assert b.refusal is None
            assert b.own is not None
            assert (b.own.settling.replayed, b.own.settling.rows) == (5, 1)
            assert c.rows("a") == c.rows("b")
            assert a.machine.settled == b.machine.settled
            assert a.machine.book == b.machine.book

    run(story)


def test_nothing_can_be_adopted() -> None:
    async def story() -> None:
        async with own_cluster("a") as c:
            a = await c.lead("a")
            with pytest.raises(BadRequest, match="its own store"):
                await a.adopt(timeout_s=1)

    run(story)
