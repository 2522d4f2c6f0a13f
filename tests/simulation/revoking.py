"""Write as principals of a simulated cluster while an admin revokes their tokens and gives them
back, under harm; and judge from outside that no write takes effect that was begun when its token
had been revoked for long enough.

Each node has the product's own gate. What a node believes of rights is not looked at: only what was
acknowledged to the admin and to the principals counts.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec

from kv.access import ROLES, SWITCH_KEY, TOKENS, Role, Rule, Switch, Token
from kv.errors import BackendUnavailable, BadRequest, NotApplied, OutcomeUnknown
from kv.model import Answer, Applied, Delete, Intent, Put, Write
from node.access.access import FRESH_S, Access, Grant
from node.access.granted import GrantedWrites
from tests.planted.registry import planted
from tests.simulation import nemesis
from tests.simulation.node import SimNode
from tests.simulation.plans import Kind, Plan, Plant, changed, plan_of
from tests.simulation.run import _writable, on_a_loop
from tests.simulation.world import World

RULE: Final = "Access: a revoked token writes nothing"
PRINCIPALS: Final = ("p0", "p1", "p2")
WRITERS: Final = 2
"""Clients of each principal."""
TIMEOUT_S: Final = 1.0
REVOKED_S: Final = (FRESH_S, FRESH_S + 3.0)
"""A token stays revoked for so long."""
GIVEN_S: Final = (0.2, 1.0)
FAULTS: Final = ("partition", "one_way", "slow", "loss", "crash", "transfer")
CHAOS_S: Final = 12.0


@dataclass
class Revoking:
    """The principals of one world, and since when which of them was revoked."""

    world: World
    doors: dict[str, Access] = field(default_factory=dict)
    """By node, of its present process."""
    revoked_s: dict[str, float] = field(default_factory=dict)
    """Since when it is acknowledged that a principal's token is revoked, while nobody has begun to
    give it back.
    """
    writes: int = 0
    refused: int = 0
    revocations: int = 0

    async def open(self, node: SimNode, stack: AsyncExitStack) -> None:
        """Put the gate before a node that begins to serve."""
        plan, own, shared = self.world.plan, node.own, node.shared
        store = own if own is not None else shared
        assert store is not None
        access = Access(
            node.coordinator,
            cast("Any", store),
            node.clock,
            node.writes._settings,
            shared=not plan.replicated,
        )
        stack.callback(access.close)
        self.doors[node.name] = access
        running = asyncio.get_running_loop().create_task(access.run())
        stack.callback(running.cancel)

    def _some(self, rng: random.Random) -> SimNode:
        return rng.choice(list(self.world.nodes.values()))

    async def _system(self, node: SimNode, *writes: Write) -> bool:
        """Write keys of access through a node; return whether that is acknowledged."""
        loop = asyncio.get_running_loop()

        async def write() -> Answer:
            intent = Intent(node.writes.new_op_id(), 0, (), writes)
            return await node.writes.one(intent, deadline=loop.time() + TIMEOUT_S, system=True)

        try:
            answer = await node.call(write)
        except (NotApplied, OutcomeUnknown, BackendUnavailable):
            return False
        return isinstance(answer.outcome, Applied)

    async def begin(self) -> None:
        """Control access, with a token for each principal."""
        role = Role("all", (Rule(b"", read=True, write=True),))
        writes = [
            Put(SWITCH_KEY, msgspec.json.encode(Switch(True))),
            Put(ROLES + b"all", msgspec.json.encode(role)),
            *(_token(each) for each in PRINCIPALS),
        ]
        rng = self.world.rng_of("access")
        while not await self._system(self._some(rng), *writes):
            await asyncio.sleep(0.05)

    async def administer(self, principal: str, until_s: float) -> None:
        """Revoke a principal's token and give it back, again and again."""
        loop, rng = asyncio.get_running_loop(), self.world.rng_of(f"admin of {principal}")
        while loop.time() < until_s and not self.world.violations:
            await asyncio.sleep(rng.uniform(*GIVEN_S))
            if await self._system(self._some(rng), Delete(TOKENS + principal.encode())):
                self.revoked_s[principal] = loop.time()
                self.revocations += 1
                self.world.say("revoked", principal=principal)
                await asyncio.sleep(rng.uniform(*REVOKED_S))
            self.revoked_s.pop(principal, None)
            while not await self._system(self._some(rng), _token(principal)):
                await asyncio.sleep(0.05)

    async def write(self, principal: str, number: int, until_s: float) -> None:
        """Write as a principal through any node, with what it once had."""
        loop, rng = asyncio.get_running_loop(), self.world.rng_of(f"{principal} {number}")
        while loop.time() < until_s and not self.world.violations:
            await asyncio.sleep(rng.uniform(0.02, 0.2))
            node, began_s = self._some(rng), loop.time()
            since_s = self.revoked_s.get(principal)
            key = f"k{rng.randrange(3)}".encode()
            try:
                answer = await node.call(partial(self._written, node, principal, key))
            except BadRequest:
                self.refused += 1
                continue
            except (NotApplied, OutcomeUnknown, BackendUnavailable):
                continue
            if not isinstance(answer.outcome, Applied):
                continue
            self.writes += 1
            still = since_s is not None and self.revoked_s.get(principal) == since_s
            if still and since_s is not None and began_s - since_s > FRESH_S:
                self.world.violate(
                    RULE,
                    f"{node.name} took a write of {principal} at {began_s:.3f} as revision "
                    f"{answer.revision}; its token was revoked since {since_s:.3f}",
                )

    async def _written(self, node: SimNode, principal: str, key: bytes) -> Answer:
        access = self.doors[node.name]
        services = SimpleNamespace(writes=node.writes, consensus=node.coordinator, access=access)
        granted = GrantedWrites(cast("Any", services), Grant(access, token=principal))
        deadline = asyncio.get_running_loop().time() + TIMEOUT_S
        intent = Intent(node.writes.new_op_id(), 0, (), (Put(key, b"v"),))
        return await granted.one(intent, deadline=deadline)


