"""Do harm to leases at its moment. It does not know which fault is planted, and checks nothing."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from tests.simulation import moments

if TYPE_CHECKING:
    from tests.simulation.world import World

LONE: Final = 1 << 40
"""Ids of the leases that this harm grants begin here."""
KNOWN_S: Final = 1.5
"""How long the end is held back at most while the next leader learns which leases there are."""


class HeldEnds:
    """The ends of leases that one member has ordered, on their way to the log: they wait."""

    def __init__(self, of: str) -> None:
        self.of, self.count, self.released = of, 0, False


async def late_end(world: World, rng: random.Random) -> None:
    """Let the end of a lease, as its leader orders it, reach the log only when another member leads
    and has kept that lease alive.
    """
    leader, others = moments.led(world)
    if leader is None or not others:
        return
    loop = asyncio.get_running_loop()
    lease = LONE + len(world.leasing.leases)
    if not await world.leasing.granted(rng, lease):
        return
    held = world.held_ends = HeldEnds(leader.name)
    try:
        if not await moments.until(lambda: held.count > 0):
            return
        await moments.transfer(world, rng.choice(others))
        until_s, kept = loop.time() + KNOWN_S, None
        while kept is None and loop.time() < until_s:
            await asyncio.sleep(0.02)
            new = world.leader()
            if new is not None and new is not leader:
                kept = await world.leasing.renew(new, lease)
    finally:
        held.released, world.held_ends = True, None
    await asyncio.sleep(rng.uniform(0.2, 0.6))


HARMS: Final = {"late_end": late_end}
