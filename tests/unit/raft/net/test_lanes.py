"""A connection that is apart: dialled by who asks, in the same handshake, and nothing else waits
behind what it carries.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pysyncobj.node import Node

from coordinator.raft.net.security import Open, SharedSecret
from tests.unit.raft.net.members import Member, addresses, closed, command, until, vote

APART: dict[str, Any] = {
    "apart": ("apply_command", "response_vote"), "asks": ("apply_command",)
}  # fmt: skip
"""Commands are what is asked for in these tests, votes the answers."""


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[tuple[Member, Member]]:
    where = addresses("a", "b")
    a, b = (Member(name, where, **APART, **options) for name in where)
    await a.transport.start()
    await b.transport.start()
    try:
        await until(lambda: a.connected("b") and b.connected("a"))
        yield a, b
    finally:
        await closed(a, b)


async def reach(asking: Member, other: str) -> None:
    """Ask until there is a connection for it."""
    await until(lambda: asking.send(other, command(b"?")))


@pytest.mark.parametrize("security", [Open(), SharedSecret(b"a secret that all members share")])
@pytest.mark.parametrize("asks", ["a", "b"])
async def test_who_asks_dials_and_is_answered_there(security: Any, asks: str) -> None:
    async with pair(security=security) as (a, b):
        asking, other = (a, b) if asks == "a" else (b, a)
        assert not other.send(asking.id, vote(1)), "nobody has asked"
        assert not asking.send(other.id, command(b"?")), "it is dialled first"
        await reach(asking, other.id)
        await until(lambda: (asking.id, command(b"?")) in other.received)
        assert asking.wakes
        assert other.send(asking.id, vote(7))
        await until(lambda: (other.id, vote(7)) in asking.received)
        assert not other.send("b" if other is a else "a", command(b"?")), "that is for who asks"
        for member in (a, b):
            assert member.events == [("up", "b" if member is a else "a")], "the core hears nothing"
            assert member.transport.counters["connected"] == 1


async def test_nothing_waits_behind_what_is_apart() -> None:
    async with pair() as (a, b):
        await reach(a, "b")
        await until(lambda: bool(b.received))
        large = command(random.Random(1).randbytes(8 << 20))
        for _ in range(3):
            assert b.send("a", {**vote(1)})
            assert a.send("b", large)
        assert a.transport.queued_bytes(a.nodes["b"]) == 0
        await until(lambda: b.received.count(("a", large)) == 3)


async def test_a_connection_that_is_apart_ends_alone_and_begins_anew() -> None:
    async with pair() as (a, b):
        await reach(a, "b")
        lanes = b.transport._lanes
        assert lanes is not None
        await until(lambda: ("a", False) in lanes._ready)
        lanes._ready["a", False].close("lost")
        await until(lambda: not a.send("b", command(b"lost")))
        assert a.connected("b")
        await reach(a, "b")
        await until(lambda: b.send("a", vote(2)))
        assert b.connected("a")


async def test_a_connection_that_is_apart_is_closed_when_nothing_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coordinator.raft.net.lanes.IDLE_S", 0.1)
    async with pair() as (a, b):
        await reach(a, "b")
        await until(lambda: a.transport.counters["closed_apart_idle"] > 0)
        assert a.connected("b")
        assert b.connected("a")


async def test_who_is_no_member_any_more_has_no_connection_that_is_apart() -> None:
    async with pair() as (a, b):
        await reach(a, "b")
        await until(lambda: bool(b.received))
        b.transport.dropNode(Node("a"))
        assert not b.send("a", vote(1))
        await until(lambda: not a.send("b", command(b"?")))
        await until(lambda: a.transport.counters["closed_apart_turned_away"] > 0)


async def test_closing_ends_what_is_apart_too() -> None:
    where = addresses("a", "b")
    a, b = (Member(name, where, **APART) for name in where)
    await a.transport.start()
    await b.transport.start()
    await until(lambda: a.connected("b"))
    await reach(a, "b")
    b.send("a", command(b"?"))  # it is being dialled
    await closed(b)
    await until(lambda: not a.send("b", command(b"?")))
    await closed(a)
    await asyncio.sleep(0)
    assert not b.fatal
