"""Hold every member's own store against the one in memory, over generated lives: whatever happens
to both in the same order, both must show the same.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from backends.replicated import facts
from kv.ports import LocalRetention, MemberStore
from tests.contract.groups import Step as Intent
from tests.contract.groups import T, delete, put
from tests.contract.history import History, damaged_rows, settle
from tests.contract.member_adapters import DISKS, Disk, MemoryDisk

KEYS = [b"k", b"k/1", b"k/2", b"k/2/a", b"k\xff", b"l"]
LIVES = 12
EVENTS = 60


class Life:
    """One store under test and the one in memory, and the history that both are given."""

    def __init__(self, seed: int, disk: Disk, directory: Path) -> None:
        self.random = random.Random(seed)
        self.disks: tuple[Disk, Disk] = (disk, MemoryDisk(directory))
        self.stores: list[MemberStore] = []
        self.history = History()
        self.dump = 0
        """The log index of the newest dump."""
        self.dump_floor = self.floor = 0
        self.time_ms = self.known_since_ms = 1000
        self.op_ids = ["c0"]

    async def open(self) -> None:
        self.stores = [disk.store() for disk in self.disks]
        for store in self.stores:
            await store.__aenter__()
            assert store.condition != "damaged", store.damage
            settle(
                store, *[step for step in self.history.steps if step.note.index > store.note.index]
            )

    async def close(self) -> None:
        for store in self.stores:
            await store.__aexit__(None, None, None)
        self.stores = []

    async def live(self) -> None:
        await self.open()
        events = [
            *[self.writes] * 6,
            self.says_nothing,
            self.orders_a_floor,
            self.waits,
            self.syncs,
            self.prunes,
            self.is_cut_back,
            self.starts_again,
            self.is_killed,
            self.is_replaced,
        ]
        for _ in range(EVENTS):
            await self.random.choice(events)()
            await self.compare()
        await self.close()

    # ------------------------------------------------------------------------------------- events

    async def writes(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            self.time_ms += self.random.randint(0, 20)
            intents = [self._intent() for _ in range(self.random.randint(1, 3))]
            step = self.history.submit(
                *intents, log_time_ms=self.time_ms, skip=self.random.randint(0, 2)
            )
            for store in self.stores:
                store.settle(step)

    def _intent(self) -> Intent:
        key = self.random.choice(KEYS)
        op_id = f"c{len(self.op_ids)}"
        if self.random.random() < 0.1:
            # long after its first record is forgotten
            op_id = self.random.choice(self.op_ids)
        else:
            self.op_ids.append(op_id)
        if self.random.random() < 0.3:
            return delete(op_id, key)
        expires = self.time_ms + self.random.randint(1, 99) if self.random.random() < 0.4 else None
        value = self.random.randbytes(self.random.choice([0, 1, 100, 6000]))
        return put(op_id, key, value, expires_ms=expires)

    async def says_nothing(self) -> None:
        term = self.history.note.term + self.random.randint(0, 1) or 1
        settle_both(self, self.history.quiet(term=term))

    async def orders_a_floor(self) -> None:
        self.floor = self.random.randint(self.floor, self.history.head.last)
        settle_both(self, self.history.quiet(floor=self.floor))

    async def waits(self) -> None:
        for store in self.stores:
            await store.wait_written(store.note.index, timeout_s=T)

    async def syncs(self) -> None:
        for store in self.stores:
            await store.make_durable(store.note.index)
        self.dump, self.dump_floor = self.history.note.index, self.floor

    async def prunes(self) -> None:
        self.known_since_ms = max(self.known_since_ms, self.time_ms - 500)
        retention = LocalRetention(
            self.dump, self.dump_floor, self.known_since_ms, self.random.choice([1, 5, 500])
        )
        for store in self.stores:
            for _ in range(self.random.choice([1, 3])):
                await store.prune(retention, timeout_s=T)

    async def is_cut_back(self) -> None:
        await self.waits()
        index = self.random.randint(self.dump, self.history.note.index)
        for store in self.stores:
            store.cut_back(index)
        kept = [step for step in self.history.steps if step.note.index <= index]
        gone = [step for step in self.history.steps if step.note.index > index]
        history = History()
        history.steps = kept
        rows = [step.group.row for step in kept if step.group]
        if rows:
            history.head, history.content = rows[-1].head, rows[-1].content
        history.note = self.stores[0].note
        self.floor = max([0, *(step.floor for step in kept)])
        if gone and self.random.random() < 0.5:
            # the same commands again
            history = self.history
            for store in self.stores:
                settle(store, *gone)
            self.floor = max([self.floor, *(step.floor for step in gone)])
        self.history = history
        self.history.note = self.stores[0].note

    async def starts_again(self) -> None:
        await self.close()
        await self.open()

    async def is_killed(self) -> None:
        for disk, store in zip(self.disks, self.stores, strict=True):
            await disk.kill(store)
        await self.open()

    async def is_replaced(self) -> None:
        for store in self.stores:
            state = await store.copy()
            await store.install(state)
            state.close()

    # ------------------------------------------------------------------------------------ judging

    async def compare(self) -> None:
        shown = [await self._shown(store) for store in self.stores]
        assert shown[0] == shown[1]
        for store in self.stores:
            assert store.note.index == self.history.note.index
            assert await damaged_rows(store) == ()

    async def _shown(self, store: MemberStore) -> list[object]:
        last = (await store.head(timeout_s=T)).last
        since = max(self.known_since_ms, self.time_ms - 500)
        known = store.facts(self.op_ids[-40:], KEYS, KEYS[::2], recorded_since_ms=since)
        values = {key: version.present for key, version in known.versions.items()}
        hidden = {
            key: (version.revision, version.expires_ms, version.present)
            for key, version in known.versions.items()
            if version.present or version.revision > self.floor
        }
        ledger = [
            row for row in await store.ledger(0, 10_000, timeout_s=T) if row.index > self.dump
        ]
        found: list[object] = [
            (store.note, store.newest, known.head, known.operations, known.hashes, hidden),
            {key for key, present in values.items() if present},
            await store.rows(max(self.floor, last - 20), 7, timeout_s=T),
            ledger,
            [store.row_at(row.index) for row in ledger],
            [await store.row_ending(row.last, timeout_s=T) for row in ledger[-3:]],
            await store.due(self.time_ms, 3, timeout_s=T),
            await store.due(self.time_ms + 1000, 100, timeout_s=T),
            await store.floor(timeout_s=T),
        ]
        for at in {None, last, self.floor, (self.floor + last) // 2}:
            read = await store.read(KEYS, at=at, settled=last, timeout_s=T)
            page = await store.list(b"k", after=b"k/1", limit=2, at=at, settled=1, timeout_s=T)
            whole = await store.list(b"", limit=100, at=at, keys_only=True, timeout_s=T)
            present = tuple(each if each and each.present else None for each in read.versions)
            found.append((read.head, present, read.digest_at, page.versions, page.more, whole))
        places = [
            (key, row.first + n)
            for row in ledger
            for n, recorded in enumerate(row.body)
            for key in recorded.keys
            if row.first + n > self.floor
        ]
        found.append(await store.versions(places, timeout_s=T))
        return found


def settle_both(life: Life, step: object) -> None:
    for store in life.stores:
        store.settle(step)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(LIVES))
@pytest.mark.parametrize("name", [name for name in DISKS if name != "memory"])
async def test_a_life_is_the_same_as_in_memory(
    name: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 2:
        monkeypatch.setattr(facts, "KEPT_MAX", 2)  # it forgets all the time
    async with asyncio.timeout(100):
        await Life(seed, DISKS[name](tmp_path), tmp_path).live()
