"""Do harm to a simulated world, one thing after another and several at once, and mend all of it in
the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from coordinator.machine.chain import group_on
from coordinator.machine.evaluate import evaluate
from coordinator.machine.pending import Pending
from kv.errors import KvError
from kv.model import Group, Head, Intent, Put, roll
from kv.ports import Facts, Identity, TakenOver
from tests.planted.registry import is_planted
from tests.simulation import aimed, classics, lease_harms, own_harms, ties

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

Harm = Callable[["World", random.Random], Coroutine[Any, Any, None]]


async def torment(world: World, until_s: float) -> None:
    """Choose among the plan's faults until a time."""
    loop, rng = asyncio.get_running_loop(), world.rng_of("nemesis")
    if world.plan.restores:
        loop.call_at(rng.uniform(0.4, 0.8) * until_s, _restore, world, rng)
    aiming: asyncio.Task[None] | None = None
    async with asyncio.TaskGroup() as group:
        while loop.time() < until_s:
            await asyncio.sleep(rng.expovariate(1 / 0.7))
            kind = rng.choice(world.plan.faults)
            if kind not in AIMED:
                group.create_task(HARMS[kind](world, rng))
            elif (
                aiming is None or aiming.done()
            ):  # one at a time, or each would spoil the moment of the other
                aiming = group.create_task(_aimed(world, rng, kind))


async def _aimed(world: World, rng: random.Random, kind: str) -> None:
    world.say("aims", at=kind)
    await HARMS[kind](world, rng)
    await asyncio.sleep(rng.uniform(0.3, 1.0))


def heal(world: World) -> None:
    """Mend everything and start what is down."""
    world.network.heal()
    world.store_faults.heal()
    world.cache.hostile, world.cache.dead = world.plan.hostile, False
    world.broker.dead, world.broker.flaky = False, 0.0
    for node in world.nodes.values():
        node.disk.sync_fails, node.disk.capacity_bytes, node.disk.slow_s = False, None, 0.0
        node.file.heal()
        node.start()
    world.say("healed")


def _restore(world: World, rng: random.Random) -> None:
    try:
        world.database.restore(rng.choice((1, 1, 2, 3, 4)))
    except ValueError:
        return
    world.counts["restores"] += 1
    world.say("store restored", last=world.database.head().last)
    if rng.random() < 0.5:
        operator = asyncio.ensure_future(_adopt_soon(world, rng.uniform(0.0, 0.4)))
        operator.add_done_callback(lambda done: done.cancelled() or done.exception())


async def _adopt_soon(world: World, after_s: float) -> None:
    """Be an operator in a hurry: adopt while clients go on writing, as soon as somebody refuses."""
    for _ in range(100):
        leader = world.leader()
        if leader is not None and leader.coordinator.refusal is not None:
            await asyncio.sleep(after_s)
            coordinator = leader.coordinator
            adopting = functools.partial(
                coordinator.adopt, gives_up=coordinator.status().gives_up, timeout_s=3.0
            )
            with contextlib.suppress(KvError, TimeoutError):
                adopted = await leader.call(adopting)
                world.say("adopted in a hurry", revision=adopted)
            return
        await asyncio.sleep(0.05)


def _some(world: World, rng: random.Random) -> SimNode:
    """Return a node to be hurt, the leader half of the time."""
    leader = world.leader()
    if leader is not None and rng.random() < 0.5:
        return leader
    return rng.choice(list(world.nodes.values()))


async def _rival_cluster(world: World, rng: random.Random) -> None:
    """Let a node of another cluster open this one's store, as after a mistake in its settings: it
    goes no further than its claim, unless a store lets everybody in.
    """
    database = world.database
    held = database.claim(Identity("rival", b"r" * 16))
    if held.cluster_id == "rival" or is_planted("store_identity"):
        taken = database.take_over(
            database.head().term + 1, "rival.1", world.nodes["n1"].clock.wall_ms(), None
        )
        if isinstance(taken, TakenOver):
            write = Intent(
                f"rival-{taken.own.seq}", 1 << 52, writes=(Put(b"k0", b"of another cluster"),)
            )
            database.append(_rivals(taken.own, write, world.nodes["n1"].clock.wall_ms()))
            world.say("another cluster wrote", revision=taken.own.last + 1)
    await asyncio.sleep(rng.uniform(0.1, 1.0))


def _rivals(head: Head, write: Intent, now_ms: int) -> Group:
    """Return a group of the other cluster's, behind a head."""
    digest = roll(head.digest, write.op_id, write.body_hash)
    batch = [Pending(head.last + 1, write, write.body_hash, digest, now_ms, False, 0)]
    evaluation = evaluate(batch, Facts(head, {}, {}, {}, frozenset()), now_ms)
    by = head.committer
    return group_on(
        head, term=head.term, committer=by, log_time_ms=now_ms, batch=batch, evaluation=evaluation
    )


async def _crash(world: World, rng: random.Random) -> None:
    await _end(world, rng, power=False)


async def _power(world: World, rng: random.Random) -> None:
    await _end(world, rng, power=True)


