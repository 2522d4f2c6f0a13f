"""Send the current snapshot to a peer that needs it, one chunk at a time.

Never sends two chunks at once, and never the next chunk before the peer has asked for its offset.
"""

from __future__ import annotations

from typing import Any, Final

from pysyncobj.node import Node

from coordinator.raft.core.environment import log
from coordinator.raft.core.leading.progress import Progress
from coordinator.raft.core.state import State

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
        """Say whether to wait for the peer's answer to the latest chunk; count a heartbeat."""
        if not progress.paused:
            return False
        if not heartbeat:
            return True
        progress.beats += 1
        if progress.beats < CHUNK_BEATS_MAX or progress.snapshot is None:
            return True
        # A peer that has every byte is putting the snapshot in place, which may take long.
        return progress.offset >= progress.snapshot.total

    def send(self, node: Node, progress: Progress) -> None:
        """Send the chunk that the peer wants; open the snapshot first if none is being sent."""
        if progress.snapshot is None:
            try:
                progress.snapshot, progress.offset = self._environment.snapshots.outgoing(), 0
            except OSError as exc:
                log.warning("snapshot not readable", member=self._roster.id, error=str(exc))
                return
            self._environment.count("snapshots_sent")
        outgoing = progress.snapshot
        chunk = outgoing.chunk(progress.offset, self._library.conf.logCompactionBatchSize)
        progress.paused, progress.beats = True, 0
        self._library.send(
            node,
            {
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
            },
        )

    def on_wanted(self, progress: Progress, message: dict[str, Any]) -> None:
        """Record which offset the peer wants next. A message without an id asks for a snapshot
        that ends at entry `offset` or later.
        """
        if not message["id"]:
            if progress.snapshot is None:
                progress.paused = False
                progress.asked = max(1, min(message["offset"], self._library.commit_index))
                self._environment.wake()
            return
        if progress.snapshot is None or progress.snapshot.id != message["id"]:
            return
        if progress.asked and message["offset"] >= progress.snapshot.total:
            progress.drop_snapshot()
            progress.paused = False
            self._environment.wake()
            return
        forward = message["offset"] > progress.offset
        progress.offset = message["offset"]
        if not forward:
            # The peer could not use what it got (its disk is full, or the snapshot does not load).
            # Sending at once would fail again, so the next chunk waits for CHUNK_BEATS_MAX.
            progress.paused, progress.beats = True, 0
        elif progress.offset < progress.snapshot.total:
            progress.paused = False
            self._environment.wake()
