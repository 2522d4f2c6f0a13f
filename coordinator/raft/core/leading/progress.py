"""Track how far one peer's log has come, as the leader knows it.

Pure: it sends nothing and reads no clock.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from coordinator.raft.storage.snapshot_stream import Outgoing

IN_FLIGHT_BYTES_MAX: Final = 16 << 20
"""Bytes of entries that may be sent to one peer without acknowledgement; more wait in the log."""
IN_FLIGHT_MESSAGES_MAX: Final = 256
PULL_S: Final = 10.0
"""Seconds for which the log is kept for a peer that has said that it pulls a state."""


class Pulled(NamedTuple):
    """A state that a peer pulls from some member."""

    end: int
    """The index at which it ends: the peer needs the log from there on."""
    total: int
    until: float
    """The monotonic time after which it counts for given up."""


class Progress:
    """The leader's view of one peer (etcd's probe and replicate states)."""

    def __init__(self) -> None:
        self.probing = True
        """Whether it is unknown where the peer's log agrees with ours. While it is, the leader
        sends one message and waits for the answer or the next heartbeat.
        """
        self.paused = False
        """Whether nothing more is sent of the log until the next answer or heartbeat."""
        self.in_flight: deque[tuple[int, int]] = deque()
        """(last index, bytes) of each message that is not acknowledged yet, oldest first."""
        self.in_flight_bytes = 0
        self.commit_sent = 0
        """The newest commit index that was sent to the peer."""
        self.snapshot: Outgoing | None = None
        self.opening: object | None = None
        """A token of the attempt to open a snapshot for the peer; None: none is being opened."""
        self.unreadable = False
        """Whether the latest attempt failed."""
        self.pulled: Pulled | None = None
        """The state that the peer has last said that it pulls."""
        self.asked = 0
        """The index at which a snapshot must end, or later, that the peer asks for although it
        lacks no entries; 0: it asks for none.
        """
        self.offset = 0
        self.waiting = False
        """Whether the next chunk waits for the peer's answer, or for the snapshot to be opened. The
        log does not wait for it: a peer that lacks no entries goes on taking them.
        """
        self.beats = 0
        """The number of heartbeats since the chunk at `offset` was sent."""

    def probe(self) -> None:
        """Start to find out where the peer's log agrees with ours."""
        self.probing, self.paused, self.waiting = True, False, False
        self.in_flight.clear()
        self.in_flight_bytes = 0

    def pause(self) -> None:
        """Send nothing more until the next answer or heartbeat."""
        self.paused = True

    def note_sent(self, last: int, size: int) -> None:
        """Count a message with entries up to `last`, of `size` bytes, as in flight."""
        self.in_flight.append((last, size))
        self.in_flight_bytes += size

    def acknowledge(self, index: int) -> None:
        """Count the messages up to `index` as arrived, and stop probing."""
        self.probing = self.paused = False
        while self.in_flight and self.in_flight[0][0] <= index:
            self.in_flight_bytes -= self.in_flight.popleft()[1]

    @property
    def full(self) -> bool:
        """Say whether the limit of bytes or messages in flight is reached."""
        return (
            self.in_flight_bytes >= IN_FLIGHT_BYTES_MAX
            or len(self.in_flight) >= IN_FLIGHT_MESSAGES_MAX
        )

    def drop_snapshot(self) -> None:
        """Stop sending a snapshot, or preparing one."""
        if self.snapshot is not None:
            self.snapshot.close()
        self.snapshot, self.opening, self.offset, self.asked = None, None, 0, 0
        self.waiting = False

    def pulls(self, now: float) -> Pulled | None:
        """Return the state that the peer pulls, as far as is known."""
        pulled = self.pulled
        return pulled if pulled is not None and now <= pulled.until else None

    @property
    def transfers(self) -> bool:
        """Say whether a snapshot is being sent to the peer, or prepared for it."""
        return self.snapshot is not None or self.opening is not None
