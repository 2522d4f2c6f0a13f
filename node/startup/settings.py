"""Derive the settings of each part from a node's settings."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

import msgspec

from cluster.settings.node import NodeSettings
from coordinator.log import PeerAddress
from coordinator.machine.limits import Limits
from coordinator.raft.core.rules.membership import first_digest
from coordinator.raft.member import Settings as RaftSettings
from coordinator.settings import CoordinatorSettings
from kv.access import hash_of
from kv.errors import BadRequest
from node.settings import ServerSettings

PAGE: Final = Path(__file__).parents[1] / "page"


RESCUE_CHARS_MIN: Final = 32
KEEP_LOG_BYTES: Final = 128 << 20
"""Bytes of the log that stay behind a snapshot for an hour, so that a member that was away for less
needs no copy of a store. A start reads them all.
"""


def first_members(settings: NodeSettings) -> list[PeerAddress]:
    """Return the first members of the cluster as this node was given them."""
    return [PeerAddress(m.id, m.raft_address, m.voter) for m in settings.first_members]


def first_members_digest(settings: NodeSettings) -> bytes:
    """Return the digest of that list, with which a history is founded (R14)."""
    return first_digest(first_members(settings), settings.node_id)


def raft_settings(settings: NodeSettings) -> RaftSettings:
    """Return the settings of the member of the replicated log."""
    return RaftSettings(
        fsync=settings.fsync,
        election_min_s=settings.election_timeout_s,
        election_max_s=settings.election_timeout_s * 2,
        heartbeat_s=settings.election_timeout_s / 6,
        propose_timeout_s=settings.request_timeout_s,
        keep_bytes=KEEP_LOG_BYTES if settings.replicated else 0,
    )


def coordinator_settings(settings: NodeSettings) -> CoordinatorSettings:
    """Return the settings of the coordinator."""
    return CoordinatorSettings(
        limits=Limits(
            window_ms=int(settings.operation_retention_s * 1000),
            retention_revisions=settings.history_retention_revisions,
            retention_ms=int(settings.history_retention_s * 1000),
        ),
        store_timeout_s=settings.store_timeout_s,
        sweep_interval_s=settings.sweep_interval_s,
    )


def rescue_hash(path: Path | None) -> str:
    """Return the hash of the token in a file; "": none is named. Raises BadRequest if the file is
    missing, readable by other users, or too short.
    """
    if path is None:
        return ""
    try:
        readable = path.stat().st_mode & 0o077
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as exc:
        raise BadRequest("rescue_token_unreadable", f"{path}: {exc}") from exc
    if readable:
        raise BadRequest("rescue_token_exposed", f"{path} can be read by others", allowed="0600")
    if len(token) < RESCUE_CHARS_MIN:
        raise BadRequest(
            "rescue_token_short", f"{path} is too short", allowed=f"{RESCUE_CHARS_MIN} characters"
        )
    return hash_of(token)


class _ControlFile(msgspec.Struct):
    url: str
    token: str


def control_port(path: Path | None) -> tuple[str, str] | None:
    """Return URL and token of the control port that a file names. A file that is gone or damaged
    opens nothing, and is no reason not to serve.
    """
    if path is None:
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_ControlFile)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found.url, found.token


def server_settings(settings: NodeSettings, descriptors: int) -> ServerSettings:
    """Return the settings of the HTTP server. `descriptors`: how many files and sockets this
    process may open.
    """
    return ServerSettings(
        node_id=settings.node_id,
        advertised_url=settings.url,
        incarnation=secrets.token_hex(6),
        http_names=settings.http_names,
        closed=settings.closed,
        etcd=settings.etcd,
        rescue_token_hash=rescue_hash(settings.rescue_token_file),
        control=control_port(settings.control_file),
        page_dir=PAGE if PAGE.is_dir() else None,
        request_timeout_s=settings.request_timeout_s,
        slow_request_s=settings.slow_request_s,
        body_timeout_s=settings.body_timeout_s,
        store_timeout_s=settings.store_timeout_s,
        requests_max=settings.requests_max,
        connections_max=settings.connections_max,
        descriptors_max=descriptors,
        watchers_max=settings.watchers_max,
        client_rate_max=settings.client_rate_max,
        client_rate_burst=settings.client_rate_burst,
        client_requests_max=settings.client_requests_max,
        client_watchers_max=settings.client_watchers_max,
        client_connections_max=settings.client_connections_max,
        memory_cache_bytes=settings.memory_cache_bytes,
    )
