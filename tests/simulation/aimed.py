"""Do harm at its moment: what strikes at random reaches these situations once in thousands of
seeds.

Each waits for something to happen in the world (a commit on its way, answers that are old) and
strikes then. None of them knows which fault is planted, or checks anything.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from kv.errors import KvError
from tests.simulation import moments

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World


async def deaf_leader(world: World, rng: random.Random) -> None:
    """Let a leader hear answers that are old: its followers (but one of five) have turned to
    another by then.
    """
    leader, others = moments.led(world)
    if leader is None or len(others) < 2:
        return
    faithful = [others.pop(rng.randrange(len(others)))] if len(others) == 4 else []
    for step in range(1, rng.choice((2, 4, 5)) + 1):  # so slowly that the leader does not miss them
        moments.lag(world, others, leader, 0.4 * step)
        await asyncio.sleep(0.12)
    await asyncio.sleep(rng.choice((0.0, 0.0, 0.5)))
    moments.cut(world, [leader], others, one_way=True)
    moments.cut(world, faithful, others)
    world.popular = leader
    if rng.random() < 0.7:  # the store would tell it that another has taken over
        world.store_faults.far_s[leader.name] = 2.0
    await asyncio.sleep(rng.uniform(1.0, 2.0))
    world.popular = None
    world.store_faults.far_s.pop(leader.name, None)
    moments.join(world, [leader, *faithful], others)
    moments.lag(world, others, leader, 0.0)


async def split_power(world: World, rng: random.Random) -> None:
    """Cut the power of the only follower that makes the quorum, whose disk is slow, and cut the
    leader off.
    """
    leader, others = moments.led(world)
    if leader is None or len(others) != 2:
        return
    kept, lost = rng.sample(others, 2)
    kept.disk.slow_s = rng.choice((0.05, 0.2))
    moments.cut(world, [leader], [lost])
    await asyncio.sleep(rng.uniform(0.1, 0.5))
    moments.power_cut(world, kept)
    moments.cut(world, [leader], [kept])
    kept.disk.slow_s = 0.0
    await asyncio.sleep(0.01)
    kept.start()
    await asyncio.sleep(rng.uniform(1.0, 2.0))
    moments.join(world, [leader], others)


async def rivals(world: World, rng: random.Random) -> None:
    """Take the leader away while every message takes its time: followers that do not hear each
    other stand at once.
    """
    leader, others = moments.led(world)
    if leader is None or len(others) < 2:
        return
    usual, world.network.delay_s = world.network.delay_s, rng.choice(((0.01, 0.012), (0.03, 0.035)))
    rng.shuffle(others)
    half = len(others) // 2
    pairs = list(zip(others[:half], others[half:], strict=False)) if len(others) > 2 else []
    for one, other in pairs:
        moments.cut(world, [one], [other])
    await asyncio.sleep(0.1)
    leader.crash(power=False)
    world.counts["crashes"] += 1
    await asyncio.sleep(rng.uniform(0.8, 1.5))
    for one, other in pairs:
        moments.join(world, [one], [other])
    world.network.delay_s = usual
    leader.start()


async def old_answers(world: World, rng: random.Random) -> None:
    """Bring a leader back to the lead while answers to what it sent in an earlier term are still on
    their way.

    What it had sent then is cut off in between, so an old answer speaks of entries that nobody else
    has.
    """
    leader, others = moments.led(world)
    if leader is None or len(others) != 4:
        return
    partner, *rest = rng.sample(others, 4)
    moments.cut(world, [leader, partner], rest)
    await asyncio.sleep(0.05)
    moments.lag(world, [partner], leader, rng.uniform(0.9, 1.3))
    await moments.burst(world, leader, 25)
    await moments.until(lambda: world.leader() not in {leader, None})
    moments.join(world, [leader, partner], rest)
    await asyncio.sleep(rng.uniform(0.05, 0.15))
    await moments.transfer(world, leader)
    ally, *far = rest
    moments.cut(world, [leader, ally], [*far, partner])
    world.network.cut.pop((partner.name, leader.name), None)
    await moments.burst(world, leader, 10)
    await asyncio.sleep(rng.uniform(0.6, 1.0))
    moments.cut(world, [leader], [ally])
    moments.join(world, [ally], [*far, partner])
    await asyncio.sleep(rng.uniform(1.0, 2.0))
    moments.lag(world, [partner], leader, 0.0)
    moments.join(world, [leader], others)


async def late_commit(world: World, rng: random.Random) -> None:
    """Let a commit land long after the power of all members, and with it the order it was of, has
    gone.
    """
    if not await moments.commit_lost(world, rng.uniform(0.4, 1.2)):
        return
    for node in list(world.nodes.values()):
        moments.power_cut(world, node)
    await asyncio.sleep(rng.choice((0.01, 0.05)))
    for node in list(world.nodes.values()):
        node.start()


async def left_behind(world: World, rng: random.Random) -> None:
    """Let the followers forget what the leader has ordered, while it cannot tell that they have
    turned away.
    """
    usual, world.store_faults.delay_s = (
        world.store_faults.delay_s,
        rng.choice(((0.2, 0.3), (0.3, 0.35))),
    )
    await asyncio.sleep(rng.uniform(0.1, 0.4))
    leader, others = await _forgotten(world)
    await asyncio.sleep(rng.uniform(0.3, 1.5))
    world.store_faults.delay_s = usual
    await asyncio.sleep(rng.uniform(0.2, 1.0))
    moments.join(world, leader, others)


async def comes_back(world: World, rng: random.Random) -> None:
    """Let a leader that was left behind hear of its successor long before its log is made like that
    one's.
    """
    leader, others = await _forgotten(world)
    await moments.until(
        lambda: any(node.serving and node.coordinator.leading.taken_over for node in others)
    )
    await asyncio.sleep(rng.uniform(0.02, 0.2))
    lag_s = rng.uniform(0.15, 0.24)
    for one, other in ((one, other) for one in leader for other in others):
        moments.lag(world, [one], other, lag_s)
        moments.lag(world, [other], one, lag_s)
    moments.join(world, leader, others)
    await asyncio.sleep(10 * lag_s)
    for one, other in ((one, other) for one in leader for other in others):
        moments.lag(world, [one], other, 0.0)
        moments.lag(world, [other], one, 0.0)


async def _forgotten(world: World) -> tuple[list[SimNode], list[SimNode]]:
    """Cut the leader off and the power of the others; return both."""
    leader, others = moments.led(world)
    if leader is None or len(others) < 2:
        return [], []
    moments.cut(world, [leader], others)
    for node in others:
        moments.power_cut(world, node)
    await asyncio.sleep(0.01)
    for node in others:
        node.start()
    return [leader], others


async def late_order(world: World, rng: random.Random) -> None:
    """Take the lead from a member just as it orders a Rebase, with or without a further loss at its
    successors.
    """
    nodes = list(world.nodes.values())
    if len(nodes) != 3 or not await moments.commit_lost(world, rng.uniform(0.0, 0.1)):
        return
    for node in nodes:
        moments.power_cut(world, node)
    for node in nodes:
        node.start()
    lossy = rng.random() < 0.5
    world.holds_rebases_s = 0.0 if lossy else rng.uniform(0.5, 2.0)
    ordered = await moments.until(lambda: moments.rebases(world) > 0)
    if not lossy:
        world.holds_rebases_s = None  # what its successor orders takes the usual way
    leader, others = moments.led(world)
    if not ordered or leader is None or len(others) < 2:
        world.holds_rebases_s = None
        return
    if lossy:
        moments.cut(world, [leader], others)
        for node in others:
            moments.power_cut(world, node)
        for node in others:
            node.start()
        await moments.until(
            lambda: any(node.coordinator.committer.rebases for node in others if node.serving)
        )
        moments.join(world, [leader], others)
        await asyncio.sleep(1.0)
        world.holds_rebases_s = None
    else:
        await moments.transfer(world, rng.choice(others))
        await asyncio.sleep(2.5)


async def late_takeover(world: World, rng: random.Random) -> None:
    """Let a member that leads no more take the store over, after its successor did.

    Its way to the store is long, twice (it looks whose store it is first), and what it had sent
    there is lost: so it begins just as it is cut off.
    """
    leader, others = moments.led(world)
    if leader is None or len(others) < 2:
        return
    world.store_faults.far_s[leader.name] = rng.uniform(0.35, 0.45)
    if await moments.commit_lost(world, None):
        moments.cut(world, [leader], others)
        await asyncio.sleep(rng.uniform(1.0, 1.5))
        moments.join(world, [leader], others)
    world.store_faults.far_s.pop(leader.name, None)


async def long_outage(world: World, rng: random.Random) -> None:
    """Take the store away for longer than anybody waits."""
    world.store_faults.down = True
    world.counts["store outages"] += 1
    await asyncio.sleep(rng.uniform(6.5, 9.0))
    world.store_faults.down = False


async def slow_successor(world: World, rng: random.Random) -> None:
    """Let a member that has lost what was committed lead while the store is slow to say what it
    holds.
    """
    leader, others = moments.led(world)
    if leader is None or len(others) < 2:
        return
    usual = world.store_faults.delay_s
    for node in others:
        moments.power_cut(world, node)
    moments.cut(world, [leader], others)
    world.store_faults.delay_s = rng.choice(((0.1, 0.3), (0.2, 0.39)))
    for node in others:
        node.start()
    await asyncio.sleep(rng.uniform(0.4, 0.8))
    moments.join(world, [leader], others)
    await asyncio.sleep(rng.uniform(0.5, 2.0))
    world.store_faults.delay_s = usual


async def late_ballot(world: World, rng: random.Random) -> None:
    """Let two of five stand at once, cut off the one that wins, and bring the other a vote of that
    term late.

    It is late by an election time-out, on a connection that lives: its receiver has long asked for
    the next term.
    """
    leader, others = moments.led(world)
    if leader is None or len(others) != 4:
        return
    loser, winner, both, third = rng.sample(others, 4)
    if loser.name > third.name:  # of two that stand at once the higher id goes on
        loser, third = third, loser
    term = leader.member.status().term
    moments.cut(world, [winner], [loser, leader])
    leader.crash(power=False)
    world.counts["crashes"] += 1
    await asyncio.sleep(0.01)
    leader.start()
    if not await moments.until(lambda: leader.serving):
        return
    moments.lag(world, [leader], loser, rng.uniform(0.6, 0.8))
    for node in (both, third):
        moments.lag(world, [loser], node, 0.1)
        moments.lag(
            world, [winner], node, 0.05
        )  # so its first entry is on its way when it is cut off
    for node in (loser, winner):
        await moments.stand(node, term)
    await moments.until(lambda: world.leader() is not None)
    moments.cut(world, [winner, leader, third], [both])
    moments.cut(world, [winner, leader], [third])
    moments.cut(world, [loser], [third], one_way=True)
    await asyncio.sleep(rng.uniform(0.5, 0.6))
    await moments.stand(third, term + 1)
    await asyncio.sleep(rng.uniform(0.3, 1.0))
    for node in (both, third):
        moments.lag(world, [loser, winner], node, 0.0)
    moments.lag(world, [leader], loser, 0.0)
    nodes = [leader, *others]
    for node in nodes:
        moments.join(world, [node], [other for other in nodes if other is not node])


async def lost_disk(world: World, rng: random.Random) -> None:
    """Put an empty disk in the place of a follower's, and let who lacks what it had acknowledged
    ask for its vote.

    It starts on it once or more before anybody reaches it. Then an operator takes it out and adds
    another member.
    """
    leader, others = moments.led(world)
    if leader is None or len(others) not in {2, 4} or world.disks_lost or not _all_joined(world):
        return
    lost, *rest = rng.sample(others, len(others))
    away = rest[: len(others) // 2]
    near = [leader, *rest[len(others) // 2 :]]
    moments.cut(world, away, [*near, lost])
    await asyncio.sleep(rng.uniform(0.2, 0.8))
    moments.cut(world, [lost], near)
    lost.crash(power=True)
    lost.empty()
    world.disks_lost[lost.name] = None
    world.counts["disks lost"] += 1
    world.say("disk lost", node=lost.name)
    asks = rng.random() < 0.4
    for _ in range(rng.choice((0, 1, 1, 2))):
        lost.start()
        # whoever refuses it tells it what term it is
        if asks and await moments.until(lambda: lost.serving):
            moments.join(world, [lost], away)
            await moments.stand(lost, 0)
        await asyncio.sleep(rng.uniform(0.02, 0.06) if asks else rng.uniform(0.02, 0.5))
        moments.cut(world, [lost], away)
        lost.crash(power=False)
    lost.start()
    moments.join(world, [lost], away)
    await asyncio.sleep(rng.uniform(1.0, 2.0))
    moments.join(world, [*away, lost], near)
    await asyncio.sleep(rng.uniform(0.0, 1.0))
    await replace_lost(world, 3.0)


async def replace_lost(world: World, within_s: float) -> bool:
    """Be the operator: remove members whose disks were lost, and add a new voter for each."""
    from coordinator.log import PeerAddress
    from tests.simulation.node import SimNode

    ends = asyncio.get_running_loop().time() + within_s
    while world.disks_lost and asyncio.get_running_loop().time() < ends:
        leader, name = world.leader(), next(iter(world.disks_lost))
        if leader is None:
            await asyncio.sleep(0.1)
            continue
        members = leader.coordinator.status().members
        try:
            if name in {member.id for member in members}:
                await leader.call(lambda: leader.coordinator.remove_member(name, timeout_s=1.0))  # noqa: B023
        except (KvError, TimeoutError) as exc:
            world.say("lost disk not removed", why=exc)
            await asyncio.sleep(0.1)
            continue
        del world.disks_lost[name]
        world.say("lost disk removed", node=name)
        node = world.nodes.pop(name, None)
        if node is not None:
            node.wanted = False
            node.crash(power=False)
        new = f"m{next(world.newcomers)}"
        known = tuple(PeerAddress(m.id, m.raft_address, m.voter) for m in members if m.id != name)
        with suppress(KvError, TimeoutError):
            add = partial(leader.coordinator.add_member, new, f"{new}:1", "", voter=False)
            await leader.call(partial(add, timeout_s=1.0))
            world.nodes[new] = SimNode(
                world, new, (*known, PeerAddress(new, f"{new}:1", voter=False))
            )
            world.nodes[new].start()
            add = partial(leader.coordinator.add_member, new, f"{new}:1", "", voter=True)
            await leader.call(partial(add, timeout_s=2.0))
    return not world.disks_lost


def _all_joined(world: World) -> bool:
    """Say whether every log has it that all its members joined: before, an empty disk is not told
    from a new one. They vote, too: another one does not make up for a voter whose disk is lost.
    """
    if any(node.file.hurt for node in world.nodes.values()):
        return False
    seats = [node.member._core.roster.committed.seats for node in world.serving]
    every = [seat for held in seats for seat in held]
    return len(seats) == len(world.nodes) and all(seat.joined and seat.voter for seat in every)


async def undercut(world: World, rng: random.Random) -> None:
    """Restore the store to before its newest row while a commit that stands on that row is still to
    land.
    """
    if not world.plan.restores or not await moments.commit_lost(
        world, rng.choice((0.05, 0.3, 0.6))
    ):
        return
    with suppress(ValueError):
        world.database.restore(1)
        world.counts["restores"] += 1
        world.say("store restored", last=world.database.head().last)


async def founded_alone(world: World, rng: random.Random) -> None:
    """Start a voter on an empty disk, and tell it that it is alone. Later it has its own disk and
    list again.

    Members cannot know of each other while they are cut off: then two clusters of one name exist
    until they meet.
    """
    from coordinator.log import PeerAddress

    leader, others = moments.led(world)
    if leader is None or not others or world.network.cut:
        return
    node = rng.choice(others)
    node.crash(power=False)
    own = node.disk, node.members, node.file
    world.founded_alone[node.name] = None
    node.disk = type(own[0])(
        world.rng_of(f"stranger {node.name} {node.lives}"), directory=f"/{node.name}"
    )
    node.members = (PeerAddress(node.name, f"{node.name}:1"),)
    node.file = type(own[2])(world.rng_of(f"strange file {node.name} {node.lives}"))
    world.counts["founded alone"] += 1
    world.say("told that it is alone", node=node.name)
    node.start()
    await asyncio.sleep(rng.uniform(0.5, 2.5))
    node.crash(power=False)
    node.disk, node.members, node.file = own
    del world.founded_alone[node.name]
    world.say("has its own disk and list again", node=node.name)
    node.start()


HARMS = {
    "deaf_leader": deaf_leader,
    "split_power": split_power,
    "rivals": rivals,
    "old_answers": old_answers,
    "late_commit": late_commit,
    "left_behind": left_behind,
    "slow_successor": slow_successor,
    "undercut": undercut,
    "comes_back": comes_back,
    "long_outage": long_outage,
    "late_order": late_order,
    "late_takeover": late_takeover,
    "late_ballot": late_ballot,
    "lost_disk": lost_disk,
    "founded_alone": founded_alone,
}
