"""Let members of two feature levels serve together, as in an upgrade that goes from one member to
the next, and hold the level that the log orders against what the members speak (R14).

The later level is of a version that does not exist: it changes nothing but what is spoken.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from coordinator.machine.book import LEVEL
from coordinator.machine.commands import Found, Level, decode

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

NEXT: Final = LEVEL + 1
RULE: Final = "Replica: feature level"


class SpokenLevel:
    """What the processes of one machine speak: an operator installs one version or the other."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        rng = world.rng_of(f"level {name}")
        newest = world.plan.levels and (name.startswith("m") or rng.random() < 0.2)
        self.speaks = NEXT if newest else LEVEL
        """What is installed now."""
        self.fell_s = -1.0
        """When the earlier version was installed in the place of the later one."""

    def install(self, level: int) -> None:
        """Put a version in place; the next process speaks it."""
        if level < self.speaks:
            self.fell_s = asyncio.get_running_loop().time()
        self.speaks = level
        self._world.say("installs", node=self._name, level=level)

    @property
    def refuses(self) -> bool:
        """Say whether the log orders what is not spoken here: the process has to end by itself.
        What was handed to a log may be in it, also if nobody has applied it yet.
        """
        return self.speaks < max(self._world.reference.tip.level, self._world.level_sent)


def ordering(node: SimNode, command: bytes) -> None:
    """Look at a command that a member hands to the log: a level is ordered, or founded, only if no
    member that is known to the leader is known to speak less.
    """
    if not node.world.plan.levels:
        return
    decoded = decode(command)
    level = decoded.level if isinstance(decoded, Level) else 0
    level = decoded.limits.level if isinstance(decoded, Found) else level
    node.world.counts["levels ordered"] += level == NEXT
    node.world.level_sent = max(node.world.level_sent, level)
    for peer in node.member.status().peers if level else ():
        other = node.world.nodes.get(peer.id)
        if other is not None and other.level.speaks < level and other.level.fell_s < node.led_s:
            node.world.violate(
                RULE, f"{node.name} orders level {level}, {other.name} speaks {other.level.speaks}"
            )


def applied(node: SimNode) -> None:
    """Look at a member after each command: it goes on only at a level that it speaks."""
    level, speaks = node.coordinator.machine.book.level, node.coordinator.settings.level
    if level > speaks:
        node.world.violate(RULE, f"{node.name} goes on at level {level}, it speaks {speaks}")


async def upgrade(world: World, rng: random.Random) -> None:
    """Start a member in the later version; now and then, by mistake, one in the earlier version."""
    installed, other = (NEXT, LEVEL) if rng.random() < 0.2 else (LEVEL, NEXT)
    nodes = [node for node in world.nodes.values() if node.level.speaks == installed]
    if not nodes:
        return
    node = rng.choice(nodes)
    node.crash(power=False)
    node.level.install(other)
    await asyncio.sleep(rng.choice((0.0, 0.1, 0.5)))
    node.start()


def upgrade_all(world: World) -> None:
    """Finish the upgrade: start in the later version all that are not in it."""
    for node in list(world.nodes.values()) if world.plan.levels else ():
        if node.level.speaks < NEXT:
            node.crash(power=False)
            node.level.install(NEXT)
            node.start()


def switched(world: World) -> bool:
    """Say whether the later level is in force at every member. It cannot be while a member is
    listed that was never started, because nobody heard that adding it had worked.
    """
    leader = world.leader()
    listed = leader.coordinator.status().members if leader is not None else ()
    if any(member.id not in world.nodes for member in listed):
        return True
    return not world.plan.levels or all(
        node.coordinator.machine.book.level == NEXT for node in world.serving
    )
