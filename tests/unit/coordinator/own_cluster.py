"""Several Coordinators, each with a store of its own in memory, over one shared log, on virtual
time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from backends.memory.member_file import MemoryFile
from backends.memory.member_store import MemoryMemberStore
from coordinator.consensus import Coordinator
from coordinator.settings import CoordinatorSettings
from kv.model import LedgerRow
from tests.unit.coordinator.cluster import QUIET, Heard
from tests.unit.coordinator.shared_log import SharedLog
from tests.virtual import VirtualClock, until


class OwnCluster:
    """Members by name. Their files outlive them; their dumps are in `dumps`."""

    def __init__(self, names: str, settings: CoordinatorSettings, **made: Any) -> None:
        self.shared = SharedLog()
        self.broadcast = Heard()
        self.settings, self._made = settings, made
        self.files: dict[str, MemoryFile] = {name: MemoryFile() for name in names}
        self.stores: dict[str, MemoryMemberStore] = {}
        self.nodes: dict[str, Coordinator] = {}
        self._stacks: dict[str, AsyncExitStack] = {}

    def __getitem__(self, name: str) -> Coordinator:
        return self.nodes[name]

    async def start(self, name: str, **made: Any) -> Coordinator:
        """Start a member on its file, as it is."""
        stack = self._stacks[name] = AsyncExitStack()
        store = self.stores[name] = MemoryMemberStore(self.files[name], session=name)
        await stack.enter_async_context(store)
        node = self.nodes[name] = Coordinator(
            node=name,
            url=f"http://{name}",
            log=self.shared.member(name),
            own=store,
            broadcast=self.broadcast,
            clock=VirtualClock(asyncio.get_running_loop()),
            rng=random.Random(name),
            cluster="ours",
            **{"settings": self.settings, **self._made, **made},
        )
        await stack.enter_async_context(node)
        return node

    async def stop(self, name: str) -> None:
        """End a member as it should: what it settled is in its file."""
        await self._stacks.pop(name).aclose()

    async def kill(self, name: str) -> None:
        """End a member at once: what is not written is lost."""
        self.stores[name].crash()
        await self.stop(name)

    async def lead(self, name: str, *, lose: int = 0) -> Coordinator:
        """Elect a member and wait until it serves."""
        self.shared.elect(name, lose=lose)
        node = self.nodes[name]
        await until(lambda: node.leading.taken_over)
        return node

    async def level(self) -> None:
        """Wait until all members have applied everything."""
        await until(
            lambda: all(
                member.position.index == len(self.shared.entries)
                for member in self.shared.members.values()
            )
        )

    def rows(self, name: str) -> list[LedgerRow]:
        """Return the ledger of a member, from what it has settled."""
        return list(self.stores[name].tables.ledger(0, 10_000))


@asynccontextmanager
async def own_cluster(
    names: str = "abc", *, settings: CoordinatorSettings = QUIET, **made: Any
) -> AsyncIterator[OwnCluster]:
    """Run members with these names (one letter each); nobody leads yet."""
    cluster = OwnCluster(names, settings, **made)
    try:
        for name in names:
            await cluster.start(name)
        yield cluster
    finally:
        for name in list(cluster._stacks):
            await cluster.stop(name)
