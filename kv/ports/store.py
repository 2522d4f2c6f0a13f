"""Declare the port that keeps the ledger and the versions, and the types that it takes and returns.

Nothing here has behaviour: the contract suite checks what an adapter must do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import msgspec

from kv.model import (
    Digest,
    Group,
    Head,
    LedgerRow,
    RecordedOperation,
    Reference,
    Version,
)


class Span(NamedTuple):
    """Present keys that `evaluate` has to see; `end` is as that of `kv.model.Compare`."""

    key: bytes
    end: bytes
    limit: int
    """The number of keys to return at most. Who asks for one more than allowed sees that there are
    too many.
    """
    whole: bool
    """Whether the values are wanted; without, they are empty."""


class LeaseAsk(NamedTuple):
    """A lease whose keys `evaluate` has to count, or (`whole`) to know."""

    lease: int
    whole: bool


class LeaseFacts(NamedTuple):
    """The keys that are attached to a lease."""

    total: int
    keys: tuple[bytes, ...] = ()
    """In byte order; empty unless they were asked for."""


class Facts(msgspec.Struct, frozen=True):
    """What the committer needs to evaluate a group, read in one snapshot."""

    head: Head
    operations: Mapping[str, RecordedOperation]
    """Those of the requested op_ids that are known."""
    versions: Mapping[bytes, Version]
    """The newest version (tombstones too) of each requested key that has one. `value` may be empty,
    because guards compare `hashes`; `present` is always right.
    """
    hashes: Mapping[bytes, bytes]
    """value_hash of the newest version of each requested `hashed` key that is present."""
    missing: frozenset[tuple[str, bytes]]
    """(op_id, hash) of the requested blobs that are not staged."""
    spans: Mapping[Span, tuple[Version, ...]] = msgspec.field(default_factory=dict)
    """The present keys of each requested span, in byte order."""
    leases: Mapping[int, LeaseFacts] = msgspec.field(default_factory=dict)
    """What is attached to each requested lease, 0 keys if it is not there."""


class Read(msgspec.Struct, frozen=True):
    """The versions of many keys in one snapshot."""

    head: Head
    """The newest ledger row in that very snapshot: `head.last` is the `as_of` of what was read."""
    versions: tuple[Version | None, ...]
    """Aligned with the requested keys; None: never written (or its tombstone was pruned)."""
    digest_at: Digest | None
    """The digest of the newest row whose `last` is the requested `settled` revision; None if there
    is no such row.
    """


class Listing(msgspec.Struct, frozen=True):
    """One page of the present keys under a prefix, in byte order."""

    head: Head
    versions: tuple[Version, ...]
    more: bool
    digest_at: Digest | None


class Appended(msgspec.Struct, frozen=True):
    """The result when the group is committed."""

    numbers: tuple[tuple[int, int], ...] = ()
    """The create_revision and version of each of the group's versions, as the store numbered them
    in the same transaction: what the group says of them is not used.
    """


class Fenced(msgspec.Struct, frozen=True):
    """The result when nothing of the group landed, and nothing ever will.

    The ledger does not end at the group's base, or its newest row outranks the group.
    """

    head: Head


class TakenOver(msgspec.Struct, frozen=True):
    """The result when the empty row is committed.

    What was in flight is in the ledger at `before` or below, or can never land.
    """

    before: Head
    """The row that it was built on."""
    own: Head


class Outranked(msgspec.Struct, frozen=True):
    """The result when nothing was appended, because the head outranks this committer.

    The head's row is of a higher term, or of another committer in the same term.
    """

    head: Head


class Identity(msgspec.Struct, frozen=True):
    """The cluster and the history that a store belongs to."""

    cluster_id: str
    """Empty: no cluster has claimed the store."""
    history: bytes = b""
    """The id of the replicated history that the store belongs to; empty: not known yet."""


class Retention(msgspec.Struct, frozen=True):
    """How far pruning may go in one small step."""

    revision_below: int
    """Superseded versions, and ledger rows whose `last` is below this, may be deleted; never the
    head.
    """
    operations_before_ms: int
    """Operations recorded before this log time may be deleted."""
    rows_max: int = 500
    staged_before_ms: int = 0
    """Values staged before this log time whose op_id was never recorded may be deleted: no waiting
    intent refers to them.
    """


class Pruning(msgspec.Struct, frozen=True):
    """What one pruning step did. `more`: call again."""

    floor: int
    versions: int
    ledger_rows: int
    operations: int
    blobs: int
    more: bool


class Scrubbed(msgspec.Struct, frozen=True):
    """What one small step of the scrub found. `more`: continue after `reached`."""

    reached: int
    """Every version kept up to this revision was checked."""
    versions: int
    damaged: tuple[tuple[bytes, int], ...]
    """(key, revision) of the versions that are not what was written."""
    references: tuple[Reference, ...]
    """The large values that the sound versions refer to. Calling `blob` for one checks it."""
    more: bool


class StoreReader(Protocol):
    """What every kind of store answers: the ledger, the versions, and what is recorded of op_ids.

    Every method answers from one snapshot. Does not guarantee: freshness of anything read before
    the call.

    A version or a staged value is checked against the hash kept with it whenever it is read whole.
    One that does not match raises StoreDamaged (a BackendUnavailable) and is never returned; facts
    go by the hash, which is the truth.

    Every method may raise BackendUnavailable. Methods may be called concurrently. `timeout_s`
    bounds how long the caller waits.
    """

    async def __aenter__(self) -> Self:
        """Open the store; check or create the schema. Raises BackendUnavailable,
        BadRequest("foreign_store"|"newer_schema").
        """
        ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def head(self, *, at_least: int = 0, timeout_s: float) -> Head:
        """Return the head of the newest row.

        When the store has several servers and the one in use ends below revision `at_least`, the
        others are tried first: if an old primary came back, the server that is ahead of it is used
        instead.
        """
        ...

    async def probe(self, *, timeout_s: float) -> None:
        """Return if a write could land now, as far as can be told without one. It leaves no trace.

        Raises BackendUnavailable that names the obstacle: no answer, a full or read-only disk, a
        lock that is held, a file that is gone or was replaced, a server that takes no writes.
        """
        ...

    async def rows(self, after: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        """Return complete ledger rows with intents (empty ones are left out) whose `last` >
        `after`, oldest first.

        Raises Pruned when rows directly after `after` are gone.
        """
        ...

    async def ledger(self, from_seq: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        """Return ledger rows by seq, empty ones included, from `from_seq` or the oldest kept,
        oldest first.
        """
        ...

    async def row_ending(self, last: int, *, timeout_s: float) -> LedgerRow | None:
        """Return the newest row, empty or not, whose `last` is this revision; None if there is
        none, or it was pruned.
        """
        ...

    async def read(
        self, keys: Sequence[bytes], *, at: int | None = None, settled: int = 0, timeout_s: float
    ) -> Read:
        """Read the newest version ≤ `at` (None: newest of all) of each key. Raises Pruned when `at`
        < floor.
        """
        ...

    async def list(
        self,
        prefix: bytes,
        *,
        end: bytes | None = None,
        after: bytes = b"",
        limit: int,
        at: int | None = None,
        settled: int = 0,
        keys_only: bool = False,
        timeout_s: float,
    ) -> Listing:
        """List present keys > `after` that begin with `prefix`, at revision `at` (None: newest).
        With `keys_only` the values are empty. With an `end`, `prefix` is the first key of a range,
        as `kv.model.Compare` names one.

        Raises Pruned.
        """
        ...

    async def versions(
        self, at: Sequence[tuple[bytes, int]], *, timeout_s: float
    ) -> tuple[Version | None, ...]:
        """Return exactly the versions (key, revision); None when pruned or never made."""
        ...

    async def operations(
        self, op_ids: Sequence[str], *, timeout_s: float
    ) -> tuple[RecordedOperation | None, ...]:
        """Return what is recorded of each op_id; None: nothing, or no longer."""
        ...

    async def recorded_after(
        self, revision: int, limit: int, *, timeout_s: float
    ) -> tuple[RecordedOperation, ...]:
        """Return what is recorded of op_ids by the intents behind a revision, in their order."""
        ...

    async def blob(self, reference: Reference, *, timeout_s: float) -> bytes | None:
        """Return a staged value, None when there is none. Raises StoreDamaged."""
        ...

    async def due(
        self, log_time_ms: int, limit: int, *, timeout_s: float
    ) -> tuple[tuple[bytes, int], ...]:
        """Return (key, revision) of present keys whose newest version expires at or before this log
        time.
        """
        ...

    async def attached(self, lease: int, *, limit: int, timeout_s: float) -> tuple[bytes, ...]:
        """Return the keys that are attached to a lease, in byte order, at most `limit`."""
        ...

    async def attached_counts(
        self, leases: Sequence[int], *, limit: int, timeout_s: float
    ) -> Mapping[int, int]:
        """Return how many keys are attached to each lease, counted to `limit`; none: it may be left
        out.
        """
        ...

    async def scrub(self, after: int, *, timeout_s: float) -> Scrubbed:
        """Check the next versions after a revision against their hashes, a few MB at most."""
        ...

    async def floor(self, *, timeout_s: float) -> int:
        """Return the lowest revision that can still be read at."""
        ...


class Store(StoreReader, Protocol):
    """The shared store: one for all members. Its ledger is the authority.

    Guarantees: every method is one serializable transaction on the primary; `append` and
    `take_over` land completely or not at all; what `Appended` reports is durable.

    Every method may raise BackendUnavailable (nothing changed); those that write may raise
    OutcomeUnknown. The outcome of a cancelled write is unknown.
    """

    async def facts(
        self,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        blobs: Sequence[tuple[str, bytes]],
        *,
        spans: Sequence[Span] = (),
        leases: Sequence[LeaseAsk] = (),
        timeout_s: float,
    ) -> Facts:
        """Read what `evaluate` needs for one group. `hashed` is a subset of `keys` (those whose
        value a guard compares).
        """
        ...

    async def append(self, group: Group, *, timeout_s: float) -> Appended | Fenced:
        """Commit a group iff the newest row is exactly `group.base` and does not outrank it (DESIGN
        section 3).

        The row lands at seq base.seq + 1. If base.term > row.term, or an equal term belongs to
        another committer, the result is Fenced.
        """
        ...

    async def claim(self, identity: Identity, *, timeout_s: float) -> Identity:
        """Claim an unclaimed store for the given cluster, or a store of that cluster without a
        history for the given history; return the identity that the store has then. In any other
        case nothing changes.
        """
        ...

    async def take_over(
        self,
        term: int,
        committer: str,
        log_time_ms: int,
        *,
        adopt_last: int | None = None,
        identity: Identity | None = None,
        timeout_s: float,
    ) -> TakenOver | Outranked:
        """Append the empty row on whatever the head is, and return what the head was (same
        transaction).

        `first` = head.last + 1, `last` = head.last (or `adopt_last` when an operator adopts the
        head), same digest. Adopting raises the floor to `adopt_last`, and makes the store that of
        `identity`, in the same transaction.
        """
        ...

    async def stage(self, op_id: str, value: bytes, *, timeout_s: float) -> Reference:
        """Stage a large value for an intent to come. Staging it again leaves the value as it is.

        Raises NotApplied("overloaded") when too many bytes are staged for intents that are not
        recorded yet.
        """
        ...

    async def unstage(self, reference: Reference, *, timeout_s: float) -> None:
        """Undo one `stage` whose intent was definitely never ordered.

        The value is deleted once each `stage` of it is undone, unless its op_id is recorded by
        then. An ordered intent that refers to it records Expired.
        """
        ...

    async def prune(self, retention: Retention, *, timeout_s: float) -> Pruning:
        """Do one small pruning step. The floor is raised before the deletes or with them.
        Tombstones are deleted only with or after older versions. Blobs are deleted when their op_id
        is recorded in the ledger or `ops`, and no version refers to them.
        """
        ...

    async def cursor(self, name: str, *, timeout_s: float) -> int:
        """Return a durable position (0 if never set)."""
        ...

    async def move_cursor(self, name: str, to: int, *, timeout_s: float) -> None:
        """Raise a durable position; a lower one changes nothing."""
        ...
