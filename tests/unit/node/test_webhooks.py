"""/v1/webhooks: secrets that nobody reads, and deliveries of what their owner may read now."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from backends.local.cache import MemoryCache
from kv.access import ACCESS_PREFIX, hash_of
from kv.webhooks import standard_signature
from tests.unit.node.conftest import Api, Open, opened
from tests.unit.node.test_access import Door, controlled

URL = "https://example.org/hook"
SECRET = "0123456789abcdef-given"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with opened(kind="replicated") as one:
        yield one


@pytest.fixture
async def door(api: Api) -> Door:
    return await controlled(api)


async def create(door: Door, who: str, name: str, **more: object) -> Any:
    form = {"name": name, "url": URL, **more}
    made = await door.ask(who, "POST", "/v1/webhooks", json=form)
    assert made.status == 201, made.body
    return made.json()


def body(key: str, **more: object) -> dict[str, object]:
    told = {"schema": 1, "type": "put", "key": key, "revision": 9, **more}
    raw = base64.b64encode(json.dumps(told).encode()).decode()
    return {"id": "w/9-0", "timestamp": 12, "body": raw}


async def told(door: Door, name: str, key: str, **more: object) -> bool:
    signed = await door.ask("admin", "POST", f"/v1/webhooks/{name}/sign", json=body(key, **more))
    assert signed.status == 200, signed.body
    found = signed.json()
    assert found["told"] == ("standard" in found) == ("acordo" in found)
    return bool(found["told"])


def test_signatures_are_those_of_standard_webhooks() -> None:
    """The example of the specification."""
    assert (
        standard_signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
        )
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


async def test_a_secret_is_told_once(door: Door) -> None:
    made = await create(door, "reader", "w", prefix="a/")
    assert made["secret"].startswith("whsec_") and made["owner"] == "reader" and made["delivers"]
    assert len(base64.b64decode(made["secret"][6:])) == 32
    shown = (await door.ask("reader", "GET", "/v1/webhooks/w")).json()
    assert shown == {key: value for key, value in made.items() if key != "secret"}
    assert (await door.ask("admin", "GET", "/v1/webhooks")).json() == {"webhooks": [shown]}
    assert "secret" not in await create(door, "reader", "v", prefix="a/", secret=SECRET)


@pytest.mark.parametrize("on", [False, True])
async def test_secrets_are_read_by_nobody_by_any_way(open_api: Open, on: bool) -> None:
    async with open_api(etcd=True) as api:
        door = await controlled(api) if on else Door(api)
        await create(door, "admin", "w", secret=SECRET)
        made = await create(door, "admin", "v")
        key = "acordo/access/webhooks/w"
        encoded = base64.b64encode(key.encode()).decode()
        zero = base64.b64encode(b"\0").decode()
        asked: list[tuple[str, str, Any]] = [
            *(("GET", path, None) for path in (
                f"/v1/kv/{key}", f"/v1/kv/{key}?consistency=stale", f"/v1/kv/{key}?revision=9",
                f"/v1/history/{key}", "/v1/kv", "/v1/kv?prefix=acordo/", f"/kv?key={key}",
                "/v1/kv?sort=revision", "/v1/ledger", "/v1/webhooks", "/v1/webhooks/w", "/metrics",
            )),
            ("POST", "/v1/txn", {"reads": [key]}),
            ("POST", "/v1/txn", {"guards": [{"key": key, "value": "x"}], "reads": [key]}),
            ("POST", "/v3/kv/range", {"key": encoded}),
            ("POST", "/v3/kv/range", {"key": zero, "range_end": zero}),
            ("POST", "/v3/kv/deleterange", {"key": zero, "range_end": zero, "prev_kv": True}),
        ]  # fmt: skip
        for method, path, form in asked:
            answer = await door.ask("admin", method, path, json=form)
            assert answer.body, (method, path)
            for secret in (SECRET, made["secret"]):
                spelled = (secret, base64.b64encode(secret.encode()).decode())
                assert not any(each.encode() in answer.body for each in spelled), (method, path)
        assert len((await door.ask("admin", "GET", "/v1/webhooks")).json()["webhooks"]) == 2


async def test_a_watch_tells_no_secret(door: Door) -> None:
    at = door.api.consensus.settled.last
    await create(door, "admin", "w", secret=SECRET)
    await door.ask("admin", "PUT", "/v1/kv/a/1", data=b"last")
    head = {"Authorization": f"Bearer {door.tokens['admin']}"}
    seen = b""
    url = f"{door.api.url}/v1/watch?after={at}"
    async with asyncio.timeout(10), door.api.session.get(url, headers=head) as stream:
        while b'"last"' not in seen:
            seen += await stream.content.readany()
    assert SECRET.encode() not in seen and ACCESS_PREFIX not in seen


class RecordingCache(MemoryCache):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    async def put(self, space: Any, entries: Any) -> None:
        self.seen += [entry.key for entry in entries]
        await super().put(space, entries)


async def test_secrets_do_not_go_to_the_shared_cache() -> None:
    cache = RecordingCache()
    async with opened(cache=cache) as api:
        door = Door(api)
        await create(door, "admin", "w")
        await api.ask("PUT", "/v1/kv/last", data=b"")
        while b"last" not in cache.seen:
            await asyncio.sleep(0)
        assert not [key for key in cache.seen if key.startswith(ACCESS_PREFIX)]


async def test_webhooks_are_of_their_owner(door: Door) -> None:
    await create(door, "reader", "w", prefix="a/")
    (await door.ask("owner", "GET", "/v1/webhooks/w")).problem(404, "not_there")
    (await door.ask("owner", "DELETE", "/v1/webhooks/w")).problem(404, "not_there")
    (await door.ask("owner", "GET", "/v1/webhooks/none")).problem(404, "not_there")
    assert (await door.ask("owner", "GET", "/v1/webhooks")).json() == {"webhooks": []}
    form = {"name": "w", "url": URL, "prefix": "a/"}
    (await door.ask("owner", "POST", "/v1/webhooks", json=form)).problem(409, "name_taken")
    assert (await door.ask("reader", "DELETE", "/v1/webhooks/w")).json() == {"removed": "w"}
    (await door.ask("reader", "GET", "/v1/webhooks/w")).problem(404, "not_there")


@pytest.mark.parametrize("prefix", ["", "b/", "a", "acordo/", "acordo/access/"])
async def test_nobody_subscribes_to_what_it_may_not_read(door: Door, prefix: str) -> None:
    form = {"name": "w", "url": URL, "prefix": prefix}
    (await door.ask("reader", "POST", "/v1/webhooks", json=form)).problem(403, "not_allowed")
    form["prefix"] = "a/"
    (await door.ask("writer", "POST", "/v1/webhooks", json=form)).problem(403, "not_allowed")
    await door.role("anonymous", {"prefix": "a/", "read": True})
    (await door.ask(None, "POST", "/v1/webhooks", json=form)).problem(401, "not_signed_in")


async def test_only_what_the_owner_may_read_now_is_signed(door: Door) -> None:
    await create(door, "admin", "w")
    await door.ask("admin", "PUT", "/v1/webhooks/w/owner", json={"owner": "reader"})
    assert await told(door, "w", "a/1") and not await told(door, "w", "b/1")
    assert await told(door, "w", "", type="undone")
    assert not await told(door, "w", "b/1", type="undone")
    assert not await told(door, "w", "acordo/webhooks/cursors/w")
    await door.role("reads", {"prefix": "a/2", "read": True})
    assert not await told(door, "w", "a/1") and await told(door, "w", "a/2")


async def test_an_owner_who_was_revoked_is_told_nothing(door: Door) -> None:
    await create(door, "reader", "w", prefix="a/")
    assert await told(door, "w", "a/1")
    await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['reader']}")
    assert not await told(door, "w", "a/1") and not await told(door, "w", "", type="undone")
    (shown,) = (await door.ask("admin", "GET", "/v1/webhooks")).json()["webhooks"]
    assert shown["delivers"] is False
    await door.token("reader", "reads")
    assert await told(door, "w", "a/1")  # a token was exchanged


async def test_an_expired_owner_is_told_nothing(door: Door) -> None:
    await door.token("short", "reads", ttl=3600)
    await create(door, "short", "w", prefix="a/")
    access = door.api.server.services.access
    now_ms = access.now_ms()
    access.now_ms = lambda: now_ms + 3_600_001  # type: ignore[method-assign]
    assert not await told(door, "w", "a/1")


async def test_what_was_subscribed_before_access_was_controlled_waits_for_an_owner(
    api: Api,
) -> None:
    door = Door(api)
    assert (await create(door, "admin", "w"))["owner"] is None
    assert await told(door, "w", "b/1")
    door = await controlled(api)
    assert not await told(door, "w", "b/1")
    given = await door.ask("admin", "PUT", "/v1/webhooks/w/owner", json={"owner": "admin"})
    assert given.json()["delivers"] and await told(door, "w", "b/1")


async def test_signing_and_giving_are_the_admins(door: Door) -> None:
    await create(door, "owner", "w", prefix="a/")
    for who, status in (("owner", 403), (None, 401)):
        assert (
            await door.ask(who, "POST", "/v1/webhooks/w/sign", json=body("a/1"))
        ).status == status
        given = await door.ask(who, "PUT", "/v1/webhooks/w/owner", json={"owner": "owner"})
        assert given.status == status


@pytest.mark.parametrize(
    ("change", "code"),
    [({"url": "ftp://h/"}, "bad_url"), ({"url": "http://u:p@h/"}, "bad_url"),
     ({"url": "http://h/\n"}, "bad_url"), ({"name": "a/b"}, "bad_name"),
     ({"secret": "short"}, "invalid_body"), ({"after": -1}, "invalid_body"),
     ({"more": 1}, "invalid_body")],
)  # fmt: skip
async def test_what_is_no_webhook_is_refused(
    door: Door, change: dict[str, object], code: str
) -> None:
    form = {"name": "w", "url": URL} | change
    (await door.ask("admin", "POST", "/v1/webhooks", json=form)).problem(400, code)


async def test_one_principal_takes_no_more_than_its_share(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.access.webhooks.WEBHOOKS_OF_ONE_MAX", 2)
    for name in ("v", "w"):
        await create(door, "reader", name, prefix="a/")
    form = {"name": "x", "url": URL, "prefix": "a/"}
    (await door.ask("reader", "POST", "/v1/webhooks", json=form)).problem(400, "too_many")
    await create(door, "owner", "x", prefix="a/")


async def test_one_that_stands_as_a_key_moves_and_goes_on_where_it_was(api: Api) -> None:
    earlier, cursor = "acordo/webhooks/subscriptions/w", "acordo/webhooks/cursors/w"
    for key in (earlier, cursor):
        await api.ask("PUT", f"/v1/kv/{key}", data=b"old")
    at = int((await api.ask("GET", f"/v1/kv/{earlier}")).headers["ETag"].strip('"'))
    form = {"name": "w", "url": URL, "secret": SECRET, "after": 3, "replaces": at + 1}
    (await api.ask("POST", "/v1/webhooks", json=form)).problem(409, "access_changed")
    moved = await api.ask("POST", "/v1/webhooks", json=form | {"replaces": at})
    assert (moved.status, moved.json()["after"]) == (201, 3)
    assert (await api.ask("GET", f"/v1/kv/{earlier}")).status == 404
    assert (await api.ask("GET", f"/v1/kv/{cursor}")).body == b"old"
    await api.ask("DELETE", "/v1/webhooks/w")
    assert (await api.ask("GET", f"/v1/kv/{cursor}")).status == 404


async def test_moving_is_the_admins(door: Door) -> None:
    form = {"name": "w", "url": URL, "prefix": "a/", "replaces": 1}
    (await door.ask("owner", "POST", "/v1/webhooks", json=form)).problem(403, "not_allowed")


async def test_who_holds_the_rescue_token_is_no_owner() -> None:
    async with opened(rescue_token_hash=hash_of("r" * 32)) as api:
        door = await controlled(api)
        door.tokens["rescue"] = "r" * 32
        form = {"name": "w", "url": URL}
        (await door.ask("rescue", "POST", "/v1/webhooks", json=form)).problem(403, "not_allowed")
