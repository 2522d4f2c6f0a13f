"""Several Coordinators, each with a store of its own in memory, over one shared log, on virtual
time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from backends.memory.member_file import MemoryFile
from backends.memory.member_store import MemoryMemberStore
from coordinator.consensus import Coordinator
from coordinator.log import Position
from coordinator.settings import CoordinatorSettings
from kv.model import LedgerRow
from tests.unit.coordinator.cluster import QUIET, Heard
from tests.unit.coordinator.shared_log import SharedEntry, SharedLog
from tests.virtual import VirtualClock, until


class Dump(NamedTuple):
    """A snapshot that is in place, with the log that it stands for."""

    snapshot: bytes
    position: Position
    history: tuple[SharedEntry, ...]


class OwnCluster:
    """Members by name. Their files outlive them; their dumps are in `dumps`."""

    def __init__(self, names: str, settings: CoordinatorSettings, **made: Any) -> None:
        self.shared = SharedLog()
        self.broadcast = Heard()
        self.settings, self._made = settings, made
        self.files: dict[str, MemoryFile] = {name: MemoryFile() for name in names}
        self.stores: dict[str, MemoryMemberStore] = {}
        self.nodes: dict[str, Coordinator] = {}
        self.dumps: dict[str, Dump] = {}
        """The newest dump of each member that is in place."""
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
        dump = self.dumps.get(name)
        if dump is not None:  # nothing is applied yet
            member = self.shared.members[name]
            node.restore(dump.snapshot)
            member.position, member.history = dump.position, list(dump.history)
        return node

    async def dump(self, name: str) -> None:
        """Make a dump as Raft does: capture, make durable, put in place."""
        node, member = self.nodes[name], self.shared.members[name]
        position, history = member.position, tuple(member.history)
        encoded = node.snapshot()()
        await node.secure(position)
        self.dumps[name] = Dump(encoded, position, history)
        node.saved(position)

    async def stop(self, name: str) -> None:
        """End a member as it should: what it settled is in its file."""
        await self._stacks.pop(name).aclose()

    async def kill(self, name: str) -> None:
        """End a member at once: what is not written is lost."""
        self.stores[name].crash()
        await self.stop(name)

    async def cut_power(self, name: str, keep: int = 0) -> None:
        """End a member at once; of what is not durable its file keeps only the first `keep`
        transactions.
        """
        self.stores[name].power_cut(keep)
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
