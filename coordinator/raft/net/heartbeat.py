"""Send signs of life to every peer, and close the connections on which none arrive.

It never dials: the dialling half replaces a connection that was closed here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

import structlog

from coordinator.raft.net.connection import TransportLimits
from coordinator.raft.net.peer import USED_TWICE, Peer

_log = structlog.get_logger("acordo.raft.transport")


class Heartbeat:
    """The timer of one transport that keeps its idle connections alive and finds the dead ones."""

    def __init__(
        self, peers: Mapping[str, Peer], limits: TransportLimits, counters: Counter[str]
    ) -> None:
        """`peers` is read at every beat, so it may change in between."""
        self._peers, self._limits, self._counters = peers, limits, counters
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    def start(self) -> None:
        """Start to beat, twice in each keep-alive interval."""
        loop = asyncio.get_running_loop()
        self._due_s = loop.time() + self._limits.keepalive_s / 2
        self._timer = loop.call_at(self._due_s, self._beat)

    def stop(self) -> None:
        """Stop beating."""
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        now = asyncio.get_running_loop().time()
        # A late beat means that this process itself was stalled. Data that the peers sent meanwhile
        # has not been read yet, so they only seem to be silent.
        late = now - self._due_s > self._limits.keepalive_s
        self.start()
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
                self._counters["doubled"] += 1
                connection.close(USED_TWICE)
                continue
            if now - connection.last_received_s >= self._limits.dead_after_s:
                connection.close("silent")
            elif now - connection.last_sent_s >= self._limits.keepalive_s:
                connection.send(b"")
