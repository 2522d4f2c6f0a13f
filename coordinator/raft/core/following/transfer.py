"""Hold the snapshot that a leader is sending, and ask for its missing parts.

Never puts a snapshot in place: snapshot_receiver.py does that after verifying it.
"""

from __future__ import annotations

from pysyncobj.node import Node

from coordinator.raft.core.state import State
from coordinator.raft.storage.snapshot import Incoming


class Transfer:
    """The one snapshot transfer to this member that may be under way."""

    def __init__(self, state: State) -> None:
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self.incoming: Incoming | None = None
        self.id = b""
        """The digest of the snapshot that is being received."""
        self.fetching = False
        """Whether the machine must be rebuilt from the leader's snapshot, because the one here
        comes from a machine that diverged, or does not fit the log.
        """

    def begin(self, id: bytes) -> Incoming:
        """Return the receiver for the chunks of the snapshot `id`; drop any other transfer."""
        if self.incoming is None or self.id != id:
            self.drop()
            self.incoming, self.id = self._environment.snapshots.incoming(), id
        return self.incoming

    def drop(self) -> None:
        """Drop what has been received so far."""
        if self.incoming is not None:
            self.incoming.reset()
        self.incoming = None

    def drop_unless_installing(self) -> None:
        """Drop what has been received so far, unless it is complete and being put in place."""
        if not self._log.frozen:
            self.drop()

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
        """Ask the leader for its snapshot although our log lacks nothing; it will replace machine
        and snapshot here. Does nothing without a leader or while a snapshot is being put in place.

        Until it arrives no snapshot is made here, and the log is kept, because it holds the entries
        after the leader's snapshot. A leader that has no snapshot which our log can follow makes
        one.
        """
        leader = self._library.leader
        if leader is None or self._library.leads or self._log.frozen:
            return
        self.fetching = True
        self._environment.count("snapshots_asked")
        self.want(leader, b"", self._log.first_index)

    def stop_fetching(self) -> None:
        """Go back to building the machine from our own log: this member leads now, or the snapshot
        has arrived.
        """
        self.fetching = False
