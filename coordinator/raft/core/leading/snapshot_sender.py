"""Send the current snapshot to a peer that needs it, one chunk at a time, where the machine has no
store of its own: otherwise the peer pulls it, with a copy of the store, from any member.

Never sends two chunks at once, and never the next chunk before the peer has asked for its offset.
"""

from __future__ import annotations

from typing import Any, Final

from pysyncobj.node import Node

from coordinator.raft.core.environment import log
from coordinator.raft.core.leading.progress import Progress
from coordinator.raft.core.state import State
from coordinator.raft.storage.snapshot_stream import Outgoing

CHUNK_BEATS_MAX: Final = 20
"""Number of heartbeats after which an unanswered or unaccepted snapshot chunk is sent again."""


class SnapshotSender:
    """The leader's side of a snapshot transfer. Each peer's offset is kept in its `Progress`."""

    def __init__(self, state: State) -> None:
        self._library, self._environment, self._roster = (
            state.pysyncobj,
            state.environment,
            state.roster,
        )

    def waits(self, progress: Progress, heartbeat: bool) -> bool:
        """Say whether to wait: for the peer's answer to the latest chunk, or for the snapshot to be
        opened. Count a heartbeat.
        """
        if progress.opening is not None:
            return True
        if not progress.waiting:
            return False
        if not heartbeat:
            return True
        progress.beats += 1
        if progress.beats < CHUNK_BEATS_MAX:
            return True
        if progress.snapshot is None:
            return not progress.unreadable
        # A peer that has every byte is putting the snapshot in place, which may take long.
        return progress.offset >= progress.snapshot.total

    def send(self, node: Node, progress: Progress) -> None:
        """Send the chunk that the peer wants; open the snapshot first if none is being sent."""
        if progress.snapshot is None:
            self._open(progress)
        outgoing = progress.snapshot
        if outgoing is None:
            return
        chunk = outgoing.chunk(progress.offset, self._library.conf.logCompactionBatchSize)
        progress.waiting, progress.beats = True, 0
        message = {
            "type": "install_snapshot",
            "term": self._library.term,
            "commit_index": self._library.commit_index,
            "index": outgoing.header.index,
            "index_term": outgoing.header.term,
            "id": chunk.id,
            "offset": chunk.offset,
            "total": chunk.total,
            "serialized": chunk.content,
            "joined": node.id in self._roster.joined,
        }
        self._library.send(node, message)

    def _open(self, progress: Progress) -> None:
        """Begin to open the snapshot in place. Until it is open, or for CHUNK_BEATS_MAX after it
        could not be, nothing is sent.
        """
        attempt = progress.opening = object()
        progress.waiting, progress.beats, progress.unreadable = True, 0, False
        environment = self._environment
        environment.spawn(
            environment.snapshots.outgoing_with(environment.replica.attach),
            lambda outgoing, exc: self._on_open(progress, attempt, outgoing, exc),
        )

    def _on_open(
        self,
        progress: Progress,
        attempt: object,
        outgoing: Outgoing | None,
        exc: BaseException | None,
    ) -> None:
        """Begin the transfer, unless the peer or the leadership was lost meanwhile."""
        if progress.opening is not attempt:
            if outgoing is not None:
                outgoing.close()
            return
        progress.opening = None
        if outgoing is None:
            log.warning("snapshot not readable", member=self._roster.id, error=str(exc))
            progress.unreadable = True
            return
        self._environment.count("snapshots_sent")
        progress.snapshot, progress.offset, progress.waiting = outgoing, 0, False
        self._environment.wake()

    def on_wanted(self, progress: Progress, message: dict[str, Any], *, lacks: bool) -> None:
        """Record which offset the peer wants next. A message without an id asks for a snapshot
        that ends at entry `offset` or later. `lacks`: the peer also lacks entries that the log here
        no longer has.
        """
        if not message["id"]:
            if not progress.transfers:
                progress.waiting = False
                progress.asked = max(1, min(message["offset"], self._library.commit_index))
                self._environment.wake()
            return
        if progress.snapshot is None or progress.snapshot.id != message["id"]:
            return
        if progress.asked and not lacks and message["offset"] >= progress.snapshot.total:
            progress.drop_snapshot()
            progress.waiting = False
            self._environment.wake()
            return
        forward = message["offset"] > progress.offset
        progress.offset = message["offset"]
        if not forward:
            # The peer could not use what it got (its disk is full, or the snapshot does not load).
            # Sending at once would fail again, so the next chunk waits for CHUNK_BEATS_MAX.
            progress.waiting, progress.beats = True, 0
        elif progress.offset < progress.snapshot.total:
            progress.waiting = False
            self._environment.wake()
