"""Reads of a member's own store while it is written: each is of one moment, and of none before the
call.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from kv.ports import MemberStore
from tests.contract.groups import T, delete, put
from tests.contract.history import History
from tests.contract.member_adapters import Disk

ROUNDS = 150
KEYS = [b"k%02d" % n for n in range(8)]


class Racing:
    """A store in which every step writes the same value under half of the keys and deletes the
    others, so that what is read tells of which moment it is.
    """

    def __init__(self, store: MemberStore, seed: int) -> None:
        self.store, self.random = store, random.Random(seed)
        self.history = History()
        self.moments: dict[int, dict[bytes, bytes]] = {0: {}}
        """The present keys, by the revision of the head."""
        self.done = False

    async def write(self) -> None:
        present: dict[bytes, bytes] = {}
        for n in range(ROUNDS):
            value = b"%d" % n * self.random.choice([1, 2000])
            kept = {key for key in KEYS if self.random.random() < 0.5}
            intents = [
                put(f"c{n}-{key!r}", key, value, expires_ms=n + 1)
                if key in kept
                else delete(f"c{n}-{key!r}", key)
                for key in KEYS
            ]
            step = self.history.submit(*intents, log_time_ms=1000 + n)
            present = dict.fromkeys(kept, value)
            self.store.settle(step)
            self.moments[self.history.head.last] = present
            if self.random.random() < 0.3:
                await self.store.wait_written(self.history.note.index, timeout_s=T)
            for _ in range(self.random.randint(0, 3)):
                await asyncio.sleep(0)
        self.done = True

    async def read(self, count: list[int]) -> None:
        store = self.store
        while not self.done:
            since = self.history.head
            match self.random.randint(0, 4):
                case 0:
                    read = await store.read(KEYS, settled=since.last, timeout_s=T)
                    present = [each for each in read.versions if each and each.present]
                    self._judge(since.last, read.head.last, {e.key: e.value for e in present})
                    assert read.digest_at == (since.digest if since.last else None)
                case 1:
                    page = await store.list(b"", limit=self.random.choice([3, 9]), timeout_s=T)
                    self._judge_page(since.last, page.head.last, page.versions, page.more)
                case 2:
                    rows = await store.rows(max(since.last - 8 * 5, 0), 99, timeout_s=T)
                    firsts = [row.first for row in rows]
                    assert firsts == list(range(firsts[0], firsts[-1] + 1, 8)) if rows else True
                    assert (rows[-1].last if rows else 0) >= since.last
                case 3:
                    due = await store.due(10**9, 99, timeout_s=T)
                    moments = {revision - 1 - (revision - 1) % 8 + 8 for _, revision in due}
                    assert len(moments) <= 1
                    if due:
                        last = moments.pop()
                        assert last >= since.last
                        assert {key for key, _ in due} == set(self.moments[last])
                case _:
                    ledger = await store.ledger(1, 10_000, timeout_s=T)
                    assert [row.seq for row in ledger] == list(range(1, len(ledger) + 1))
                    assert len(ledger) >= since.seq
            count[0] += 1

    def _judge(self, since: int, last: int, found: Mapping[bytes, object]) -> None:
        assert last >= since
        assert found == self.moments[last]

    def _judge_page(self, since: int, last: int, versions: object, more: bool) -> None:
        assert last >= since
        there = sorted(self.moments[last].items())
        found = [(each.key, each.value) for each in versions]  # type: ignore[attr-defined]
        assert found == there[: len(found)]
        assert more or len(found) == len(there)


async def test_every_read_is_of_one_moment_at_or_after_its_call(disk: Disk) -> None:
    for seed in range(3):
        async with disk.store() as store:
            racing, count = Racing(store, seed), [0]
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                group.create_task(racing.write())
                for _ in range(4):
                    group.create_task(racing.read(count))
            assert count[0] > ROUNDS / 4
        disk.delete()
