"""Leases, locks and elections of etcd's gateway: turns, ends, and clients that vanish."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from kv.errors import OutcomeUnknown
from kv.model import Applied, Intent, Version
from node.etcd import election
from node.etcd.call import Call
from tests.unit.node.conftest import Api, Open
from tests.unit.node.test_etcd import error


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def asked(api: Api, path: str, **body: Any) -> Any:
    reply = await api.ask("POST", f"/v3/{path}", json=body)
    assert reply.status == 200, reply.body
    return reply.json()


async def lease(api: Api, ttl: int = 60) -> str:
    return str((await asked(api, "lease/grant", TTL=ttl))["ID"])


async def keys(api: Api, name: bytes) -> list[bytes]:
    found = await asked(api, "kv/range", key=b64(name), range_end=b64(name[:-1] + b"\xff"))
    return [base64.b64decode(kv["key"]) for kv in found.get("kvs", ())]


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_a_lock_is_given_to_one_after_the_other(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        first = await asked(api, "lock/lock", name=b64(b"l"), lease=await lease(api))
        waiting = [
            asyncio.ensure_future(asked(api, "lock/lock", name=b64(b"l"), lease=await lease(api)))
            for _ in range(2)
        ]

        async def all_wait() -> bool:
            return len(await keys(api, b"l/")) == 3

        await until(all_wait)
        assert not any(each.done() for each in waiting)
        await asked(api, "lock/unlock", key=first["key"])
        done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        assert (len(done), len(left)) == (1, 1)
        await asked(api, "lock/unlock", key=done.pop().result()["key"])
        assert (await left.pop())["key"]


async def test_a_lock_ends_with_its_lease(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        mine = await lease(api)
        await asked(api, "lock/lock", name=b64(b"l"), lease=mine)
        waiting = asyncio.ensure_future(
            asked(api, "lock/lock", name=b64(b"l"), lease=await lease(api))
        )
        await asked(api, "lease/revoke", ID=mine)
        assert len(await keys(api, b"l/")) == 1
        assert (await waiting)["key"]


@pytest.mark.parametrize("path", ["lock/lock", "election/campaign"])
async def test_a_client_that_vanishes_leaves_no_key_and_no_watch(open_api: Open, path: str) -> None:
    async with open_api(etcd=True) as api:
        await asked(api, path, name=b64(b"l"), lease=await lease(api))
        going = await lease(api)
        waiting = asyncio.ensure_future(asked(api, path, name=b64(b"l"), lease=going))

        async def it_waits() -> bool:
            return len(api.server.services.watches) == 1

        await until(it_waits)
        assert len(await keys(api, b"l/")) == 2
        waiting.cancel()

        async def it_left() -> bool:
            return len(await keys(api, b"l/")) == 1

        await until(it_left)
        assert len(api.server.services.watches) == 0


async def test_a_client_that_vanishes_as_its_turn_comes_holds_no_lock(
    open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(etcd=True) as api:
        going = await lease(api)
        before = election._Candidate._before

        async def late(self: election._Candidate, revision: int) -> Version | None:
            found = await before(self, revision)
            waiting.cancel()
            await self._lost.wait()
            return found

        monkeypatch.setattr(election._Candidate, "_before", late)
        waiting = asyncio.ensure_future(asked(api, "lock/lock", name=b64(b"l"), lease=going))
        with pytest.raises(asyncio.CancelledError):
            await waiting

        async def it_left() -> bool:
            return await keys(api, b"l/") == []

        await until(it_left)


async def test_who_brings_no_lease_gets_one(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        taken = await asked(api, "lock/lock", name=b64(b"l"))
        found = await asked(api, "kv/range", key=taken["key"])
        told = await asked(api, "lease/timetolive", ID=found["kvs"][0]["lease"], keys=True)
        assert told["grantedTTL"] == "60"
        assert told["keys"] == [taken["key"]]


async def test_an_unknown_lease_takes_no_lock(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        said = await error(api, "/v3/lock/lock", {"name": b64(b"l"), "lease": "4711"})
        assert said == (500, 2, "etcdserver: requested lease not found")
        assert await keys(api, b"l/") == []


async def test_an_election_tells_its_observers_who_leads(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        won = (
            await asked(
                api, "election/campaign", name=b64(b"e"), lease=await lease(api), value=b64(b"1")
            )
        )["leader"]
        url, name = f"{api.url}/v3/election/observe", {"name": b64(b"e")}
        async with api.session.post(url, json=name) as stream, asyncio.timeout(10):

            async def told() -> bytes:
                form = msgspec.json.decode(await stream.content.readline())
                return base64.b64decode(form["result"]["kv"]["value"])

            assert await told() == b"1"
            await asked(api, "election/proclaim", leader=won, value=b64(b"2"))
            assert await told() == b"2"
            next_ = asyncio.ensure_future(
                asked(
                    api,
                    "election/campaign",
                    name=b64(b"e"),
                    lease=await lease(api),
                    value=b64(b"3"),
                )
            )
            await asked(api, "election/resign", leader=won)
            assert await told() == b"3"
            assert (await next_)["leader"]["name"] == b64(b"e")
        said = await error(api, "/v3/election/proclaim", {"leader": won, "value": b64(b"4")})
        assert said == (500, 2, "election: not leader")


async def test_leases_of_ten_years_are_granted_and_longer_than_etcd_s_refused(
    open_api: Open,
) -> None:
    async with open_api(etcd=True) as api:
        ten_years = 10 * 366 * 86400
        granted = await asked(api, "lease/grant", TTL=str(ten_years), ID=7)
        assert (granted["ID"], granted["TTL"]) == ("7", str(ten_years))
        assert (await error(api, "/v3/lease/grant", {"TTL": 9_000_000_001}))[:2] == (400, 11)
        assert (await error(api, "/v3/lease/grant", {"TTL": 5, "ID": 7}))[:2] == (412, 9)
        listed = await asked(api, "lease/leases")
        assert listed["leases"] == [{"ID": "7"}]


async def test_keys_of_leases_are_no_keys_of_clients(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        mine = await lease(api)
        everything = {"key": b64(b"\0"), "range_end": b64(b"\0")}
        assert "count" not in await asked(api, "kv/range", **everything)
        assert (await asked(api, "lease/timetolive", ID=mine))["grantedTTL"] == "60"
        body = {"key": b64(b"acordo/leases/%016x" % int(mine)), "value": b64(b"1")}
        assert (await error(api, "/v3/kv/put", body))[:2] == (400, 3)


async def test_many_keep_alives_come_in_one_request(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        mine = await lease(api)
        body = b'{"ID":"%s"}{"ID":99} {"ID":%s}' % (mine.encode(), mine.encode())
        reply = await api.ask("POST", "/v3/lease/keepalive", data=body)
        told = [msgspec.json.decode(line)["result"] for line in reply.body.splitlines()]
        assert [(each["ID"], each.get("TTL")) for each in told] == [
            (mine, "60"), ("99", None), (mine, "60"),
        ]  # fmt: skip
        assert api.consensus.renewed.count(int(mine)) == 2


@pytest.mark.parametrize("brings_lease", [False, True])
async def test_a_key_that_may_have_been_put_blocks_nobody(
    open_api: Open, monkeypatch: pytest.MonkeyPatch, brings_lease: bool
) -> None:
    """Under a lease of its own the request takes the key back; a client's may hold the lock."""
    write = Call.write

    async def unheard(call: Call, intent: Intent) -> tuple[int, Applied]:
        await write(call, intent)
        raise OutcomeUnknown("no outcome was heard in time", op_id=intent.op_id)

    async with open_api(etcd=True) as api:
        more = {"lease": await lease(api)} if brings_lease else {}
        monkeypatch.setattr(Call, "write", unheard)
        assert (await error(api, "/v3/lock/lock", {"name": b64(b"l"), **more}))[:2] == (503, 14)
        assert len(await keys(api, b"l/")) == brings_lease
