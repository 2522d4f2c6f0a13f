"""Members in one loop over an in-memory network: one FIFO per directed pair; links can be cut, held
and healed.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from pysyncobj.node import Node
from pysyncobj.transport import Transport

from coordinator.log import PeerAddress, Position
from coordinator.raft.core.messages import ALL
from coordinator.raft.member import Member, Settings
from coordinator.raft.net.codec import Codec
from coordinator.raft.net.peer_identity import PeerIdentity
from tests.replica import SharedKind
from tests.simulation.disk import SimDisk
from tests.virtual import run

CODEC = Codec(*ALL)
FAST = Settings(compact_entries=10**9, chunk_bytes=1000)


class RealClock:
    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        return int(time.time() * 1000)


class Tape(SharedKind):
    """A replica that keeps what was applied."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self.stamps: list[int] = []
        self.events: list[tuple[str, int]] = []
        self.resets = 0
        self.stamp = 0
        self.poison: bytes | None = None
        self.poison_restore = 0
        """How many snapshots it still refuses."""

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        self.commands.append(command)
        self.stamps.append(stamp_ms)
        if command == self.poison:
            raise ValueError("bad input")

    def stamp_ms(self) -> int:
        self.stamp += 1
        return self.stamp

    def snapshot(self) -> Callable[[], bytes]:
        commands = list(self.commands)
        return lambda: b"\n".join([b"tape", *commands])

    def restore(self, snapshot: bytes) -> None:
        head, *commands = snapshot.split(b"\n")
        self.poison_restore -= 1
        if head != b"tape" or self.poison_restore >= 0:
            raise ValueError("no tape")
        self.commands = commands

    def reset(self) -> None:
        self.resets += 1
        self.commands = []

    def led(self, term: int) -> None:
        self.events.append(("led", term))

    def deposed(self, term: int) -> None:
        self.events.append(("deposed", term))

    def note(self) -> bytes:
        return b"tape %d" % len(self.commands)


class Net:
    """Who is connected to whom, and what is on its way."""

    def __init__(self) -> None:
        self.wires: dict[str, Wire] = {}
        self.queues: defaultdict[tuple[str, str], deque[tuple[int, dict[str, Any]]]] = defaultdict(
            deque
        )
        self.cut: set[frozenset[str]] = set()
        self.held: set[tuple[str, str]] = set()
        self.up: set[frozenset[str]] = set()
        self.generation: defaultdict[frozenset[str], int] = defaultdict(int)
        self.sent: defaultdict[str, int] = defaultdict(int)
        self.watch: Callable[[str, str, dict[str, Any]], None] | None = None

    def settle(self) -> None:
        """Bring every connection up that both ends want and that is not cut; the rest down."""
        names = sorted(self.wires)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                pair = frozenset((a, b))
                wanted = (
                    b in self.wires[a].nodes and a in self.wires[b].nodes and pair not in self.cut
                )
                if pair not in self.up and pair not in self.cut and not self.let_in(a, b):
                    continue
                if wanted and pair not in self.up:
                    self.up.add(pair)
                    self.wires[a].connected(b)
                    self.wires[b].connected(a)
                elif not wanted and pair in self.up:
                    self.down(pair)

    def let_in(self, a: str, b: str) -> bool:
        """Let the two judge each other, as behind a handshake; say whether both are content."""
        one, two = self.wires[a], self.wires[b]
        dials = {
            x.me: y.me in x.nodes and y.me not in x.resting for x, y in ((one, two), (two, one))
        }
        if not any(dials.values()):
            return False
        identities = one.identity(), two.identity()
        refusals = {a: one.judge(b, identities[1]), b: two.judge(a, identities[0])}
        for refused_by, other in ((one, two), (two, one)):
            refusal = refusals[refused_by.me]
            if refusal is not None and dials[other.me]:
                other.on_refused(refused_by.me, ": ".join(refusal))
        return not any(refusals.values())

    def down(self, pair: frozenset[str]) -> None:
        self.up.discard(pair)
        self.generation[pair] += 1
        a, b = sorted(pair)
        self.queues[a, b].clear()
        self.queues[b, a].clear()
        for x, y in ((a, b), (b, a)):
            if x in self.wires:
                self.wires[x].disconnected(y)

    def partition(self, *sides: str) -> None:
        """Cut every link between the sides (strings of one-letter names); everything else
        is whole.
        """
        side_of = {name: i for i, side in enumerate(sides) for name in side}
        names = sorted(self.wires)
        self.cut = {
            frozenset((a, b))
            for a in names
            for b in names
            if a < b and side_of.get(a, -1) != side_of.get(b, -1)
        }
        self.settle()

    def heal(self) -> None:
        self.cut = set()
        self.settle()

    def hold(self, src: str, dst: str) -> None:
        self.held.add((src, dst))

    def release(self, src: str, dst: str) -> None:
        self.held.discard((src, dst))
        self.pump(src, dst)

    def send(self, src: str, dst: str, message: dict[str, Any]) -> bool:
        pair = frozenset((src, dst))
        if pair not in self.up:
            return False
        if self.watch is not None:
            self.watch(src, dst, message)
        self.sent[message["type"]] += 1
        queue = self.queues[src, dst]
        queue.append((self.generation[pair], CODEC.decode(CODEC.encode(message))))
        if len(queue) == 1:
            asyncio.get_running_loop().call_soon(self.pump, src, dst)
        return True

    def pump(self, src: str, dst: str) -> None:
        queue = self.queues[src, dst]
        while queue and (src, dst) not in self.held and dst in self.wires:
            _, message = queue.popleft()
            self.wires[dst]._onMessageReceived(self.wires[dst].nodes.get(src, Node(src)), message)


