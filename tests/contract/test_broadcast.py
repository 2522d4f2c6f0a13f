"""Hold every Broadcast to its port: in revision order, at least once, whole (INV-6)."""

from __future__ import annotations

import asyncio

from kv.model import Reference, Version
from kv.ports import Broadcast, Change
from tests.contract.adapters import Hear

T = 10.0
Opened = tuple[Broadcast, Hear]


def change(revision: int) -> Change:
    return Change(
        revision, f"op-{revision}", 1000 + revision, (Version(b"k", revision, b"%d" % revision),)
    )


async def heard(hear: Hear, count: int) -> list[Change]:
    return await asyncio.wait_for(hear(count), T)


async def test_changes_arrive_whole_and_in_order(broadcast: Opened) -> None:
    published, hear = broadcast
    changes = [change(n) for n in range(1, 301)]
    await published.publish(changes[:1], timeout_s=T)
    await published.publish(changes[1:200], timeout_s=T)
    await published.publish(changes[200:], timeout_s=T)
    assert await heard(hear, 300) == changes
    assert published.healthy()


async def test_every_kind_of_version_arrives_as_it_is(broadcast: Opened) -> None:
    published, hear = broadcast
    versions = (
        Version(b"\x00\xff", 9, b"\x00\xff" * 1000),
        Version(b"gone", 9, None),
        Version(b"empty", 9, b"", 123_456_789_012),
        Version("ключ".encode(), 9, Reference("op/ü ~", b"\2" * 32, 1_000_000)),
        Version(b"large", 9, b"z" * 65_536),
    )
    sent = [Change(9, "op/ü ~", 1_700_000_000_000, versions), Change(2**53 - 1, "~n1-3", 0, ())]
    await published.publish(sent, timeout_s=T)
    assert await heard(hear, 2) == sent


async def test_publishing_nothing_and_publishing_again(broadcast: Opened) -> None:
    published, hear = broadcast
    await published.publish([], timeout_s=T)
    await published.publish([change(1), change(2)], timeout_s=T)
    # after a crash before the cursor moved
    await published.publish([change(1), change(2), change(3)], timeout_s=T)
    assert [each.revision for each in await heard(hear, 5)] == [1, 2, 1, 2, 3]
