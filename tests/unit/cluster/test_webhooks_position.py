"""Where a subscription may begin: not in the future, and behind an adoption only with word of what
it undid.
"""

from __future__ import annotations

import asyncio
import random

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from acordo import Client
from cluster.workers import rules
from cluster.workers.sender import DeliveryLimits
from cluster.workers.webhooks import Webhooks
from kv.model import Intent, Put
from kv.ports import Settled, UndoneRange
from tests.unit.node.conftest import Api, opened


def _leases_taken(api: Api) -> int:
    writes = [
        write
        for group in api.consensus.submits
        for each in group
        if isinstance(each, Intent)
        for write in each.writes
    ]
    return sum(
        1 for write in writes if isinstance(write, Put) and write.key == b"acordo/webhooks/leases/w"
    )


async def test_a_subscription_from_the_future_rests_until_it_is_written_anew() -> None:
    async with opened() as api, Client(api.url) as client:
        form = {"url": "http://example.org/", "secret": "s" * 20, "after": 1_000_000}
        await client.put(rules.SUBSCRIPTIONS + "w", msgspec.json.encode(form))
        hooks = Webhooks(client, "worker", DeliveryLimits(), rng=random.Random(1))
        async with hooks:
            with capture_logs() as said:
                for _ in range(3):
                    async with asyncio.TaskGroup() as tasks:
                        await hooks.scan(tasks)
            assert [each["event"] for each in said if each["log_level"] == "warning"] == [
                "deliveries wait"
            ]
            assert "has not been given" in str(said[-1]["reason"])
            assert _leases_taken(api) == 1
            await client.put(
                rules.SUBSCRIPTIONS + "w", msgspec.json.encode(form | {"after": 2_000_000})
            )
            async with asyncio.TaskGroup() as tasks:
                await hooks.scan(tasks)
            assert _leases_taken(api) == 2


async def test_a_target_is_told_what_an_adoption_undid_after_what_was_kept() -> None:
    heard: list[dict[str, object]] = []

    async def take(request: web.Request) -> web.Response:
        heard.append(msgspec.json.decode(await request.read()))
        return web.Response()

    target = web.Application()
    target.router.add_post("/", take)
    async with opened() as api, Client(api.url) as client, TestServer(target) as server:
        form = {"url": str(server.make_url("/")), "secret": "s" * 20, "prefix": "k", "after": 0}
        for key in ("k1", "k2", "k3"):
            await client.put(key, b"v")
        api.consensus.undone = UndoneRange(2, 3)
        await client.put(rules.SUBSCRIPTIONS + "w", msgspec.json.encode(form))
        hooks = Webhooks(client, "worker", DeliveryLimits(allow_private=True), rng=random.Random(1))
        async with hooks:
            running = asyncio.create_task(hooks.run())
            while len(heard) < 3:
                await asyncio.sleep(0.01)
            await client.put("k4", b"v")
            while len(heard) < 4:
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.wait([running])
    assert [(told["type"], told["key"]) for told in heard] == [
        ("put", "k1"),
        ("put", "k2"),
        ("undone", ""),
        ("put", "k4"),
    ]
    assert (heard[2]["after"], heard[2]["revision"]) == (2, 3)


async def test_a_target_is_told_what_the_log_has_lost_and_then_what_took_its_place() -> None:
    heard: list[dict[str, object]] = []

    async def take(request: web.Request) -> web.Response:
        heard.append(msgspec.json.decode(await request.read()))
        return web.Response()

    target = web.Application()
    target.router.add_post("/", take)
    async with (
        opened(kind="replicated") as api,
        Client(api.url) as client,
        TestServer(target) as server,
    ):
        form = {"url": str(server.make_url("/")), "secret": "s" * 20, "prefix": "k", "after": 0}
        for key in ("k1", "k2", "k3"):
            await client.put(key, b"v")
        await client.put(rules.SUBSCRIPTIONS + "w", msgspec.json.encode(form))
        hooks = Webhooks(client, "worker", DeliveryLimits(allow_private=True), rng=random.Random(1))
        async with hooks:
            running = asyncio.create_task(hooks.run())
            while len(heard) < 3:
                await asyncio.sleep(0.01)
            api.consensus.tell(Settled(1, 1, b"", (), None, 0, 1))
            while len(heard) < 6:
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.wait([running])
    assert [(told["type"], told["key"]) for told in heard[3:]] == [
        ("undone", ""),
        ("put", "k2"),
        ("put", "k3"),
    ]
    assert (heard[3]["after"], heard[3]["revision"]) == (1, 1)
