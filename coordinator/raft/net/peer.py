"""Keep what a transport knows of one other member, and judge a second connection with it.

It never closes a connection: it returns the reason for refusing one.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pysyncobj.node import Node

from coordinator.raft.net.connection import Connection
from coordinator.raft.net.duplicate_ids import IdUse
from coordinator.raft.net.peer_identity import PeerIdentity, decode_identity

USED_TWICE: Final = "used_twice"
"""The reason for refusing a process whose id another process uses at the same time."""


class Peer:
    """One other member, as the transport sees it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.connection: Connection | None = None
        """The ready connection; None while there is none."""
        self.id_use = IdUse()
        self.reported_address = ""
        """The address that the peer reported for itself after it had proved itself."""
        self.resting = False
        """Whether the peer is not dialled; it may still connect to us."""
        self.trouble = ""
        """A message that says why there is no connection; empty: no reason is known."""
        self.dialling: asyncio.Task[None] | None = None
        self.last_received_s: float | None = None
        """When the last connection received anything before it ended."""

    @property
    def last_heard_s(self) -> float | None:
        """When the peer last sent anything; None: nothing yet."""
        return self.last_received_s if self.connection is None else self.connection.last_received_s

    def judge(
        self, connection: Connection, identity: PeerIdentity, own_id: str, now_s: float
    ) -> tuple[str, str] | None:
        """Return (reason, detail) for refusing a connection that has proved to be this peer's. None
        means that it is admitted, and replaces the ready connection if there is one.
        """
        held = self.connection
        other = None if held is None else decode_identity(held.session.facts).incarnation
        verdict = self.id_use.came(identity.incarnation, other, now_s)
        if verdict == "refused":
            return USED_TWICE, f"two processes use the id {self.node.id}; stop one of them"
        if verdict == "wait":
            return "contended", f"another process with the id {self.node.id} is connected"
        self.reported_address = identity.address
        if held is not None and held.dialer and not connection.dialer and self.node.id > own_id:
            # The same process dialled while we did. Both ends must keep the same connection;
            # otherwise each might close the one that the other keeps. They keep the one that the
            # lower id dialled.
            return "wrong_direction", "connected already"
        return None