async def _end(world: World, rng: random.Random, *, power: bool) -> None:
    several = rng.random() < 0.25
    victims = list(world.nodes.values()) if several else [_some(world, rng)]
    for node in victims:
        if node.up:
            world.counts["power cuts" if power else "crashes"] += 1
            node.crash(power=power)
    await asyncio.sleep(rng.choice((0.01, 0.1, 0.5, 2.0)))
    for node in victims:
        node.start()
        if several and rng.random() < 0.5:
            await asyncio.sleep(rng.uniform(0.0, 0.6))


async def _stop(world: World, rng: random.Random) -> None:
    """Stop all nodes, and start them together after a while: only clocks can tell how long that
    was.
    """
    for node in list(world.nodes.values()):
        world.counts["crashes"] += node.up
        node.crash(power=False)
        node.wanted = False
    await asyncio.sleep(rng.uniform(3.0, 5.0))
    for node in list(world.nodes.values()):
        node.wanted = True
        node.start()
    await asyncio.sleep(1.0)


async def _amnesia(world: World, rng: random.Random) -> None:
    """Cut the power of just a majority at once: what it had acknowledged is gone, others have
    applied it.
    """
    names = list(world.nodes)
    majority = rng.sample(names, len(names) // 2 + 1)
    for name in majority:
        world.counts["power cuts"] += world.nodes[name].up
        world.nodes[name].crash(power=True)
    await asyncio.sleep(rng.choice((0.01, 0.3)))
    for name in majority:
        if name in world.nodes:
            world.nodes[name].start()


async def _lose_rows(world: World, rng: random.Random) -> None:
    if world.plan.restores:
        _restore(world, rng)


async def _partition(world: World, rng: random.Random) -> None:
    await _cut(world, rng, one_way=False)


async def _one_way(world: World, rng: random.Random) -> None:
    await _cut(world, rng, one_way=True)


async def _cut(world: World, rng: random.Random, *, one_way: bool) -> None:
    names = list(world.nodes)
    if len(names) < 2:
        return
    some = [_some(world, rng).name] if rng.random() < 0.6 else rng.sample(names, len(names) // 2)
    rest = [name for name in names if name not in some]
    if rng.random() < 0.2:
        rest = rest[:1]  # a bridge: one link is cut, both ends still reach the others
    world.counts["partitions"] += 1
    world.say("cut", these=",".join(some), those=",".join(rest), one_way=one_way)
    world.network.isolate(some, from_names=rest, one_way=one_way)
    await asyncio.sleep(rng.uniform(0.2, 3.0))
    world.network.join(some, rest)
    world.say("joined", these=",".join(some), those=",".join(rest))


async def _slow(world: World, rng: random.Random) -> None:
    node = _some(world, rng).name
    for other in world.nodes:
        if rng.random() < 0.7:
            world.network.slow[node, other] = world.network.slow[other, node] = rng.choice(
                (0.01, 0.05, 0.2)
            )
    await asyncio.sleep(rng.uniform(0.5, 2.0))
    world.network.slow.clear()


async def _loss(world: World, rng: random.Random) -> None:
    world.network.loss = rng.choice((0.002, 0.01, 0.05))
    await asyncio.sleep(rng.uniform(0.5, 2.0))
    world.network.loss = 0.0


async def _store_slow(world: World, rng: random.Random) -> None:
    world.store_faults.delay_s = rng.choice(((0.01, 0.05), (0.1, 0.3), (0.2, 1.0)))
    await asyncio.sleep(rng.uniform(0.3, 1.5))
    world.store_faults.delay_s = (0.0002, 0.003)


async def _store_down(world: World, rng: random.Random) -> None:
    world.store_faults.down = True
    world.counts["store outages"] += 1
    await asyncio.sleep(rng.uniform(3.0, 6.0) if rng.random() < 0.15 else rng.uniform(0.1, 1.0))
    world.store_faults.down = False


async def _ambiguous(world: World, rng: random.Random) -> None:
    world.store_faults.ambiguous = rng.choice((0.05, 0.3, 0.6))
    world.store_faults.fails = rng.choice((0.0, 0.1))
    await asyncio.sleep(rng.uniform(0.3, 2.0))
    world.store_faults.ambiguous = world.store_faults.fails = 0.0


async def _cache(world: World, rng: random.Random) -> None:
    world.cache.hostile, world.cache.dead = (
        world.plan.hostile or rng.random() < 0.7,
        rng.random() < 0.2,
    )
    if rng.random() < 0.2:
        world.cache.wipe()
    await asyncio.sleep(rng.uniform(0.5, 3.0))
    world.cache.hostile, world.cache.dead = world.plan.hostile, False


async def _broker(world: World, rng: random.Random) -> None:
    world.broker.dead, world.broker.flaky = rng.random() < 0.5, 0.4
    await asyncio.sleep(rng.uniform(0.3, 2.0))
    world.broker.dead, world.broker.flaky = False, 0.0


STEPS_S: Final = (-0.3, 0.3, -2.0, 2.0, -30.0, 20.0, 3600.0, -3600.0, 25 * 3600.0, 4e7, -4e7)
"""What wall clocks step by: up to more than a year, either way."""


async def _clock(world: World, rng: random.Random) -> None:
    """Step one clock, or most, or all, by as much; half of the time it is set right again after a
    while.
    """
    by_s, share = rng.choice(STEPS_S), rng.random()
    nodes = list(world.nodes.values())
    some = (
        [_some(world, rng)]
        if share < 0.6
        else nodes
        if share < 0.7
        else rng.sample(nodes, len(nodes) // 2 + 1)
    )
    step_clocks(world, some, by_s)
    if rng.random() < 0.5:
        await asyncio.sleep(rng.uniform(0.5, 4.0))
        step_clocks(world, some, -by_s)


def step_clocks(world: World, nodes: Sequence[SimNode], by_s: float) -> None:
    for node in nodes:
        node.clock.skew_s += by_s
        world.counts["clock jumps"] += 1
        world.say("clock jumps", node=node.name, skew_s=node.clock.skew_s)


async def _disk(world: World, rng: random.Random) -> None:
    node = _some(world, rng)
    world.counts["disk faults"] += 1
    world.say("disk fault", node=node.name)
    if rng.random() < 0.5:
        node.disk.sync_fails = True
    else:
        node.disk.capacity_bytes = 0
    await asyncio.sleep(rng.uniform(0.05, 1.0))
    node.disk.sync_fails, node.disk.capacity_bytes = False, None


async def _slow_disk(world: World, rng: random.Random) -> None:
    """Let syncs take long, blocking calls too: at one node or at all, or so long at one that its
    disk seems to hang.
    """
    victims, took_s = [_some(world, rng)], rng.choice((0.1, 0.2, 0.5))
    if rng.random() < 0.3:
        victims = list(world.nodes.values())
    elif rng.random() < 0.4:
        took_s = rng.uniform(2.0, 4.0)
    world.counts["slow disks"] += len(victims)
    world.say("slow disk", nodes=",".join(node.name for node in victims), sync_s=took_s)
    for node in victims:
        node.disk.slow_s = took_s
    await asyncio.sleep(rng.uniform(0.5, 3.0) + took_s)
    for node in victims:
        node.disk.slow_s = 0.0


async def _transfer(world: World, rng: random.Random) -> None:
    leader = world.leader()
    if leader is None:
        return
    try:
        to = await leader.call(lambda: leader.coordinator.transfer(None, timeout_s=1.0))
        world.counts["transfers"] += 1
        world.say("transferred", to=to)
    except (KvError, TimeoutError) as exc:
        world.say("not transferred", why=exc)


async def _membership(world: World, rng: random.Random) -> None:
    """Add an observer, promote it, or take a voter out and its machine away."""
    from coordinator.log import PeerAddress
    from tests.simulation.node import SimNode

    leader = world.leader()
    if leader is None:
        return
    members = leader.coordinator.status().members
    voters = [member.id for member in members if member.voter]
    observers = [member.id for member in members if not member.voter]
    choice = rng.random()
    try:
        if observers and choice < 0.45:
            name = rng.choice(observers)
            await leader.call(
                lambda: leader.coordinator.add_member(
                    name, f"{name}:1", "", voter=True, timeout_s=2.0
                )
            )
            what = f"promoted {name}"
        elif len(voters) > 3 and choice < 0.8:
            name = rng.choice(voters)
            await leader.call(lambda: leader.coordinator.remove_member(name, timeout_s=2.0))
            what = f"removed {name}"
            node = world.nodes.get(name)
            if node is not None:
                node.wanted = False
                node.crash(power=False)
                del world.nodes[name]
        elif len(world.nodes) < 6:
            name = f"m{next(world.newcomers)}"
            own = PeerAddress(name, f"{name}:1", voter=False)
            known = tuple(PeerAddress(m.id, m.raft_address, m.voter) for m in members)
            await leader.call(
                lambda: leader.coordinator.add_member(
                    name, f"{name}:1", "", voter=False, timeout_s=2.0
                )
            )
            what = f"added {name}"
            world.nodes[name] = SimNode(world, name, (*known, own))
            world.nodes[name].start()
        else:
            return
    except (KvError, TimeoutError) as exc:
        world.say("membership not changed", why=exc)
        return
    world.counts["membership changes"] += 1
    world.say("membership", what=what)


AIMED: Final = (*aimed.HARMS, *classics.HARMS, *lease_harms.HARMS, "tie")
"""Each waits for its moment."""
HARMS: dict[str, Harm] = {
    "crash": _crash,
    "power": _power,
    "partition": _partition,
    "one_way": _one_way,
    "slow": _slow,
    "loss": _loss,
    "store_slow": _store_slow,
    "store_down": _store_down,
    "ambiguous": _ambiguous,
    "cache": _cache,
    "broker": _broker,
    "clock": _clock,
    "disk": _disk,
    "slow_disk": _slow_disk,
    "transfer": _transfer,
    "membership": _membership,
    "amnesia": _amnesia,
    "lose_rows": _lose_rows,
    "rival_cluster": _rival_cluster,
    "stop": _stop,
    **aimed.HARMS,
    **classics.HARMS,
    **lease_harms.HARMS,
    **own_harms.HARMS,
    "tie": ties.tie,
}
