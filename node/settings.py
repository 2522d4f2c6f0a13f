"""Define the settings of a serving node: names, limits, time-outs. It never reads a file or the
environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings of one serving node. Times are in seconds, sizes in bytes."""

    node_id: str
    advertised_url: str
    incarnation: str
    """A string that differs at every start of this node, so that op_ids made by the node never
    repeat.
    """
    http_names: tuple[str, ...] = ()
    """Host names accepted beside addresses, names without a dot and the name in `advertised_url`;
    "*" accepts every name.
    """
    version: str = "0.2.0"
    closed: bool = False
    """Whether requests of other machines are refused while access is not controlled."""
    etcd: bool = False
    """Whether clients of etcd's JSON gateway are served, on the same port."""
    rescue_token_hash: str = ""
    """The hash of the token that stands in a file of this node, whose bearer is an admin here; ""
    means that there is none.
    """
    control: tuple[str, str] | None = None
    """URL and token of the control port of the local runner that started this node, if it has one.
    """
    page_dir: Path | None = None
    """Directory of the web page's files; None serves no page."""

    request_timeout_s: float = 10.0
    """Longest time spent on a request that asks for no shorter one (`Acordo-Timeout`)."""
    body_timeout_s: float = 10.0
    """Longest time that a request's body may take to arrive (408)."""
    slow_request_s: float = float("inf")
    """Requests that take longer are logged, by route and never by key."""
    keepalive_timeout_s: float = 75.0
    """A connection that brings no complete request head for this long is closed. Keep it above the
    keep-alive time-out of a proxy in front.
    """
    store_timeout_s: float = 5.0
    read_index_timeout_s: float = 1.0
    """A ReadIndex round that takes longer counts as "no quorum"; reads then go to the store."""
    quorum_retry_s: float = 0.25
    """How long reads go straight to the store after a failed ReadIndex round, before the next round
    is tried.
    """
    leader_change_s: float = 1.0
    """How long reads of a member's own store wait for the next leader, counted from the first round
    that failed. An election takes less.
    """
    session_wait_s: float = 2.0
    """Longest wait for this node to settle `min_revision` before the read goes to the store."""

    requests_max: int = 1024
    """Requests in progress at a time; beyond: 503, definite."""
    connections_max: int = 8192
    """Open connections; beyond, the longest idle one is closed, or the new one is refused (503,
    definite) when none is idle.
    """
    descriptors_max: int | None = None
    """File descriptors that the process may open; connections stay below it by a reserve. None: not
    known.
    """
    answer_stall_s: float = 10.0
    """An answer is cut when its reader takes almost nothing of it for this long."""
    answer_bytes_held_max: int = 64 * 1024 * 1024
    """Bytes of answers waiting for slow readers; beyond, reads get 503, definite."""
    watchers_max: int = 512
    client_rate_max: float = 0.0
    """Requests in a second of one client, 0: any number; beyond: 429, definite."""
    client_rate_burst: int = 0
    """Requests of one client at once, however long it asked for nothing; 0: what comes in 2 s."""
    client_requests_max: int = 0
    """Requests of one client in progress, 0: any number; beyond: 429, definite."""
    client_watchers_max: int = 0
    """Streams of watches of one client, 0: any number; beyond: 429, definite."""
    client_connections_max: int = 0
    """Connections of one address, 0: any number; beyond: 429, definite."""
    body_bytes_held_max: int = 64 * 1024 * 1024
    """Bytes of all request bodies held at a time; beyond: 503, definite."""
    writes_max: int = 8192
    """Intents queued or waiting for their outcome; beyond: 503, definite."""
    write_bytes_max: int = 64 * 1024 * 1024
    memory_cache_bytes: int = 64 * 1024 * 1024

    watch_heartbeat_s: float = 2.0
    """How often an idle watch sends a comment."""
    watch_bookmark_s: float = 5.0
    """How often a watch sends its position when revisions advance without a change under its
    prefix.
    """
    watch_write_timeout_s: float = 10.0
    """A watcher that reads no byte for this long is disconnected with a resumable error."""
    watch_ring_bytes: int = 4 * 1024 * 1024
    """Bytes of the newest changes kept for watchers; a watcher further behind reads the ledger."""
    watch_frames_bytes: int = 16 * 1024 * 1024
    """Bytes of encoded events kept for all watchers of the same keys."""
    watch_unsent_bytes_max: int = 64 * 1024 * 1024
    """Bytes of events waiting in watchers' sockets, each event counted once; beyond, the watcher
    that would wait is disconnected (resumable).
    """
