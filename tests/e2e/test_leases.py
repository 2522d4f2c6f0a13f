"""Leases on three processes: kept alive through every node, over the death of the leader, and ended
when nobody keeps them alive.
"""

from __future__ import annotations

import pytest

from acordo import BadRequest, Client
from tests.e2e.conftest import Start, until

pytestmark = pytest.mark.timeout(240)

KEPT_TTL_S = 30.0
SHORT_TTL_S = 2.0
TIMES = 20


@pytest.mark.parametrize("start", ["replicated", "shared"], indirect=True)
async def test_a_lease_lives_as_long_as_it_is_kept_alive(start: Start) -> None:
    async with start() as cluster:
        urls = [node.url for node in cluster.nodes.values()]
        async with Client(urls, timeout_s=30) as client, Client(urls, spread=True) as any_node:
            lease = await client.grant_lease(KEPT_TTL_S)
            short = await client.grant_lease(SHORT_TTL_S)
            for key in ("a", "b"):
                await client.put(key, "v", lease=lease.id)
            await client.put("short", "v", lease=short.id)
            shown = await any_node.lease(lease.id, keys=True)
            assert shown is not None and shown.keys == (b"a", b"b")
            with pytest.raises(BadRequest) as refused:
                await client.put("c", "v", lease="1")
            assert refused.value.code == "lease_not_found"

            leader = await cluster.leader()
            assert leader is not None
            cluster.kill(leader)
            for _ in range(TIMES):
                kept = await any_node.keep_alive(lease.id)
                assert kept is not None and kept.ttl_s == KEPT_TTL_S
            assert await client.get("a") is not None

            async def gone() -> bool:
                return await client.get("short") is None

            await until(gone, "the lease that nobody kept alive has ended")
            assert await client.keep_alive(short.id) is None
            assert [each.id async for each in client.leases()] == [lease.id]
            revision = await client.revoke_lease(lease.id)
            assert revision is not None
            ended = []
            async for change in client.watch(after=revision - 1):
                ended.append((change.kind, change.key, change.revision))
                if change.last:
                    break
            keys = (b"a", f"acordo/leases/{lease.id}".encode(), b"b")
            assert ended == [("delete", key, revision) for key in keys]
            assert await client.revoke_lease(lease.id) is None
