"""Bring about the situations in which the classic mistakes of a Raft show: harm at its moment, as
in aimed.py.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from kv.errors import KvError
from tests.simulation import moments
from tests.simulation.aimed import _all_joined

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World


async def figure_8(world: World, rng: random.Random) -> None:
    """Let a majority hold entries of an older term while the new term's no-op has not left its
    leader; then another one leads, that may overwrite them (figure 8 of the Raft paper).
    """
    first, others = moments.led(world)
    if first is None or len(others) != 4:
        return
    nodes = [first, *others]
    partner, *rest = rng.sample(others, 4)
    moments.cut(world, [first, partner], rest)
    await asyncio.sleep(0.05)
    before = _last(first)
    await moments.burst(world, first, 20, value_bytes=600)  # more than one message carries
    world.network.stops = _entries_of_others(first, partner)
    elected = await moments.until(lambda: world.leader() in rest)
    second = world.leader()
    if elected and second is not None and second in rest:
        near, pair = [node for node in rest if node is not second], [first, partner]
        moments.cut(world, [second], near)
        world.network.stops = _new_entries(world, pair, near, _last(first))
        moments.join(world, pair, near)
        await asyncio.sleep(0.35)  # they have heard no leader for so long that they may vote
        await moments.stand(first, second.member.status().term)
        if await moments.until(
            lambda: world.leader() in pair and any(_last(node) > before for node in near)
        ):
            await asyncio.sleep(rng.uniform(0.02, 0.1))
            term = max(node.member.status().term for node in pair)
            moments.cut(world, pair, near)
            world.network.stops = None
            moments.join(world, [second], near)
            await asyncio.sleep(0.35)
            await moments.stand(second, term)
            await asyncio.sleep(rng.uniform(0.5, 1.0))
    world.network.stops = None
    for node in nodes:
        moments.join(world, [node], [other for other in nodes if other is not node])


def _last(node: SimNode) -> int:
    return node.member.status().last if node.serving else 0


def _entries_of_others(*faithful: SimNode) -> Any:
    """Stop the links of all but these as soon as they carry an entry."""
    names = {node.name for node in faithful}
    return lambda source, target, message: source not in names and bool(message.get("entries"))


def _new_entries(world: World, sources: list[SimNode], targets: list[SimNode], index: int) -> Any:
    """Stop the links between these as soon as they carry an entry above `index` that would be
    taken.
    """
    names, others = {node.name for node in sources}, {node.name for node in targets}

    def stops(source: str, target: str, message: dict[str, Any]) -> bool:
        if source not in names or target not in others:
            return False
        newer = any(entry[1] > index for entry in message.get("entries", ()))
        return newer and message["prevLogIdx"] <= _last(world.nodes[target])

    return stops


async def overtaken(world: World, rng: random.Random) -> None:
    """Let a leader's questions about reads overtake its heartbeats, and answers to them all others,
    after it was deposed: it reaches voters of the newer term, and does not hear of that term.
    """
    leader, others = moments.led(world)
    if leader is None or len(others) < 2:
        return
    for step in range(1, rng.choice((4, 5)) + 1):  # so slowly that the leader does not miss them
        moments.lag(world, others, leader, 0.4 * step)
        await asyncio.sleep(0.12)
    world.network.pings_apart = True
    moments.cut(world, [leader], others, one_way=True)
    world.popular = leader
    # the store would tell it that another has taken over
    world.store_faults.far_s[leader.name] = 2.0
    await asyncio.sleep(rng.uniform(1.2, 2.0))
    world.popular = None
    world.store_faults.far_s.pop(leader.name, None)
    world.network.pings_apart = False
    moments.join(world, [leader], others)
    moments.lag(world, others, leader, 0.0)


async def cut_off_change(world: World, rng: random.Random) -> None:
    """Let a leader that is cut off take a voter out of its own configuration, and lead again
    without that entry.
    """
    leader, others = moments.led(world)
    if leader is None or len(others) < 2 or len(others) % 2:
        return
    victim = rng.choice(others)
    moments.cut(world, [leader], others)

    async def change() -> None:
        try:
            await leader.call(lambda: leader.coordinator.remove_member(victim.name, timeout_s=1.0))
        except (KvError, TimeoutError) as exc:
            world.say("not removed", why=exc)

    changing = asyncio.get_running_loop().create_task(change())
    await moments.until(lambda: world.leader() in others)
    await asyncio.sleep(rng.uniform(0.1, 0.4))
    await changing
    moments.join(world, [leader], others)
    await asyncio.sleep(rng.uniform(0.3, 0.6))
    await moments.transfer(world, leader)
    await asyncio.sleep(rng.uniform(0.1, 0.5))
    if rng.random() < 0.5:  # what it now lacks comes from this leader, or from nobody
        victim.crash(power=False)
        world.counts["crashes"] += 1
        await asyncio.sleep(0.1)
        victim.start()


async def forgets_promise(world: World, rng: random.Random) -> None:
    """Put an empty disk in the place of one who has just elected another, while the deposed leader
    does not know it, and let that leader reach it: whoever confirms or acknowledges there has
    promised otherwise.
    """
    leader, others = moments.led(world)
    if leader is None or len(others) != 2 or world.disks_lost or not _all_joined(world):
        return
    away, lost = rng.sample(others, 2)
    for step in range(1, 6):  # so slowly that the leader does not miss them
        moments.lag(world, others, leader, 0.4 * step)
        await asyncio.sleep(0.12)
    moments.cut(world, [leader], others, one_way=True)
    if await moments.until(lambda: away.serving and away.member.status().role == "leader"):
        await asyncio.sleep(rng.uniform(0.1, 0.3))
        lost.crash(power=True)
        lost.empty()
        world.disks_lost[lost.name] = None
        world.counts["disks lost"] += 1
        world.say("disk lost", node=lost.name)
        moments.cut(world, [lost], [away])
        moments.lag(world, [lost], leader, 0.0)
        world.network.cut.pop((leader.name, lost.name), None)
        lost.start()
        world.popular = leader
        world.store_faults.far_s[leader.name] = 2.0
        await moments.burst(world, leader, 20)
        await asyncio.sleep(rng.uniform(0.3, 0.8))
        world.popular = None
        world.store_faults.far_s.pop(leader.name, None)
    moments.lag(world, others, leader, 0.0)
    moments.join(world, [leader, lost], [away])
    moments.join(world, [leader], [lost])


HARMS = {
    "figure_8": figure_8,
    "overtaken": overtaken,
    "cut_off_change": cut_off_change,
    "forgets_promise": forgets_promise,
}
