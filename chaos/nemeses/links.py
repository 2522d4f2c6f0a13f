"""Inject faults into links through the target's proxies: partitions, delay, loss, resets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random
from typing import ClassVar, Final

from typing_extensions import override

from chaos.nemeses.base import Nemesis, some
from chaos.targets.base import NodeLinks, Target
from chaos.targets.proxy import Mesh, Weather

FLAP_S: Final = (0.2, 1.2)
DELAY_S: Final = 0.05
JITTER_S: Final = 0.02
ECHO_S: Final = 1.5
"""Final delay of the messages from the peers to the leader."""
ECHO_STEPS: Final = 30
LOSS: Final = 0.2
RESET: Final = 0.01


class _OnLinks(Nemesis):
    """A fault of links. Every link must go through a proxy."""

    needs: ClassVar[frozenset[str]] = frozenset({"links"})

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.before: dict[str, int] = {}

    @property
    def mesh(self) -> Mesh:
        assert isinstance(self.target, NodeLinks)
        return self.target.mesh

    def _count(self) -> dict[str, int]:
        """Return what was disturbed so far, by direction between nodes and by client link."""
        nodes = self.target.nodes
        counts = {f"{a} → {b}": self.mesh.disturbed(a, b) for a in nodes for b in nodes if a != b}
        return counts | {
            f"clients ↔ {n}": link.up.disturbed + link.down.disturbed
            for n, link in self.mesh.clients.items()
        }

    def _grown(self) -> dict[str, int]:
        return {
            name: n - self.before.get(name, 0)
            for name, n in self._count().items()
            if n > self.before.get(name, 0)
        }

    async def heal(self) -> None:
        self.mesh.heal()


class Partition(_OnLinks):
    """Some directions between nodes are cut.

    The proof: every node at the end of a cut direction really lost bytes or connections in one.
    """

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.cuts: tuple[tuple[str, str], ...] = ()
        """(from, to)."""

    @override
    async def choose(self) -> tuple[str, ...]:
        self.cuts = tuple(await self.plan())
        self.before = self._count()
        return tuple(f"{a}→{b}" for a, b in self.cuts)

    async def plan(self) -> Iterable[tuple[str, str]]:
        """Return the directions to cut, as (from, to)."""
        raise NotImplementedError

    @override
    async def start(self) -> None:
        for source, sink in self.cuts:
            self.mesh.cut(source, sink)

    @override
    async def proof(self) -> str | None:
        grown = self._grown()
        cut = {f"{a} → {b}": (a, b) for a, b in self.cuts}
        bit = {name: n for name, n in grown.items() if name in cut}
        hit = {node for name in bit for node in cut[name]}
        if not cut or hit != {node for pair in self.cuts for node in pair}:
            return None
        return "withheld " + ", ".join(f"{n} B {name}" for name, n in bit.items())


def both(some_nodes: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Return both directions of each pair between two groups."""
    others = list(others)
    return [pair for a in some_nodes for b in others for pair in ((a, b), (b, a))]


class Halves(Partition):
    """A majority is on one side and the rest on the other, regardless of the leader."""

    name: ClassVar[str] = "partition-halves"

    @override
    async def plan(self) -> Iterable[tuple[str, str]]:
        nodes = list(self.target.nodes)
        self.rng.shuffle(nodes)
        majority = len(nodes) // 2 + 1
        return both(nodes[:majority], nodes[majority:])


class IsolateLeader(Partition):
    """The leader is cut off from its peers, but still reaches its clients."""

    name: ClassVar[str] = "isolate-leader"

    @override
    async def plan(self) -> Iterable[tuple[str, str]]:
        (leader,) = await some(self.target, self.rng, "leader")
        return both([leader], [n for n in self.target.nodes if n != leader])


class IsolateFollower(Partition):
    """A follower is cut off from its peers, but still reaches its clients."""

    name: ClassVar[str] = "isolate-follower"

    @override
    async def plan(self) -> Iterable[tuple[str, str]]:
        (follower,) = await some(self.target, self.rng, "follower")
        return both([follower], [n for n in self.target.nodes if n != follower])


class OneWay(Partition):
    """The leader receives from the others but cannot send to them, or the reverse."""

    name: ClassVar[str] = "one-way"

    @override
    async def plan(self) -> Iterable[tuple[str, str]]:
        (leader,) = await some(self.target, self.rng, "leader")
        others = [n for n in self.target.nodes if n != leader]
        return (
            [(leader, n) for n in others]
            if self.rng.random() < 0.5
            else [(n, leader) for n in others]
        )


