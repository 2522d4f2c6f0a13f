"""Hold the snapshot that is coming in from a leader, and ask for what is missing of it.

Never puts anything in place: snapshot_receiver.py does, when it has verified it.
"""

from __future__ import annotations

from pysyncobj.node import Node

from coordinator.raft.core.state import State
from coordinator.raft.storage.snapshot import Incoming


class Transfer:
    """The one snapshot that is on its way to this member."""

    def __init__(self, state: State) -> None:
        self._library, self._environment, self._log = state.library, state.environment, state.log
        self.incoming: Incoming | None = None
        self.id = b""
        """Its digest."""
        self.fetching = False
        """The machine is to come from the leader's snapshot: the one here was made by a machine
        that went apart.
        """

    def begin(self, id: bytes) -> Incoming:
        """Return what takes this snapshot's chunks; another one that was on its way is dropped."""
        if self.incoming is None or self.id != id:
            self.drop()
            self.incoming, self.id = self._environment.snapshots.incoming(), id
        return self.incoming

    def drop(self) -> None:
        """Drop what came of it so far."""
        if self.incoming is not None:
            self.incoming.reset()
        self.incoming = None

    def drop_unless_installing(self) -> None:
        """Drop what came of it so far, unless all of it is there and is being put in place."""
        if not self._log.frozen:
            self.drop()

    def end(self) -> None:
        """Forget it: it is in place."""
        self.incoming = None

    def want(self, node: Node, id: bytes, offset: int) -> None:
        """Tell the leader which offset is wanted; without an id: a snapshot that ends there."""
        term = self._library.term
        message = {"type": "snapshot_wanted", "term": term, "id": id, "offset": offset}
        self._library.send(node, message)

    def fetch(self) -> None:
        """Ask the leader for its snapshot, though the log here lacks nothing: it takes the place of
        machine and snapshot.

        Until it comes, no snapshot is made here, and the log is kept: what follows the leader's
        snapshot is in it. The leader makes one that the log here can follow, if it has none.
        """
        leader = self._library.leader
        if leader is None or self._library.leads or self._log.frozen:
            return
        self.fetching = True
        self._environment.count("snapshots_asked")
        self.want(leader, b"", self._log.first_index)

    def stop_fetching(self) -> None:
        """Let the machine be built from its own log again: it leads, or has what it asked for."""
        self.fetching = False
