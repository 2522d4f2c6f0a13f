"""Keep what a transport knows of one other member, and judge a second connection with it.

It never closes a connection: it says why one is not to be let in.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pysyncobj.node import Node

from coordinator.raft.net.connection import Connection
from coordinator.raft.net.duplicate_ids import IdUse
from coordinator.raft.net.peer_identity import PeerIdentity, decode_identity

USED_TWICE: Final = "used_twice"
"""Why a process is not let in whose id another one uses at the same time."""


class Peer:
    """One other member, as the transport sees it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.connection: Connection | None = None
        """The one that is ready; None while there is none."""
        self.id_use = IdUse()
        self.reported_address = ""
        """Where it said that it is reached, once it had proved itself."""
        self.resting = False
        """It is not dialled: it comes if it is there."""
        self.trouble = ""
        """Why there is no connection, as far as is known."""
        self.dialling: asyncio.Task[None] | None = None
        self.last_received_s: float | None = None
        """When the last connection heard of it before it ended."""

    @property
    def last_heard_s(self) -> float | None:
        """When anything came from it for the last time; None: nothing yet."""
        return self.last_received_s if self.connection is None else self.connection.last_received_s

    def judge(
        self, connection: Connection, identity: PeerIdentity, own_id: str, now_s: float
    ) -> tuple[str, str] | None:
        """Return (reason, detail) why a connection that has proved to be of this peer does not take
        the place of the one that is ready; None: it does, or there is none.
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
            # The same process dialled while we did. Both ends must keep the same connection, else
            # each closes the one that the other keeps: it is the one that the lower id dialled.
            return "wrong_direction", "connected already"
        return None
