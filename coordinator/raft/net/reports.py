"""Answer what others ask of a transport about its peers: who is connected, and why one is not.

It sends nothing and changes nothing.
"""

from __future__ import annotations

import asyncio

from pysyncobj.node import Node
from pysyncobj.transport import Transport

from coordinator.raft.net.peer import USED_TWICE, Peer


class PeerReports(Transport):
    """What is known of the peers of one member's transport."""

    def __init__(self, self_node: Node) -> None:
        super().__init__(None, self_node, [])
        self._member: str = self_node.id
        self._peers: dict[str, Peer] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop that the transport runs on, once it does."""

    def connected(self, node: Node) -> bool:
        """Say whether there is a ready connection with a member."""
        peer = self._peers.get(node.id)
        return peer is not None and peer.connection is not None

    def last_seen_s(self, node: Node) -> float | None:
        """Return the seconds since a member last sent anything; None: nothing yet."""
        peer = self._peers.get(node.id)
        at = None if peer is None else peer.last_heard_s
        return None if at is None or self._loop is None else self._loop.time() - at

    @property
    def duplicate_ids(self) -> tuple[str, ...]:
        """The ids that two processes use, including this member's own if another member has
        refused us for that reason.
        """
        twice = {name for name, peer in self._peers.items() if peer.id_use.duplicated}
        if any(
            peer.connection is None and USED_TWICE in peer.trouble for peer in self._peers.values()
        ):
            twice.add(self._member)
        return tuple(sorted(twice))

    def reported_address(self, node: Node) -> str:
        """Return the address that a member last reported for itself; empty: none."""
        peer = self._peers.get(node.id)
        return "" if peer is None else peer.reported_address

    def trouble(self, node: Node) -> str:
        """Return a message that says why a member is not connected; empty: no reason is known."""
        peer = self._peers.get(node.id)
        return "" if peer is None else peer.trouble

    def queued_bytes(self, node: Node) -> int:
        """Return the bytes that wait here for a member, in our queue and in the socket's buffer."""
        connection = self._peers[node.id].connection if node.id in self._peers else None
        return 0 if connection is None else connection.queued_bytes
