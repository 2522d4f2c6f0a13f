"""Inject faults into processes: SIGKILL, SIGSTOP, and restarts in various orders."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from pathlib import Path
from random import Random
from typing import ClassVar, Final

from typing_extensions import override

from chaos.nemeses.base import Nemesis, leader_within, some
from chaos.targets.base import NodeProcesses, Target
from chaos.waiting import until

READY_WITHIN_S: Final = 30.0
GAP_S: Final = (0.3, 1.5)
"""Shortest and longest pause between two steps of a staggered or rolling restart, in seconds."""
STOP_S: Final = (0.005, 0.4)
"""Shortest and longest moment for which a node is stopped."""
GO_ON_S: Final = (0.01, 0.1)
LEADERS_SHARE: Final = 0.5
STOPS_MIN: Final = 2
"""Least number of stops that count as a fault."""


class _OnProcesses(Nemesis):
    """A fault of processes. It remembers the process ids from before."""

    needs: ClassVar[frozenset[str]] = frozenset({"processes"})
    whom: ClassVar[str] = "one"

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.before: dict[str, int | None] = {}

    @property
    def processes(self) -> NodeProcesses:
        assert isinstance(self.target, NodeProcesses)
        return self.target

    async def choose(self) -> tuple[str, ...]:
        chosen = await some(self.target, self.rng, self.whom)
        self.before = {n: self.processes.pid(n) for n in self.target.nodes}
        return chosen

    async def _gone(self, node: str) -> str | None:
        """Return the proof that a node's process ended and its port refuses connections."""
        pid = self.before.get(node)
        if pid is None or is_running(pid) or await self.target.answers(node):
            return None
        return f"{node}: pid {pid} gone, port silent"


class Kill(_OnProcesses):
    """Nodes are killed (SIGKILL), and restarted with the same data at healing."""

    name: ClassVar[str] = "kill"

    @override
    async def start(self) -> None:
        await asyncio.gather(*(self.processes.kill(n) for n in self.targets))

    @override
    async def proof(self) -> str | None:
        return await _all([await self._gone(n) for n in self.targets])

    @override
    async def heal(self) -> None:
        for node in self.targets:
            self.processes.start(node)


class KillLeader(Kill):
    """The leader is killed."""

    name: ClassVar[str] = "kill-leader"
    whom: ClassVar[str] = "leader"


class KillFollower(Kill):
    """A follower is killed."""

    name: ClassVar[str] = "kill-follower"
    whom: ClassVar[str] = "follower"


class KillMinority(Kill):
    """As many nodes are killed as possible with a quorum left."""

    name: ClassVar[str] = "kill-minority"
    whom: ClassVar[str] = "minority"


class KillMajority(Kill):
    """A majority is killed, so that no quorum is left."""

    name: ClassVar[str] = "kill-majority"
    whom: ClassVar[str] = "majority"


class KillAll(Kill):
    """All nodes are killed at once."""

    name: ClassVar[str] = "kill-all"
    whom: ClassVar[str] = "all"


class Pause(_OnProcesses):
    """Nodes are suspended (SIGSTOP), and resume at healing (SIGCONT).

    They believe that no time has passed, which finds stale reads better than any other fault. A
    supervisor may kill a node that is silent for too long; then the pause ended as a kill.
    """

    name: ClassVar[str] = "pause"

    @override
    async def start(self) -> None:
        for node in self.targets:
            self.processes.pause(node)

    @override
    async def proof(self) -> str | None:
        return await _all([await self._stopped(n) for n in self.targets])

    async def _stopped(self, node: str) -> str | None:
        pid = self.before.get(node)
        if pid is None or process_state(pid) not in {"T", None} or await self.target.answers(node):
            return None
        return f"{node}: pid {pid} stopped, no answer"

    @override
    async def heal(self) -> None:
        for node in self.targets:
            self.processes.resume(node)


class PauseLeader(Pause):
    """The leader is suspended."""

    name: ClassVar[str] = "pause-leader"
    whom: ClassVar[str] = "leader"


class PauseFollower(Pause):
    """A follower is suspended."""

    name: ClassVar[str] = "pause-follower"
    whom: ClassVar[str] = "follower"


class PauseMinority(Pause):
    """As many nodes are suspended as possible with a quorum left."""

    name: ClassVar[str] = "pause-minority"
    whom: ClassVar[str] = "minority"


class PauseAll(Pause):
    """All nodes are suspended at once."""

    name: ClassVar[str] = "pause-all"
    whom: ClassVar[str] = "all"


