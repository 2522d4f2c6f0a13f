"""Carry messages between members on the event loop, through the library's public transport seam.

It uses no threads and no unbounded queue, and decodes nothing that an unproved peer sent. It never
drops a single message: a connection that cannot keep up is closed, both ends see that, and the next
connection starts with empty queues. (More than 400 lines: what a connection reports and what the
library calls meet here.)
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
import structlog
from pysyncobj.node import Node

from coordinator.raft.net.codec import Codec, WireError
from coordinator.raft.net.connection import Connection, TransportLimits
from coordinator.raft.net.dialer import Dialer
from coordinator.raft.net.frames import Role, Session
from coordinator.raft.net.heartbeat import Heartbeat
from coordinator.raft.net.hello import NONCE_BYTES, Mode
from coordinator.raft.net.inbound import Inbound
from coordinator.raft.net.lanes import Lanes
from coordinator.raft.net.outbound import Outbound
from coordinator.raft.net.peer import Peer
from coordinator.raft.net.peer_identity import PeerIdentity, decode_identity, encode_identity
from coordinator.raft.net.refusals import Refusals
from coordinator.raft.net.reports import PeerReports
from coordinator.raft.net.security import (
    Credentials,
    Open,
    Security,
    certified_names,
    credentials_of,
    split_address,
)
from kv.errors import BadRequest

LINGER_S: Final = 0.2
"""Seconds that closing waits until messages sent before (a farewell) have been transmitted."""
Judge: TypeAlias = Callable[[str, PeerIdentity], tuple[str, str] | None]
"""(peer, its identity) -> (reason, detail) for refusing the peer; None: it is accepted."""

_log = structlog.get_logger("acordo.raft.transport")


class AsyncioTransport(PeerReports):
    """One member's connections with all others, one connection per pair, and while a state is given
    another one for the messages in `apart`, which need not keep their order with others.

    Both ends of a pair may dial at once (outbound.py says why); then the connection that the lower
    id dialled is kept. On the one that is apart, the member that dialled it sends `asks`.

    Nodes have `.id`, the member's id, and `.address`, "host:port". For a node with `.readonly` true
    the callbacks for read-only nodes are used. Messages are dicts as `codec` expects them, and must
    not be changed after they were sent. `wake()` is called once after all messages that have
    arrived were passed to the core.

    `entropy(n)` returns n bytes that nobody can guess and that never repeat (`os.urandom`); `rng`
    spreads retries. `routes` overrides the addresses at which this member dials others. `on_fatal`
    receives exceptions that the core raises.

    Set these before `start`: `identity` (sent with our hello), `judge`, and `on_refused`, which is
    called with (peer, the reason it gave) when a peer refuses our connection.
    """

    def __init__(
        self,
        cluster: str,
        self_node: Node,
        listen_address: str,
        codec: Codec,
        *,
        rng: random.Random,
        entropy: Callable[[int], bytes],
        security: Security,
        wake: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
        nodes: Iterable[Node] = (),
        limits: TransportLimits | None = None,
        routes: Mapping[str, str] | None = None,
        apart: Container[str] = (),
        asks: Container[str] = (),
    ) -> None:
        super().__init__(self_node)
        self._cluster, self._apart, self._asks = cluster, apart, asks
        self._address, self._codec = listen_address, codec
        self._rng, self._entropy, self._security = rng, entropy, security
        self._wake, self._on_fatal = wake, on_fatal
        self.limits = limits or TransportLimits()
        self._routes = dict(routes or {})
        self.identity: Callable[[], PeerIdentity] = PeerIdentity
        self.judge: Judge = lambda peer, identity: None
        self.on_refused: Callable[[str, str], None] = lambda peer, said: None
        self._refusals = Refusals()
        self.counters = self._refusals.counters
        """Counters of connection events, by name."""
        self._heartbeat = Heartbeat(self._peers, self.limits, self.counters)
        self._inbound = Inbound(
            lambda: self._connection("listener"),
            self._refusals,
            self.limits.handshake_s,
            self._on_task_done,
        )
        self._credentials: Credentials | None = None  # this and the next three: set by `start`
        self._dialer: Dialer | None = None
        self._outbound: Outbound | None = None
        self._lanes: Lanes | None = None
        self._finishing: set[Connection] = set()
        """Dropped connections that still send what was queued."""
        self._encoded: tuple[Mapping[str, Any] | None, bytes] = (None, b"")
        """The last message and its bytes; the core often sends one message to many peers."""
        self._over = False
        for node in nodes:
            self.addNode(node)

    # ----------------------------------------------------------------------------- opening, closing

    async def start(self) -> None:
        """Listen, and start to dial.

        Raises BadRequest if the address, the secret or the certificates cannot be used.
        """
        host, port = split_address(self._address)
        credentials = credentials_of(self._security, self._address)
        if isinstance(self._security, Open):
            why = "neither secret nor certificates"
            _log.warning("raft_unprotected", address=self._address, why=why)
        self._credentials, self._loop = credentials, asyncio.get_running_loop()
        try:
            await self._inbound.open(host, port, credentials.listener_tls)
        except OSError as exc:
            code = "port_in_use" if exc.errno == errno.EADDRINUSE else "address_unusable"
            why = f"Raft cannot listen on {self._address}: {exc.strerror}"
            raise BadRequest(code, why) from exc
        self._heartbeat.start()
        self._dialer = Dialer(self._loop, self.limits.handshake_s, credentials.dialer_tls)
        self._outbound = Outbound(
            self._member,
            self._dialer.connect,
            lambda peer: self._connection("dialer", expect=peer),
            limits=self.limits,
            rng=self._rng,
            routes=self._routes,
            counters=self.counters,
            on_refused=lambda peer, said: self._guarded(self.on_refused, peer, said),
            on_task_done=self._on_task_done,
        )
        self._lanes = Lanes(
            connect=self._dialer.connect,
            new_connection=lambda lanes, peer: self._connection("dialer", expect=peer, apart=lanes),
            judge=lambda connection, peer: self._judge(connection, peer, apart=True),
            take=self._take,
            wake=self._wake,
            handshake_s=self.limits.handshake_s,
            counters=self.counters,
            on_task_done=self._on_task_done,
        )
        for peer in self._peers.values():
            self._outbound.reach(peer)

    def renew(self, security: Security) -> None:
        """Prove our identity in this way from now on, and close connections that rest on a secret
        that is no longer accepted; they are dialled again. Raises BadRequest, and changes nothing,
        if it cannot be used or is of another kind.
        """
        assert self._dialer is not None
        assert self._lanes is not None
        fresh = credentials_of(security, self._address)
        if self._credentials is None or fresh.mode is not self._credentials.mode:
            raise BadRequest("security_kind", "members change their kind of proof by a restart")
        self._credentials = fresh
        self._inbound.tls, self._dialer.tls = fresh.listener_tls, fresh.dialer_tls
        held = [peer.connection for peer in self._peers.values() if peer.connection is not None]
        for connection in (*held, *self._lanes.connections()):
            if not fresh.accepts(connection.session.key):
                connection.close("renewed")

    @property
    def port(self) -> int:
        """The port listened on; the real one if the address asks for any port (0)."""
        return self._inbound.port or split_address(self._address)[1]

    @property
    def ready(self) -> bool:
        """Always true. The library would busy-wait for this; `start` is awaited before any tick."""
        return True

    def destroy(self) -> None:
        """Close everything without waiting; `aclose` also waits until all is closed."""
        if self._over:
            return
        self._over = True
        self.setOnMessageReceivedCallback(None)
        self.setOnNodeConnectedCallback(None)
        self.setOnNodeDisconnectedCallback(None)
        self.setOnReadonlyNodeConnectedCallback(None)
        self.setOnReadonlyNodeDisconnectedCallback(None)
        self._heartbeat.stop()
        for peer in list(self._peers.values()):
            self.dropNode(peer.node)
        self._inbound.close()

    async def aclose(self) -> None:
        """Close everything, and wait at most LINGER_S for queued messages to be transmitted."""
        tasks = self._inbound.tasks()
        tasks += [p.dialling for p in self._peers.values() if p.dialling is not None]
        if self._dialer is not None:
            tasks += self._dialer.close()
        if self._lanes is not None:
            tasks += self._lanes.close()
        self.destroy()
        if leaving := [connection.gone for connection in self._finishing]:
            await asyncio.wait(leaving, timeout=LINGER_S)
        for connection in self._finishing:
            connection.abandon()
        if tasks:
            await asyncio.wait(tasks)

    # ----------------------------------------------------------------------- what the library calls

    def addNode(self, node: Node) -> None:
        """Add a member and start to dial it. A known id keeps its connection."""
        if node.id == self._member:
            return
        peer = self._peers.setdefault(node.id, Peer(node))
        peer.resting = False
        if self._outbound is not None:
            self._outbound.reach(peer)

    def rest(self, node: Node) -> None:
        """Stop dialling a member, but keep it known, so that it may still connect to us."""
        peer = self._peers.setdefault(node.id, Peer(node))
        peer.resting = True
        if peer.dialling is not None:
            peer.dialling.cancel()
            peer.dialling = None

    def dropNode(self, node: Node) -> None:
        """Remove a member: close its connection, and refuse it from now on."""
        peer = self._peers.pop(node.id, None)
        if peer is None:
            return
        if self._lanes is not None:
            self._lanes.drop(node.id)
        if peer.dialling is not None:
            peer.dialling.cancel()
        if peer.connection is not None:
            connection, peer.connection = peer.connection, None
            self._finishing.add(connection)
            connection.gone.add_done_callback(lambda _: self._finishing.discard(connection))
            connection.finish("dropped")
            self._notify_disconnected(peer)

    def send(self, node: Node, message: Mapping[str, Any]) -> bool:
        """Queue a message for a peer. Return False if it was not queued and will never be sent."""
        peer = self._peers.get(node.id)
        if peer is not None and message["type"] in self._apart:
            return self._send_apart(peer, message)
        if peer is None or peer.connection is None:
            return False
        if self._encoded[0] is not message:
            self._encoded = (message, self._codec.encode(message))
        if not peer.connection.send(self._encoded[1]):
            return False
        self.counters["frames_sent"] += 1
        return True

    def _send_apart(self, peer: Peer, message: Mapping[str, Any]) -> bool:
        """Send on the connection that is apart; dial one to ask on, if there is none yet."""
        asks, lanes, to = message["type"] in self._asks, self._lanes, peer.node.id
        if lanes is None or self._outbound is None:
            return False
        sent = lanes.send(to, self._codec.encode(message), dialled=asks)
        if asks and not sent:
            lanes.reach(to, self._outbound.where(peer))
        return sent

    @property
    def unproved(self) -> int:
        """The number of accepted connections that have not proved themselves."""
        return self._inbound.unproved

    # -------------------------------------------------------------------- what a connection reports

    def on_proved(self, connection: Connection, peer: str) -> None:
        """Admit or refuse a peer that has proved itself. Only such a peer is told the reason."""
        refusal = self._judge(connection, peer)
        if refusal is None:
            connection.admit()
            return
        kept = self._peers.get(peer)
        if kept is not None and kept.connection is None:
            kept.trouble = refusal[1]
        connection.refuse(*refusal)

    def _judge(
        self, connection: Connection, peer: str, *, apart: bool = False
    ) -> tuple[str, str] | None:
        """Return (reason, detail) for refusing a peer that has proved itself; None: admit it."""
        assert self._loop is not None
        assert self._credentials is not None
        if not self._credentials.accepts(connection.session.key):
            return "old_secret", "it began with a secret that is no longer accepted"
        if self._credentials.mode is Mode.CERTIFICATE and connection.transport is not None:
            certificate = connection.transport.get_extra_info("peercert")
            if peer not in certified_names(certificate):
                return "wrong_certificate", f"the certificate does not name {peer}"
        identity = decode_identity(connection.session.facts)
        refusal = self.judge(peer, identity)
        if refusal is not None:
            return refusal
        kept = self._peers.get(peer)
        if kept is None:
            return "not_a_member", f"{peer} is no member, as far as {self._member} knows"
        if apart or identity.apart:
            return None
        return kept.judge(connection, identity, self._member, self._loop.time())

    def on_ready(self, connection: Connection, peer: str) -> None:
        """Make this the connection with its peer, and notify the core."""
        if peer not in self._peers:
            connection.close("dropped")
            return
        self._inbound.proved(connection)
        if self._lanes is not None and decode_identity(connection.session.facts).apart:
            self._lanes.accept(connection, peer)
            return
        kept = self._peers[peer]
        if kept.connection is not None:
            # Either the old one is dead at the other end, or both dialled and this one is kept.
            old, kept.connection = kept.connection, None
            old.close("replaced")
            self._notify_disconnected(kept)
        kept.connection, kept.trouble = connection, ""
        self.counters["connected"] += 1
        _log.info("connected", peer=peer, host=connection.host)
        self._notify(kept, self._onNodeConnected, self._onReadonlyNodeConnected)
        self._wake()

    def on_frame(self, connection: Connection, content: memoryview) -> None:
        """Decode a message and pass it to the core."""
        peer = self._peers.get(connection.session.peer or "")
        if peer is not None and peer.connection is connection:
            self._take(connection, content)

    def _take(self, connection: Connection, content: memoryview) -> None:
        peer = self._peers.get(connection.session.peer or "")
        if peer is None:
            return
        try:
            message = self._codec.decode(content)
        except WireError as exc:
            self._refusals.refuse(connection.host, "undecodable", detail=str(exc))
            connection.close("undecodable")
            return
        self.counters["frames_received"] += 1
        self._guarded(self._onMessageReceived, peer.node, message)

    def flush(self) -> None:
        """Write what was queued in this turn of the loop now, instead of at its next turn."""
        for peer in self._peers.values():
            if peer.connection is not None:
                peer.connection.flush()

    def on_closed(self, connection: Connection, reason: str) -> None:
        """Forget a connection, and notify the core if it was the ready one with its peer."""
        self._inbound.ended(connection)
        self.counters[f"closed_{reason}"] += 1
        peer = self._peers.get(connection.session.peer or "")
        if peer is not None and peer.connection is connection:
            peer.connection, peer.last_received_s = None, connection.last_received_s
            peer.trouble = peer.trouble or f"the connection ended: {reason}"
            peer.id_use.lost()
            _log.info("disconnected", peer=peer.node.id, reason=reason)
            self._notify_disconnected(peer)
        else:
            self._refusals.ended(connection.host, reason, connection.detail)

    def _connection(self, role: Role, expect: str = "", apart: Lanes | None = None) -> Connection:
        assert self._credentials is not None
        identity = msgspec.structs.replace(self.identity(), apart=apart is not None)
        session = Session(
            role,
            self._cluster,
            self._member,
            self._entropy(NONCE_BYTES),
            mode=self._credentials.mode,
            key=self._credentials.key,
            also=self._credentials.also,
            expect=expect or None,
            facts=encode_identity(identity),
            frame_bytes_max=self.limits.frame_bytes_max,
        )
        return Connection(apart or self, session, dialer=role == "dialer")

    def _notify_disconnected(self, peer: Peer) -> None:
        self._notify(peer, self._onNodeDisconnected, self._onReadonlyNodeDisconnected)
        if not self._over:
            self._wake()

    def _notify(
        self, peer: Peer, of_voter: Callable[[Node], None], of_observer: Callable[[Node], None]
    ) -> None:
        readonly = getattr(peer.node, "readonly", False)
        self._guarded(of_observer if readonly else of_voter, peer.node)

    def _guarded(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception as exc:  # noqa: BLE001  the core's own fault: no connection ends for it
            self._on_fatal(exc)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._on_fatal(exc)
