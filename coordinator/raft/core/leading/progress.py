"""Account for how far one peer is, as the leader knows it.

Pure: it sends nothing and reads no clock.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from coordinator.raft.storage.snapshot import Outgoing

IN_FLIGHT_BYTES_MAX: Final = 16 << 20
"""Bytes of entries sent to one peer and not acknowledged; more wait in the log."""
IN_FLIGHT_MESSAGES_MAX: Final = 256


class Progress:
    """How the leader stands with one peer (etcd's probe and replicate states)."""

    def __init__(self) -> None:
        self.probing = True
        """Where the peer's log ends is not known: one message, then wait for its answer or the next
        heartbeat.
        """
        self.paused = False
        self.in_flight: deque[tuple[int, int]] = deque()
        """(last index, bytes) of each message that is not acknowledged."""
        self.in_flight_bytes = 0
        self.commit_sent = 0
        """The newest commit index that it was sent."""
        self.snapshot: Outgoing | None = None
        self.asked = 0
        """The peer asks for a snapshot that ends here at least, though it lacks no entries; 0: it
        does not.
        """
        self.offset = 0
        self.beats = 0
        """Heartbeats since the chunk at `offset` was sent."""

    def probe(self) -> None:
        """Find out anew where the log of the peer ends."""
        self.probing, self.paused = True, False
        self.in_flight.clear()
        self.in_flight_bytes = 0

    def pause(self) -> None:
        """Send nothing more before the next answer or heartbeat."""
        self.paused = True

    def note_sent(self, last: int, size: int) -> None:
        """Count a message with entries up to `last`, of so many bytes, as in flight."""
        self.in_flight.append((last, size))
        self.in_flight_bytes += size

    def acknowledge(self, index: int) -> None:
        """Count what is in flight up to there as arrived."""
        self.probing = self.paused = False
        while self.in_flight and self.in_flight[0][0] <= index:
            self.in_flight_bytes -= self.in_flight.popleft()[1]

    @property
    def full(self) -> bool:
        """Say whether no more may be in flight."""
        return (
            self.in_flight_bytes >= IN_FLIGHT_BYTES_MAX
            or len(self.in_flight) >= IN_FLIGHT_MESSAGES_MAX
        )

    def drop_snapshot(self) -> None:
        """Stop sending a snapshot."""
        if self.snapshot is not None:
            self.snapshot.close()
        self.snapshot, self.offset, self.asked = None, 0, 0
