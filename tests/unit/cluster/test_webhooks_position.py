"""A subscription that would begin at a position from the future is refused by name, and not asked for each second."""

from __future__ import annotations

import asyncio
import random

import msgspec
from structlog.testing import capture_logs

from acordo.client import Client
from cluster import webhook_rules as rules
from cluster.webhooks import Limits, Webhooks
from kv.model import Intent, Put
from tests.unit.node.conftest import Api, opened


def _leases_taken(api: Api) -> int:
    writes = [
        write for group in api.consensus.submits for each in group if isinstance(each, Intent) for write in each.writes
    ]
    return sum(1 for write in writes if isinstance(write, Put) and write.key == b"acordo/webhooks/leases/w")


async def test_a_subscription_from_the_future_rests_until_it_is_written_anew() -> None:
    async with opened() as api, Client(api.url) as client:
        form = {"url": "http://example.org/", "secret": "s" * 20, "after": 1_000_000}
        await client.put(rules.SUBSCRIPTIONS + "w", msgspec.json.encode(form))
        hooks = Webhooks(client, "worker", Limits(), chance=random.Random(1))
        async with hooks:
            with capture_logs() as said:
                for _ in range(3):
                    async with asyncio.TaskGroup() as tasks:
                        await hooks._scan(tasks)
            assert [each["event"] for each in said if each["log_level"] == "warning"] == ["deliveries wait"]
            assert "has not been given" in str(said[-1]["reason"])
            assert _leases_taken(api) == 1
            await client.put(rules.SUBSCRIPTIONS + "w", msgspec.json.encode(form | {"after": 2_000_000}))
            async with asyncio.TaskGroup() as tasks:
                await hooks._scan(tasks)
            assert _leases_taken(api) == 2
