"""Recipes on a real node, in both forms."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Self

import pytest

import acordo
from acordo import Client, SyncClient, recipes
from acordo.recipes import Lost, NotAcquired, NotHeld
from acordo.recipes import sync as sync_recipes


class InThreads:
    """A synchronous recipe with the face of the asynchronous one."""

    def __init__(self, kind: type, one: Any) -> None:
        self._kind, self._one = kind, one

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._one.__enter__)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self._one.__exit__, *exc)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._one, name)
        if inspect.iscoroutinefunction(inspect.getattr_static(self._kind, name, None)):
            return lambda *given, **named: asyncio.to_thread(found, *given, **named)
        return found


class Forms:
    """Recipes of one form, made by name, with clients of that form."""

    def __init__(self, form: str, url: str, client: Client, blocking: SyncClient) -> None:
        self._sync, self.url, self.client, self._blocking = form == "sync", url, client, blocking

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kind = getattr(recipes, name)
        if not self._sync:
            return lambda *given, **named: kind(self.client, *given, **named)
        made = getattr(sync_recipes, name)
        if not inspect.isclass(kind):
            return lambda *a, **k: asyncio.to_thread(made, self._blocking, *a, **k)
        return lambda *a, **k: InThreads(kind, made(self._blocking, *a, **k))


@pytest.fixture(params=["async", "sync"])
async def of(request: pytest.FixtureRequest, acordo_node: acordo.Embedded) -> Any:
    async with Client(acordo_node.urls) as client:
        with SyncClient(acordo_node.urls) as blocking:
            yield Forms(request.param, acordo_node.url, client, blocking)


async def test_a_lock_has_one_holder_whose_token_grows(of: Forms, acordo_prefix: str) -> None:
    name, inside, tokens = acordo_prefix + "lock", 0, []

    async def work() -> None:
        nonlocal inside
        async with of.Lock(name) as lock:
            inside += 1
            assert inside == 1
            tokens.append(lock.token)
            await of.client.put(acordo_prefix + "k", "v")
            inside -= 1

    await asyncio.gather(*(work() for _ in range(5)))
    assert len(set(tokens)) == 5
    assert tokens == sorted(tokens)
    assert await of.client.count(name + "/") == 0


async def test_without_the_lock_nothing_is_entered(of: Forms, acordo_prefix: str) -> None:
    name = acordo_prefix + "lock"
    outside = of.Lock(name)
    with pytest.raises(NotHeld):
        outside.check()
    async with of.Lock(name):
        with pytest.raises(NotAcquired):
            async with of.Lock(name, timeout_s=0.2):
                pytest.fail("it was entered")
        assert not await of.Lock(name).acquire(timeout_s=0)
        assert await of.client.count(name + "/") == 1
    other = of.Lock(name)
    assert await other.acquire(timeout_s=0)
    assert other.held
    await other.release()
    assert not other.held


async def test_a_lost_lock_is_told_and_fenced(of: Forms, acordo_prefix: str) -> None:
    name, key = acordo_prefix + "lock", acordo_prefix + "k"

    async def work() -> None:
        async with of.Lock(name, ttl_s=1) as lock:
            guard = lock.guard()
            await of.client.txn(guards=[guard], writes=[acordo.put(key, "mine")])
            (stands,) = [found.key async for found in of.client.list(name + "/")]
            await of.client.revoke_lease(stands.decode().rpartition("/")[2])
            with pytest.raises(acordo.TransactionRefused):
                await of.client.txn(guards=[guard], writes=[acordo.put(key, "late")])
            assert await lock.wait_lost(30)
            assert not lock.held
            with pytest.raises(Lost):
                lock.check()

    with pytest.raises(Lost, match="inside the block"):
        await work()
    found = await of.client.get(key)
    assert found is not None
    assert found.text == "mine"


async def test_a_cluster_out_of_reach_costs_the_lock_before_its_ttl(acordo_prefix: str) -> None:
    """Nobody says that it is lost: the holder knows by its own clock."""
    node = acordo.embedded()
    async with node, Client(node.urls, timeout_s=0.2) as client:
        lock = recipes.Lock(client, acordo_prefix + "lock", ttl_s=1)
        assert await lock.acquire()
        node.kill(node.url)
        assert await lock.wait_lost(30)
        assert not lock.held
        await lock.release()


async def test_an_election_says_who_leads(of: Forms, acordo_prefix: str) -> None:
    name = acordo_prefix + "election"
    async with of.Election(name, value="first") as first:
        assert (await first.leader()).text == "first"
        second = of.Election(name, value="second")
        coming = asyncio.create_task(second.acquire())
        while await of.client.count(name + "/") < 2:
            await asyncio.sleep(0.01)
        assert (await second.leader()).text == "first"
    assert await coming
    assert (await second.leader()).text == "second"
    await second.release()
    assert await second.leader() is None


async def test_a_semaphore_has_so_many_holders_and_no_more(of: Forms, acordo_prefix: str) -> None:
    inside, most = 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with of.Semaphore(acordo_prefix + "s", places=2):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.02)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(6)))
    assert most == 2


async def test_counters_and_updates_lose_nothing(of: Forms, acordo_prefix: str) -> None:
    counter = of.Counter(acordo_prefix + "n")
    made = await asyncio.gather(*(counter.add() for _ in range(20)))
    assert sorted(made) == list(range(1, 21))
    assert await counter.value() == 20
    lease = await of.client.grant_lease(60)
    await of.client.put(acordo_prefix + "u", "a", lease=lease.id)
    done = await of.update(acordo_prefix + "u", lambda value: value + b"b")
    found = await of.client.get(acordo_prefix + "u")
    assert found is not None
    assert (done.value, found.value, found.lease) == (b"ab", b"ab", lease.id)
    gone = await of.update(acordo_prefix + "u", lambda value: None)
    assert (gone.value, await of.client.get(acordo_prefix + "u")) == (None, None)
    await of.client.put(acordo_prefix + "n", "many")
    with pytest.raises(acordo.BadRequest, match="no number"):
        await counter.add()


async def test_each_item_of_a_queue_is_taken_once_and_in_order(
    of: Forms, acordo_prefix: str
) -> None:
    queue = of.Queue(acordo_prefix + "q")
    assert await queue.take() is None
    for n in range(12):
        await queue.put(str(n))
    assert await queue.size() == 12
    assert [await queue.take() for _ in range(3)] == [b"0", b"1", b"2"]
    taken = await asyncio.gather(*(queue.take() for _ in range(9)))
    assert sorted(taken, key=int) == [str(n).encode() for n in range(3, 12)]
    waiting = asyncio.create_task(queue.take(timeout_s=None))
    await queue.put("late")
    assert await waiting == b"late"


async def test_a_barrier_opens_when_all_are_there(of: Forms, acordo_prefix: str) -> None:
    barrier = of.Barrier(acordo_prefix + "b", parties=3)
    assert not await barrier.wait(timeout_s=0.1)
    waiting: list[Awaitable[bool]] = [barrier.wait(), barrier.wait(), barrier.wait()]
    assert await asyncio.gather(*waiting) == [True] * 3
    assert await barrier.wait()  # for good


async def test_a_registration_comes_back_after_its_lease_was_lost(
    of: Forms, acordo_prefix: str
) -> None:
    key = acordo_prefix + "me"
    async with of.Registration(key, "here", ttl_s=1) as registration:
        found = await of.client.get(key)
        assert found is not None
        await of.client.revoke_lease(found.lease or "")
        while (again := await of.client.get(key)) is None:
            await asyncio.sleep(0.05)
        assert (again.text, registration.interruptions) == ("here", 1)
        assert again.lease != found.lease
    assert await of.client.get(key) is None


async def test_a_view_follows_its_prefix(of: Forms, acordo_prefix: str) -> None:
    first, second = (acordo_prefix + each for each in ("a", "b"))
    await of.client.put(first, "1")
    async with of.View(acordo_prefix) as view:
        assert {key: each.value for key, each in view.keys.items()} == {first.encode(): b"1"}
        await of.client.put(second, "2")
        gone = await of.client.delete(first)
        assert await view.reached(gone.revision)
        assert {key: each.value for key, each in view.keys.items()} == {second.encode(): b"2"}
        with pytest.raises(TypeError):
            view.keys[b"x"] = None
