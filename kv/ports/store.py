"""Declare the port that keeps the ledger and the versions, and what its calls give and take.

Nothing here decides or does anything: what an adapter has to keep is held by its contract suite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self

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


class Facts(msgspec.Struct, frozen=True):
    """What the committer needs to evaluate a group, all from one snapshot."""

    head: Head
    operations: Mapping[str, RecordedOperation]
    """The asked op_ids that are known."""
    versions: Mapping[bytes, Version]
    """Newest version (tombstones too) of each asked key that has one. `value` of the asked `hashed`
    keys only is meaningful for Equals: others may carry an empty value, but `present` is always
    right.
    """
    hashes: Mapping[bytes, bytes]
    """value_hash of the newest version of each asked `hashed` key that is present."""
    missing: frozenset[tuple[str, bytes]]
    """(op_id, hash) of asked blobs that are not staged."""


class Read(msgspec.Struct, frozen=True):
    """Versions of many keys in one snapshot."""

    head: Head
    """Newest ledger row in that very snapshot: `head.last` is the `as_of` of what was read."""
    versions: tuple[Version | None, ...]
    """Aligned with the asked keys; None: never written (or its tombstone was pruned)."""
    digest_at: Digest | None
    """Digest of the newest row whose `last` is the asked `settled` revision; None if there is no
    such row.
    """


class Listing(msgspec.Struct, frozen=True):
    """One page of the keys under a prefix, in byte order, present ones only."""

    head: Head
    versions: tuple[Version, ...]
    more: bool
    digest_at: Digest | None


class Appended(msgspec.Struct, frozen=True):
    """The answer that the group is committed."""


class Fenced(msgspec.Struct, frozen=True):
    """The answer that nothing of the group landed, and never will.

    The ledger does not end at the group's base, or ranks above it.
    """

    head: Head


class TakenOver(msgspec.Struct, frozen=True):
    """The answer that the empty row is committed.

    What was in flight shows at `before` or below, or can never land.
    """

    before: Head
    """The row that it was built on."""
    own: Head


class Outranked(msgspec.Struct, frozen=True):
    """The answer that nothing was appended: the head outranks this committer.

    Its row is of a higher term, or of another committer in the same term.
    """

    head: Head


class Identity(msgspec.Struct, frozen=True):
    """Whose a store is."""

    cluster_id: str
    """Empty: nobody has claimed it."""
    history: bytes = b""
    """Id of the replicated history that it is the store of; empty: not known yet."""


class Retention(msgspec.Struct, frozen=True):
    """How far pruning may go in one small step."""

    revision_below: int
    """Superseded versions, and ledger rows whose `last` is below it, may go; never the head."""
    operations_before_ms: int
    """Operations recorded before this log time may go."""
    rows_max: int = 500
    staged_before_ms: int = 0
    """Values staged before this log time whose op_id was never recorded may go: no intent that
    waits refers to one.
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
    """What one small step of looking versions through found. `more`: go on after `reached`."""

    reached: int
    """Every version kept up to this revision was looked at."""
    versions: int
    damaged: tuple[tuple[bytes, int], ...]
    """(key, revision) of those that are not what was written."""
    references: tuple[Reference, ...]
    """The large values that the others stand for: whoever asks for one (`blob`) hears whether it is
    sound.
    """
    more: bool


