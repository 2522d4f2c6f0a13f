"""Interrupt a copy of another member's state at each of its steps, one after another, and see that
the member has the state in the end.

`python -m tests.simulation.copy_sweep [--stride 7]`. The random strikes of the harm `copies` fall
anywhere; here every moment between two awaits of the receiver, and of the source, has its turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from kv.errors import KvError
from tests.simulation import moments, own, own_harms
from tests.simulation.node import SimNode
from tests.simulation.plans import Plan, plan_of
from tests.simulation.run import on_a_loop
from tests.simulation.seeds import nice
from tests.simulation.world import World

Way: TypeAlias = Literal["missing", "behind", "joins"]
"""How it comes that a member needs another's state: its file is gone and its log is there; the logs
were cut while it was away; it is new.
"""
WAYS: Final[tuple[Way, ...]] = ("missing", "behind", "joins")
CALM: Final[dict[str, Any]] = {
    "nodes": 3, "fsync": "always", "faults": ("cache",), "ghosts": False, "upgrades": False,
    "levels": False, "apart": False, "eager": False, "keep_entries": 0, "unwritten_bytes": 0,
    "compact_entries": 100_000, "window_ms": 24 * 3_600_000, "segment_bytes": 16 << 20,
    "reads_apart": False,
}  # fmt: skip
DOWN_S: Final = 0.1
"""A process that was ended is started again after this; what else is harmed is mended after it."""
MENDED_S: Final = 20.0


class Interruption(NamedTuple):
    """One run of the sweep."""

    way: Way
    strike: str
    step: int
    """The turn of the process at which it strikes; 0: never."""
    source: str = ""
    """Who gives the state away, if nothing strikes before; empty: the leader is taken for it."""


class Interrupted(NamedTuple):
    """What came of it."""

    case: Interruption
    turns: dict[str, int]
    """Of each member's process, from the receiver's start until it has the state."""
    receiver: str
    source: str
    """Who gave the state away, or was to."""
    struck: bool
    violations: tuple[str, ...]
    counts: dict[str, int]


def plan(seed: int) -> Plan:
    """Return the plan of the sweep: nothing is harmed in it but by the strike."""
    return replace(plan_of(seed, "replicated"), **CALM)


def run(case: Interruption, seed: int = 1) -> Interrupted:
    """Run the story once, and strike at that step."""
    return on_a_loop(lambda: _story(World(plan(seed)), case))


async def _story(world: World, case: Interruption) -> Interrupted:
    for node in world.nodes.values():
        node.start()
    await world.until(lambda: _serves(world), 10.0, lambda: "a first leader")
    leader, others = moments.led(world)
    assert leader is not None
    await moments.burst(world, leader, 25, value_bytes=60)
    receiver = await _needs_state(world, leader, others[0], case.way)
    source = world.nodes[case.source] if case.source else leader
    began = _turns(world)
    on, strike = STRIKES[case.strike]
    struck_in = receiver if on == "receiver" else source
    fallen: list[bool] = []

    def fall() -> None:
        fallen.append(True)
        world.say("strikes", what=case.strike, step=case.step)
        strike(world, source, receiver)

    if case.step:
        assert struck_in.process is not None
        struck_in.process.at_turn(began[struck_in.name] + case.step, fall)
    await world.until(
        lambda: bool(fallen) or _has_state(receiver),
        MENDED_S,
        lambda: f"a state at {receiver.name}",
    )
    turns = {name: turns - began.get(name, 0) for name, turns in _turns(world).items()}
    gave = world.gave_state[-1] if world.gave_state else source.name
    await asyncio.sleep(2 * DOWN_S if fallen else 0.0)
    await _converges(world)
    return Interrupted(
        case,
        turns,
        receiver.name,
        gave,
        bool(fallen),
        tuple(map(str, world.violations)),
        dict(world.counts),
    )


def _turns(world: World) -> dict[str, int]:
    running = {name: node.process for name, node in world.nodes.items()}
    return {name: process.turns for name, process in running.items() if process is not None}


async def _needs_state(world: World, source: SimNode, node: SimNode, way: Way) -> SimNode:
    """Let a member need the source's state, and start it."""
    from coordinator.log import PeerAddress

    if way != "behind":
        await _cut_logs(world)
    if way == "joins":
        members = source.coordinator.status().members
        known = tuple(PeerAddress(m.id, m.raft_address, m.voter) for m in members)
        own_address = PeerAddress("m1", "m1:1", voter=False)
        await source.call(
            lambda: source.coordinator.add_member("m1", "m1:1", "", voter=False, timeout_s=2.0)
        )
        node = world.nodes["m1"] = SimNode(world, "m1", (*known, own_address))
    else:
        node.crash(power=False)
        if way == "missing":
            own_harms.hurt(node, "missing")
            node.file.wipe()
        await moments.burst(world, source, 10, value_bytes=60)
        if way == "behind":
            await _cut_logs(world)
    node.start()
    return node


async def _cut_logs(world: World) -> None:
    """Let all members that run make a dump, and cut their logs."""
    for node in world.serving:
        node.member._core.compaction.force()
        node.member.wake()
    await asyncio.sleep(0.3)


def _serves(world: World) -> bool:
    leader = world.leader()
    return (
        len(world.serving) == len(world.nodes)
        and leader is not None
        and leader.coordinator.leading.taken_over
    )