class Stutter(_OnProcesses):
    """The leader or a follower is suspended again and again, for moments, wherever it is."""

    name: ClassVar[str] = "stutter"

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.stopped: dict[str, int] = {}
        """How often each node was seen stopped."""

    @override
    async def choose(self) -> tuple[str, ...]:
        await super().choose()
        return self.target.nodes

    async def start(self) -> None:
        """Do nothing yet: the steps are taken while it holds."""

    @override
    async def hold(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            leader = await self.target.leader()
            others = [n for n in self.targets if n != leader]
            node = leader if leader and self.rng.random() < LEADERS_SHARE else None
            node = node or self.rng.choice(others)
            pid = self.processes.pid(node)
            self.processes.pause(node)
            await asyncio.sleep(self.rng.uniform(*STOP_S))
            if pid is not None and process_state(pid) == "T":
                self.stopped[node] = self.stopped.get(node, 0) + 1
            self.processes.resume(node)
            await asyncio.sleep(self.rng.uniform(*GO_ON_S))

    @override
    async def proof(self) -> str | None:
        if sum(self.stopped.values()) < STOPS_MIN:
            return None
        return "stopped: " + ", ".join(f"{n} {times} times" for n, times in self.stopped.items())

    @override
    async def heal(self) -> None:
        for node in self.targets:
            self.processes.resume(node)


class StaggeredRestart(_OnProcesses):
    """All nodes are killed; a majority starts first, the rest later.

    The cluster must cope with an old term or vote on a node that starts late.
    """

    name: ClassVar[str] = "staggered-restart"
    whom: ClassVar[str] = "all"

    @override
    async def start(self) -> None:
        await asyncio.gather(*(self.processes.kill(n) for n in self.targets))

    async def proof(self) -> str | None:
        """Prove that no process from before the fault still runs."""
        old = [self.before.get(n) for n in self.targets]
        if None in old or any(is_running(pid) for pid in old if pid is not None):
            return None
        return "all ended: " + ", ".join(
            f"{n} pid {p}" for n, p in zip(self.targets, old, strict=True)
        )

    @override
    async def hold(self, seconds: float) -> None:
        order = self.rng.sample(self.targets, len(self.targets))
        majority = len(order) // 2 + 1
        for node in order[:majority]:
            self.processes.start(node)
            await asyncio.sleep(self.rng.uniform(*GAP_S))
        await asyncio.sleep(seconds)
        # Kill the current leader while the last nodes start: a late node must not win the election
        # with its outdated log.
        leader = await leader_within(self.target, READY_WITHIN_S)
        if leader is None:
            raise TimeoutError(
                f"nobody led within {READY_WITHIN_S:g} s after a majority was started"
            )
        await self.processes.kill(leader)
        for node in order[majority:]:
            self.processes.start(node)
            await asyncio.sleep(self.rng.uniform(*GAP_S))

    @override
    async def heal(self) -> None:
        for node in self.target.nodes:
            self.processes.start(node)


class RollingRestart(_OnProcesses):
    """Each node in turn is stopped (SIGTERM) and must be ready again before the next, as in an
    upgrade.
    """

    name: ClassVar[str] = "rolling-restart"
    whom: ClassVar[str] = "all"

    async def start(self) -> None:
        """Do nothing yet: the steps are taken while it holds."""

    @override
    async def proof(self) -> str | None:
        now = {n: self.processes.pid(n) for n in self.targets}
        if any(now[n] is None or now[n] == self.before.get(n) for n in self.targets):
            return None
        return "all replaced: " + ", ".join(
            f"{n} pid {self.before.get(n)} → {now[n]}" for n in self.targets
        )

    @override
    async def hold(self, seconds: float) -> None:
        for node in self.rng.sample(self.targets, len(self.targets)):
            await self.processes.stop(node)
            self.processes.start(node)
            await until(partial(self.target.ready, node), READY_WITHIN_S)
            await asyncio.sleep(self.rng.uniform(*GAP_S))

    @override
    async def heal(self) -> None:
        for node in self.target.nodes:
            self.processes.start(node)


async def _all(proofs: list[str | None]) -> str | None:
    return None if None in proofs or not proofs else "; ".join(p for p in proofs if p is not None)


def process_state(pid: int) -> str | None:
    """Return the state letter of a process; None if it does not exist."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return None


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie. A suspended process counts as running."""
    return process_state(pid) not in {None, "Z", "X"}