class Wire(Transport):
    """One member's end."""

    def __init__(self, net: Net, me: Node) -> None:
        super().__init__(None, None, None)
        self.net, self.me = net, me.id
        self.nodes: dict[str, Node] = {}
        self.resting: set[str] = set()
        self.identity: Callable[[], PeerIdentity] = PeerIdentity
        self.judge: Callable[[str, PeerIdentity], tuple[str, str] | None] = lambda peer, identity: (
            None
        )
        self.on_refused: Callable[[str, str], None] = lambda peer, told: None

    async def start(self) -> None:
        self.net.wires[self.me] = self
        self.net.settle()

    def flush(self) -> None: ...

    async def aclose(self) -> None:
        for pair in sorted((pair for pair in self.net.up if self.me in pair), key=sorted):
            self.net.down(pair)
        self.net.wires.pop(self.me, None)

    def addNode(self, node: Node) -> None:
        self.nodes[node.id] = node
        self.resting.discard(node.id)
        if self.me in self.net.wires:
            asyncio.get_running_loop().call_soon(self.net.settle)

    def rest(self, node: Node) -> None:
        self.nodes[node.id] = node
        self.resting.add(node.id)

    def reported_address(self, node: Node) -> str:
        other = self.net.wires.get(node.id)
        return "" if other is None else other.identity().address

    def dropNode(self, node: Node) -> None:
        asyncio.get_running_loop().call_soon(self._drop, node.id)

    def _drop(self, node: str) -> None:
        self.nodes.pop(node, None)
        self.net.settle()

    def send(self, node: Node, message: Any) -> bool:
        return self.net.send(self.me, node.id, message)

    def connected(self, peer: str) -> None:
        self._onNodeConnected(self.nodes.get(peer, Node(peer)))

    def disconnected(self, peer: str) -> None:
        self._onNodeDisconnected(self.nodes.get(peer, Node(peer)))

    def destroy(self) -> None: ...


class Cluster:
    """Start, stop and watch members; a disk outlives its member."""

    def __init__(
        self,
        names: str = "ABC",
        settings: Settings = FAST,
        *,
        tape: type[Tape] | None = None,
        **more: Any,
    ) -> None:
        self.net, self.settings, self.more = Net(), settings, more
        self.members: dict[str, Member] = {}
        self.tapes: dict[str, Tape] = {}
        self.disks: dict[str, SimDisk] = {}
        self.faults: list[BaseException] = []
        self.tape: type[Tape] = tape or Tape
        """What a member that starts drives."""
        self.first = tuple(PeerAddress(name, f"{name}:1") for name in names)
        self.seed = 0

    async def start(self, name: str, members: tuple[PeerAddress, ...] | None = None) -> Member:
        self.seed += 1
        tape = self.tapes[name] = self.tape()
        disk = self.disks.setdefault(name, SimDisk(random.Random(self.seed)))
        member = Member(
            name,
            members or self.first,
            cluster="test",
            replica=tape,
            disk=disk,
            transport=lambda node, wake, fatal: Wire(self.net, node),
            clock=RealClock(),
            rng=random.Random(self.seed),
            on_fatal=self.faults.append,
            settings=self.settings,
            **self.more,
        )
        await member.__aenter__()
        self.members[name] = member
        return member

    async def stop(self, name: str) -> None:
        await self.members.pop(name).__aexit__(None, None, None)

    def wipe(self, name: str) -> None:
        """Put an empty disk in a stopped member's place."""
        del self.disks[name]

    async def __aenter__(self) -> Cluster:
        for peer in self.first:
            await self.start(peer.id)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for name in list(self.members):
            await self.stop(name)
        assert not self.faults, self.faults

    async def leader(self, *, among: str | None = None, after: int = 0) -> Member:
        """Wait for the one member that leads a term above `after` and has committed in it."""
        found: list[Member] = []

        def led() -> bool:
            found[:] = [
                m
                for n, m in self.members.items()
                if (among is None or n in among)
                and m.status().role == "leader"
                and m.status().term > after
                and m._core.own_term_committed
            ]
            return bool(found)

        await eventually(led)
        return max(found, key=lambda m: m.status().term)

    async def agree(self, *, among: str | None = None) -> list[bytes]:
        """Wait until all have applied the same, everything that the leader holds; return it."""
        names = [n for n in self.members if among is None or n in among]

        def same() -> bool:
            last = max(self.members[n].status().last for n in names)
            return all(self.members[n].status().applied == last for n in names)

        await eventually(same)
        tapes = [self.tapes[n].commands for n in names]
        assert all(tape == tapes[0] for tape in tapes), tapes
        return tapes[0]


async def eventually(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for a condition, in the loop's own time."""
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.005)


P = ParamSpec("P")


def virtual(story: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on virtual time: a busy machine cannot depose a leader in the
    middle of it.
    """

    @functools.wraps(story)
    def test(*args: P.args, **kwargs: P.kwargs) -> None:
        run(lambda: story(*args, **kwargs))

    return test