class Ring(Partition):
    """Every node reaches a majority, but each another one: only neighbours on a ring are connected.

    With three nodes a ring has no link to spare, so one of its three links is cut, as in a bridge
    beside the leader.
    """

    name: ClassVar[str] = "partition-ring"

    @override
    async def plan(self) -> Iterable[tuple[str, str]]:
        nodes = list(self.target.nodes)
        self.rng.shuffle(nodes)
        n = len(nodes)
        if n == 3:
            return both(nodes[:1], nodes[1:2])
        reach = (n // 2 + 1) // 2
        return [
            (nodes[i], nodes[j])
            for i in range(n)
            for j in range(n)
            if i != j and min((i - j) % n, (j - i) % n) > reach
        ]


class Bridge(Partition):
    """Two halves are connected only by one node that reaches both. It is never the leader."""

    name: ClassVar[str] = "partition-bridge"

    @override
    async def plan(self) -> Iterable[tuple[str, str]]:
        (leader,) = await some(self.target, self.rng, "leader")
        others = [n for n in self.target.nodes if n != leader]
        self.rng.shuffle(others)
        bridge, rest = others[0], others[1:]
        half = len(rest) // 2
        return both([leader, *rest[:half]], rest[half:]) if rest else both([leader], [bridge])


class Flapping(Partition):
    """The leader's links are cut and restored at random moments."""

    name: ClassVar[str] = "partition-flapping"

    @override
    async def plan(self) -> Iterable[tuple[str, str]]:
        (leader,) = await some(self.target, self.rng, "leader")
        return both([leader], [n for n in self.target.nodes if n != leader])

    @override
    async def hold(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        cut = True
        while loop.time() < end:
            await asyncio.sleep(min(self.rng.uniform(*FLAP_S), max(0.0, end - loop.time())))
            cut = not cut
            if cut:
                await self.start()
            else:
                self.mesh.heal()


class IsolateLeaderFromClients(_OnLinks):
    """Clients cannot reach the leader, but its peers can."""

    name: ClassVar[str] = "isolate-leader-from-clients"

    @override
    async def choose(self) -> tuple[str, ...]:
        self.before = self._count()
        return await some(self.target, self.rng, "leader")

    @override
    async def start(self) -> None:
        for node in self.targets:
            self.mesh.cut_clients(node)

    @override
    async def proof(self) -> str | None:
        grown = self._grown()
        names = [f"clients ↔ {n}" for n in self.targets]
        if not all(name in grown for name in names):
            return None
        return "withheld " + ", ".join(f"{grown[name]} B {name}" for name in names)


class _WorseLinks(_OnLinks):
    """All links of some nodes get worse.

    The proof: each of these nodes has a link on which something was disturbed.
    """

    whom: ClassVar[str] = "all"
    clients_too: ClassVar[bool] = True

    async def choose(self) -> tuple[str, ...]:
        self.before = self._count()
        return await some(self.target, self.rng, self.whom)

    async def start(self) -> None:
        for (a, b), link in self.mesh.peers.items():
            if a in self.targets or b in self.targets:
                self.worsen(link.up)
                self.worsen(link.down)
        for node in self.targets if self.clients_too else ():
            self.worsen(self.mesh.clients[node].up)
            self.worsen(self.mesh.clients[node].down)

    def worsen(self, weather: Weather) -> None:
        raise NotImplementedError

    async def proof(self) -> str | None:
        grown = self._grown()
        for node in self.targets:
            if not any(node in name.split() for name in grown):
                return None
        return "disturbed " + ", ".join(f"{n} × {name}" for name, n in sorted(grown.items()))


class Slow(_WorseLinks):
    """Every link is delayed by about 50 ms in each direction."""

    name: ClassVar[str] = "slow"

    @override
    def worsen(self, weather: Weather) -> None:
        weather.delay_s, weather.jitter_s = DELAY_S, JITTER_S


class SlowOne(Slow):
    """One node is far away from all others and from its clients."""

    name: ClassVar[str] = "slow-one"
    whom: ClassVar[str] = "one"


class SlowFollower(Slow):
    """A follower is far away from its peers but close to its clients.

    So it learns late of what the other nodes answer their clients.
    """

    name: ClassVar[str] = "slow-follower"
    whom: ClassVar[str] = "follower"
    clients_too: ClassVar[bool] = False


class LateEcho(_OnLinks):
    """The leader receives old messages of its peers, and they receive none of its own.

    So it believes for a while that it still leads. The delay grows in small steps, so that answers
    never pause; then the direction from the leader is cut.
    """

    name: ClassVar[str] = "late-echo"

    @override
    async def choose(self) -> tuple[str, ...]:
        self.before = self._count()
        return await some(self.target, self.rng, "leader")

    def _others(self) -> list[str]:
        return [n for n in self.target.nodes if n not in self.targets]

    @override
    async def start(self) -> None:
        self._delay(ECHO_S / ECHO_STEPS)

    def _delay(self, seconds: float) -> None:
        for leader in self.targets:
            for other in self._others():
                for weather in self.mesh.towards(other, leader):
                    weather.delay_s = seconds

    @override
    async def hold(self, seconds: float) -> None:
        for step in range(1, ECHO_STEPS + 1):
            self._delay(ECHO_S * step / ECHO_STEPS)
            await asyncio.sleep(2 * ECHO_S / ECHO_STEPS)
        for leader in self.targets:
            for other in self._others():
                self.mesh.cut(leader, other)
        await asyncio.sleep(seconds)

    @override
    async def proof(self) -> str | None:
        grown = self._grown()
        late = [f"{o} → {n}" for n in self.targets for o in self._others()]
        cut = [f"{n} → {o}" for n in self.targets for o in self._others()]
        if not late or not all(name in grown for name in late + cut):
            return None
        return (
            "late " + ", ".join(f"{grown[n]} × {n}" for n in late) + "; withheld " + ", ".join(cut)
        )


class Lossy(_WorseLinks):
    """A fifth of the data waits for a retransmission, and a few connections break."""

    name: ClassVar[str] = "lossy"

    @override
    def worsen(self, weather: Weather) -> None:
        weather.loss, weather.reset = LOSS, RESET


class ResetClients(_OnLinks):
    """All client connections break, again and again."""

    name: ClassVar[str] = "reset-clients"

    @override
    async def choose(self) -> tuple[str, ...]:
        self.before = self._count()
        return self.target.nodes

    @override
    async def start(self) -> None:
        for node in self.targets:
            self.mesh.clients[node].close_all()

    @override
    async def proof(self) -> str | None:
        grown = self._grown()
        names = [f"clients ↔ {n}" for n in self.targets if f"clients ↔ {n}" in grown]
        return "broke " + ", ".join(f"{grown[name]} × {name}" for name in names) if names else None

    @override
    async def hold(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(min(self.rng.uniform(*FLAP_S), max(0.0, end - loop.time())))
            await self.start()