def _level(world: World) -> bool:
    return len({node.member.applied.index for node in world.serving}) == 1


def _has_state(node: SimNode) -> bool:
    """Say whether a member has taken over another's state, and goes on."""
    return (
        node.serving
        and node.coordinator.own is not None
        and node.coordinator.own.keeping.installs > 0
        and not node.member._core.log.resting
        and own_harms.is_sound(node)
    )


async def _converges(world: World) -> None:
    """Mend all, write once more, and hold every member against what the log made."""
    for node in world.nodes.values():
        node.disk.capacity_bytes = None
        node.file.heal()
        node.start()
    world.network.heal()
    await world.until(
        lambda: _serves(world) and all(map(own_harms.is_sound, world.nodes.values())),
        MENDED_S,
        lambda: "all members to be sound",
    )
    leader = world.leader()
    if leader is not None:
        await moments.burst(world, leader, 3)
    await world.until(lambda: _level(world), MENDED_S, lambda: "all members to be level")
    world.check_logs()
    for node in world.serving:
        own.compare(node, whole=True)
        own.check_disks(node)
    world.over = True
    for node in world.nodes.values():
        node.crash(power=False)


# ------------------------------------------------------------------------------------------ strikes

Strike: TypeAlias = Callable[[World, SimNode, SimNode], None]


def _later(action: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(DOWN_S, action, context=contextvars.Context())


def _end(which: Literal["receiver", "source"], *, power: bool) -> Strike:
    def strike(world: World, source: SimNode, receiver: SimNode) -> None:
        node = source if which == "source" else receiver
        node.crash(power=power)
        _later(node.start)

    return strike


def _blackout(world: World, source: SimNode, receiver: SimNode) -> None:
    for node in world.nodes.values():
        node.crash(power=True)
        _later(node.start)


def _full(world: World, source: SimNode, receiver: SimNode) -> None:
    """Let nothing get onto the receiver's disk and into its file."""
    receiver.disk.capacity_bytes = 0
    receiver.file.refuse_writes("No space left on device")

    def has_room() -> None:
        receiver.disk.capacity_bytes = None
        receiver.file.refuse_writes("")

    _later(has_room)


def _cut(world: World, source: SimNode, receiver: SimNode) -> None:
    others = [node for node in world.nodes.values() if node is not receiver]
    moments.cut(world, [receiver], others)
    _later(lambda: moments.join(world, [receiver], others))


def _hand_on(world: World, source: SimNode, receiver: SimNode) -> None:
    async def transfer() -> None:
        try:
            await source.call(lambda: source.coordinator.transfer(None, timeout_s=1.0))
        except (KvError, TimeoutError) as exc:
            world.say("not transferred", why=exc)

    world.impatient.append(asyncio.get_running_loop().create_task(transfer()))


def _save(world: World, source: SimNode, receiver: SimNode) -> None:
    """Let the source make another dump, and cut its log behind the one that is on its way."""
    source.member._core.compaction.force()
    source.member.wake()


def _spoil(world: World, source: SimNode, receiver: SimNode) -> None:
    """Damage the source's file: what it gives away is in doubt from now on."""
    own_harms.hurt(source, "live")
    source.file.spoil("a page is not what was written")


STRIKES: Final[dict[str, tuple[Literal["receiver", "source"], Strike]]] = {
    "receiver ends": ("receiver", _end("receiver", power=False)),
    "receiver's power": ("receiver", _end("receiver", power=True)),
    "receiver's disk is full": ("receiver", _full),
    "receiver is cut off": ("receiver", _cut),
    "all power": ("receiver", _blackout),
    "source ends": ("source", _end("source", power=False)),
    "source's power": ("source", _end("source", power=True)),
    "source hands on": ("source", _hand_on),
    "source saves and cuts": ("source", _save),
    "source's file is damaged": ("source", _spoil),
}
"""In whose steps it falls, and what happens."""


# -------------------------------------------------------------------------------------------- sweep


def cases(stride: int = 1, first: int = 1, ways: Iterable[Way] = WAYS) -> Iterator[Interruption]:
    """Yield every `stride`-th step of every strike, on each of the ways, from `first` on."""
    for way in ways:
        calm = run(Interruption(way, "receiver ends", 0))
        for strike, (on, _) in STRIKES.items():
            turns = calm.turns[calm.receiver if on == "receiver" else calm.source]
            for step in range(first, turns + 1, stride):
                yield Interruption(way, strike, step, calm.source)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.copy_sweep", description=__doc__
    )
    parser.add_argument("--stride", type=int, default=1, help="take every n-th step only")
    parser.add_argument("--first", type=int, default=1, help="the step to begin at")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    began_s, chosen = time.monotonic(), list(cases(asked.stride, asked.first))
    struck = failed = 0
    with ProcessPoolExecutor(
        asked.processes, mp_context=get_context("spawn"), initializer=nice
    ) as pool:
        for done in pool.map(partial(run), chosen, chunksize=20):
            struck += done.struck
            failed += bool(done.violations)
            for violation in done.violations[:1]:
                print(f"{done.case}: {violation}", flush=True)
    took_s = time.monotonic() - began_s
    print(f"{len(chosen)} interruptions ({struck} struck) in {took_s:.0f} s: {failed} failed")
    return 1 if failed or not struck else 0


if __name__ == "__main__":
    sys.exit(main())
