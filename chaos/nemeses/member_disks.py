"""Cut the power of members, fill the disk of their stores, or slow its syncs.

It works through a library that is loaded into the nodes (`chaos.targets.memberdisk`), whose
counters are part of the proof.
"""

from __future__ import annotations

import asyncio
import errno
from random import Random
from typing import ClassVar, Final, Protocol, runtime_checkable

from typing_extensions import override

from chaos.nemeses.base import Nemesis, some
from chaos.nemeses.processes import is_running
from chaos.targets import memberdisk
from chaos.targets.base import NodeProcesses, Target
from chaos.targets.memberdisk import MemberDisk

SLOW_S: Final = (0.3, 2.0)
"""Shortest and longest delay of a sync of the store."""
TRIES: Final = 20
"""Most attempts to find a member's disk at a moment at which something is not synced."""
TRY_EVERY_S: Final = 0.1


@runtime_checkable
class Disked(Protocol):
    """A target whose nodes' files are watched by the library."""

    disks: dict[str, MemberDisk]


class OnMemberDisks(Nemesis):
    """A fault of the disks of members."""

    needs: ClassVar[frozenset[str]] = frozenset({"member-disks"})
    whom: ClassVar[str] = "one"

    @override
    def missing(self) -> str | None:
        return memberdisk.compiler_missing() or super().missing()

    @property
    def disks(self) -> dict[str, MemberDisk]:
        """Return the disk of each place."""
        assert isinstance(self.target, Disked)
        return self.target.disks

    @override
    async def choose(self) -> tuple[str, ...]:
        return await some(self.target, self.rng, self.whom)


class PowerCut(OnMemberDisks):
    """Nodes are killed at once, and what they had not synced is taken out of their files again.

    Half of the time all of it goes, otherwise each file keeps some of its oldest unsynced writes.
    """

    name: ClassVar[str] = "power-cut"
    needs: ClassVar[frozenset[str]] = frozenset({"processes", "member-disks"})

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.pids: dict[str, int | None] = {}
        self.undone: dict[str, dict[str, int]] = {}

    @property
    def processes(self) -> NodeProcesses:
        """Return the target, typed as one whose nodes are processes."""
        assert isinstance(self.target, NodeProcesses)
        return self.target

    @override
    async def choose(self) -> tuple[str, ...]:
        chosen = await super().choose()
        self.pids = {node: self.processes.pid(node) for node in chosen}
        return chosen

    @override
    async def start(self) -> None:
        for _ in range(TRIES):
            if all(self.disks[node].unsynced for node in self.targets):
                break
            await asyncio.sleep(TRY_EVERY_S)
        await asyncio.gather(*(self.processes.kill(node) for node in self.targets))
        keeps = self.rng if self.rng.random() < 0.5 else None
        for node in self.targets:
            self.undone[node] = self.disks[node].cut_power(keeps)

    async def proof(self) -> str | None:
        """Prove that the processes are gone and that something of theirs was undone."""
        for node in self.targets:
            pid = self.pids.get(node)
            if pid is None or is_running(pid) or await self.target.answers(node):
                return None
        if not any(self.undone.values()):
            return None
        return "; ".join(
            f"{node}: undone "
            + (", ".join(f"{n} writes to {name}" for name, n in files.items()) or "nothing")
            for node, files in self.undone.items()
        )

    @override
    async def heal(self) -> None:
        for node in self.targets:
            self.processes.start(node)


class PowerCutLeader(PowerCut):
    """The leader loses its power."""

    name: ClassVar[str] = "power-cut-leader"
    whom: ClassVar[str] = "leader"


class PowerCutAll(PowerCut):
    """All nodes lose their power at once: only what a quorum has synced is left anywhere."""

    name: ClassVar[str] = "power-cut-all"
    whom: ClassVar[str] = "all"


class StoreFull(OnMemberDisks):
    """Every write to a member's store fails, for want of room or because the disk refuses it."""

    name: ClassVar[str] = "store-full"
    needs: ClassVar[frozenset[str]] = frozenset({"member-disks", "own-stores"})

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.error = errno.ENOSPC
        self.before: dict[str, int] = {}

    @override
    async def choose(self) -> tuple[str, ...]:
        self.whom_now = self.rng.choice(("one", "leader", "minority"))
        self.error = self.rng.choice((errno.ENOSPC, errno.EIO))
        chosen = await some(self.target, self.rng, self.whom_now)
        self.before = {node: self.disks[node].control.refused_writes for node in chosen}
        return chosen

    @override
    async def start(self) -> None:
        for node in self.targets:
            self.disks[node].refuse_writes(self.error)

    @override
    async def proof(self) -> str | None:
        refused = {
            node: self.disks[node].control.refused_writes - self.before[node]
            for node in self.targets
        }
        if not refused or 0 in refused.values():
            return None
        name = errno.errorcode[self.error]
        return "; ".join(f"{node}: {n} writes refused with {name}" for node, n in refused.items())

    @override
    async def heal(self) -> None:
        for node in self.targets:
            self.disks[node].refuse_writes(0)


class StoresFull(StoreFull):
    """The stores of all members are full at once."""

    name: ClassVar[str] = "stores-full"

    @override
    async def choose(self) -> tuple[str, ...]:
        await super().choose()
        self.before = {node: self.disks[node].control.refused_writes for node in self.target.nodes}
        return self.target.nodes


class StoreSlow(OnMemberDisks):
    """Every sync of a member's store takes a while; those of its log do not."""

    name: ClassVar[str] = "store-slow"
    needs: ClassVar[frozenset[str]] = frozenset({"member-disks", "own-stores"})

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.sync_s = 0.0
        self.before: dict[str, int] = {}

    @override
    async def choose(self) -> tuple[str, ...]:
        self.sync_s = self.rng.uniform(*SLOW_S)
        chosen = await some(self.target, self.rng, self.rng.choice(("one", "all")))
        self.before = {node: self.disks[node].control.delayed_syncs for node in chosen}
        return chosen

    @override
    async def start(self) -> None:
        for node in self.targets:
            self.disks[node].delay_syncs(self.sync_s)

    async def proof(self) -> str | None:
        """Prove that a member waited. A store is synced now and then only, not on all members."""
        delayed = {
            node: self.disks[node].control.delayed_syncs - self.before[node]
            for node in self.targets
        }
        if not any(delayed.values()):
            return None
        return "; ".join(
            f"{node}: {n} syncs took {self.sync_s:.1f} s" for node, n in delayed.items()
        )

    @override
    async def heal(self) -> None:
        for node in self.targets:
            self.disks[node].delay_syncs(0.0)
