"""Name what can be set of a serving node: names, limits, time-outs. It never reads a file or the
environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings of one serving node. Times in seconds; sizes in bytes."""

    node_id: str
    advertised_url: str
    incarnation: str
    """Differs at every start of this node: op_ids made by it may never come again."""
    http_names: tuple[str, ...] = ()
    """Names that lead here beside addresses, names without a dot and that of `advertised_url`; "*":
    every name.
    """
    version: str = "0.1.0"
    page_dir: Path | None = None
    """Directory of the page's files; None: no page."""

    request_timeout_s: float = 10.0
    """Longest that a request is worked on, if it names no shorter time (`Acordo-Timeout`)."""
    body_timeout_s: float = 10.0
    """Longest that a request's body may take to arrive (408)."""
    keepalive_timeout_s: float = 75.0
    """A connection without a whole request head for so long is closed; above a proxy's own."""
    store_timeout_s: float = 5.0
    read_index_timeout_s: float = 1.0
    """A ReadIndex round that takes longer counts as "no quorum": reads then go to the store."""
    quorum_retry_s: float = 0.25
    """After a failed ReadIndex round, reads go straight to the store for so long before the next is
    tried.
    """
    session_wait_s: float = 2.0
    """Longest wait for this node to settle as far as `min_revision` says, before the store is
    asked.
    """

    requests_max: int = 1024
    """Requests worked on at a time; beyond: 503, definite."""
    connections_max: int = 8192
    """Open connections; beyond, the longest idle one is closed, or a new one refused (503,
    definite).
    """
    descriptors_max: int | None = None
    """Files and sockets that the process may open: connections stay below it, with a reserve. None:
    not known.
    """
    answer_stall_s: float = 10.0
    """An answer of which nearly nothing is taken for so long is cut."""
    answer_bytes_held_max: int = 64 * 1024 * 1024
    """Bytes of answers that wait for their readers; beyond: 503 to reads, definite."""
    watchers_max: int = 512
    body_bytes_held_max: int = 64 * 1024 * 1024
    """Bytes of all bodies held at a time; beyond: 503, definite."""
    writes_max: int = 8192
    """Intents queued or waiting for their outcome; beyond: 503, definite."""
    write_bytes_max: int = 64 * 1024 * 1024
    memory_cache_bytes: int = 64 * 1024 * 1024

    watch_heartbeat_s: float = 2.0
    """A silent watch sends a comment this often."""
    watch_bookmark_s: float = 5.0
    """A watch that moved without a change under its prefix sends its position this often."""
    watch_write_timeout_s: float = 10.0
    """A watcher that takes no byte for so long is cut with a resumable error."""
    watch_ring_bytes: int = 4 * 1024 * 1024
    """Newest changes kept for watchers; who is further behind reads the ledger."""
    watch_frames_bytes: int = 16 * 1024 * 1024
    """Events kept as they are written, for all who watch the same keys."""
    watch_unsent_bytes_max: int = 64 * 1024 * 1024
    """Events that wait in the sockets of watchers, each counted once; who would wait beyond is cut
    (resumable).
    """
