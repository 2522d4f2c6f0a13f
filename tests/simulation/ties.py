"""Let members' contents differ where no majority of witnesses can say whose are right (R3), and be
the operator who decides.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from tests.simulation import aimed, moments, own_harms

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

RULE: Final = "Replica: nobody guesses"
TOLD_S: Final = 3.0
"""Within this all members have told of a row that is newer than the difference."""
DECIDED_S: Final = 8.0


async def tie(world: World, rng: random.Random) -> None:
    """Let one member fetch its state, which makes it no witness, and the contents of another one go
    another way: of the source, before it gives its state away, or of the third member, after that.

    Then one witness stands against one. Nobody may serve contents that are wrong, and the member
    whose contents are right may not throw them away.
    """
    leader, others = moments.led(world)
    if leader is None or len(others) != 2 or len(world.nodes) != 3 or not all_witness(world):
        return
    fetches, third = rng.sample(others, 2)
    from_wrong = rng.random() < 0.5
    wrong, right = (leader, third) if from_wrong else (third, leader)
    for node in world.serving:  # with a dump of its own a member cannot repeat its whole log
        node.member._core.compaction.force()
        node.member.wake()
    await asyncio.sleep(0.3)
    life = right.lives
    thrown = right.coordinator.own.contents.divergences if right.coordinator.own else 0
    fetches.crash(power=False)
    own_harms.hurt(fetches, "missing")
    fetches.file.wipe()
    if from_wrong:
        go_astray(wrong, rng)
        await moments.burst(world, leader, 3)
    fetches.start()
    await moments.until(lambda: has_fetched(fetches))
    if not from_wrong:
        go_astray(wrong, rng)
    world.counts["ties"] += 1
    await moments.burst(world, leader, 5)
    await asyncio.sleep(TOLD_S)
    judge(world, wrong, right if right.lives == life else None, thrown)
    await decide(world, fetches)


def all_witness(world: World) -> bool:
    """Say whether all members are sound, and their contents their own evaluation."""
    return all(own_harms.is_sound(n) and own_harms.witnesses(n) for n in world.nodes.values())


def go_astray(node: SimNode, rng: random.Random) -> None:
    """Let a member's contents go another way from its next row on."""
    own_harms.hurt(node, "diverged")
    node.coordinator.machine.book.content = rng.randbytes(32)


def has_fetched(node: SimNode) -> bool:
    """Say whether a process has another member's state in place."""
    own = node.coordinator.own if node.serving else None
    return own is not None and own.keeping.installs > 0


def judge(world: World, wrong: SimNode, right: SimNode | None, thrown: int) -> None:
    """Look at what the two witnesses have made of it."""
    if wrong.serving and wrong.file.hurt == "diverged" and wrong.coordinator.refusal is None:
        world.violate(RULE, f"{wrong.name} serves contents that are not the log's")
    if right is None or not right.serving or right.coordinator.own is None:
        return
    if right.coordinator.own.contents.divergences > thrown:
        world.violate(RULE, f"{right.name} takes its right contents for wrong")


async def decide(world: World, fetched: SimNode) -> None:
    """Be the operator: replace the members whose contents are wrong, and, if the others do not go
    on without them, the one that has fetched its state.
    """
    for node in list(world.nodes.values()):
        if node.file.hurt == "diverged":
            world.disks_lost[node.name] = None
    await aimed.replace_lost(world, DECIDED_S)
    going_on = await moments.until(lambda: not any(map(_is_undecided, world.nodes.values())))
    if going_on and await own_harms.mended(world, fetched):
        return
    if fetched.name in world.nodes:
        world.disks_lost[fetched.name] = None
        await aimed.replace_lost(world, DECIDED_S)


async def settle(world: World) -> None:
    """Be the operator after healing, if a member gave its state away after its contents went
    another way and before anybody had noticed: then too few witnesses may be left to say so.
    """
    members = list(world.nodes.values())
    if all(node.file.hurt != "diverged" for node in members):
        return
    leader = world.leader()
    if leader is not None:
        await moments.burst(world, leader, 3)  # contents differ from the next row on, not before
    await asyncio.sleep(TOLD_S)
    for node in members:
        if node.file.hurt == "diverged" and not _has_a_say(node):
            own_harms.hurt(node, "missing")  # it has a copy of it, or has noticed and put it aside
    right = [n for n in members if n.file.hurt != "diverged" and _has_a_say(n)]
    others = [n for n in members if n.file.hurt != "diverged" and n not in right]
    if others and 2 * len(right) <= len(members) and any(map(_is_undecided, members)):
        world.counts["ties"] += 1
        await decide(world, others[0])


def _has_a_say(node: SimNode) -> bool:
    return own_harms.witnesses(node) and not _has_put_it_aside(node)


def _has_put_it_aside(node: SimNode) -> bool:
    own = node.coordinator.own if node.serving else None
    return own is not None and own.condition.spoilt is not None


def _is_undecided(node: SimNode) -> bool:
    return bool(node.serving) and node.coordinator.refusal == "own_store_undecided"
