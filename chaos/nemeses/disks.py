"""Make disks slow, hung or full, or tear the end of what was written.

A slow disk delays each sync of a node's Raft log; a hung one delays it for so long that its node
must step down.
"""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path
from random import Random
from typing import ClassVar, Final, Protocol, runtime_checkable

from typing_extensions import override

from chaos.nemeses.base import Nemesis, some
from chaos.targets.base import NodeProcesses, Target

SLOW_S: Final = (0.2, 0.4)
HANGS_S: Final = 4.0
TORN_BYTES: Final = 64


@runtime_checkable
class Disks(Protocol):
    """A target whose nodes' syncs can be delayed."""

    def set_sync_s(self, node: str, seconds: float) -> None:
        """Delay every sync that begins from now on by `seconds`."""
        ...

    async def unsynced_s(self, node: str) -> float | None:
        """Return how long the oldest unsynced entry of the node's log has waited, as the node
        reports it.

        None: no answer.
        """
        ...


class SlowDisk(Nemesis):
    """Every sync takes 200 to 400 ms, on one node or on all."""

    name: ClassVar[str] = "slow-disk"
    needs: ClassVar[frozenset[str]] = frozenset({"disks"})

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.sync_s = 0.0
        self.seen: dict[str, float] = {}
        """The highest age that each node has reported."""

    @property
    def disks(self) -> Disks:
        """Return the target, typed as one whose syncs can be delayed."""
        assert isinstance(self.target, Disks)
        return self.target

    @override
    async def choose(self) -> tuple[str, ...]:
        self.sync_s = self.rng.uniform(*SLOW_S)
        return await some(self.target, self.rng, self.rng.choice(("one", "all")))

    @override
    async def start(self) -> None:
        for node in self.targets:
            self.disks.set_sync_s(node, self.sync_s)

    async def proof(self) -> str | None:
        """Prove that each node reported an entry that waited for 60 % of the delay, or for a
        second.
        """
        for node in self.targets:
            told_s = await self.disks.unsynced_s(node)
            self.seen[node] = max(self.seen.get(node, 0.0), told_s or 0.0)
        if not self.targets or min(self.seen.values()) < min(0.6 * self.sync_s, 1.0):
            return None
        return "; ".join(
            f"{node}: its log waited {age_s:.2f} s for its disk"
            for node, age_s in self.seen.items()
        )

    @override
    async def heal(self) -> None:
        for node in self.targets:
            self.disks.set_sync_s(node, 0.0)


class HungDisk(SlowDisk):
    """Each sync of the leader takes HANGS_S seconds, so that it must step down."""

    name: ClassVar[str] = "hung-disk"

    @override
    async def choose(self) -> tuple[str, ...]:
        self.sync_s = HANGS_S
        return await some(self.target, self.rng, "leader")


@runtime_checkable
class Files(Protocol):
    """A target whose nodes keep their files on this machine."""

    def folder(self, node: str) -> Path:
        """Return the directory of the node."""
        ...


class DiskFull(Nemesis):
    """No file of one node can grow (RLIMIT_FSIZE) until healing or its next start."""

    name: ClassVar[str] = "disk-full"
    needs: ClassVar[frozenset[str]] = frozenset({"processes"})
    whom: ClassVar[str] = "one"

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.pids: dict[str, int] = {}

    @property
    def processes(self) -> NodeProcesses:
        """Return the target, typed as one whose nodes are processes."""
        assert isinstance(self.target, NodeProcesses)
        return self.target

    @override
    async def choose(self) -> tuple[str, ...]:
        chosen = await some(self.target, self.rng, self.whom)
        self.pids = {n: pid for n in chosen if (pid := self.processes.pid(n)) is not None}
        return chosen

    @override
    async def start(self) -> None:
        for pid in self.pids.values():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    async def proof(self) -> str | None:
        """Prove that each node is not ready while its files cannot grow, or ended because of that.

        A node that ended may have been restarted since, without the limit.
        """
        proofs = []
        for node in self.targets:
            pid = self.pids.get(node)
            if pid is None:
                return None
            full = _limit(pid) == 0
            if full and not await self.target.ready(node):
                proofs.append(f"{node}: pid {pid} cannot write, not ready")
            elif self.processes.pid(node) != pid:
                proofs.append(f"{node}: pid {pid} could not write and ended")
            else:
                return None
        return "; ".join(proofs) or None

    @override
    async def heal(self) -> None:
        for node, pid in self.pids.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                resource.prlimit(
                    pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                )
            self.processes.start(node)


class TornJournal(DiskFull):
    """A minority is killed, and a torn record is added to each journal, as after a power cut."""

    name: ClassVar[str] = "torn-journal"
    needs: ClassVar[frozenset[str]] = frozenset({"processes", "files"})
    whom: ClassVar[str] = "minority"

    @override
    async def choose(self) -> tuple[str, ...]:
        self.torn: dict[str, tuple[Path, int]] = {}
        return await super().choose()

    @override
    async def start(self) -> None:
        assert isinstance(self.target, Files)
        for node in self.targets:
            await self.processes.kill(node)
            segments = sorted(self.target.folder(node).glob("raft/journal.[0-9]*"))
            if not segments:
                raise FileNotFoundError(f"{node} has no journal")
            self.torn[node] = (segments[-1], segments[-1].stat().st_size)
            with segments[-1].open("ab") as file:
                file.write(self.rng.randbytes(self.rng.randint(1, TORN_BYTES)))

    @override
    async def proof(self) -> str | None:
        proofs = []
        for node in self.targets:
            if node not in self.torn or await self.target.answers(node):
                return None
            path, size = self.torn[node]
            grown = path.stat().st_size - size
            if grown <= 0:
                return None
            proofs.append(
                f"{node}: {grown} torn bytes behind byte {size} of {path.name}, pid "
                f"{self.pids.get(node)} gone"
            )
        return "; ".join(proofs) or None

    @override
    async def heal(self) -> None:
        for node in self.targets:
            self.processes.start(node)


def _limit(pid: int) -> int | None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        return resource.prlimit(pid, resource.RLIMIT_FSIZE)[0]
    return None
