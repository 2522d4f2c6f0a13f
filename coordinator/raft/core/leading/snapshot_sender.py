"""Send the snapshot in place to a peer that needs it, one chunk at a time.

Never sends two chunks at once, and never the next one before the peer has said where it is.
"""

from __future__ import annotations

from typing import Any, Final

from pysyncobj.node import Node

from coordinator.raft.core.environment import log
from coordinator.raft.core.leading.progress import Progress
from coordinator.raft.core.state import State

CHUNK_BEATS_MAX: Final = 20
"""Heartbeats after which a snapshot chunk is sent again that was not answered, or not taken."""


class SnapshotSender:
    """The leader's side of a snapshot on its way; where each peer is stands in its progress."""

    def __init__(self, state: State) -> None:
        self._library, self._environment, self._roster = (
            state.library,
            state.environment,
            state.roster,
        )

    def waits(self, progress: Progress, heartbeat: bool) -> bool:
        """Say whether the peer's answer to the newest chunk is waited for; count a heartbeat."""
        if not progress.paused:
            return False
        if not heartbeat:
            return True
        progress.beats += 1
        if progress.beats < CHUNK_BEATS_MAX or progress.snapshot is None:
            return True
        # All is there; the peer is putting it in place.
        return progress.offset >= progress.snapshot.total

    def send(self, node: Node, progress: Progress) -> None:
        """Send the chunk that the peer wants."""
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
        """Take in which offset the peer wants next; without an id: it asks for a snapshot that ends
        there.
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
            # It could not take what it got (no room, or not a snapshot that loads): at once it
            # would be the same again.
            progress.paused, progress.beats = True, 0
        elif progress.offset < progress.snapshot.total:
            progress.paused = False
            self._environment.wake()
