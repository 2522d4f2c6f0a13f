"""Disks that take their time: each sync of a node's Raft log waits, so briefly that it is slow, or
as if it hung.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar, Final, Protocol, runtime_checkable

from chaos.nemeses.base import Nemesis, some
from chaos.targets.base import Target

SLOW_S: Final = (0.2, 0.4)
HANGS_S: Final = 4.0


@runtime_checkable
class Disks(Protocol):
    """Nodes whose syncs can be made to wait."""

    def set_sync_s(self, node: str, seconds: float) -> None:
        """Let every sync that begins from now on take so much longer."""
        ...

    async def unsynced_s(self, node: str) -> float | None:
        """Return how long the oldest entry of its log has waited for its disk, as it tells; None:
        no answer.
        """
        ...


class SlowDisk(Nemesis):
    """Every sync of one node, or of all, takes 200 to 400 ms."""

    name: ClassVar[str] = "slow-disk"
    needs: ClassVar[frozenset[str]] = frozenset({"disks"})

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.sync_s = 0.0
        self.seen: dict[str, float] = {}
        """The oldest age that each has told."""

    @property
    def disks(self) -> Disks:
        assert isinstance(self.target, Disks)
        return self.target

    async def choose(self) -> tuple[str, ...]:
        self.sync_s = self.rng.uniform(*SLOW_S)
        return await some(self.target, self.rng, self.rng.choice(("one", "all")))

    async def start(self) -> None:
        for node in self.targets:
            self.disks.set_sync_s(node, self.sync_s)

    async def proof(self) -> str | None:
        """Each has told of an entry that waited for most of such a sync (or for a second)."""
        for node in self.targets:
            told_s = await self.disks.unsynced_s(node)
            self.seen[node] = max(self.seen.get(node, 0.0), told_s or 0.0)
        if not self.targets or min(self.seen.values()) < min(0.6 * self.sync_s, 1.0):
            return None
        return "; ".join(
            f"{node}: its log waited {age_s:.2f} s for its disk"
            for node, age_s in self.seen.items()
        )

    async def heal(self) -> None:
        for node in self.targets:
            self.disks.set_sync_s(node, 0.0)


class HungDisk(SlowDisk):
    """A sync of the leader takes four seconds: it has to step aside."""

    name: ClassVar[str] = "hung-disk"

    async def choose(self) -> tuple[str, ...]:
        self.sync_s = HANGS_S
        return await some(self.target, self.rng, "leader")
