"""Do harm to members' own stores: to their files, to copies on their way, to logs that are cut.

No more than a minority's files are harmed at once: what a quorum's disks hold is all there is.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from backends.memory.member_tables import MemberTables
from kv.errors import KvError
from kv.model import GENESIS_DIGEST
from kv.ports import Note, Step
from tests.simulation import aimed, levels, moments
from tests.simulation.own import SimFile
from tests.simulation.stores import HeldBroker

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

MANY_ROWS: Final = 120
"""More than a publisher reads from the ledger at once."""
MENDED_S: Final = 8.0
"""Within this a member has mended its file, or somebody is asked later."""


async def file_slow(world: World, rng: random.Random) -> None:
    """Let writing into the files take long, at one member or at all: more and more is unwritten."""
    some = [_any(world, rng)] if rng.random() < 0.7 else list(world.nodes.values())
    took_s = rng.choice(((0.02, 0.1), (0.1, 0.5), (1.0, 2.0)))
    world.counts["slow files"] = world.counts.get("slow files", 0) + 1
    for node in some:
        node.file.delay_s = took_s
    world.say("slow files", nodes=",".join(node.name for node in some), took_s=took_s)
    await asyncio.sleep(rng.uniform(0.5, 3.0))
    for node in some:
        node.file.delay_s = (0.0003, 0.004)


async def file_full(world: World, rng: random.Random) -> None:
    """Let nothing get into a member's file for a while, though its log has room."""
    node = _any(world, rng)
    world.counts["full files"] = world.counts.get("full files", 0) + 1
    world.say("full file", node=node.name)
    node.file.refuse_writes("No space left on device")
    await asyncio.sleep(rng.uniform(0.2, 3.0))
    node.file.refuse_writes("")


async def file_hurt(world: World, rng: random.Random) -> None:
    """Damage a member's file, or take it away, or put another one in its place."""
    node = _victim(world, rng)
    if node is None:
        return
    kind = rng.choice(
        ("live", "live", "damaged", "missing", "truncated", "torn", "foreign", "other's")
    )
    if kind in {"live", "row"} and node.up and node.serving:
        hurt(node, kind)
        if kind == "live":
            node.file.spoil("a page is not what was written")
        else:
            _damage_row(node, rng)
        return
    node.crash(power=rng.random() < 0.5)
    hurt(node, kind)
    _change(world, node, kind, rng)
    await asyncio.sleep(rng.choice((0.0, 0.05, 0.5)))
    node.start()


def hurt(node: SimNode, kind: str) -> None:
    """Enter that a member's file is not what it left."""
    node.file.hurt = kind
    node.world.counts["files hurt"] += 1
    node.world.say("file hurt", node=node.name, how=kind)


def _change(world: World, node: SimNode, kind: str, rng: random.Random) -> None:
    file, image = node.file, node.file.image()
    match kind:
        case "missing":
            file.wipe()
        case "truncated":
            file.replace_by(image[: rng.randrange(len(image))])
        case "torn":
            place = rng.randrange(len(image))
            file.replace_by(image[:place] + bytes([image[place] ^ 0xFF]) + image[place + 1 :])
        case "foreign":
            file.replace_by(foreign(rng).image())
        case "other's":
            others = [other for other in world.nodes.values() if other is not node]
            source = rng.choice(others).file if others else file
            file.replace_by(rng.choice((source.older, None)) or source.image())
        case _:
            file.spoil("a page is not what was written")


