"""Leases, locks and elections of etcd's gateway: turns, ends, and clients that vanish."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from kv.model import Again, Intent, Mismatch, Put, Version
from node.etcd import election
from node.writes import leases
from node.writes import take_backs as module
from node.writes.take_backs import Left
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


async def test_no_request_reaches_a_key_of_the_system(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        mine = await lease(api)
        for secret in (b"acordo/leases/%016x" % int(mine), b"acordo/others/tokens/1"):
            if b"others" in secret:
                put = Intent("~other", 2**50, (), (Put(secret, b"secret"),))
                await api.consensus.submit((put,))[0]
            key, end = {"key": b64(secret)}, {"range_end": b64(secret + b"0")}
            told = [
                await asked(api, "kv/range", **key, **more)
                for more in ({}, end, {"count_only": True}, {"sort_order": 1}, {"revision": "1"})
            ]
            got = {"request_range": key | end}
            steps = await asked(api, "kv/txn", success=[got, {"request_range": key}])
            told += [each["response_range"] for each in steps["responses"]]
            compared = {"compare": [{**key, "target": "VERSION", "version": "1"}]}
            named = (
                ("kv/put", key),
                ("kv/deleterange", key),
                ("kv/txn", compared),
                ("kv/txn", {"success": [{"request_put": key}]}),
                ("kv/txn", {"success": [{"request_delete_range": key}]}),
                ("lock/unlock", key),
                ("election/proclaim", {"leader": key}),
                ("election/resign", {"leader": key}),
                ("lock/lock", {"name": b64(b"acordo/leases"), "lease": mine}),
            )
            for path, body in named:
                assert "are the system's" in (await error(api, f"/v3/{path}", body))[2]
            assert not [each for each in told if {"kvs", "count"} & set(each)]
            said = await error(api, "/v3/election/leader", {"name": b64(b"acordo/others/tokens")})
            assert said[2] == "election: no leader"


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


async def test_a_lease_that_ends_fails_no_other_keep_alive_of_a_stream(
    open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "ENDING_WAIT_S", 0.1)
    async with open_api(etcd=True) as api:
        mine, ending = await lease(api), await lease(api)
        api.consensus.ending = {int(ending): 1_000_000}
        body = b'{"ID":"%s"}{"ID":"%s"}' % (ending.encode(), mine.encode())
        reply = await api.ask("POST", "/v3/lease/keepalive", data=body)
        first, second = (msgspec.json.decode(line) for line in reply.body.splitlines())
        assert first["error"]["grpc_code"] == 14
        assert (second["result"]["ID"], second["result"]["TTL"]) == (mine, "60")


@pytest.mark.parametrize("brings_lease", [False, True])
@pytest.mark.parametrize("path", ["lock/lock", "election/campaign"])
async def test_a_key_that_may_have_been_put_is_taken_back(
    open_api: Open, path: str, brings_lease: bool
) -> None:
    async with open_api(etcd=True) as api:
        more = {"lease": await lease(api)} if brings_lease else {}
        api.consensus.hold = True
        asking = asyncio.ensure_future(
            api.ask(
                "POST",
                f"/v3/{path}",
                json={"name": b64(b"l"), **more},
                headers={"Acordo-Timeout": "1"},
            )
        )

        async def held() -> bool:
            return bool(api.consensus.held)

        if not brings_lease:  # its grant
            await until(held)
            api.consensus.commit_held()
        await until(held)
        reply = await asking
        assert (reply.status, reply.json()["code"]) == (503, 14)
        assert "may have been applied" in reply.json()["message"]
        assert len(api.server.services.take_backs) == 1
        api.consensus.hold = False
        api.consensus.commit_held()  # the put lands only now

        async def done() -> bool:
            return len(api.server.services.take_backs) == 0

        await until(done)
        assert await keys(api, b"l/") == []
        assert len((await asked(api, "lease/leases")).get("leases", ())) == brings_lease


async def test_a_put_that_was_never_ordered_comes_too_late_for_good(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        put = Intent("async-~n1.x.1", 2**50, (), (Put(b"l/7", b""),))
        api.server.services.take_backs.add(Left(b"l/7", 7, put.op_id))
        await api.server.services.take_backs.wait_done()
        (late,) = api.consensus.submit((put,))
        assert isinstance((await late).outcome, Mismatch | Again)
        assert await keys(api, b"l/") == []


@pytest.mark.parametrize("path", ["lock/lock", "election/campaign"])
async def test_a_key_that_was_claimed_again_is_not_taken_back(
    open_api: Open, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that was told "unknown" asks again, under its lease, and holds the lock."""
    async with open_api(etcd=True) as api:
        take_backs, kept = api.server.services.take_backs, list[Left]()
        monkeypatch.setattr(take_backs, "add", kept.append)
        body = {"name": b64(b"l"), "lease": await lease(api)}
        api.consensus.lose = True
        assert (await error(api, f"/v3/{path}", body))[:2] == (503, 14)
        api.consensus.lose = False
        await asked(api, path, **body)
        monkeypatch.undo()
        take_backs.add(kept[0])
        await take_backs.wait_done()
        assert len(await keys(api, b"l/")) == 1


async def test_what_cannot_be_taken_back_is_left_to_its_lease(
    open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(etcd=True) as api:
        take_backs = api.server.services.take_backs
        monkeypatch.setattr(module, "TRIED_S", 0.0)
        api.consensus.no_leader = "no_quorum"
        take_backs.add(Left(b"l/7", 7, "async-~n1.x.1"))
        await take_backs.wait_done()
        assert take_backs.given_up == 1
        monkeypatch.setattr(module, "HELD_MAX", 0)
        take_backs.add(Left(b"l/7", 7, "async-~n1.x.1"))
        assert (len(take_backs), take_backs.given_up) == (0, 2)
