"""Own leases in a simulated cluster: grant them, attach keys, keep them alive through any node, let
them end or revoke them; and judge from outside that none ends early.

A keep-alive that was answered promises a whole ttl from some moment after it was asked for. What a
node says of its clock is not believed: time is the loop's.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from kv.errors import BackendUnavailable, BadRequest, NotApplied, OutcomeUnknown
from kv.leases import lease_key, lease_of, ttl_value
from kv.model import Absent, Applied, EndLease, Exists, Group, Intent, Put, PutWith
from kv.ports import LeaseTime
from node.reads.levels import Reading, ReadOptions

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

OWNERS: Final = 3
TTL_MS: Final = 900
TIMEOUT_S: Final = 1.0
ASKED_S: Final = (0.02, 0.5)
"""An owner asks this often …"""
SLEEPS: Final = 0.06
"""… but now and then it does not, and its lease ends."""


FAITHFUL: Final = 0.85
"""How often an owner asks the node that it asked first."""
LOOKS: Final = 0.3
"""How often an owner reads its key after a keep-alive."""
LOOKS_S: Final = (0.005, 0.1)
SEEN_S: Final = 2.0
"""For so long at most who let a lease go reads its key."""


def key_of(lease: int) -> bytes:
    """Return the key that is attached to a lease."""
    return b"l%x" % lease


@dataclass
class _Lease:
    """What is promised of one lease, from its grant to its end."""

    promised_s: float
    """Until then it must live: a whole ttl from the newest keep-alive that was answered."""
    revoked: bool = False
    """Its owner has asked for its end."""
    ended_s: float | None = None


@dataclass
class Leasing:
    """One world's leases."""

    world: World
    leases: dict[int, _Lease] = field(default_factory=dict)
    """By id; an id is granted once."""

    async def own(self, number: int, until_s: float) -> None:
        """Own one lease after the other, until a time."""
        loop, rng = asyncio.get_running_loop(), self.world.rng_of(f"owner {number}")
        count = 0
        while loop.time() < until_s:
            count += 1
            lease = (number << 32) | count
            if await self.granted(rng, lease):
                await self._keep(rng, lease, until_s)
            await asyncio.sleep(rng.uniform(0.0, 0.2))

    async def granted(self, rng: random.Random, lease: int) -> bool:
        """Grant a lease and attach a key; say whether it is known to be there."""
        asked_s, node = asyncio.get_running_loop().time(), self._any(rng)
        key = lease_key(lease)
        writes = (Put(key, ttl_value(TTL_MS)),)
        if not await self._write(node, Intent("", 0, (Absent(key),), writes)):
            return False
        self.leases[lease] = _Lease(asked_s + TTL_MS / 1000)
        self.world.counts["leases"] += 1
        await self._write(
            self._any(rng), Intent("", 0, (), (PutWith(key_of(lease), b"", lease=lease),))
        )
        return True

    async def _keep(self, rng: random.Random, lease: int, until_s: float) -> None:
        """Keep a lease alive until it ends, is revoked, or time is over."""
        loop, held = asyncio.get_running_loop(), self.leases[lease]
        home = self._any(rng)
        while loop.time() < until_s:
            if rng.random() < SLEEPS:
                if rng.random() < 0.5:
                    held.revoked = True
                    end = Intent("", 0, (Exists(lease_key(lease)),), (EndLease(lease),))
                    await self._write(self._any(rng), end)
                await self._see_it_end(rng, lease, until_s)
                return
            await asyncio.sleep(rng.uniform(*ASKED_S))
            node = home if rng.random() < FAITHFUL else self._any(rng)
            if await self.renew(node, lease) is False:
                return
            if rng.random() < LOOKS:
                await self._look(self._any(rng), lease)

    async def renew(self, node: SimNode, lease: int) -> bool | None:
        """Keep a lease alive through a node; return whether it is there, None: no answer."""
        held, asked_s = self.leases[lease], asyncio.get_running_loop().time()
        ended_s = held.ended_s
        try:
            found = await node.call(partial(self._renewed, node, lease))
        except (NotApplied, OutcomeUnknown):
            return None
        self.world.say("keep-alive", node=node.name, lease=f"{lease:x}", found=found)
        if found is None:
            if held.ended_s is None and self._keeps:
                self.world.violate("Lease (lost)", f"{lease:x} is said to have ended")
            return False
        self.world.counts["leases kept"] += 1
        if ended_s is not None and self._keeps:
            self.world.violate(
                "Lease (stale)", f"{lease:x} ended at {ended_s:.3f}, and is said to live"
            )
        held.promised_s = max(held.promised_s, asked_s + TTL_MS / 1000)
        self._judge(lease, held)
        return True

    async def _see_it_end(self, rng: random.Random, lease: int, until_s: float) -> None:
        """Read the key of a lease that nobody keeps alive, through any node, until it is gone."""
        loop = asyncio.get_running_loop()
        until_s = min(until_s, loop.time() + SEEN_S)
        while loop.time() < until_s and await self._look(self._any(rng), lease) is not False:
            await asyncio.sleep(rng.uniform(*LOOKS_S))

    async def _look(self, node: SimNode, lease: int) -> bool | None:
        """Read the key of a lease; return whether it is there, None: no answer."""
        ended_s = self.leases[lease].ended_s
        try:
            reading = await node.call(partial(self._reading, node, lease))
        except (NotApplied, OutcomeUnknown, BackendUnavailable, BadRequest):
            return None
        there = reading.present
        self.world.counts["keys of leases read"] += 1
        if there and ended_s is not None and self._keeps:
            what = f"the key of {lease:x}, which ended at {ended_s:.3f}, is read at {node.name}"
            self.world.violate("Lease (key)", f"{what} from {reading.source}")
        return there

    @staticmethod
    async def _reading(node: SimNode, lease: int) -> Reading:
        deadline = asyncio.get_running_loop().time() + TIMEOUT_S
        return await node.reads.get(key_of(lease), ReadOptions("linearizable"), deadline=deadline)

    async def _write(self, node: SimNode, intent: Intent) -> bool:
        deadline = asyncio.get_running_loop().time() + TIMEOUT_S
        try:
            answer = await node.call(
                lambda: node.writes.one(
                    Intent(node.writes.new_op_id(), 0, intent.guards, intent.writes),
                    deadline=deadline,
                    system=True,
                )
            )
        except (NotApplied, OutcomeUnknown, BackendUnavailable):
            return False
        return isinstance(answer.outcome, Applied)

    @property
    def _keeps(self) -> bool:
        """Say whether nothing that was acknowledged may be lost."""
        return self.world.plan.raft_keeps and not self.world.plan.loses

    @staticmethod
    async def _renewed(node: SimNode, lease: int) -> LeaseTime | None:
        return await node.coordinator.lease_time(lease, renew=True, timeout_s=TIMEOUT_S)

    def _any(self, rng: random.Random) -> SimNode:
        return rng.choice(list(self.world.nodes.values()))

    # -------------------------------------------------------------------------------------- judging

    def landed(self, group: Group) -> None:
        """Take note of the leases that a group ends, when it comes into force."""
        now_s = asyncio.get_running_loop().time()
        for version in group.versions:
            held = self.leases.get(lease_of(version.key))
            if held is not None and not version.present and held.ended_s is None:
                held.ended_s = now_s
                self.world.counts["leases ended"] += 1
                self._judge(lease_of(version.key), held)

    def _judge(self, lease: int, held: _Lease) -> None:
        """A lease that its owner did not revoke lives as long as it was promised."""
        if held.ended_s is None or held.revoked or not self._keeps:
            return
        if held.ended_s < held.promised_s:
            early_s = held.promised_s - held.ended_s
            self.world.violate("Lease (early)", f"{lease:x} ends {early_s:.3f} s early")
