"""Carry Raft's messages between simulated members as TCP connections would, and worse.

Within a connection messages keep their order. A cut holds them back until it heals or the
connection is given up. Of a broken connection any prefix arrives; with `ghosts`, its rest may still
arrive late, behind the next connection's messages, and answers may arrive twice. Commands on their
way to the leader never do: what sends them sends them once.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pysyncobj.node import Node
from pysyncobj.transport import Transport

from coordinator.raft.core.messages import ALL, STATE_APART
from coordinator.raft.net.codec import Codec
from coordinator.raft.net.peer_identity import PeerIdentity
from tests.simulation.loop import Process
from tests.simulation.skew import HINT, next_version

DELAY_S = (0.0001, 0.002)
LATE_S = 0.1
"""What will arrive later than this is late."""
DEAD_S = 1.5
"""A connection on which nothing gets through for so long is given up by both ends."""
RETRY_S = (0.02, 0.2)
READS = ("read_request", "read_response")
PINGS = ("read_ping", "read_pong")
SPOILT: Final = 0.15
"""The share of chunks with a wrong bit that such a member gives."""
COUNTED = ("messages", "breaks", "ghosts", "doubles", "hints", "spoilt")
APART = " apart"
"""They may have a connection of their own, as with a transport that opens several."""
NO_GHOST = ("apply_command", "ask", "answer")


class Connection:
    """One connection between two members, both directions."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.open = True
        self.last_due: dict[str, float] = {}
        self.held: dict[str, deque[bytes]] = {}
        self.in_flight: dict[str, deque[bytes]] = {}
        self.silent_since: dict[str, float] = {}


