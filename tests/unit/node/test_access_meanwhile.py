"""Access that changes while a request, a stream or a node's own catching up lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from kv.access import TOKENS
from node.reads.export import Export
from node.reads.inspection import Inspection
from tests.unit.node.conftest import Api, Open, opened
from tests.unit.node.test_access import Door, controlled, text


def meanwhile(api: Api) -> asyncio.Future[Door]:
    """Let access be controlled while the next confirmation of a read lasts."""
    confirmed = api.consensus.read_index
    done: asyncio.Future[Door] = asyncio.get_running_loop().create_future()

    async def read_index(*, timeout_s: float) -> None:
        api.consensus.read_index = confirmed  # type: ignore[method-assign]
        done.set_result(await controlled(api))
        await confirmed(timeout_s=timeout_s)

    api.consensus.read_index = read_index  # type: ignore[method-assign]
    return done


async def test_a_new_member_changes_nothing_before_it_knows_whether_access_is_controlled() -> None:
    async with opened(kind="replicated") as api:
        changed = meanwhile(api)
        (await api.ask("PUT", "/v1/kv/c", data=b"1")).problem(401, "not_signed_in")
        door = await changed
        assert (await door.ask("admin", "GET", "/v1/kv/c")).status == 404


async def test_a_new_member_that_nobody_confirms_changes_nothing() -> None:
    async with opened(kind="replicated") as api:
        api.consensus.no_leader = "no_leader"
        for method, path in (("PUT", "/v1/kv/c"), ("POST", "/v1/cluster/limits")):
            (await api.ask(method, path, data=b"")).problem(503, "no_leader")
        api.consensus.no_leader = None
        assert (await api.ask("PUT", "/v1/kv/c", data=b"")).status == 201


async def test_an_operator_removes_a_member_where_no_store_can_be_confirmed() -> None:
    async with opened(kind="replicated") as api:
        api.consensus.refusal, api.consensus.no_leader = "own_store_undecided", "store_refused"
        (await api.ask("DELETE", "/v1/cluster/members/n9")).problem(404, "unknown_member")
        (await api.ask("PUT", "/v1/kv/c", data=b"")).problem(503, "own_store_undecided")


async def test_what_was_read_before_access_was_controlled_is_told_to_nobody_after() -> None:
    async with opened(kind="replicated") as api:
        assert (await api.ask("PUT", "/v1/kv/a/1", data=b"1")).status == 201
        changed = meanwhile(api)
        (await api.ask("GET", "/v1/kv/a/1")).problem(503, "starting")
        await changed
        (await api.ask("GET", "/v1/kv/a/1")).problem(401, "not_signed_in")


STREAMS: list[tuple[str, str, Any]] = [
    ("GET", "/v1/watch?prefix=a/", None),
    ("POST", "/v3/watch", {"create_request": {"key": text("a/"), "range_end": text("a0")}}),
    ("POST", "/v3/election/observe", {"name": text("a")}),
]


@pytest.mark.parametrize(("method", "path", "form"), STREAMS, ids=[each[1] for each in STREAMS])
async def test_a_stream_from_before_access_was_controlled_ends(
    open_api: Open, method: str, path: str, form: Any
) -> None:
    async with open_api(etcd=True) as api:
        more = {} if form is None else {"json": form}
        async with api.session.request(method, api.url + path, **more) as response:
            assert response.status == 200
            await controlled(api)  # and puts a/1
            rest = await response.content.read()
        assert b"a/1" not in rest
        assert text("a/1").encode() not in rest
        assert b"not_signed_in" in rest or b"invalid auth token" in rest


async def test_a_stream_goes_on_after_a_jump_where_access_is_not_controlled(
    open_api: Open,
) -> None:
    async with open_api() as api, api.session.get(f"{api.url}/v1/watch?prefix=a/") as response:
        assert (await api.ask("PUT", "/v1/kv/a/1", data=b"1")).status == 201
        api.consensus.quiet = True
        assert (await api.ask("PUT", "/v1/kv/a/2", data=b"2")).status == 201
        api.consensus.quiet = False
        api.consensus.jump()
        assert (await api.ask("PUT", "/v1/kv/a/3", data=b"3")).status == 201
        told = b""
        while b"a/3" not in told:
            told += await response.content.readline()
    assert b"a/2" in told
    assert b"error" not in told


async def test_who_waits_for_a_lock_waits_no_longer_once_access_is_controlled(
    open_api: Open,
) -> None:
    async with open_api(etcd=True) as api:
        first = (await api.ask("POST", "/v3/lock/lock", json={"name": text("a/l")})).json()
        waits = asyncio.create_task(api.ask("POST", "/v3/lock/lock", json={"name": text("a/l")}))
        while not len(api.server.services.watches):
            await asyncio.sleep(0)
        door = await controlled(api)
        await door.ask("admin", "POST", "/v3/lock/unlock", json={"key": first["key"]})
        assert (await waits).status == 401


async def test_a_backup_and_a_verification_end_with_the_right_to_them(
    open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api() as api:
        door = await controlled(api)

        async def revoked(part: Any) -> AsyncIterator[Any]:
            await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['keeper']}")
            yield part

        ways: list[tuple[str, object, str, object]] = [
            ("/v1/backup", Export, "_present", b""),
            ("/v1/verify", Inspection, "steps", {}),
        ]
        for path, of, name, part in ways:
            await door.token("keeper", "admin")
            with monkeypatch.context() as patch:
                patch.setattr(of, name, lambda self, part=part: revoked(part))
                reply = await door.ask("keeper", "GET", path)
            assert reply.status == 200
            assert b"not_signed_in" in reply.body
            assert b"done" not in reply.body


async def test_a_token_with_an_end_is_none_where_the_time_is_not_known(open_api: Open) -> None:
    async with open_api() as api:
        door = await controlled(api)
        await door.token("short", "own", ttl=3600)
        api.consensus.shown = {"stamped": False}
        (await door.ask("short", "GET", "/v1/kv/a/1?consistency=stale")).problem(503, "starting")
        assert (await door.ask("owner", "GET", "/v1/kv/a/1?consistency=stale")).status == 200
        api.consensus.shown = {}
        assert (await door.ask("short", "GET", "/v1/kv/a/1")).status == 200


async def test_what_the_store_does_not_have_is_forgotten(
    open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api() as api:
        door = await controlled(api)
        access = api.server.services.access
        key = TOKENS + door.ids["reader"].encode()
        revoked = access._records[key]
        lost = msgspec.structs.replace(revoked, revision=10**9)  # of a log that lost its end
        await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['reader']}")
        access._records[key] = lost
        access._build()
        assert (await door.ask("reader", "GET", "/v1/kv/a/1")).status == 200
        api.consensus.refusal = "own_store_catching_up"
        assert not await access.load()
        api.consensus.refusal = None
        monkeypatch.setattr("node.access.access.REREAD_S", 0.001)
        access._doubted.set()  # so that the next wait is a short one
        while (await door.ask("reader", "GET", "/v1/kv/a/1")).status != 401:
            await asyncio.sleep(0)


async def test_what_settles_while_the_policy_is_read_is_not_lost(open_api: Open) -> None:
    async with open_api() as api:
        door = await controlled(api)
        access, listed = api.server.services.access, api.server.services.store.list
        revoked = asyncio.Event()

        async def slow(*prefix: bytes, **how: Any) -> Any:
            found = await listed(*prefix, **how)
            await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['reader']}")
            revoked.set()
            return found

        access._store = SimpleNamespace(list=slow)
        assert await access.load()
        assert revoked.is_set()
        (await door.ask("reader", "GET", "/v1/kv/a/1")).problem(401, "not_signed_in")
