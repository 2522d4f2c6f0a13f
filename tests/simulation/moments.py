"""Wait for a moment in a world, and do the small things that aimed harms are made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from coordinator.machine.commands import Submit, encode
from kv.errors import KvError
from kv.model import Intent, Put

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

WAIT_S = 2.0
"""What is waited for comes within this, or the harm is left out."""


def led(world: World) -> tuple[SimNode | None, list[SimNode]]:
    """Return the leader and the other voters that serve."""
    leader = world.leader()
    if leader is None:
        return None, []
    voters = {member.id for member in leader.coordinator.status().members if member.voter}
    return leader, [node for node in world.serving if node is not leader and node.name in voters]


def lag(world: World, sources: Iterable[SimNode], target: SimNode, lag_s: float) -> None:
    """Let what these send to the target take so much longer."""
    for source in sources:
        if lag_s:
            world.network.lag_s[source.name, target.name] = lag_s
        else:
            world.network.lag_s.pop((source.name, target.name), None)


def cut(world: World, these: list[SimNode], those: list[SimNode], *, one_way: bool = False) -> None:
    """Cut these off from those."""
    a, b = [node.name for node in these], [node.name for node in those]
    world.counts["partitions"] += 1
    world.say("cut", these=",".join(a), those=",".join(b), one_way=one_way)
    world.network.isolate(a, from_names=b, one_way=one_way)


def join(world: World, these: list[SimNode], those: list[SimNode]) -> None:
    """Let these and those hear each other again."""
    world.network.join([node.name for node in these], [node.name for node in those])
    world.say(
        "joined",
        these=",".join(node.name for node in these),
        those=",".join(node.name for node in those),
    )


def power_cut(world: World, node: SimNode) -> None:
    """Cut a node's power."""
    world.counts["power cuts"] += node.up
    node.crash(power=True)


def rebases(world: World) -> int:
    """Return how many Rebases the processes that run now have ordered."""
    return sum(node.coordinator.committer.rebases for node in world.serving)


async def until(holds: Callable[[], bool]) -> bool:
    """Wait for a moment; False if it does not come."""
    ends = asyncio.get_running_loop().time() + WAIT_S
    while not holds():
        if asyncio.get_running_loop().time() > ends:
            return False
        await asyncio.sleep(0.002)
    return True


async def commit_lost(world: World, lands_after_s: float | None) -> bool:
    """Let the next group's transaction land only then (or never), its answer unheard; True once it
    is on its way.
    """
    lost = world.store_faults.lose_next(lands_after_s)
    try:
        async with asyncio.timeout(WAIT_S):
            await lost.wait()
    except TimeoutError:
        world.store_faults.lose_none()
        return False
    return True


async def burst(world: World, node: SimNode, writes: int, *, value_bytes: int = 0) -> None:
    """Let a node order writes one by one, and never look back. Each is a command of its own: the
    node's queue would put them together while the first one waits.
    """
    loop = asyncio.get_running_loop()

    async def one(op_id: str) -> None:
        async def order() -> None:
            until_ms = node.coordinator.now_ms() + 1000
            value = op_id.encode().ljust(value_bytes)
            await node.coordinator.submit([Intent(op_id, until_ms, (), (Put(b"burst", value),))])[0]

        with suppress(KvError):
            await node.call(order)

    world.bursts += 1
    for number in range(writes):
        world.impatient.append(loop.create_task(one(f"burst{world.bursts}-{number}")))
        await asyncio.sleep(0.01)


async def early(world: World, node: SimNode) -> None:
    """Propose intents at a node as soon as it runs, past all that would refuse them: nothing of it
    may be ordered before the history is founded.
    """
    for number in range(300):
        await asyncio.sleep(0.003)
        if world.reference.tip.found is not None:
            return
        if node.serving:
            op_id = f"~{node.name}.early{number}"
            intent = Intent(op_id, 1 << 52, (), (Put(b"early", op_id.encode()),))
            waits = node.member.propose(encode(Submit((intent,))))
            waits.add_done_callback(lambda done: done.cancelled() or done.exception())


async def stand(node: SimNode, above: int) -> None:
    """Let a member stand at once, as its committer asks for when a row of that term is in
    its way.
    """

    async def outrank() -> None:
        node.member.outrank(above)

    with suppress(KvError):
        try:
            await node.call(outrank)
        except OSError as exc:  # no room for the vote: it ends its committer, and so the node
            node.fail(exc)


async def transfer(world: World, to: SimNode) -> None:
    """Let the leader hand its leadership to a node."""
    leader = world.leader()
    if leader is None or leader is to:
        return
    with suppress(KvError, TimeoutError):
        await leader.call(lambda: leader.coordinator.transfer(to.name, timeout_s=1.0))
        world.counts["transfers"] += 1
        world.say("transferred", to=to.name)