def foreign(rng: random.Random) -> SimFile:
    """Return the file of a member of another cluster."""
    file = SimFile(rng)
    history = rng.randbytes(16)
    for index in range(2, rng.randint(3, 400)):
        step = Step(Note(history, index, 1 + index // 100, GENESIS_DIGEST))
        file.commit((partial(_apply, step),))
    file.sync()
    return file


def _apply(step: Step, tables: MemberTables) -> None:
    tables.apply(step)


def _damage_row(node: SimNode, rng: random.Random) -> None:
    store = node.own
    assert store is not None
    rows = store.tables.image().rows
    if rows:
        node.file.damage_row(rng.choice(rows).seq)


async def file_old(world: World, rng: random.Random) -> None:
    """Put an older copy of a member's own file in its place, as an operator does who means well."""
    node = _victim(world, rng)
    if node is None or not node.up:
        return
    node.file.older = node.file.image()
    await asyncio.sleep(rng.uniform(0.5, 4.0))
    if _victim(world, rng, only=node) is None or node.file.older is None:
        return
    node.crash(power=rng.random() < 0.5)
    hurt(node, "older copy")
    node.file.replace_by(node.file.older)
    node.start()


async def emptied(world: World, rng: random.Random) -> None:
    """Empty a member's directory: it never votes again under its id, and is replaced."""
    node = _victim(world, rng)
    if node is None or not aimed._all_joined(world):
        return
    node.crash(power=rng.random() < 0.5)
    node.empty()
    world.disks_lost[node.name] = None
    world.counts["disks lost"] += 1
    world.say("disk lost", node=node.name)
    await asyncio.sleep(rng.uniform(0.0, 0.5))
    node.start()
    await asyncio.sleep(rng.uniform(0.5, 2.0))
    await aimed.replace_lost(world, 3.0)


async def diverge(world: World, rng: random.Random) -> None:
    """Let one member's contents go another way, as a bug or a flipped bit in memory does."""
    node = _victim(world, rng)
    if node is None or len(world.nodes) < 3 or not all(map(witnesses, world.nodes.values())):
        return  # without a majority of witnesses nobody could say whose contents are right
    hurt(node, "diverged")
    node.coordinator.machine.book.content = rng.randbytes(32)
    await mended(world, node)


def witnesses(node: SimNode) -> bool:
    """Say whether a member's contents count: those that it fetched do not, for a while (R3)."""
    own = node.coordinator.own if node.serving else None
    return own is not None and own.keeping.witness


async def broker_away(world: World, rng: random.Random) -> None:
    """Let the broker be away for longer than rows are kept that nobody waits for."""
    world.broker.dead = True
    world.counts["brokers away"] = world.counts.get("brokers away", 0) + 1
    await asyncio.sleep(rng.uniform(5.0, 8.0))
    world.broker.dead = False


async def late_position(world: World, rng: random.Random) -> None:
    """Let a leader tell of much in one batch and be deposed before it is confirmed, so that its
    position is ordered late: the floor follows it while its successor waits for the broker.
    """
    leader, others = moments.led(world)
    if leader is None or not others:
        return
    nodes, next_leader = [leader, *others], rng.choice(others)
    ways = {node.name: HeldBroker(world.broker) for node in nodes}
    publishers = [node.coordinator.publisher for node in nodes]
    for node, publisher in zip(nodes, publishers, strict=True):
        publisher._broadcast = ways[node.name]
    own, successors = ways[leader.name], ways[next_leader.name]
    if await moments.until(lambda: own.waiting > 0):
        await moments.burst(world, leader, MANY_ROWS)
        own.let_through()
        if await moments.until(lambda: own.waiting > 0):
            await asyncio.sleep(0.6)  # what it has not ordered is more than half a second old then
            await moments.transfer(world, next_leader)
            await moments.until(lambda: successors.waiting > 0)
            own.let_through()
            world.counts["late positions"] = world.counts.get("late positions", 0) + 1
            await moments.burst(world, next_leader, MANY_ROWS)
            await asyncio.sleep(rng.uniform(6.0, 7.5))
    for publisher in publishers:
        publisher._broadcast = world.broker
    for way in ways.values():
        way.let_through(1_000)


async def compact(world: World, rng: random.Random) -> None:
    """Let some members save their state and cut their logs now."""
    for node in list(world.serving):
        if rng.random() < 0.6:
            node.member._core.compaction.force()
            node.member.wake()
    await asyncio.sleep(rng.uniform(0.1, 0.5))


async def blackout(world: World, rng: random.Random) -> None:
    """Cut the power of all members at once."""
    nodes = list(world.nodes.values())
    for node in nodes:
        world.counts["power cuts"] += node.up
        node.crash(power=True)
    world.counts["blackouts"] = world.counts.get("blackouts", 0) + 1
    await asyncio.sleep(rng.choice((0.01, 0.5)))
    for node in nodes:
        node.start()
        if rng.random() < 0.3:
            await asyncio.sleep(rng.uniform(0.0, 0.5))


async def copies(world: World, rng: random.Random) -> None:
    """Let a member need another's state, and strike while it is on its way: again and again."""
    node = _victim(world, rng)
    if node is None:
        return
    node.crash(power=rng.random() < 0.5)
    if rng.random() < 0.5:
        hurt(node, "missing")
        node.file.wipe()
        for other in world.serving:
            if rng.random() < 0.5:
                other.member._core.compaction.force()
                other.member.wake()
        node.start()
    else:
        await _leave_behind(world, rng, node)
    for _ in range(rng.randint(1, 4)):
        await asyncio.sleep(rng.choice((0.01, 0.05, 0.1, 0.2, 0.4)) * rng.random())
        await _strike(world, rng, node)
    await mended(world, node)


async def _leave_behind(world: World, rng: random.Random, node: SimNode) -> None:
    """Write while a member is away, and let the logs be cut."""
    leader = world.leader()
    if leader is not None and leader is not node:
        await moments.burst(world, leader, rng.choice((20, 60)))
    for other in world.serving:
        other.member._core.compaction.force()
        other.member.wake()
    await asyncio.sleep(rng.uniform(0.1, 0.4))
    node.start()


async def _strike(world: World, rng: random.Random, node: SimNode) -> None:
    leader = world.leader()
    others = [other for other in world.serving if other is not node]
    kind = rng.choice(world.plan.strikes)
    world.say("strikes a copy", what=kind)
    match kind:
        case "receiver":
            world.counts["crashes"] += node.up
            node.crash(power=rng.random() < 0.5)
            await asyncio.sleep(rng.choice((0.0, 0.1)))
            node.start()
        case "source" if others and len(others) * 2 > len(world.nodes):
            source = rng.choice([leader, *others]) if leader in others else rng.choice(others)
            world.counts["crashes"] += source.up
            source.crash(power=rng.random() < 0.5)
            await asyncio.sleep(rng.choice((0.0, 0.1, 0.5)))
            source.start()
        case "lead" if leader is not None:
            with suppress(KvError, TimeoutError):
                await leader.call(lambda: leader.coordinator.transfer(None, timeout_s=1.0))
                world.counts["transfers"] += 1
        case "cut" if others:
            moments.cut(world, [node], others, one_way=rng.random() < 0.3)
            await asyncio.sleep(rng.uniform(0.05, 1.0))
            moments.join(world, [node], others)
        case "spoil" if others:
            source = rng.choice(others)
            world.network.spoils[source.name] = None
            await asyncio.sleep(rng.uniform(0.1, 2.0))
            world.network.spoils.pop(source.name, None)
        case "full":
            node.disk.capacity_bytes = 0
            node.file.refuse_writes("No space left on device")
            await asyncio.sleep(rng.uniform(0.05, 1.0))
            node.disk.capacity_bytes = None
            node.file.refuse_writes("")
        case _:
            for other in others:
                other.member._core.compaction.force()
                other.member.wake()


async def mended(world: World, node: SimNode) -> bool:
    """Wait until a member's file is sound again and it has caught up."""
    ends = asyncio.get_running_loop().time() + MENDED_S
    while asyncio.get_running_loop().time() < ends:
        if is_sound(node):
            return True
        await asyncio.sleep(0.05)
    return False


def is_sound(node: SimNode) -> bool:
    """Say whether a member holds what the log made, and needs nobody for it. What was harmed and
    turned out to be of use is no longer harmed.
    """
    store, world = node.own, node.world
    if store is None or not node.serving or store.condition != "sound":
        return False
    made = world.reference.in_force(store.note.index)
    applied = node.member.applied
    if made is None or made.term != store.note.term or store.note.index < applied.index - 50:
        return False
    if node.file.hurt == "diverged":
        newest_row, goes_on = store.newest, node.coordinator.machine.book.content
        if newest_row is None or newest_row.content == made.content == goes_on:
            node.file.hurt = ""
    elif node.file.hurt:
        newest = node.member._core.environment.snapshots.newest
        ends = world.reference.last_at(newest.index) if newest is not None else 0
        if node.file.written.note.index >= ends:
            node.file.hurt = ""
    return not node.file.hurt


async def twins(world: World, rng: random.Random) -> None:
    """Start a member once more in the directory in which it runs."""
    from tests.simulation.twin import Twin

    running = [node for node in world.serving if node.own is not None]
    if not running:
        return
    node = rng.choice(running)
    twin = Twin.of(node)
    world.say("started twice", node=node.name)
    twin.start()
    await asyncio.sleep(rng.uniform(0.02, 0.2))
    if twin.refused == "store_in_use":
        world.counts["twins refused"] += 1
    elif node.own is not None and node.file.opened is not None:
        world.violate(
            "Replica: one process for each directory",
            f"{node.name} runs twice: {twin.refused or 'the second one goes on'}",
        )
    twin.crash(power=False)


def _any(world: World, rng: random.Random) -> SimNode:
    return rng.choice(list(world.nodes.values()))


def _victim(world: World, rng: random.Random, only: SimNode | None = None) -> SimNode | None:
    """Return a member whose file may be harmed now: all others are sound, and it is not the only
    voter. Its copy is the only one that counts: a voter takes its state from no observer.
    """
    leader = world.leader()
    if world.disks_lost or not world.plan.keeps or leader is None:
        return None
    nodes = list(world.nodes.values())
    if len(nodes) < 2:
        return None
    node = only or rng.choice(nodes)
    if {m.id for m in leader.coordinator.status().members if m.voter} <= {node.name}:
        return None
    others = [other for other in nodes if other is not node]
    return node if all(is_sound(other) for other in others) and not node.file.hurt else None


HARMS = {
    "file_slow": file_slow,
    "file_full": file_full,
    "file_hurt": file_hurt,
    "file_old": file_old,
    "emptied": emptied,
    "broker_away": broker_away,
    "late_position": late_position,
    "compact": compact,
    "twins": twins,
    "upgrade": levels.upgrade,
    "diverge": diverge,
    "blackout": blackout,
    "copies": copies,
}