class Network:
    """All links of a world."""

    def __init__(
        self,
        rng: random.Random,
        say: Callable[..., None],
        *,
        ghosts: bool,
        reads_apart: bool = False,
    ) -> None:
        self.rng, self._say, self._ghosts = rng, say, ghosts
        self.codec = Codec(*ALL)
        self.next = next_version()
        self.upgraded: dict[str, None] = {}
        """Members that speak the next version of the wire, which each of the others has to
        understand.
        """
        self.wires: dict[str, Wire] = {}
        self.cut: dict[tuple[str, str], None] = {}
        """Directions that carry nothing now."""
        self.delay_s = DELAY_S
        self.slow: dict[tuple[str, str], float] = {}
        """Directions in which messages take up to so much longer …"""
        self.lag_s: dict[tuple[str, str], float] = {}
        """… and just so much longer."""
        self.reads_apart = reads_apart
        self.pings_apart = False
        """Questions whether a member still leads, and answers to them, overtake all else, and what
        is cut off too.
        """
        self.stops: Callable[[str, str, dict[str, Any]], bool] | None = None
        """A direction is cut just before it would carry such a message."""
        self.loss = 0.0
        """Share of messages at which their connection breaks."""
        self.spoils: dict[str, None] = {}
        """Members that give states with a wrong bit in some chunks: their memory is bad."""
        self.connections: dict[tuple[str, str], Connection] = {}
        self.counts = dict.fromkeys(COUNTED, 0)
        self._numbers = 0

    # --------------------------------------------------------------------------------------- faults

    @property
    def disturbed(self) -> bool:
        """Say whether some may not reach others in good time.

        After a lag is mended a connection delivers in order what it still holds, so what arrives
        stays old until that has arrived.
        """
        if self.cut or self.slow or self.lag_s or self.loss:
            return True
        soon = asyncio.get_running_loop().time() + LATE_S
        return any(
            due > soon
            for connection in self.connections.values()
            for due in connection.last_due.values()
        )

    def isolate(self, names: list[str], *, from_names: list[str], one_way: bool = False) -> None:
        """Cut everything from `names` to `from_names`, and back unless `one_way`."""
        for a in names:
            for b in from_names:
                if a != b:
                    self.cut[a, b] = None
                    if not one_way:
                        self.cut[b, a] = None

    def join(self, names: list[str], others: list[str]) -> None:
        """Mend every cut between `names` and `others`; what their connections held back goes on."""
        for a, b in ((a, b) for a in names for b in others):
            self.cut.pop((a, b), None)
            self.cut.pop((b, a), None)
            connection = self.connections.get((a, b) if a < b else (b, a))
            if connection is not None:
                self._release(connection, a, b)
                self._release(connection, b, a)
            self.maybe_connect(a, b)

    def heal(self) -> None:
        self.cut.clear()
        self.slow.clear()
        self.lag_s.clear()
        self.loss, self.delay_s = 0.0, DELAY_S
        self.spoils.clear()
        self.pings_apart, self.stops = False, None
        for pair, connection in list(self.connections.items()):
            self._release(connection, *pair)
            self._release(connection, *pair[::-1])

    def _release(self, connection: Connection, source: str, target: str) -> None:
        held = connection.held.pop(source, ())
        for raw in held:
            self._carry(connection, source, target, raw)
        connection.silent_since.pop(source, None)

    # ---------------------------------------------------------------------------------- connections

    def up(self, wire: Wire) -> None:
        self.wires[wire.me] = wire
        for other in sorted(self.wires):
            self.maybe_connect(wire.me, other)

    def down(self, name: str) -> None:
        """The process is gone: its kernel resets every connection."""
        self.wires.pop(name, None)
        for pair in sorted(self.connections):
            if name in pair:
                self.break_(pair)

    def maybe_connect(self, a: str, b: str) -> None:
        if a == b:
            return
        pair = (a, b) if a < b else (b, a)
        wires = [self.wires.get(name) for name in pair]
        if pair in self.connections or None in wires:
            return
        ends = [(wire, other) for wire, other in zip(wires, reversed(pair), strict=True) if wire]
        if not any(wire.dials(other) for wire, other in ends):
            return
        if pair in self.cut or (pair[1], pair[0]) in self.cut:
            asyncio.get_running_loop().call_later(
                self.rng.uniform(*RETRY_S), self.maybe_connect, a, b
            )
            return
        if not self._let_in(ends):
            asyncio.get_running_loop().call_later(
                self.rng.uniform(*RETRY_S), self.maybe_connect, a, b
            )
            return
        if any(other not in wire.nodes for wire, other in ends):
            return
        self._numbers += 1
        self.connections[pair] = Connection(self._numbers)
        for name, other in (pair, pair[::-1]):
            self.wires[name].enter(self.wires[name].connected, other)

    def _let_in(self, ends: list[tuple[Wire, str]]) -> bool:
        """Let both judge what goes with the other's hello, as behind a handshake; say whether they
        want each other.
        """
        identities = {wire.me: wire.asked(wire.identity) for wire, _ in ends}
        if None in identities.values():
            return False
        refusals = {
            wire.me: wire.asked(wire.judge, other, identities[other]) for wire, other in ends
        }
        for wire, other in ends:
            refusal = refusals[other]
            if refusal is not None and wire.dials(other):
                wire.enter(wire.on_refused, other, ": ".join(refusal))
        return not any(refusals.values())

    def break_(self, pair: tuple[str, str]) -> None:
        connection = self.connections.pop(pair, None)
        if connection is None:
            return
        connection.open = False
        self.counts["breaks"] += 1
        loop = asyncio.get_running_loop()
        for line, waiting in connection.in_flight.items():
            source = line.removesuffix(APART)
            target = pair[0] if source == pair[1] else pair[1]
            for raw in list(waiting) if self._ghosts else ():
                if self.rng.random() < 0.3 and self.codec.decode(raw)["type"] not in NO_GHOST:
                    self.counts["ghosts"] += 1
                    loop.call_later(
                        self.rng.uniform(0.0, 0.6), self._deliver_ghost, source, target, raw
                    )
        for name, other in (pair, pair[::-1]):
            wire = self.wires.get(name)
            if wire is not None:
                wire.enter(wire.disconnected, other)
        loop.call_later(self.rng.uniform(*RETRY_S), self.maybe_connect, *pair)

    # ------------------------------------------------------------------------------------- messages

    def codec_of(self, name: str) -> Codec:
        return self.next if name in self.upgraded else self.codec

    def send(self, source: str, target: str, message: dict[str, Any]) -> bool:
        pair = (source, target) if source < target else (target, source)
        connection = self.connections.get(pair)
        if connection is None:
            return False
        self.counts["messages"] += 1
        chunk = source in self.spoils and message["type"] == "state_chunk" and message["content"]
        if chunk and self.rng.random() < SPOILT:
            self.counts["spoilt"] += 1
            *right, last = message["content"]
            message = {**message, "content": bytes([*right, last ^ 1])}
        raw = self.codec_of(source).encode(message)
        if source in self.upgraded and self.rng.random() < 0.05:
            self.counts["hints"] += 1
            self._carry(connection, source, target, self.next.encode({"type": HINT}))
        if self.loss and self.rng.random() < self.loss:
            asyncio.get_running_loop().call_soon(self.break_, pair)
            return True
        overtakes = self.pings_apart and message["type"] in PINGS
        if (source, target) in self.cut and not overtakes:
            connection.held.setdefault(source, deque()).append(raw)
            now = asyncio.get_running_loop().time()
            since = connection.silent_since.setdefault(source, now)
            if now - since > DEAD_S:
                asyncio.get_running_loop().call_soon(self.break_, pair)
            return True
        self._carry(connection, source, target, raw, apart=self._goes_apart(message["type"]))
        return True

    def _goes_apart(self, kind: str) -> bool:
        if kind in STATE_APART:  # on a connection of their own
            return True
        return (self.reads_apart and kind in READS) or (self.pings_apart and kind in PINGS)

    def _carry(
        self, connection: Connection, source: str, target: str, raw: bytes, *, apart: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        line = source + APART if apart else source
        direction = source, target
        delay = self.rng.uniform(*self.delay_s) + self.slow.get(direction, 0.0) * self.rng.random()
        delay += 0.0 if apart else self.lag_s.get(direction, 0.0)
        due = max(loop.time() + delay, connection.last_due.get(line, 0.0))
        connection.last_due[line] = due
        connection.in_flight.setdefault(line, deque()).append(raw)
        loop.call_at(due, self._arrive, connection, line, target)

    def _arrive(self, connection: Connection, line: str, target: str) -> None:
        waiting, source = connection.in_flight[line], line.removesuffix(APART)
        if not connection.open or not waiting:
            return
        raw = waiting.popleft()
        if self.stops is not None and self.stops(source, target, self.codec.decode(raw)):
            self.cut[source, target] = None
        if (source, target) in self.cut and not (self.pings_apart and line.endswith(APART)):
            connection.held.setdefault(source, deque()).append(raw)
            return
        self._deliver(source, target, raw)
        if (
            self._ghosts
            and self.rng.random() < 0.01
            and self.codec.decode(raw)["type"] not in NO_GHOST
        ):
            self.counts["doubles"] += 1
            self._deliver(source, target, raw)

    def _deliver_ghost(self, source: str, target: str, raw: bytes) -> None:
        if (source, target) not in self.cut:
            self._deliver(source, target, raw)

    def _deliver(self, source: str, target: str, raw: bytes) -> None:
        wire = self.wires.get(target)
        if wire is not None:
            node = wire.nodes.get(source)
            if node is not None:
                wire.enter(wire.received, node, self.codec_of(target).decode(raw))


class Wire(Transport):
    """One member's end: the library's transport seam."""

    def __init__(self, network: Network, me: Node, process: Process) -> None:
        super().__init__(None, None, None)
        self._network, self.me, self._process = network, me.id, process
        self.nodes: dict[str, Node] = {}
        self.resting: dict[str, None] = {}
        """Members that it knows and does not dial."""
        self.identity: Callable[[], PeerIdentity] = PeerIdentity
        self.judge: Callable[[str, PeerIdentity], tuple[str, str] | None] = lambda peer, identity: (
            None
        )
        self.on_refused: Callable[[str, str], None] = lambda peer, told: None

    def dials(self, other: str) -> bool:
        return other in self.nodes and other not in self.resting

    def asked(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call into the member's process; None if it does not live."""
        answers: list[Any] = []
        self.enter(lambda: answers.append(function(*args)))
        return answers[0] if answers else None

    def rest(self, node: Node) -> None:
        self.nodes[node.id] = node
        self.resting[node.id] = None

    def reported_address(self, node: Node) -> str:
        other = self._network.wires.get(node.id)
        identity = None if other is None else other.asked(other.identity)
        return "" if identity is None else identity.address

    def enter(self, function: Callable[..., None], *args: Any) -> None:
        """Call into the member's process, if it lives."""
        self._process.enter(function, *args)

    async def start(self) -> None:
        self._network.up(self)

    def flush(self) -> None:
        """What is sent is on its way at once."""

    async def aclose(self) -> None:
        if self._network.wires.get(self.me) is self:
            self._network.down(self.me)

    def addNode(self, node: Node) -> None:
        self.nodes[node.id] = node
        self.resting.pop(node.id, None)
        if self._network.wires.get(self.me) is self:
            asyncio.get_running_loop().call_soon(self._network.maybe_connect, self.me, node.id)

    def dropNode(self, node: Node) -> None:
        asyncio.get_running_loop().call_soon(self._drop, node.id)

    def _drop(self, name: str) -> None:
        self.nodes.pop(name, None)
        if self._network.wires.get(self.me) is self:
            self._network.break_((self.me, name) if self.me < name else (name, self.me))

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        return self._process.alive and self._network.send(self.me, node.id, message)

    def connected(self, peer: str) -> None:
        node = self.nodes.get(peer)
        if node is not None:
            self._onNodeConnected(node)

    def disconnected(self, peer: str) -> None:
        node = self.nodes.get(peer)
        if node is not None:
            self._onNodeDisconnected(node)

    def received(self, node: Node, message: dict[str, Any]) -> None:
        self._onMessageReceived(node, message)

    def destroy(self) -> None:
        """The library may ask for it; `aclose` does the work."""