def _token(principal: str) -> Put:
    token = Token(principal, principal, ("all",), "", 0)
    return Put(TOKENS + principal.encode(), msgspec.json.encode(token))


def plan(seed: int, kind: Kind) -> Plan:
    """Return the plan of a seed: harm in which nothing that was acknowledged is lost."""
    return changed(
        plan_of(seed, kind), fsync="always", nodes=3, restores=False, ghosts=False, leases=False,
        upgrades=False, levels=False, faults=FAULTS, chaos_s=CHAOS_S, clients=0,
    )  # fmt: skip


def run(seed: int, kind: Kind, plant: Plant | None = None) -> Revoking:
    """Simulate one seed; what came of it is in the world and in the counts."""
    with planted(*(plant.faults if plant else ())):
        return on_a_loop(lambda: _story(World(plan(seed, kind), plant)))


async def _story(world: World) -> Revoking:
    loop, revoking = asyncio.get_running_loop(), Revoking(world)
    world.openers.append(revoking.open)
    for node in world.nodes.values():
        node.start()
    if await world.until(lambda: _writable(world), 5.0, lambda: "a first leader"):
        await revoking.begin()
        until_s = loop.time() + world.plan.chaos_s
        async with asyncio.TaskGroup() as group:
            tormenting = group.create_task(nemesis.torment(world, until_s))
            clients = [
                group.create_task(each)
                for principal in PRINCIPALS
                for each in (
                    revoking.administer(principal, until_s),
                    *(revoking.write(principal, number, until_s) for number in range(WRITERS)),
                )
            ]
            await asyncio.wait(clients)
            tormenting.cancel()
    world.over = True
    for node in world.nodes.values():
        node.crash(power=False)
    return revoking
