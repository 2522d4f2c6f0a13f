"""Stand in for the store, the shared cache and the broker: slow, ambiguous, lying or gone.

Each remembers what ever came there, so that what the nodes tell can be held against it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import msgspec

from backends.memory.database import MemoryDatabase
from backends.memory.faults import AnswerLost, Fails, Fate, Lands
from backends.memory.store import MemoryStore
from backends.seal import seal, unseal
from kv.errors import BackendUnavailable
from kv.model import Entry, Group, LedgerRow, Version
from kv.ports import Appended, Change, Fenced, Outranked, Space, TakenOver

if TYPE_CHECKING:
    from tests.simulation.world import World


class SimDatabase(MemoryDatabase):
    """The shared store. It remembers all that ever landed, also what pruning or a restore took
    away.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.landed: dict[int, LedgerRow] = {}
        """The row of each revision."""
        self.landed_s: dict[int, float] = {}
        """When it came there."""
        self.history: dict[bytes, list[Version]] = {}
        self.rows_ever: list[LedgerRow] = []

    def append(self, group: Group) -> Appended | Fenced:
        before = self.head()
        result = super().append(group)
        if isinstance(result, Appended):
            self.note(before.last, before.digest, group)
        return result

    def note(self, last: int, digest: bytes, group: Group) -> None:
        """Keep what landed; check that it continues what was there."""
        row = group.row
        if row.first != last + 1 or group.base.digest != digest:
            self._world.violate(
                "INV-6 (ledger)",
                f"row {row.first}..{row.last} lands on a ledger that ends at {last}",
            )
        now = asyncio.get_running_loop().time()
        for revision in range(row.first, row.last + 1):
            self.landed[revision] = row
            self.landed_s[revision] = now
        for version in group.versions:
            self._remember(version)
        self._world.times.landed(group)
        self._world.leasing.landed(group)
        self.rows_ever.append(row)
        self._world.say("landed", first=row.first, last=row.last, term=row.term, by=row.committer)

    def _remember(self, version: Version) -> None:
        """Keep a version with the numbers that it has to have."""
        history = self.history.setdefault(version.key, [])
        puts = 0
        created = version.revision
        for before in reversed(history):
            if not before.present:
                break
            puts, created = puts + 1, before.revision
        if version.present:
            version = msgspec.structs.replace(version, create_revision=created, version=puts + 1)
        history.append(version)

    def take_over(
        self, term: int, committer: str, log_time_ms: int, adopt_last: int | None
    ) -> TakenOver | Outranked:
        result = super().take_over(term, committer, log_time_ms, adopt_last)
        if isinstance(result, TakenOver):
            self.rows_ever.append(self._rows[-1])
            self._world.say(
                "took over", seq=result.own.seq, last=result.own.last, term=term, by=committer
            )
        return result

    def newest(self, key: bytes, at: int) -> Version | None:
        """Return the newest version ≤ `at` that ever landed."""
        found = None
        for version in self.history.get(key, []):
            if version.revision <= at:
                found = version
        return found

    def restore(self, rows: int) -> None:
        self.lose_rows(rows)
        last = self.head().last
        self.landed = {revision: row for revision, row in self.landed.items() if revision <= last}
        self.history = {
            k: [v for v in versions if v.revision <= last] for k, versions in self.history.items()
        }


class StoreFaults:
    """How slow the store is, how it ends transactions, whether it is there."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.delay_s = (0.0002, 0.003)
        self.down = False
        self.far_s: dict[str, float] = {}
        """How much longer the way to the store takes for a node."""
        self.ambiguous = 0.0
        self.fails = 0.0
        self._losing: tuple[float | None, asyncio.Event] | None = None
        self.counts = {"ambiguous": 0, "late": 0, "down": 0}

    def heal(self) -> None:
        self.delay_s, self.down, self.ambiguous, self.fails = (0.0002, 0.003), False, 0.0, 0.0
        self._losing = None
        self.far_s.clear()

    def lose_next(self, lands_after_s: float | None) -> asyncio.Event:
        """Lose the answer to the next append, which lands only then (None: never); set once it is
        sent.
        """
        sent = asyncio.Event()
        self._losing = lands_after_s, sent
        return sent

    def lose_none(self) -> None:
        """Do not, after all."""
        self._losing = None

    async def before(self, session: str, call: str) -> None:
        await asyncio.sleep(self.rng.uniform(*self.delay_s) + self.far_s.get(session, 0.0))
        if self.down:
            self.counts["down"] += 1
            raise BackendUnavailable("store", "down")

    def fate(self, session: str, call: str) -> Fate:
        if call == "append" and self._losing is not None:
            (lands_after_s, sent), self._losing = self._losing, None
            sent.set()
            self.counts["ambiguous"] += 1
            self.counts["late"] += lands_after_s is not None
            return AnswerLost(lands_after_s)
        if call in {"append", "take_over"} and self.rng.random() < self.ambiguous:
            self.counts["ambiguous"] += 1
            if self.rng.random() < 0.4:
                return AnswerLost(None)
            self.counts["late"] += 1
            return AnswerLost(self.rng.choice((0.0, 0.002, 0.05, 0.6)))
        if self.rng.random() < self.fails:
            return Fails()
        return Lands()

    async def after(self, session: str, call: str) -> None:
        await asyncio.sleep(self.rng.uniform(*self.delay_s))


class SimStore(MemoryStore):
    """One node's session, that says when its groups were made."""

    def __init__(self, world: World, session: str) -> None:
        super().__init__(world.database, faults=world.store_faults, session=session)
        self._times = world.times

    async def append(self, group: Group, *, timeout_s: float) -> Appended | Fenced:
        self._times.built(group)
        return await super().append(group, timeout_s=timeout_s)


