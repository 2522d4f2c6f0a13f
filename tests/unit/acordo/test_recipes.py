"""Recipes where something goes wrong that a running cluster does not do at will."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from acordo import BadRequest, Client, SyncClient
from acordo._errors import Undone
from acordo._recipes import meeting
from acordo._recipes.counting import exactly_once
from acordo._sync._recipes import background
from acordo.recipes import Barrier, Lock, Queue, Session
from acordo.recipes.sync import Registration
from tests.unit.node.conftest import Api, opened


@pytest.fixture
async def node() -> AsyncIterator[Api]:
    async with opened() as made:
        yield made


@pytest.fixture
async def client(node: Api) -> AsyncIterator[Client]:
    async with Client(node.url) as made:
        yield made


async def test_one_object_is_not_given_to_two_who_ask_with_it_at_once(client: Client) -> None:
    async with Lock(client, "l"):
        shared = Lock(client, "l")
        first = asyncio.create_task(shared.acquire())
        async with asyncio.timeout(60):
            while await client.count("l/") < 2:
                await asyncio.sleep(0.01)
        with pytest.raises(BadRequest, match="another call waits"):
            await shared.acquire()
        assert await client.count("l/") == 2, "the first one stands in the line still"
    assert await first
    assert shared.held
    assert shared.guard().key.startswith(b"l/")
    await shared.release()


async def test_a_machine_that_slept_holds_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monotonic clock stands still meanwhile, and the lease does not."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("no such clock")
    real = time.clock_gettime
    async with Session(client, ttl_s=30) as session:
        assert not session.is_lost
        monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + 60)
        assert session.is_lost


async def test_a_closed_client_costs_the_lease_aloud(node: Api) -> None:
    client = await Client(node.url).open()
    session = Session(client, ttl_s=1)
    await session.begin()
    await client.close()
    assert await session.lost.wait(30)
    with pytest.raises(RuntimeError, match="not open"):
        await session.end()


async def test_who_waits_looks_anew_when_what_was_told_is_void(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, void = client.poll, 0

    async def poll(*given: Any, **named: Any) -> Any:
        nonlocal void
        if named.get("after") is not None and void < 3:
            void += 1
            raise Undone("a quorum lost the end of its log", after=0, floor=None)
        return await real(*given, **named)

    monkeypatch.setattr(client, "poll", poll)
    async with Lock(client, "l"):
        waiting = asyncio.create_task(Lock(client, "l").acquire(timeout_s=60))
        async with asyncio.timeout(60):
            while void < 3:
                await asyncio.sleep(0.01)
    assert await waiting
    void = 0
    taking = asyncio.create_task(Queue(client, "q").take(timeout_s=60))
    async with asyncio.timeout(60):
        while void < 3:
            await asyncio.sleep(0.01)
    await Queue(client, "q").put("item")
    assert await taking == b"item"
    void = 0
    met = await asyncio.gather(
        *(Barrier(client, "b", parties=2).wait(timeout_s=60) for _ in range(2))
    )
    assert met == [True, True]


async def test_nobody_goes_through_a_barrier_that_is_not_open(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who would open it may find that its write never takes effect. The others wait then."""
    real, given_up = exactly_once, 0

    async def once(*given: Any) -> int | None:
        nonlocal given_up
        if not given_up:
            given_up += 1
            return None
        return await real(*given)

    monkeypatch.setattr(meeting, "exactly_once", once)
    assert await Barrier(client, "b", parties=1).wait(timeout_s=60)
    assert given_up == 1
    assert await client.get("b") is not None


async def test_a_name_within_another_is_another_one(client: Client) -> None:
    """A queue `q` has not the items of `q/urgent`, and a barrier not those who wait elsewhere."""
    outer, inner = Queue(client, "q"), Queue(client, "q/urgent")
    for n in range(10):  # more than a taker looks at
        await inner.put(f"urgent {n}")
    assert (await outer.take(), await outer.size(), await inner.size()) == (None, 0, 10)
    await outer.put("usual")
    assert await outer.take() == b"usual"
    for n in range(2):
        await client.put(f"b/inner/{n:016x}", "")
    assert not await Barrier(client, "b", parties=2).wait(timeout_s=0)


async def test_a_registration_ends_with_its_block_also_while_it_is_made_again(
    node: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that makes it again may be in a call that outlasts the block."""
    monkeypatch.setattr(background, "STOP_TIMEOUT_S", 0.0)
    again, go_on = threading.Event(), threading.Event()

    def work() -> threading.Thread:
        with SyncClient(node.url) as client:
            registration = Registration(client, "r", "here", ttl_s=30)
            with registration:
                made = registration._register

                def late() -> Any:
                    again.set()
                    go_on.wait(60)
                    return made()

                registration._register = late  # type: ignore[method-assign]
                assert registration._session is not None
                registration._session.lost.set()
                again.wait(60)
                thread: threading.Thread = registration._background._thread  # type: ignore[union-attr]
            go_on.set()
            thread.join(60)
            assert client.get("r") is None
            return thread

    assert not (await asyncio.to_thread(work)).is_alive()
