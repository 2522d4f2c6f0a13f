"""List the single faults of a stack: their targets, their means, and what is promised.

It only describes faults; other modules inflict, heal and judge them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from chaos.strikes.outcome import NOTHING, StrikeLimits
from chaos.targets.docker_engine import NoStack
from chaos.targets.docker_stack import NODES, DockerTarget, How
from chaos.waiting import until

CHOSEN_WITHIN_S: Final = 120.0


@dataclass(frozen=True)
class Strike:
    """A single fault of a stack: what it hits, how, and what is promised about it."""

    how: How
    choose: Callable[[DockerTarget], Awaitable[tuple[str, ...]]]
    does: str
    """Description in one sentence, shown as help."""
    limits: StrikeLimits = NOTHING

    def away_s(self, pause_s: float) -> float:
        """Return how long the hit containers stay away.

        It is never so short that their return could be mistaken for a fail-over.
        """
        return max(pause_s, (self.limits.writes_after_s or 0) * 5 / 3)


def service(*names: str) -> Callable[[DockerTarget], Awaitable[tuple[str, ...]]]:
    """Return a function that chooses these services, whatever their role."""

    async def chosen(target: DockerTarget) -> tuple[str, ...]:
        return names

    return chosen


async def _leader(target: DockerTarget) -> tuple[str, ...]:
    leader = None

    async def known() -> bool:
        nonlocal leader
        leader = await target.leader()
        return leader is not None

    if not await until(known, CHOSEN_WITHIN_S) or leader is None:
        raise TimeoutError("nobody leads")
    return (NODES[leader],)


async def _follower(target: DockerTarget) -> tuple[str, ...]:
    (leader,) = await _leader(target)
    return (next(s for s in NODES.values() if s != leader),)


async def _database(target: DockerTarget) -> tuple[str, ...]:
    if target.store is None:
        raise NoStack("the stack has no database of its own")
    return (target.store,)


async def _redis_master(target: DockerTarget) -> tuple[str, ...]:
    return (await target.redis_master(),)


READS: Final = StrikeLimits(reads_gap_s=10)
LEADER: Final = StrikeLimits(writes_after_s=3, reads_gap_s=10)
DATABASE: Final = StrikeLimits(after_healing_s=10, reads_gap_s=10)
NOBODY_ANSWERS: Final = NOTHING
"""No limits: while nginx or all nodes are away, reads fail for as long as that."""

STRIKES: Final[dict[str, Strike]] = {
    "kill-leader": Strike("kill", _leader, "Kill the node that leads (SIGKILL).", LEADER),
    "kill-follower": Strike("kill", _follower, "Kill a node that does not lead (SIGKILL).", READS),
    "partition-leader": Strike(
        "disconnect", _leader, "Take the node that leads off the network; it runs on.", LEADER
    ),
    "pause-follower": Strike(
        "pause", _follower, "Freeze a node that does not lead (cgroup freezer).", READS
    ),
    "kill-redis-master": Strike(
        "kill", _redis_master, "Kill the Redis that the Sentinels call master (SIGKILL).", READS
    ),
    "kill-sentinel": Strike("kill", service("sentinel2"), "Kill a Sentinel (SIGKILL).", READS),
    "kill-rabbit": Strike("kill", service("rabbit1"), "Kill a RabbitMQ (SIGKILL).", READS),
    "kill-database": Strike(
        "kill", _database, "Kill the database that holds the store (SIGKILL).", DATABASE
    ),
    "kill-nginx": Strike("kill", service("nginx"), "Kill nginx (SIGKILL).", NOBODY_ANSWERS),
    "full-restart": Strike(
        "kill", service(*NODES.values()), "Kill all three nodes at once (SIGKILL).", NOBODY_ANSWERS
    ),
}
