"""A worker delivers what a subscription's owner may read at that moment, and knows no secret."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import REGISTRY

from acordo import Client
from cluster.workers import rules, served, webhooks
from cluster.workers.sender import DeliveryLimits
from cluster.workers.webhooks import Webhooks
from tests.unit.node.conftest import Api, opened
from tests.unit.node.test_access import Door, controlled

QUICK = DeliveryLimits(allow_private=True, backoff_s=0.01, backoff_max_s=0.02, attempts_max=1000)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with opened(kind="replicated") as one:
        yield one


class Target:
    """A receiver that checks the signature of what it takes, and refuses while it is shut."""

    def __init__(self) -> None:
        self.secret = self.url = ""
        self.keys: list[str] = []
        self.asked = 0
        self.shut = False

    async def take(self, request: web.Request) -> web.Response:
        self.asked += 1
        body, head = await request.read(), request.headers
        signed = f"{head['webhook-id']}.{head['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        assert head["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
        if self.shut:
            return web.Response(status=500)
        self.keys.append(msgspec.json.decode(body)["key"])
        return web.Response()


@asynccontextmanager
async def receiving() -> AsyncIterator[Target]:
    target, application = Target(), web.Application(client_max_size=1 << 22)
    application.router.add_post("/", target.take)
    async with TestServer(application) as server:
        target.url = str(server.make_url("/"))
        yield target


@asynccontextmanager
async def working(client: Client, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(webhooks, "SCAN_EVERY_S", 0.02)
    async with Webhooks(client, "worker", QUICK, rng=random.Random(1)) as hooks:
        running = asyncio.create_task(hooks.run())
        yield
        running.cancel()
        await asyncio.wait([running])


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


async def put(door: Door, *keys: str) -> None:
    for key in keys:
        await door.ask("admin", "PUT", f"/v1/kv/{key}", data=b"v")


async def subscribed(door: Door, target: Target, owner: str) -> None:
    form = {"name": "w", "url": target.url}
    made = await door.ask("admin", "POST", "/v1/webhooks", json=form)
    target.secret = made.json()["secret"]
    given = await door.ask("admin", "PUT", "/v1/webhooks/w/owner", json={"owner": owner})
    assert given.status == 200


def withheld() -> float:
    name = "acordo_webhook_attempts_total"
    return REGISTRY.get_sample_value(name, {"result": "withheld"}) or 0.0


@asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Door, Target]]:
    """Serve a subscription of everything that is the reader's, who may read a/."""
    async with opened(kind="replicated") as api, receiving() as target:
        door = await controlled(api)
        await subscribed(door, target, "reader")
        async with (
            Client(api.url, token=door.tokens["admin"]) as client,
            working(client, monkeypatch),
        ):
            await put(door, "a/1", "b/1", "a/2")
            await until(lambda: len(target.keys) == 2)
            target.shut = True
            asked = target.asked
            await put(door, "a/3")
            await until(lambda: target.asked > asked)  # it is on its way, again and again
            yield door, target


async def test_what_may_not_be_read_any_more_is_left_out_of_what_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(monkeypatch) as (door, target):
        before = withheld()
        await door.role("reads", {"prefix": "a/9", "read": True})
        await until(lambda: withheld() > before)
        target.shut = False
        await put(door, "a/4", "a/9")
        await until(lambda: "a/9" in target.keys)
    assert target.keys == ["a/1", "a/2", "a/9"]


async def test_an_owner_who_was_revoked_is_told_nothing_until_it_has_a_token_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(monkeypatch) as (door, target):
        lease = "/v1/kv/" + rules.LEASES + "w"
        assert (await door.ask("admin", "GET", lease)).status == 200
        await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['reader']}")
        while (await door.ask("admin", "GET", lease)).status == 200:
            await asyncio.sleep(0.005)
        asked, target.shut = target.asked, False
        await put(door, "a/4")
        for _ in range(20):  # looks for subscriptions
            await door.ask("admin", "GET", "/v1/webhooks")
        assert (target.keys, target.asked) == (["a/1", "a/2"], asked)
        await door.token("reader", "reads")
        await until(lambda: "a/4" in target.keys)
    assert target.keys.index("a/3") >= 2 and "b/1" not in target.keys


async def test_a_subscription_that_stood_as_a_key_is_moved_and_rewritten(api: Api) -> None:
    form = {"url": "http://example.org/", "secret": "s" * 20, "after": 7}
    async with Client(api.url) as client:
        hooks = Webhooks(client, "worker", QUICK, rng=random.Random(1))
        async with hooks:
            for after in (7, 9):
                await client.put(
                    rules.SUBSCRIPTIONS + "w", msgspec.json.encode(form | {"after": after})
                )
                async with asyncio.TaskGroup() as tasks:
                    await hooks.scan(tasks)
                    for _, task in hooks._serving.values():
                        task.cancel()
                (found,) = await client.webhooks()
                assert (found.name, found.after, found.secret) == ("w", after, None)
                assert await client.get(rules.SUBSCRIPTIONS + "w") is None


async def test_a_subscription_stays_a_key_while_a_member_may_be_of_an_earlier_version(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = msgspec.structs.replace(api.consensus.status(), feature_level=1)
    monkeypatch.setattr(api.consensus, "status", lambda: early)
    async with Client(api.url) as client, receiving() as target:
        target.secret = base64.b64encode(b"0123456789abcdef").decode()
        form = {"url": target.url, "secret": "whsec_" + target.secret, "prefix": "k"}
        await client.put(rules.SUBSCRIPTIONS + "w", msgspec.json.encode(form))
        async with working(client, monkeypatch):
            await client.put("k1", b"v")
            await until(lambda: target.keys == ["k1"])
        assert await client.get(rules.SUBSCRIPTIONS + "w") is not None
        assert not await client.webhooks()


async def test_a_value_that_json_makes_long_is_delivered_too(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have whoever writes under the prefix, and nothing behind it may wait for ever."""
    door = await controlled(api)
    async with receiving() as target, Client(api.url, token=door.tokens["admin"]) as client:
        await subscribed(door, target, "admin")
        async with working(client, monkeypatch):
            long = b"\x01" * rules.VALUE_BYTES_MAX
            await door.ask("admin", "PUT", "/v1/kv/a%2Flong", data=long)
            await put(door, "a%2Fnext")
            await until(lambda: {"a/long", "a/next"} <= set(target.keys))


async def test_what_cannot_be_signed_is_kept_and_blocks_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead letter of a gap has no body, and may be replayed as any other."""
    door = await controlled(api)
    monkeypatch.setattr(served, "REPLAYS_EVERY_S", 0.02)
    async with receiving() as target, Client(api.url, token=door.tokens["admin"]) as client:
        await subscribed(door, target, "admin")
        letter = rules.DeadLetter("w", "w/1-gap", 1, "", "pruned", 0)
        await client.put(f"{rules.REPLAYS}w/1-gap", msgspec.json.encode(letter))
        async with working(client, monkeypatch):
            async with asyncio.timeout(10):
                while await client.get(f"{rules.REPLAYS}w/1-gap") is not None:
                    await asyncio.sleep(0.01)
            await put(door, "a%2Fnext")
            await until(lambda: "a/next" in target.keys)
            assert await client.get(f"{rules.DEAD}w/1-gap") is not None
