"""Define the records of a run: what clients saw and which faults were active.

They are plain data. `history_file` writes and reads them; this module uses no clock and no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import msgspec

RegisterOp: TypeAlias = Literal["put", "get", "cas", "delete", "append"]
OutcomeName: TypeAlias = Literal["ok", "fail", "info"]
Client: TypeAlias = int | str

READS: Final = frozenset({"get", "read"})
"""Operations that change nothing. If their outcome is unknown, they carry no information."""


class HistoryError(ValueError):
    """A history cannot be judged. `line` is 1-based (0: the file as a whole)."""

    def __init__(self, detail: str, *, line: int = 0, source: str = "") -> None:
        where = source + (f":{line}" if line else "")
        super().__init__(f"{where}: {detail}" if where else detail)
        self.detail, self.line, self.source = detail, line, source


class ClientOperation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One logical operation of one client over all its attempts, from first byte sent to last byte
    read.

    `ok`: it took effect (or observed) inside the interval. `fail`: it certainly had no effect and
    observed nothing. `info`: unknown; it may take effect at any time after its start, or never. A
    refused guard is `ok` with result false.
    """

    client: int | str
    op: str
    outcome: OutcomeName
    start_ns: int
    end_ns: int | None = None
    key: str | None = None
    value: Any = None
    expected: Any = None
    result: Any = msgspec.UNSET
    workload: str | None = None
    level: str | None = None
    """Read level that was requested; None means linearizable."""
    served: str | None = None
    """Read level that the answer claims."""
    node: str | None = None
    revision: int | None = None
    """Write: the revision it got. Read: the position it was served at."""
    version: int | None = None
    """Read: the revision of the row that was returned (0: absent)."""
    age_ms: float | None = None
    max_age_ms: float | None = None
    token: int | None = None
    """Fencing token of a lock operation."""
    term: int | None = None
    leader: str | None = None
    op_id: str | None = None
    attempts: int = 1
    error: str | None = None
    resolved: bool = False
    """Whether its outcome was unknown at first and was settled by a look-up."""

    @property
    def returned_ns(self) -> float:
        """Return the time of its end; infinity if its outcome is unknown."""
        return float("inf") if self.outcome == "info" or self.end_ns is None else self.end_ns


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step of a nemesis.

    `start`: it is about to begin; `bit`: there is proof of its effect; `healed`: it is undone;
    `skipped`: it was not tried.
    """

    nemesis: str
    phase: Literal["start", "bit", "healed", "skipped"]
    t_ns: int
    targets: tuple[str, ...] = ()
    detail: str | None = None


class Lookup(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer of `/v1/operations/{op_id}` after healing."""

    lookup: str
    answer: Literal["applied", "refused", "expired", "unknown"]
    t_ns: int
    revision: int | None = None
    node: str | None = None
    branch: str | None = None


class Watched(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record of one watcher or subscriber of the broker.

    `open`: a stream began, resuming after `revision` (None: from now on). `event`: a change.
    `bookmark`: everything up to `revision` was delivered. `gone`: a clear 410. `closed`: the stream
    ended. `end`: the watcher stopped on purpose.
    """

    watcher: str
    kind: Literal["open", "event", "bookmark", "gone", "closed", "end"]
    t_ns: int
    revision: int | None = None
    key: str | None = None
    value: Any = None
    deleted: bool = False
    prefix: str | None = None
    node: str | None = None
    channel: Literal["watch", "broker"] = "watch"


class NodeStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state that one node reported, with the leader it knew."""

    seen: str
    t_ns: int
    term: int | None = None
    role: str | None = None
    leader: str | None = None
    applied: int | None = None
    settled: int | None = None
    digest: str | None = None
    store: str | None = None
    """The state of the member's own store, in one word; None: it has none of its own."""


Record: TypeAlias = ClientOperation | Fault | Lookup | Watched | NodeStatus


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line of a recorded history."""

    acordo_history: int
    seed: int | None = None
    settings: dict[str, Any] = {}


@dataclass(frozen=True)
class History:
    """All records of one run, in the order of the file."""

    operations: list[ClientOperation] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    statuses: list[NodeStatus] = field(default_factory=list)
    header: Header | None = None

    def of(self, workload: str) -> list[ClientOperation]:
        """Return the operations of one workload."""
        return [o for o in self.operations if o.workload == workload]
