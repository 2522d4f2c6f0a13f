"""Hold the snapshot that is being received, and ask the leader for it where it is what sends them.

Never puts a snapshot in place: snapshot_receiver.py does that after verifying it. A member with a
store of its own pulls a snapshot and a copy of the store from any member instead (pull.py).
"""

from __future__ import annotations

from typing import Final

from pysyncobj.node import Node

from coordinator.raft.core.state import State
from coordinator.raft.storage.snapshot_stream import Incoming

IDLE_S: Final = 60.0
"""Seconds after which what was received is dropped if nothing more comes."""
ASK_AGAIN_S: Final = 2.0
"""Seconds after which a snapshot is asked for again, if nothing of one has arrived meanwhile."""


class Transfer:
    """The one snapshot transfer to this member that may be under way."""

    def __init__(self, state: State) -> None:
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self.incoming: Incoming | None = None
        self.id = b""
        """The digest of the snapshot that is being received."""
        self.fetching = False
        """Whether the machine, with its own store, must be rebuilt from another member's snapshot,
        because what is here is damaged, comes from a machine that diverged, or does not fit the
        log.
        """
        self._touched = self._ask_at = float("-inf")

    def begin(self, id: bytes) -> Incoming:
        """Return the receiver for the chunks of the snapshot `id`; drop any other transfer."""
        if self.incoming is None or self.id != id:
            self.drop()
            self.incoming, self.id = self._environment.snapshots.incoming(), id
        self._touched = self._environment.now()
        self._ask_at = self._touched + ASK_AGAIN_S
        return self.incoming

    def drop(self) -> None:
        """Drop what has been received so far."""
        if self.incoming is not None:
            self.incoming.reset()
        self.incoming = None

    def drop_unless_installing(self) -> None:
        """Drop what has been received so far, unless it is complete and being put in place."""
        if self.incoming is not None and not self._log.resting:
            self.drop()

    def lose_leader(self) -> None:
        """Drop what the leader was sending: the connection with it is lost."""
        if not self._environment.replica.keeps_store:
            self.drop_unless_installing()

    def refuse(self, node: Node) -> None:
        """Drop what has been received, and ask the leader for it again."""
        self.drop()
        self.want(node, self.id, 0)

    def end(self) -> None:
        """Forget the transfer: the snapshot is in place."""
        self.incoming = None

    def want(self, node: Node, id: bytes, offset: int) -> None:
        """Ask the leader for the chunk at `offset`, or, with an empty id, for a snapshot that ends
        at entry `offset` or later.
        """
        term = self._library.term
        message = {"type": "snapshot_wanted", "term": term, "id": id, "offset": offset}
        self._library.send(node, message)

    def fetch(self) -> None:
        """Ask for another member's snapshot although our log lacks nothing; it will replace machine
        and snapshot here, and the replica's own store. It is asked for until it arrives or this
        member leads. Does nothing on the leader, or while a snapshot is being put in place.

        Until it arrives no snapshot is made here, and the log is kept, because it holds the entries
        after that snapshot. A member that has no snapshot which our log can follow makes one.
        """
        if not self._library.leads and not self._log.resting:
            self.fetching, self._ask_at = True, float("-inf")
            self.maybe_ask()

    def maybe_ask(self) -> None:
        """Ask the leader for what is wanted and does not come, now and then."""
        now, leader = self._environment.now(), self._library.leader
        if self.incoming is not None and now > self._touched + IDLE_S and not self._log.resting:
            self.drop()
        if (
            self.fetching
            and not self._environment.replica.keeps_store
            and now >= self._ask_at
            and leader is not None
            and not self._library.leads
            and not self._log.resting
        ):
            # Whoever was sending one may lead no longer, or take it for needless.
            self._ask_at = now + ASK_AGAIN_S
            self._environment.count("snapshots_asked")
            self.want(leader, b"", self._log.first_index)

    def stop_fetching(self) -> None:
        """Go back to building the machine from our own log: this member leads now, or the snapshot
        has arrived.
        """
        self.fetching = False
