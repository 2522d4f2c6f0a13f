"""One member to three, from Submit to Settle: what clients hear, what the ledger holds, what the
members agree on.
"""

from __future__ import annotations

from kv.model import Answer, Applied
from tests.soundness import broken
from tests.unit.coordinator.cluster import answer, cluster, put
from tests.virtual import run


def test_write_through_a_follower_reaches_the_store_and_every_member() -> None:
    async def story() -> None:
        async with cluster("abc") as c:
            await c.lead("a")
            assert await answer(c["b"], put("op", b"k", b"v")) == Answer(1, Applied())
            assert c.value(b"k") == b"v"
            await c.settled()
            assert len({n.machine.settled for n in c.nodes.values()}) == 1
            assert all(not broken(n.machine) for n in c.nodes.values())

    run(story)
