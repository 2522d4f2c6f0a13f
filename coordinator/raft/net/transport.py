"""Carry messages between members on the event loop, through the library's public transport seam.

No threads, no unbounded queue, nothing decoded before it is proved. It never drops a single
message: a connection that cannot keep up closes, both ends see it, and the next one starts with
nothing left over from it.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeAlias, cast

import msgspec
import structlog
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from coordinator.raft.net.admission import Admission
from coordinator.raft.net.codec import Codec, WireError
from coordinator.raft.net.connection import Connection, host_of
from coordinator.raft.net.duplicate_ids import IdUse
from coordinator.raft.net.frames import FRAME_BYTES_MAX, NONCE_BYTES, Mode, Role, Session
from coordinator.raft.net.peer_identity import PeerIdentity, decode_identity, encode_identity
from coordinator.raft.net.security import (
    Certificates,
    Open,
    Security,
    SharedSecret,
    certified_names,
    check_secret,
    is_loopback,
    mode_of,
    split_address,
    tls_contexts,
)
from coordinator.raft.net.sockets import Dialler, Doorway, bind
from kv.errors import BadRequest

LINGER_S: Final = 0.2
"""How long closing waits for what was sent before (a farewell) to leave."""
WARN_EVERY_S: Final = 60.0
REASONS_MAX: Final = 1000
USED_TWICE: Final = "used_twice"
"""Why a process is not let in whose id another one uses at the same time."""

_log = structlog.get_logger("acordo.raft.transport")


class TransportLimits(msgspec.Struct, frozen=True):
    """Bounds in time and size."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    handshake_s: float = 2.0
    """From accepting (or beginning to dial) until proved."""
    keepalive_s: float = 0.3
    """A connection that has sent nothing for so long sends an empty frame."""
    dead_after_s: float = 1.5
    """A connection on which nothing came for so long is closed."""
    retry_s: float = 0.05
    retry_max_s: float = 1.0
    """Pause before dialling again: doubled with every failure, times 0.5 … 1 by chance."""
    probe_s: float = 0.25
    """Pause before the higher id dials, because the lower one does not: it may not know where we
    are.
    """


class Server(Protocol):
    """What listening gives back."""

    def close(self) -> None: ...


Listen: TypeAlias = Callable[[Callable[[], asyncio.BaseProtocol], str, int], Awaitable[Server]]
Connect: TypeAlias = Callable[
    [Callable[[], asyncio.BaseProtocol], str, int],
    Awaitable[tuple[asyncio.BaseTransport, asyncio.BaseProtocol]],
]


