"""Define the shape of answers that handlers build from dicts."""

from __future__ import annotations

from typing import Any

import msgspec

from kv.ports import Member


class ClusterView(msgspec.Struct, frozen=True):
    """The cluster as the answering node sees it; more fields may be added."""

    node: str
    role: str
    term: int
    leader: str | None
    leader_url: str | None
    leader_since_ms: int | None
    quorum: bool
    taken_over: bool
    ordered: int
    settled: int
    digest: str
    pending: int
    floor: int
    namespace: int
    gives_up: int | None
    gives_up_after: int | None
    cluster_id: str
    channels: dict[str, str]
    history: str | None
    limits_differ: list[str]
    diverged: bool
    log_time_ms: int
    refusal: str | None
    fsync: str
    members: list[Member]
    broadcast_lag: int | None
    unsynced_age_s: float
    conflicts: list[str]
    """Conflicts between members, described for people."""
    store_kind: str
    """`shared`, or `replicated` when every member keeps its own store."""
    store_state: str
    """How this member's own store is: `sound`, or what is the matter with it."""
    store_detail: str
    unwritten_bytes: int
    """Bytes that are settled here and not in the file of its own store yet."""
    feature_level: int
    """The feature level in force: no version that speaks less can be a member. 0 where a store is
    shared.
    """
    feature_level_spoken: int
    """The newest one that the answering member speaks."""
    unsafe_fsync: bool
    """Whether a power cut may lose acknowledged writes, as an operator chose."""
    limits: dict[str, int]
    """The limits in force, by name."""
    counts: dict[str, int]
    stamped: bool
    store_trouble: str | None
    unfit: str | None
    url: str
    version: str
    now_ms: int
    """The current log time, which `expires_ms` is compared with."""
    unready: list[dict[str, str]]
    """Why the answering node is not ready: `check`, `code`, `why` of each reason. Empty: it is
    ready.
    """


class HealthView(msgspec.Struct, frozen=True):
    """The health of this node."""

    status: str
    node: str
    role: str
    leader: str | None
    checks: dict[str, str]


class TransferAnswer(msgspec.Struct, frozen=True):
    """The leader after a transfer."""

    leader: str


class AmendAnswer(msgspec.Struct, frozen=True):
    """The limits that were amended."""

    changed: tuple[str, ...]


class AdoptAnswer(msgspec.Struct, frozen=True):
    """The settled revision after an adoption."""

    settled: int


class AcceptedAnswer(msgspec.Struct, frozen=True):
    """A write that the broker has accepted, and where to look up its outcome."""

    op_id: str
    operation: str


class LegacyAnswer(msgspec.Struct, frozen=True):
    """Key and value in the form of /kv."""

    data: dict[str, Any]
    revision: int
