"""Name the bounds in time and size that a transport and its two halves go by.

Pure values. They never say what happens at a bound: who keeps it does.
"""

from __future__ import annotations

import msgspec

from coordinator.raft.net.frames import FRAME_BYTES_MAX


class TransportLimits(msgspec.Struct, frozen=True):
    """Bounds of one transport in time and size."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    handshake_s: float = 2.0
    """From accepting (or beginning to dial) until proved."""
    keepalive_s: float = 0.3
    """A connection that has sent nothing for so long sends an empty frame."""
    dead_after_s: float = 1.5
    """A connection on which nothing came for so long is closed."""
    retry_s: float = 0.05
    """The first pause before dialling again; it doubles with every failure, up to `retry_max_s`,
    and is then multiplied by a random number between 0.5 and 1.
    """
    retry_max_s: float = 1.0
    probe_s: float = 0.25
    """Pause before the higher id dials too: the lower one would have dialled by then, unless it does
    not know where we are.
    """
