"""Define the shape of answers that handlers build from dicts."""

from __future__ import annotations

from typing import Any

import msgspec

from kv.ports import Leadership, Member
from node.writes.activity import WriteWait


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
    leaderships: list[Leadership]
    """The newest changes of leader that this node saw since it started, oldest first."""
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


class LatencyHistogram(msgspec.Struct, frozen=True):
    """How many requests took how long, since the node started."""

    bounds: tuple[float, ...]
    """Upper bounds in milliseconds, inclusive."""
    counts: tuple[int, ...]
    """How many took no longer than each bound and longer than the one before; the last took longer
    than every bound.
    """


class ActivityAnswer(msgspec.Struct, frozen=True):
    """What the answering node acknowledged, and the changes of leader that it saw."""

    node: str
    url: str
    role: str
    leader: str | None
    term: int
    quorum: bool
    leader_since_ms: int | None
    wall_ms: int
    """The wall clock of the node, by which the other times are told."""
    incarnation: str
    """It differs after each start of the node, and the figures begin at 0 with it."""
    writes_acknowledged: int
    """Writes acknowledged to clients as applied. A repetition does not count, and neither does what
    the node only catches up with.
    """
    write_ms: LatencyHistogram
    waits: tuple[WriteWait, ...]
    """The newest times in which writes waited long and were acknowledged in the end: a fail-over,
    a slow disk.
    """
    leaderships: tuple[Leadership, ...]
    """The newest changes of leader, oldest first."""
    control: bool
    """Whether a local runner lets people of its machine disturb members (`GET /v1/control`)."""


class ControlAnswer(msgspec.Struct, frozen=True):
    """The control port of the local runner that started this node."""

    url: str
    token: str
    """What a request to it brings as `Authorization: Bearer`."""


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