class SimCache:
    """The worst shared cache there can be: any entry that was ever put may come back at any time
    (INV-5), and so may what another cluster, or a forger, has put under the very same names.
    """

    def __init__(self, rng: random.Random, *, others: bool = False) -> None:
        self.rng = rng
        self.others = others
        """Others put entries of their own into it."""
        self.hostile = False
        self.dead = False
        self.entries: dict[tuple[int, bytes], list[bytes]] = {}
        """By namespace and key, as a cache sees them."""
        self.hits = 0
        self.newest = 1
        """Newest `as_of` that was put: what others put is of about then."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    def healthy(self) -> bool:
        return not self.dead

    def taken(self, space: Space, key: bytes, raw: bytes) -> Entry | None:
        """Return what an adapter makes of the bytes under a name."""
        return unseal(space, key, raw)

    async def get(self, space: Space, keys: Sequence[bytes]) -> tuple[Entry | None, ...]:
        await asyncio.sleep(self.rng.uniform(0.0001, 0.002))
        return tuple(self._one(space, key) for key in keys)

    def _one(self, space: Space, key: bytes) -> Entry | None:
        held = self.entries.get((space.namespace, key))
        if self.dead or not held:
            return None
        if self.others and self.rng.random() < 0.3:
            return self.taken(space, key, self._of_another(space, key))
        self.hits += 1
        found = [self.taken(space, key, raw) for raw in held]
        if self.hostile:
            return self.rng.choice((*found, None))
        return max(
            (entry for entry in found if entry is not None),
            key=lambda entry: entry.as_of,
            default=None,
        )

    def _of_another(self, space: Space, key: bytes) -> bytes:
        as_of = self.newest + self.rng.choice((-1, 0, 0, 1, 1000))
        version = self.rng.choice((None, Version(key, max(1, as_of - 1), b"of another cluster")))
        return seal(
            Space(space.namespace, b"of another cluster".ljust(32)),
            Entry(key, version, max(1, as_of)),
        )

    async def put(self, space: Space, entries: Sequence[Entry]) -> None:
        await asyncio.sleep(self.rng.uniform(0.0001, 0.002))
        for entry in () if self.dead else entries:
            self.newest = max(self.newest, entry.as_of)
            held, raw = (
                self.entries.setdefault((space.namespace, entry.key), []),
                seal(space, entry),
            )
            if raw not in held:
                held.append(raw)
            del held[:-12]

    def wipe(self) -> None:
        self.entries.clear()


class SimBroker:
    """Remember what was published, in order; fail before, in the middle of, or after a batch."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.dead = False
        self.flaky = 0.0
        self.told: list[Change] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    def healthy(self) -> bool:
        return not self.dead

    async def publish(self, changes: Sequence[Change], *, timeout_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(0.0002, 0.004))
        if self.dead:
            raise BackendUnavailable("broker", "down")
        if self.rng.random() < self.flaky:
            self.told += changes[: self.rng.randint(0, len(changes))]
            raise BackendUnavailable("broker", "not confirmed")
        self.told += changes


class HeldBroker(SimBroker):
    """One node's way to the broker, on which every batch waits until it is let through."""

    def __init__(self, broker: SimBroker) -> None:
        super().__init__(broker.rng)
        self._broker = broker
        self._through = asyncio.Semaphore(0)
        self.waiting = 0
        """Batches that came this way, and were not let through yet."""

    def let_through(self, batches: int = 1) -> None:
        """Let this many batches go on to the broker."""
        for _ in range(batches):
            self._through.release()

    async def publish(self, changes: Sequence[Change], *, timeout_s: float) -> None:
        self.waiting += 1
        try:
            await self._through.acquire()
        finally:
            self.waiting -= 1
        await self._broker.publish(changes, timeout_s=timeout_s)