class _Peer:
    """What is kept for one other member."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.connection: Connection | None = None
        self.id_use = IdUse()
        self.reported_address = ""
        """Where it said that it is reached, once it had proved itself."""
        self.resting = False
        """It is not dialled."""
        self.trouble = ""
        """Why there is no connection, as far as is known."""
        self.dialling: asyncio.Task[None] | None = None
        self.last_received_s: float | None = None


class AsyncioTransport(Transport):
    """Connect this member with all others; one connection per pair.

    The lower id dials. The higher one does too when nobody comes: where it is may be known to
    itself alone, and a member that does not know it is to hear of it. If both do at once, the
    connection that the lower id dialled stays.

    Nodes have `.id`, the member's id, and `.address`, "host:port". A node with `.readonly` true is
    told to the core by the callbacks for read-only nodes. Messages are dicts as `codec` takes them;
    one that was sent is not changed afterwards. After what has arrived was given to the core,
    `wake()` is called once.

    `entropy(n)` gives n bytes that nobody can guess and that never repeat (`os.urandom`); `random`
    spreads retries. `listen` and `connect` stand in for the loop's own, for a simulated network.
    `on_fatal` gets what the core raised.

    Before it connects: set `identity` (what goes with our hello), `judge` ((peer, its identity) ->
    (reason, detail) why it is not wanted, or None) and `on_refused` ((peer, what it said) when
    a peer did not let us in).
    """

    def __init__(
        self,
        cluster: str,
        self_node: Node,
        listen_address: str,
        codec: Codec,
        *,
        random: random.Random,
        entropy: Callable[[int], bytes],
        security: Security,
        wake: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
        nodes: Iterable[Node] = (),
        limits: TransportLimits | None = None,
        listen: Listen | None = None,
        connect: Connect | None = None,
        routes: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(None, self_node, [])
        self._cluster, self._member = cluster, self_node.id
        self._address, self._codec = listen_address, codec
        self._random, self._entropy = random, entropy
        self._security, self._mode = security, mode_of(security)
        self._key = b""
        self._tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
        self._wake, self._on_fatal = wake, on_fatal
        self.limits = limits or TransportLimits()
        self._listen = listen or self._listen_socket
        self._connect = connect or self._connect_socket
        self._routes = dict(routes or {})
        """Where members are dialled from here, whatever address they have for all others."""
        self._dialler: Dialler | None = None
        self.identity: Callable[[], PeerIdentity] = PeerIdentity
        self.judge: Callable[[str, PeerIdentity], tuple[str, str] | None] = lambda peer, identity: (
            None
        )
        self.on_refused: Callable[[str, str], None] = lambda peer, told: None
        self._peers: dict[str, _Peer] = {}
        self._admission: Admission[Connection] = Admission()
        self._strangers: dict[Connection, asyncio.TimerHandle] = {}
        self._welcomes: dict[Connection, asyncio.Task[None]] = {}
        """Accepted sockets on their way to be connections (TLS shakes hands meanwhile)."""
        self._finishing: set[Connection] = set()
        self._server: Server | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._encoded: tuple[Mapping[str, Any] | None, bytes] = (None, b"")
        self._warned: dict[tuple[str, str], float] = {}
        self.counters: Counter[str] = Counter()
        """What happened, by name: connected, closed_<reason>, refused_<reason>, frames_sent,
        frames_received, …
        """
        self._delivered = self._over = False
        self._beat_due_s = 0.0
        for node in nodes:
            self.addNode(node)

    # ----------------------------------------------------------------------------- opening, closing

    async def start(self) -> None:
        """Listen, and begin to dial. Raises BadRequest for address, secret or certificates that
        cannot be used.
        """
        host, port = split_address(self._address)
        match self._security:
            case Open():
                if not is_loopback(host):
                    raise BadRequest(
                        "raft_unprotected",
                        f"Raft would listen on {self._address} with nothing that proves who connects",
                        allowed="a shared secret, certificates, or a loopback address",
                    )
                _log.warning(
                    "raft_unprotected", address=self._address, why="neither secret nor certificates"
                )
            case SharedSecret(secret):
                self._key = check_secret(secret, "the members' secret")
            case Certificates():
                self._tls = tls_contexts(self._security)
        self._loop = asyncio.get_running_loop()
        try:
            self._server = await self._listen(self._accepting, host, port)
        except OSError as exc:
            code = "port_in_use" if exc.errno == errno.EADDRINUSE else "address_unusable"
            raise BadRequest(
                code, f"Raft cannot listen on {self._address}: {exc.strerror}"
            ) from exc
        self._next_beat(self._loop)
        for peer in self._peers.values():
            self._maybe_dial(peer)

    @property
    def port(self) -> int:
        """The port listened on, also when the address asked for any."""
        for listening in getattr(self._server, "sockets", ()):
            return int(listening.getsockname()[1])
        return split_address(self._address)[1]

    @property
    def ready(self) -> bool:
        """Always: the library would busy-wait for it; `start` is awaited before the core ticks."""
        return True

    def destroy(self) -> None:
        """Close everything now; `aclose` also waits until it is."""
        if self._over:
            return
        self._over = True
        self.setOnMessageReceivedCallback(None)
        self.setOnNodeConnectedCallback(None)
        self.setOnNodeDisconnectedCallback(None)
        self.setOnReadonlyNodeConnectedCallback(None)
        self.setOnReadonlyNodeDisconnectedCallback(None)
        if self._server is not None:
            self._server.close()
        if self._beat is not None:
            self._beat.cancel()
        for peer in list(self._peers.values()):
            self.dropNode(peer.node)
        for stranger in list(self._strangers):
            stranger.close("closing")

    async def aclose(self) -> None:
        """Close everything; what was sent before is given a moment to leave."""
        tasks: list[asyncio.Future[Any]] = [
            *self._welcomes.values(),
            *(p.dialling for p in self._peers.values() if p.dialling is not None),
        ]
        tasks += getattr(self._server, "tasks", [])
        if self._dialler is not None:
            tasks += self._dialler.close()
        self.destroy()
        leaving = [connection.gone for connection in self._finishing]
        if leaving:
            await asyncio.wait(leaving, timeout=LINGER_S)
        for connection in self._finishing:
            connection.abandon()
        if tasks:
            await asyncio.wait(tasks)

    # ----------------------------------------------------------------------- what the library calls

    def addNode(self, node: Node) -> None:
        """Know a member from now on, and dial it. A known id keeps its connection."""
        if node.id == self._member:
            return
        peer = self._peers.setdefault(node.id, _Peer(node))
        peer.resting = False
        if self._loop is not None:
            self._maybe_dial(peer)

    def rest(self, node: Node) -> None:
        """Know it still, and dial it no longer: it comes if it is there."""
        peer = self._peers.setdefault(node.id, _Peer(node))
        peer.resting = True
        if peer.dialling is not None:
            peer.dialling.cancel()
            peer.dialling = None

    def dropNode(self, node: Node) -> None:
        """Know it no longer: its connection closes, and it is refused."""
        peer = self._peers.pop(node.id, None)
        if peer is None:
            return
        if peer.dialling is not None:
            peer.dialling.cancel()
        if peer.connection is not None:
            connection, peer.connection = peer.connection, None
            self._finishing.add(connection)
            connection.gone.add_done_callback(lambda _: self._finishing.discard(connection))
            connection.finish("dropped")
            self._tell_disconnected(peer)

    def send(self, node: Node, message: Mapping[str, Any]) -> bool:
        """Queue for the peer. False: it waits nowhere and will never be sent."""
        peer = self._peers.get(node.id)
        if peer is None or peer.connection is None:
            return False
        if self._encoded[0] is not message:
            self._encoded = (message, self._codec.encode(message))
        if not peer.connection.send(self._encoded[1]):
            return False
        self.counters["frames_sent"] += 1
        return True

    # ------------------------------------------------------------------------------ what others ask

    def connected(self, node: Node) -> bool:
        peer = self._peers.get(node.id)
        return peer is not None and peer.connection is not None

    def last_seen_s(self, node: Node) -> float | None:
        """Return the seconds since anything came from it; None: nothing yet."""
        peer = self._peers.get(node.id)
        if peer is None or self._loop is None:
            return None
        at = (
            peer.connection.last_received_s if peer.connection is not None else peer.last_received_s
        )
        return None if at is None else self._loop.time() - at

    @property
    def duplicate_ids(self) -> tuple[str, ...]:
        """Return the ids that two processes use, this member's own among them if others have said
        so.
        """
        twice = {name for name, peer in self._peers.items() if peer.id_use.duplicated}
        if any(
            peer.connection is None and USED_TWICE in peer.trouble for peer in self._peers.values()
        ):
            twice.add(self._member)
        return tuple(sorted(twice))

    def reported_address(self, node: Node) -> str:
        """Return where it said that it is reached when it last proved itself; empty: it did not
        say.
        """
        peer = self._peers.get(node.id)
        return "" if peer is None else peer.reported_address

    def trouble(self, node: Node) -> str:
        """Return why there is no connection with it, in words; empty: there is one, or nothing is
        known.
        """
        peer = self._peers.get(node.id)
        return "" if peer is None else peer.trouble

    def queued_bytes(self, node: Node) -> int:
        peer = self._peers.get(node.id)
        return (
            peer.connection.queued_bytes if peer is not None and peer.connection is not None else 0
        )

    @property
    def strangers(self) -> int:
        """Accepted connections that have not proved themselves."""
        return len(self._strangers)

    # ------------------------------------------------------------------------------------- dialling

    def _maybe_dial(self, peer: _Peer) -> None:
        if peer.dialling is None and not peer.resting and self._loop is not None:
            peer.dialling = self._loop.create_task(self._dial(peer))
            peer.dialling.add_done_callback(self._on_task_done)

    async def _dial(self, peer: _Peer) -> None:
        """See to it that there is a connection with the peer, for as long as it is known."""
        first = self._member < peer.node.id
        failures = 0
        if not first:
            await self._pause(self.limits.probe_s, 1)
        while True:
            if peer.connection is not None:
                await asyncio.shield(peer.connection.closed)
                if not first:
                    await self._pause(self.limits.probe_s, 1)
                continue
            lived_s = await self._live(peer, self._where(peer, failures))
            failures = 0 if lived_s > self.limits.retry_max_s else failures + 1
            await self._pause(self.limits.retry_s if first else self.limits.probe_s, failures)

    async def _pause(self, base_s: float, failures: int) -> None:
        longest_s = max(self.limits.retry_max_s, base_s)
        await asyncio.sleep(
            min(longest_s, base_s * 2 ** min(failures - 1, 16)) * self._random.uniform(0.5, 1.0)
        )

    def _where(self, peer: _Peer, failures: int) -> str:
        """Return where to look for it: by its route from here, or where the configuration says, and
        in turn where it said itself.
        """
        route = self._routes.get(peer.node.id)
        if route is not None:
            return route
        known: str = peer.node.address  # type: ignore[attr-defined]  # the library's Node takes any attribute
        return peer.reported_address if peer.reported_address and failures % 2 else known

    async def _live(self, peer: _Peer, address: str) -> float:
        """Dial once and return when the connection is over: the seconds for which it was ready."""
        assert self._loop is not None
        connection = self._connection("dialer", expect=peer.node.id)
        try:
            async with asyncio.timeout(self.limits.handshake_s):
                await self._connect(lambda: connection, *split_address(address))
                ready = await connection.settled
        except (OSError, UnicodeError, BadRequest) as exc:  # a TimeoutError is an OSError
            self.counters["dial_failed"] += 1
            connection.close(
                "handshake_timeout" if isinstance(exc, TimeoutError) else "unreachable"
            )
            why = (
                "no answer in time"
                if isinstance(exc, TimeoutError)
                else (getattr(exc, "strerror", None) or str(exc))
            )
            peer.trouble = peer.trouble if peer.connection is not None else f"{address}: {why}"
            return 0.0
        except asyncio.CancelledError:
            connection.close("dropped")
            raise
        if not ready:
            if peer.connection is None:
                peer.trouble = f"{address}: {connection.detail or connection.reason}"
            if connection.reason == "turned_away":
                self._guarded(self.on_refused, peer.node.id, connection.detail)
            return 0.0
        await asyncio.shield(connection.closed)
        return self._loop.time() - connection.ready_at_s

    async def _connect_socket(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        assert self._loop is not None
        if self._dialler is None:
            self._dialler = Dialler(self._loop, self.limits.handshake_s)
        return await self._dialler.connect(
            factory, host, port, self._tls[1] if self._tls is not None else None
        )

    # ------------------------------------------------------------------------------------ accepting

    def admit(self, connection: Connection, host: str) -> bool:
        """Let a stranger in, or not: see admission.py."""
        assert self._loop is not None
        self.counters["accepted"] += 1
        verdict = self._admission.knock(connection, host, self._loop.time())
        if verdict == "too_often" or self._over:
            self._refuse(host, "too_often")
            connection.close("too_often")
            return False
        if isinstance(verdict, Connection):
            verdict.close("crowded")
        self._strangers[connection] = self._loop.call_later(
            self.limits.handshake_s, connection.close, "handshake_timeout"
        )
        return True

    def _accepting(self) -> asyncio.BaseProtocol:
        return _Door(self, self._connection("listener"))

    async def _listen_socket(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> Server:
        """Accept by hand: who is not let in costs one accept and one close, also where TLS would
        come first.
        """
        assert self._loop is not None
        sockets = await bind(self._loop, host, port)
        return Doorway(self._loop, sockets, self._knocked, self._refuse, self._on_task_done)

    def _knocked(self, accepted: socket.socket, host: str) -> None:
        assert self._loop is not None
        connection = self._connection("listener")
        connection.host = host
        if not self.admit(connection, host):
            accepted.close()
            return
        task = self._loop.create_task(self._welcome(connection, accepted))
        self._welcomes[connection] = task
        task.add_done_callback(self._on_task_done)

    async def _welcome(self, connection: Connection, accepted: socket.socket) -> None:
        assert self._loop is not None
        try:
            if self._tls is None:
                await self._loop.connect_accepted_socket(lambda: connection, accepted)
            else:
                await self._loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=self._tls[0],
                    ssl_handshake_timeout=self.limits.handshake_s,
                )
        except OSError as exc:
            connection.close("tls" if isinstance(exc, (ssl.SSLError, ConnectionError)) else "lost")
        finally:
            self._welcomes.pop(connection, None)

    # -------------------------------------------------------------------- what a connection reports

    def on_proved(self, connection: Connection, peer: str) -> None:
        """Let it in, or say why not. Only who has proved itself is judged, and hears a reason."""
        identity = decode_identity(connection.session.facts)
        refusal = self._judge_certificate(connection, peer) or self.judge(peer, identity)
        kept = self._peers.get(peer)
        if refusal is None:
            if kept is None:
                refusal = ("not_a_member", f"{peer} is no member, as far as {self._member} knows")
            else:
                refusal = self._judge_double(kept, connection, identity)
        if refusal is None:
            connection.admit()
            return
        if kept is not None and kept.connection is None:
            kept.trouble = refusal[1]
        connection.turn_away(*refusal)

    def _judge_certificate(self, connection: Connection, peer: str) -> tuple[str, str] | None:
        if self._tls is None or connection.transport is None:
            return None
        names = certified_names(connection.transport.get_extra_info("peercert"))
        return (
            None
            if peer in names
            else ("wrong_certificate", f"the certificate does not name {peer}")
        )

    def _judge_double(
        self, peer: _Peer, connection: Connection, identity: PeerIdentity
    ) -> tuple[str, str] | None:
        """Say why a second connection of the same id does not take the first one's place."""
        assert self._loop is not None
        held = peer.connection
        other = None if held is None else decode_identity(held.session.facts).incarnation
        verdict = peer.id_use.came(identity.incarnation, other, self._loop.time())
        if verdict == "refused":
            return USED_TWICE, f"two processes use the id {peer.node.id}; stop one of them"
        if verdict == "wait":
            return "contended", f"another process with the id {peer.node.id} is connected"
        peer.reported_address = identity.address
        if held is not None and not connection.dialer and peer.node.id > self._member:
            # The same process: the connection that we dialled stays.
            return ("wrong_direction", "connected already") if held.dialer else None
        return None

    def on_ready(self, connection: Connection, peer: str) -> None:
        if peer not in self._peers:
            connection.close("dropped")
            return
        self._forget_stranger(connection)
        kept = self._peers[peer]
        if kept.connection is not None:
            # The old one is half-dead: its peer would not have come again.
            old, kept.connection = kept.connection, None
            old.close("replaced")
            self._tell_disconnected(kept)
        kept.connection, kept.trouble = connection, ""
        self.counters["connected"] += 1
        _log.info("connected", peer=peer, host=connection.host)
        if getattr(kept.node, "readonly", False):
            self._guarded(self._onReadonlyNodeConnected, kept.node)
        else:
            self._guarded(self._onNodeConnected, kept.node)
        self._wake()

    def on_frame(self, connection: Connection, content: memoryview) -> None:
        peer = self._peers.get(connection.session.peer or "")
        if peer is None or peer.connection is not connection:
            return
        try:
            message = self._codec.decode(content)
        except WireError as exc:
            self._refuse(connection.host, "undecodable", detail=str(exc))
            connection.close("undecodable")
            return
        self.counters["frames_received"] += 1
        self._delivered = True
        self._guarded(self._onMessageReceived, peer.node, message)

    def on_read(self, connection: Connection) -> None:
        if self._delivered and not self._over:
            self._delivered = False
            self._wake()

    def on_closed(self, connection: Connection, reason: str) -> None:
        self._forget_stranger(connection)
        welcome = self._welcomes.pop(connection, None)
        if welcome is not None:
            welcome.cancel()
        self.counters[f"closed_{reason}"] += 1
        peer = self._peers.get(connection.session.peer or "")
        if peer is not None and peer.connection is connection:
            peer.connection, peer.last_received_s = None, connection.last_received_s
            peer.trouble = peer.trouble or f"the connection ended: {reason}"
            peer.id_use.lost()
            _log.info("disconnected", peer=peer.node.id, reason=reason)
            self._tell_disconnected(peer)
        elif reason not in _QUIET:
            self._refuse(connection.host, reason, connection.detail)

    # ----------------------------------------------------------------------------------------- rest

    def _connection(self, role: Role, expect: str | None = None) -> Connection:
        session = Session(
            role,
            self._cluster,
            self._member,
            self._entropy(NONCE_BYTES),
            mode=self._mode,
            key=self._key if self._mode is Mode.SECRET else b"",
            expect=expect,
            facts=encode_identity(self.identity()),
            frame_bytes_max=self.limits.frame_bytes_max,
        )
        return Connection(self, session, dialer=role == "dialer")

    def _forget_stranger(self, connection: Connection) -> None:
        self._admission.leave(connection)
        timer = self._strangers.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _tell_disconnected(self, peer: _Peer) -> None:
        if getattr(peer.node, "readonly", False):
            self._guarded(self._onReadonlyNodeDisconnected, peer.node)
        else:
            self._guarded(self._onNodeDisconnected, peer.node)
        if not self._over:
            self._wake()

    def _guarded(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception as exc:  # noqa: BLE001  the core's own failure is no connection's: whoever runs it must know
            self._on_fatal(exc)

    def _on_beat(self) -> None:
        """Show every peer that we live; give up those that do not show it."""
        assert self._loop is not None
        now = self._loop.time()
        # When it was this process that stood still, what the peers sent meanwhile is yet to be
        # read.
        late = now - self._beat_due_s > self.limits.keepalive_s
        self._next_beat(self._loop)
        for peer in list(self._peers.values()):
            connection = peer.connection
            if connection is None:
                continue
            if late:
                connection.last_received_s = now
                peer.id_use.postpone(now)
            elif peer.id_use.heard(connection.last_received_s):
                peer.trouble = f"two processes use the id {peer.node.id}; stop one of them"
                _log.error("member_id_used_twice", peer=peer.node.id, hosts=connection.host)
                self.counters["doubled"] += 1
                connection.close(USED_TWICE)
                continue
            if now - connection.last_received_s >= self.limits.dead_after_s:
                connection.close("silent")
            elif now - connection.last_sent_s >= self.limits.keepalive_s:
                connection.send(b"")

    def _next_beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beat_due_s = loop.time() + self.limits.keepalive_s / 2
        self._beat = loop.call_at(self._beat_due_s, self._on_beat)

    def _refuse(self, host: str, reason: str, detail: str = "") -> None:
        """Count a refusal, and say it once a minute for each host and reason: a flood must not
        flood the log.
        """
        self.counters[f"refused_{reason}"] += 1
        now = self._loop.time() if self._loop is not None else 0.0
        if now - self._warned.get((host, reason), -WARN_EVERY_S) < WARN_EVERY_S:
            return
        if len(self._warned) >= REASONS_MAX:
            self._warned.clear()
        self._warned[host, reason] = now
        count = self.counters[f"refused_{reason}"]
        _log.warning("connection_refused", host=host, reason=reason, detail=detail, so_far=count)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._on_fatal(exc)


_QUIET: Final = frozenset(
    {
        "lost",
        "dropped",
        "closing",
        "replaced",
        "unreachable",
        "too_often",
        "silent",
        "wrong_direction",
    }
)
"""Ends of connections that were never ready, or no longer ours, which no operator needs to
hear of.
"""


class _Door(asyncio.Protocol):
    """Hold what a simulated network accepted until it is let in."""

    def __init__(self, owner: AsyncioTransport, connection: Connection) -> None:
        self._owner, self._connection = owner, connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._owner.admit(self._connection, host_of(transport)):
            cast(asyncio.Transport, transport).set_protocol(self._connection)
            self._connection.connection_made(transport)
        else:
            cast(asyncio.Transport, transport).abort()
