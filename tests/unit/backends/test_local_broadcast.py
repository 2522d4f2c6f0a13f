"""What the in-process broadcast does beyond its port: many subscribers, slow ones, ended ones."""

from __future__ import annotations

import asyncio

import pytest

from backends.local.broadcast import LocalBroadcast
from kv.errors import BackendUnavailable
from kv.ports import Change


def changes(first: int, last: int) -> list[Change]:
    return [Change(n, f"op-{n}", n, ()) for n in range(first, last + 1)]


async def test_each_subscriber_hears_all_that_is_published_after_it_began() -> None:
    async with LocalBroadcast() as broadcast:
        early = broadcast.subscribe()
        await broadcast.publish(changes(1, 2), timeout_s=1)
        late = broadcast.subscribe()
        await broadcast.publish(changes(3, 4), timeout_s=1)
        assert [await anext(early) for _ in range(4)] == changes(1, 4)
        assert [await anext(late) for _ in range(2)] == changes(3, 4)


async def test_a_waiting_subscriber_wakes() -> None:
    async with LocalBroadcast() as broadcast:
        subscription = broadcast.subscribe()
        waiting = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        await broadcast.publish(changes(1, 1), timeout_s=1)
        assert await waiting == changes(1, 1)[0]


async def test_a_slow_subscriber_is_cut_and_holds_nobody_up() -> None:
    async with LocalBroadcast(backlog_max=3) as broadcast:
        slow, quick = broadcast.subscribe(), broadcast.subscribe()
        for n in range(1, 6):
            await broadcast.publish(changes(n, n), timeout_s=1)
            assert await anext(quick) == changes(n, n)[0]
        assert [await anext(slow) for _ in range(3)] == changes(1, 3), "what it had is not lost"
        with pytest.raises(BackendUnavailable, match="behind"):
            await anext(slow)
        await broadcast.publish(changes(6, 6), timeout_s=1)
        with pytest.raises(BackendUnavailable):
            await anext(slow)


async def test_closing_ends_the_subscriptions_after_what_they_hold() -> None:
    async with LocalBroadcast() as broadcast:
        subscription = broadcast.subscribe()
        await broadcast.publish(changes(1, 2), timeout_s=1)
    assert [each async for each in subscription] == changes(1, 2)
    with pytest.raises(BackendUnavailable):
        await broadcast.publish(changes(3, 3), timeout_s=1)
    with pytest.raises(BackendUnavailable):
        broadcast.subscribe()
    assert not broadcast.healthy()


async def test_leaving_ends_one_subscription_only() -> None:
    async with LocalBroadcast() as broadcast:
        stays = broadcast.subscribe()
        with broadcast.subscribe() as goes:
            pass
        broadcast.leave(goes)
        await broadcast.publish(changes(1, 1), timeout_s=1)
        assert [each async for each in goes] == []
        assert await anext(stays) == changes(1, 1)[0]
