"""Several Coordinators over one shared log and one memory store, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from backends.memory.database import MemoryDatabase
from backends.memory.faults import Fate, Lands
from backends.memory.store import MemoryStore
from coordinator.consensus import Coordinator
from coordinator.settings import CoordinatorSettings
from kv.errors import BackendUnavailable
from kv.model import Answer, Cancel, Delete, Intent, Put
from kv.ports import Change
from tests.unit.coordinator.shared_log import SharedLog
from tests.virtual import VirtualClock, until

QUIET = CoordinatorSettings(sweep_interval_s=1e6, prune_interval_s=1e6)
"""Nothing happens but what a test does."""


class Script:
    """Faults of one store session: the fates of its next writes by call, and what is done before
    each call.
    """

    def __init__(self) -> None:
        self.fates: dict[str, list[Fate]] = {}
        self.down = False
        self.calls: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        """A call waits here before it runs."""
        self.waiting: set[str] = set()
        self.before_hook: Callable[[str], None] = lambda call: None

    async def before(self, session: str, call: str) -> None:
        self.calls.append(call)
        await asyncio.sleep(0.0001)
        if self.down:
            raise BackendUnavailable("memory", "down")
        self.before_hook(call)
        if call in self.gates:
            self.waiting.add(call)
            await self.gates[call].wait()

    def fate(self, session: str, call: str) -> Fate:
        fates = self.fates.get(call)
        return fates.pop(0) if fates else Lands()

    async def after(self, session: str, call: str) -> None:
        return


class Heard:
    """A Broadcast that keeps what it was given."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.down = False
        self.open = True

    async def __aenter__(self) -> Heard:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    async def publish(self, changes: Sequence[Change], *, timeout_s: float) -> None:
        await asyncio.sleep(0.0001)
        if self.down:
            raise BackendUnavailable("heard", "down")
        self.changes += changes

    def healthy(self) -> bool:
        return not self.down


class Cluster:
    """Members by name; the store's faults are each member's own."""

    def __init__(
        self, names: str, settings: CoordinatorSettings, database: MemoryDatabase | None, id: str
    ) -> None:
        self.id = id
        self.shared = SharedLog()
        self.database = database or MemoryDatabase()
        self.broadcast = Heard()
        self.settings = settings
        self.scripts: dict[str, Script] = {}
        self.nodes: dict[str, Coordinator] = {}
        self.stores: dict[str, MemoryStore] = {}
        """Each member's own session."""
        self.clocks: dict[str, VirtualClock] = {}
        self.stack = AsyncExitStack()
        for number, name in enumerate(names):
            self.add(name, number)

    def add(self, name: str, number: int) -> Coordinator:
        script = self.scripts[name] = Script()
        self.stores[name] = MemoryStore(self.database, faults=script, session=name)
        clock = self.clocks[name] = VirtualClock(asyncio.get_running_loop())
        node = self.nodes[name] = Coordinator(
            node=name,
            url=f"http://{name}",
            log=self.shared.member(name),
            store=self.stores[name],
            broadcast=self.broadcast,
            clock=clock,
            rng=random.Random(number if self.id == "ours" else f"{self.id} {number}"),
            cluster=self.id,
            settings=self.settings,
        )
        return node

    def __getitem__(self, name: str) -> Coordinator:
        return self.nodes[name]

    async def lead(self, name: str, *, lose: int = 0) -> Coordinator:
        """Elect a member and wait until it has taken over."""
        self.shared.elect(name, lose=lose)
        node = self.nodes[name]
        await until(lambda: node.committer.taken_over)
        return node

    async def settled(self) -> None:
        """Wait until all members have settled everything that is ordered."""
        machines = [node.machine for node in self.nodes.values()]
        await until(
            lambda: all(m.revision == m.settled.revision == machines[0].revision for m in machines)
        )

    def value(self, key: bytes) -> bytes | None:
        version = self.database.read([key], None, 0).versions[0]
        return None if version is None else version.value  # type: ignore[return-value]


@asynccontextmanager
async def cluster(
    names: str = "abc",
    *,
    settings: CoordinatorSettings = QUIET,
    database: MemoryDatabase | None = None,
    id: str = "ours",
) -> AsyncIterator[Cluster]:
    """Run members with these names (one letter each); nobody leads yet."""
    made = Cluster(names, settings, database, id)
    async with made.stack:
        for node in made.nodes.values():
            await made.stack.enter_async_context(node)
        yield made


FAR_MS = 1 << 52


def put(
    op_id: str, key: bytes = b"k", value: bytes = b"v", *, deadline_ms: int = FAR_MS, **more: object
) -> Intent:
    """Return an intent that sets one key; `guards`, `otherwise`, `reads` as given."""
    ttl_ms = more.pop("ttl_ms", None)
    return Intent(op_id, deadline_ms, writes=(Put(key, value, ttl_ms),), **more)  # type: ignore[arg-type]


def delete(op_id: str, key: bytes = b"k", *, deadline_ms: int = FAR_MS, **more: object) -> Intent:
    return Intent(op_id, deadline_ms, writes=(Delete(key),), **more)  # type: ignore[arg-type]


async def answer(node: Coordinator, intent: Intent | Cancel, *, limit_s: float = 60.0) -> Answer:
    """Submit one intent and return what its client hears."""
    return await asyncio.wait_for(node.submit([intent])[0], limit_s)
