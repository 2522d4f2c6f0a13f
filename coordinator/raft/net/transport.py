"""Carry messages between members on the event loop, through the library's public transport seam.

No threads, no unbounded queue, nothing decoded before it is proved. It never drops a single
message: a connection that cannot keep up closes, both ends see it, and the next one starts with
nothing left over from it.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import structlog
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from coordinator.raft.net.codec import Codec, WireError
from coordinator.raft.net.connection import Connection, TransportLimits
from coordinator.raft.net.dialer import Dialer
from coordinator.raft.net.frames import Role, Session
from coordinator.raft.net.heartbeat import Heartbeat
from coordinator.raft.net.hello import NONCE_BYTES, Mode
from coordinator.raft.net.inbound import Inbound
from coordinator.raft.net.outbound import Outbound
from coordinator.raft.net.peer import USED_TWICE, Peer
from coordinator.raft.net.peer_identity import PeerIdentity, decode_identity, encode_identity
from coordinator.raft.net.refusals import Refusals
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
"""How long closing waits for what was sent before (a farewell) to leave."""
Judge: TypeAlias = Callable[[str, PeerIdentity], tuple[str, str] | None]
"""(peer, its identity) -> (reason, detail) why it is not wanted; None: it is."""

_log = structlog.get_logger("acordo.raft.transport")


class AsyncioTransport(Transport):
    """One member's connections with all others; one connection per pair.

    Both ends of a pair may dial at once (outbound.py says why): then the connection that the lower
    id dialled stays.

    Nodes have `.id`, the member's id, and `.address`, "host:port". Of a node with `.readonly` true
    the core is notified by the callbacks for read-only nodes. Messages are dicts as `codec` takes
    them; one that was sent is not changed afterwards. After what has arrived was given to the core,
    `wake()` is called once.

    `entropy(n)` gives n bytes that nobody can guess and that never repeat (`os.urandom`); `rng`
    spreads retries. `routes` says where members are dialled from here, whatever address all others
    have for them. `on_fatal` gets what the core raised.

    Before it connects: set `identity` (what goes with our hello), `judge` and `on_refused` ((peer,
    what it said) when a peer did not let us in).
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
    ) -> None:
        super().__init__(None, self_node, [])
        self._cluster, self._member = cluster, self_node.id
        self._address, self._codec = listen_address, codec
        self._rng, self._entropy, self._security = rng, entropy, security
        self._wake, self._on_fatal = wake, on_fatal
        self.limits = limits or TransportLimits()
        self._routes = dict(routes or {})
        self.identity: Callable[[], PeerIdentity] = PeerIdentity
        self.judge: Judge = lambda peer, identity: None
        self.on_refused: Callable[[str, str], None] = lambda peer, said: None
        self._peers: dict[str, Peer] = {}
        self._refusals = Refusals()
        self.counters = self._refusals.counters
        """What happened to connections, by name."""
        self._heartbeat = Heartbeat(self._peers, self.limits, self.counters)
        self._inbound = Inbound(
            lambda: self._connection("listener"),
            self._refusals,
            self.limits.handshake_s,
            self._on_task_done,
        )
        self._credentials: Credentials | None = None  # these four from `start` on
        self._dialer: Dialer | None = None
        self._outbound: Outbound | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finishing: set[Connection] = set()
        """Connections that were dropped and still send what waited."""
        self._encoded: tuple[Mapping[str, Any] | None, bytes] = (None, b"")
        """The last message and its bytes: the core sends one message to many peers in a row."""
        self._delivered = self._over = False
        for node in nodes:
            self.addNode(node)

    # ----------------------------------------------------------------------------- opening, closing

    async def start(self) -> None:
        """Listen, and begin to dial.

        Raises BadRequest for an address, a secret or certificates that cannot be used.
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
        for peer in self._peers.values():
            self._outbound.reach(peer)

    @property
    def port(self) -> int:
        """The port listened on, also when the address asked for any."""
        return self._inbound.port or split_address(self._address)[1]

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
        self._heartbeat.stop()
        for peer in list(self._peers.values()):
            self.dropNode(peer.node)
        self._inbound.close()

    async def aclose(self) -> None:
        """Close everything; what was sent before is given a moment to leave."""
        tasks = self._inbound.tasks()
        tasks += [p.dialling for p in self._peers.values() if p.dialling is not None]
        if self._dialer is not None:
            tasks += self._dialer.close()
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
        peer = self._peers.setdefault(node.id, Peer(node))
        peer.resting = False
        if self._outbound is not None:
            self._outbound.reach(peer)

    def rest(self, node: Node) -> None:
        """Know it still, and dial it no longer: it comes if it is there."""
        peer = self._peers.setdefault(node.id, Peer(node))
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
            self._notify_disconnected(peer)

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
        """Say whether there is a connection with it that is ready."""
        peer = self._peers.get(node.id)
        return peer is not None and peer.connection is not None

    def last_seen_s(self, node: Node) -> float | None:
        """Return the seconds since anything came from it; None: nothing yet."""
        peer = self._peers.get(node.id)
        at = None if peer is None else peer.last_heard_s
        return None if at is None or self._loop is None else self._loop.time() - at

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
        """Return where it last said that it is reached; empty: it did not say."""
        peer = self._peers.get(node.id)
        return "" if peer is None else peer.reported_address

    def trouble(self, node: Node) -> str:
        """Return in words why there is no connection with it; empty: none is known."""
        peer = self._peers.get(node.id)
        return "" if peer is None else peer.trouble

    def queued_bytes(self, node: Node) -> int:
        """Return the bytes that it has not taken yet, as far as can be seen here."""
        connection = self._peers[node.id].connection if node.id in self._peers else None
        return 0 if connection is None else connection.queued_bytes

    @property
    def unproved(self) -> int:
        """How many accepted connections have not proved themselves."""
        return self._inbound.unproved

    # -------------------------------------------------------------------- what a connection reports

    def on_proved(self, connection: Connection, peer: str) -> None:
        """Let it in, or say why not. Only who has proved itself is judged, and hears a reason."""
        kept = self._peers.get(peer)
        refusal = self._judge(connection, peer, kept)
        if refusal is None:
            connection.admit()
            return
        if kept is not None and kept.connection is None:
            kept.trouble = refusal[1]
        connection.refuse(*refusal)

    def _judge(
        self, connection: Connection, peer: str, kept: Peer | None
    ) -> tuple[str, str] | None:
        """Return (reason, detail) why a peer that has proved itself is not let in; None: it is."""
        assert self._loop is not None
        assert self._credentials is not None
        if self._credentials.mode is Mode.CERTIFICATE and connection.transport is not None:
            certificate = connection.transport.get_extra_info("peercert")
            if peer not in certified_names(certificate):
                return "wrong_certificate", f"the certificate does not name {peer}"
        identity = decode_identity(connection.session.facts)
        refusal = self.judge(peer, identity)
        if refusal is not None:
            return refusal
        if kept is None:
            return "not_a_member", f"{peer} is no member, as far as {self._member} knows"
        return kept.judge(connection, identity, self._member, self._loop.time())

    def on_ready(self, connection: Connection, peer: str) -> None:
        """Make it the connection with its peer, and tell the core."""
        if peer not in self._peers:
            connection.close("dropped")
            return
        self._inbound.proved(connection)
        kept = self._peers[peer]
        if kept.connection is not None:
            # The old one is half-dead: its peer would not have come again.
            old, kept.connection = kept.connection, None
            old.close("replaced")
            self._notify_disconnected(kept)
        kept.connection, kept.trouble = connection, ""
        self.counters["connected"] += 1
        _log.info("connected", peer=peer, host=connection.host)
        self._notify(kept, self._onNodeConnected, self._onReadonlyNodeConnected)
        self._wake()

    def on_frame(self, connection: Connection, content: memoryview) -> None:
        """Decode a message and give it to the core."""
        peer = self._peers.get(connection.session.peer or "")
        if peer is None or peer.connection is not connection:
            return
        try:
            message = self._codec.decode(content)
        except WireError as exc:
            self._refusals.refuse(connection.host, "undecodable", detail=str(exc))
            connection.close("undecodable")
            return
        self.counters["frames_received"] += 1
        self._delivered = True
        self._guarded(self._onMessageReceived, peer.node, message)

    def on_read(self, connection: Connection) -> None:
        """Wake the core once for all that has just come."""
        if self._delivered and not self._over:
            self._delivered = False
            self._wake()

    def on_closed(self, connection: Connection, reason: str) -> None:
        """Forget it, and tell the core if it was the connection with its peer."""
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

    def _connection(self, role: Role, expect: str | None = None) -> Connection:
        assert self._credentials is not None
        session = Session(
            role,
            self._cluster,
            self._member,
            self._entropy(NONCE_BYTES),
            mode=self._credentials.mode,
            key=self._credentials.key,
            expect=expect,
            facts=encode_identity(self.identity()),
            frame_bytes_max=self.limits.frame_bytes_max,
        )
        return Connection(self, session, dialer=role == "dialer")

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
        except Exception as exc:  # noqa: BLE001  the core's own failure is no connection's: whoever runs it must know
            self._on_fatal(exc)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._on_fatal(exc)