class Store(Protocol):
    """What keeps the ledger and the versions. The store is the authority.

    Guarantees: every method is one serializable transaction on the primary; `append` and
    `take_over` land wholly or not at all; what `Appended` says is durable. Does not guarantee:
    freshness of anything read before the call. A version or a staged value is checked against the
    hash kept with it whenever it is read whole: one that does not fit raises StoreDamaged (a
    BackendUnavailable) and is never returned; facts go by the hash, which is the truth. Every
    method may raise BackendUnavailable (nothing changed); those that write may raise
    OutcomeUnknown. A cancelled write is unknown. Methods are safe to call concurrently. `timeout_s`
    bounds the wait of the caller.
    """

    async def __aenter__(self) -> Self:
        """Open; check or create the schema. Raises BackendUnavailable,
        BadRequest("foreign_store"|"newer_schema").
        """
        ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def head(self, *, at_least: int = 0, timeout_s: float) -> Head:
        """Return the newest row's place. Where the store has several servers and the one in use
        ends below the revision `at_least`, the others are looked at first: an old primary that came
        back is left for the one that is ahead.
        """
        ...

    async def probe(self, *, timeout_s: float) -> None:
        """Return if a write could land now, as far as that shows without one; it leaves no trace.

        Raises BackendUnavailable that names what is in the way: no answer, a full or read-only
        disk, a lock that is held, a file that is gone or was replaced, a server that takes no
        writes.
        """
        ...

    async def facts(
        self,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        blobs: Sequence[tuple[str, bytes]],
        *,
        timeout_s: float,
    ) -> Facts:
        """Read what `evaluate` needs for one group. `hashed` is a subset of `keys` (those under an
        Equals guard).
        """
        ...

    async def append(self, group: Group, *, timeout_s: float) -> Appended | Fenced:
        """Commit a group iff the newest row is exactly `group.base` and ranks not above it (DESIGN
        section 3).

        The row lands at seq base.seq + 1. base.term > row.term, or an equal term of another
        committer, is Fenced.
        """
        ...

    async def claim(self, identity: Identity, *, timeout_s: float) -> Identity:
        """Make a store that is nobody's the given cluster's, and one of that cluster without a
        history the given history's; return whose it is, whoever that is. Anything else changes
        nothing.
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
        """Append the empty row on whatever the head is, and say what the head was (same
        transaction).

        `first` = head.last + 1, `last` = head.last (or `adopt_last` when an operator adopts the
        head), same digest. Adopting raises the floor to `adopt_last`, and makes the store that of
        `identity`, in the same transaction.
        """
        ...

    async def rows(self, after: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        """Return ledger rows with intents (empty ones left out) whose `last` > `after`, oldest
        first, whole.

        Raises Pruned when rows directly after `after` are gone.
        """
        ...

    async def ledger(self, from_seq: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        """Return ledger rows by seq, empty ones included, from `from_seq` or the oldest kept,
        oldest first.
        """
        ...

    async def row_ending(self, last: int, *, timeout_s: float) -> LedgerRow | None:
        """Return the newest row whose `last` is this revision (any row, also an empty one), if
        kept.
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
        after: bytes = b"",
        limit: int,
        at: int | None = None,
        settled: int = 0,
        keys_only: bool = False,
        timeout_s: float,
    ) -> Listing:
        """List present keys > `after` that begin with `prefix`, at revision `at` (None: newest).
        Raises Pruned.

        With `keys_only` the values are empty.
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
        """Return what is recorded of each op_id; None: nothing, or no more."""
        ...

    async def stage(self, op_id: str, value: bytes, *, timeout_s: float) -> Reference:
        """Keep a large value for an intent that is to come. Staging it again keeps the value as it
        is.

        Raises NotApplied("overloaded") when too many bytes wait for intents that nobody has
        recorded.
        """
        ...

    async def unstage(self, reference: Reference, *, timeout_s: float) -> None:
        """Take one `stage` back: its intent was definitely never ordered. The value goes once each
        `stage` of it is taken back, unless its op_id is recorded by then. An ordered intent that
        refers to it records Expired.
        """
        ...

    async def blob(self, reference: Reference, *, timeout_s: float) -> bytes | None:
        """Return a staged value, None when it is not there. Raises StoreDamaged."""
        ...

    async def due(
        self, log_time_ms: int, limit: int, *, timeout_s: float
    ) -> tuple[tuple[bytes, int], ...]:
        """Return (key, revision) of present keys whose newest version expires at or before this log
        time.
        """
        ...

    async def prune(self, retention: Retention, *, timeout_s: float) -> Pruning:
        """Do one small step: floor raised before or with the deletes; tombstones go only with or
        after older versions; blobs go when their op_id is recorded in the ledger or `ops`, and no
        version refers to them.
        """
        ...

    async def scrub(self, after: int, *, timeout_s: float) -> Scrubbed:
        """Look the next versions after a revision through at rest, whatever reads ask for; some MB
        at most.
        """
        ...

    async def floor(self, *, timeout_s: float) -> int:
        """Return the lowest revision that can still be read at."""
        ...

    async def cursor(self, name: str, *, timeout_s: float) -> int:
        """Return a durable position (0 if never set)."""
        ...

    async def move_cursor(self, name: str, to: int, *, timeout_s: float) -> None:
        """Raise a durable position; a lower one changes nothing."""
        ...
