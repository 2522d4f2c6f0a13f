"""Names of peers: looked up at each dial, whatever the resolver does."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from cluster.ports import free_port
from coordinator.raft.net.dialer import Dialer
from coordinator.raft.net.security import SharedSecret
from tests.unit.raft.net.members import Member, addresses, closed, until

SECRET = SharedSecret(b"a secret that all members share")


async def test_a_name_is_looked_up_at_each_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    where = addresses("n1", "n2")
    port = where["n2"].rpartition(":")[2]
    one = Member("n1", where | {"n2": f"moving.example:{port}"}, security=SECRET)
    two = Member("n2", where, security=SECRET)
    two.transport.rest(two.nodes["n1"])
    loop = asyncio.get_running_loop()
    asked = []

    async def look_up(host: str, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    await two.transport.start()
    await one.transport.start()
    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    await until(lambda: len(asked) >= 2)
    assert "Name or service not known" in one.transport.trouble(one.nodes["n2"])
    await until(lambda: one.connected("n2"))
    assert set(asked) == {"moving.example"}
    assert one.transport.trouble(one.nodes["n2"]) == ""
    await closed(one, two)


async def test_a_resolver_that_hangs_is_asked_once_and_complains_to_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    asked, answered = [], loop.create_future()

    async def look_up(host: str, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        return await answered

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    dialer = Dialer(loop, 1.0)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await dialer.connect(asyncio.Protocol, "nobody.example", 1)
    answered.set_exception(
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    )
    await until(lambda: not dialer._lookups)
    assert asked == ["nobody.example"]
    assert not complaints


async def test_a_name_that_stands_for_several_addresses_is_reached_at_the_one_that_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    port = free_port()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", port)

    async def look_up(host: str, *rest: Any, **more: Any) -> Any:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 0))
            for ip in ("127.0.0.9", "127.0.0.1")
        ]

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    transport, _ = await Dialer(loop, 2.0).connect(asyncio.Protocol, "both.example", port)
    assert transport.get_extra_info("peername") == ("127.0.0.1", port)
    transport.close()
    server.close()
