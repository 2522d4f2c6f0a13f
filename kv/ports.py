"""Declare what the parts expect of each other: Clock, Store, Cache, Broadcast, Consensus.

Narrow protocols only: nothing here decides or does anything. Each port has one contract suite
(tests/contract), run against every adapter, fakes included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, Self, TypeAlias

import msgspec

from kv.errors import NotApplied
from kv.model import (
    Answer,
    Cancel,
    Digest,
    Entry,
    Group,
    Head,
    Intent,
    LedgerRow,
    Operation,
    Recorded,
    Reference,
    Version,
)


class Clock(Protocol):
    """Tell time. The simulation has its own; nothing else of ours reads a clock."""

    def monotonic(self) -> float:
        """Return seconds that never go back (asyncio's loop time)."""
        ...

    def wall_ms(self) -> int:
        """Return milliseconds since 1970; may jump either way."""
        ...


# -------------------------------------------------------------------------------------------- store


class Facts(msgspec.Struct, frozen=True):
    """What the committer needs to evaluate a group, all from one snapshot."""

    head: Head
    operations: Mapping[str, Operation]
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
    """The group is committed."""


class Fenced(msgspec.Struct, frozen=True):
    """Nothing of the group landed, and it never will: the ledger does not end at its base, or ranks
    above it.
    """

    head: Head


class TakenOver(msgspec.Struct, frozen=True):
    """The empty row is committed: what was in flight shows at `before` or below, or can
    never land.
    """

    before: Head
    """The row that it was built on."""
    own: Head


class Outranked(msgspec.Struct, frozen=True):
    """A row of a higher term, or of another committer in the same term, is in the way; nothing was
    appended.
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
    """Keep the ledger and the versions. The store is the authority.

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
        """Return if a write could land now, as far as can be told without one: cheap, and leaves no
        trace.

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
    ) -> tuple[Operation | None, ...]: ...

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


# -------------------------------------------------------------------------------------------- cache


class Space(msgspec.Struct, frozen=True):
    """Whose entries a shared cache is asked for: no two histories have one in common, nor have two
    times of one that an adoption lies between.
    """

    namespace: int
    key: bytes = b""
    """Signs the entries. It never goes to the cache."""

    def __repr__(self) -> str:
        return f"Space({self.namespace})"


class Cache(Protocol):
    """Keep entries for speed. May forget, serve old entries, or fail over at any time: the reader
    judges (INV-5).

    What comes back was put into that very space: anything else that may stand in a shared cache is
    no entry. No method raises for a dead or slow back end: `get` then returns Nones, `put` and
    `forget` do nothing.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def get(self, space: Space, keys: Sequence[bytes]) -> tuple[Entry | None, ...]: ...

    async def put(self, space: Space, entries: Sequence[Entry]) -> None:
        """Keep each entry unless one with the same or a newer `as_of` is held."""
        ...

    def healthy(self) -> bool:
        """Say whether the back end answers (False while its circuit breaker is open)."""
        ...


# ---------------------------------------------------------------------------------------- broadcast


class Undone(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the newest adoption took back: of what was told after `after` and before `to`, nothing
    is certain.
    """

    after: int = 0
    to: int = 0
    """The revision that the adoption ends at; 0: there was none."""

    def cut(self, position: int) -> int | None:
        """Return up to where the ledger may be told from a position on; None: as far as it goes.

        Below `to` that is `after`; from there on nothing follows but that the rest is undone.
        """
        return self.after if position < self.to else None


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One committed intent with what it changed (values as references when large)."""

    revision: int
    op_id: str
    log_time_ms: int
    versions: tuple[Version, ...]
    undone_after: int | None = None
    """Not None: no intent, but an operator's adoption, at `revision`: what was told after this
    revision is undone.
    """


class Broadcast(Protocol):
    """Tell the outside world of committed changes, in revision order, at least once (INV-6)."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def publish(self, changes: Sequence[Change], *, timeout_s: float) -> None:
        """Return when all are confirmed. Raises BackendUnavailable: any prefix may have been
        published.
        """
        ...

    def healthy(self) -> bool: ...


# ---------------------------------------------------------------------------------------- consensus


class Settled(msgspec.Struct, frozen=True):
    """What applying one Settle or Rebase told this node: the rows `previous` + 1 … `last` are in
    the store.
    """

    previous: int
    last: int
    digest: Digest
    records: tuple[Recorded, ...]
    """One per revision previous + 1 … last; empty when the machine jumped (snapshot, Adopt): read
    the ledger.
    """
    versions: tuple[Version, ...] | None
    """Every version made in that range, in order; None: not at hand here, read the store."""
    log_time_ms: int
    undone_after: int | None = None
    """Not None: an operator adopted the store's head. What was told of revisions above this one and
    below `last` is undone: nothing of it is certain, and positions below `last` can be gone on from
    no more.
    """


class Member(msgspec.Struct, frozen=True):
    """One member as this node knows it. Unknown figures are None."""

    id: str
    url: str
    raft_address: str
    voter: bool
    role: Literal["leader", "follower", "candidate", "observer", "unknown"]
    term: int | None = None
    applied: int | None = None
    """Newest revision ordered on that member."""
    settled: int | None = None
    digest: str | None = None
    """Hex digest of its machine at its settled revision."""
    lag: int | None = None
    """Log entries behind the leader."""
    last_seen_s: float | None = None
    trouble: str = ""
    """Why the answering node has no connection with it, for people; empty: it has one, or does not
    know.
    """


class Status(msgspec.Struct, frozen=True):
    """How this node sees the cluster."""

    node: str
    role: Literal["leader", "follower", "candidate", "observer"]
    term: int
    leader: str | None
    leader_url: str | None
    leader_since_ms: int | None
    quorum: bool
    """As leader: a majority answered within one election time-out. Else: a leader is heard."""
    taken_over: bool
    ordered: int
    settled: int
    digest: str
    pending: int
    floor: int
    namespace: int
    log_time_ms: int
    refusal: str | None
    """Why writes and store reads are refused (store restored or pruned), until an operator adopts
    the head.
    """
    fsync: str
    members: tuple[Member, ...]
    gives_up: int | None = None
    """While the store is refused: how many settled revisions adopting its head gives up, all after
    `gives_up_after`; an operator who adopts has to say this number.
    """
    gives_up_after: int | None = None
    cluster_id: str = ""
    history: str | None = None
    """Hex id of the replicated history; None until it is founded."""
    limits_differ: tuple[str, ...] = ()
    """Limits in which this member's settings are not those of the cluster; the cluster's count."""
    diverged: bool = False
    """This member's machine went another way than the leader's: no read is confirmed by it, and it
    is built anew.
    """
    broadcast_lag: int | None = None
    """Settled revisions that are not broadcast yet; None: another member broadcasts."""
    stamped: bool = True
    """A stamp of the present term is applied here, and this node knows the time: a write has the
    time it asks for.
    """
    unsynced_age_s: float = 0.0
    """For how many seconds the oldest log entry has waited for this node's own disk; 0:
    none waits.
    """
    store_trouble: str | None = None
    """Why what was ordered does not get committed, though the store is the right one; it is tried
    on.
    """
    unfit: Literal["removed", "disk_lost"] | None = None
    """Why this member can be none for good."""
    conflicts: tuple[str, ...] = ()
    """What keeps this node, or another, from taking part, for people: first lists that differ, two
    clusters of one name, one id used twice.
    """
    counts: Mapping[str, int] = {}
    """Running totals of this member's coordinator since it started, by snake_case name."""


Listener: TypeAlias = Callable[[Settled], None]


class Consensus(Protocol):
    """Give writes one order, and say what this node knows of it.

    Sync members read the replicated machine of this node at its applied position and never block.
    """

    def submit(self, intents: Sequence[Intent | Cancel]) -> list[asyncio.Future[Answer]]:
        """Hand intents to Raft as one command; one future each, resolved when its outcome is known
        to this node.

        A future fails with NotApplied (this attempt never reached the log) or OutcomeUnknown. The
        caller bounds its wait; giving up means unknown. Cancelling a future only stops the waiting.
        """
        ...

    def refuses(self, intents: Sequence[Intent | Cancel]) -> NotApplied | None:
        """Say why these would be refused if they were submitted now, as far as this node knows;
        None: nothing is known against them. To be asked before something is done for their sake.
        """
        ...

    async def read_index(self, *, timeout_s: float) -> None:
        """Return once this node's machine holds everything that was acknowledged anywhere before
        the call.

        Calls that arrived before a round began share it. Raises NotApplied("no_quorum" |
        "no_leader" | …).
        """
        ...

    @property
    def ordered(self) -> int:
        """Newest revision given: the read position R for judging right after `read_index`."""
        ...

    @property
    def settled(self) -> Head:
        """`last` and `digest` of what is settled here (seq, term, committer may be empty)."""
        ...

    @property
    def namespace(self) -> int:
        """Cache namespace, drawn anew whenever an operator adopts a head; 0 until the history is
        founded.
        """
        ...

    @property
    def space(self) -> Space | None:
        """Whose cache entries may be served here; None until the history is founded: none."""
        ...

    @property
    def undone(self) -> Undone:
        """What the newest adoption undid: positions that it lies behind are told so, and not gone
        on from.
        """
        ...

    @property
    def refusal(self) -> str | None:
        """Not None: the store is not what was settled; refuse writes and reads of the store."""
        ...

    def touched(self, key: bytes) -> int:
        """Return max(last[key], floor): an entry holds at R iff this is ≤ its as_of (INV-5)."""
        ...

    def now_ms(self) -> int:
        """Return the log time now, carried on by this node's monotonic clock; wrong before
        `Status.stamped`.
        """
        ...

    @property
    def operation_retention_ms(self) -> int:
        """For how long op_ids are remembered, in log time: as this history's log says, whatever a
        member is set to.
        """
        ...

    def recorded(self, op_id: str) -> Answer | Literal["pending"] | None:
        """Return what the machine's window knows of an op_id."""
        ...

    async def wait_settled(self, revision: int, *, timeout_s: float) -> None:
        """Return once this node has settled that far. Raises TimeoutError."""
        ...

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` synchronously at each Settled, in order; return a function that
        ends it.
        """
        ...

    @property
    def leads(self) -> bool:
        """Whether this node leads, as far as it knows."""
        ...

    def status(self) -> Status: ...

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        """Hand leadership to a member (None: the most advanced); return who leads. Raises
        NotApplied, BadRequest.
        """
        ...

    async def add_member(
        self, member: str, raft_address: str, url: str, *, voter: bool, timeout_s: float
    ) -> str:
        """Add an observer, or promote one (voter=True).

        Return "" when all was done, else in words what was not: there was nothing to do, or it is a
        member now and not yet a voter. Raises NotApplied or BadRequest while it would be unsafe;
        OutcomeUnknown when an attempt may still take effect.
        """
        ...

    async def remove_member(self, member: str, *, timeout_s: float) -> str:
        """Take a member out for good. Returns and raises as `add_member` does."""
        ...

    async def amend(self, *, timeout_s: float) -> tuple[str, ...]:
        """Let this member's settings be the limits that all members go by; return the names of
        those that changed.

        Raises NotApplied (also before a history is founded), OutcomeUnknown.
        """
        ...

    async def adopt(self, *, gives_up: int | None = None, timeout_s: float) -> int:
        """Let an operator adopt the store's head after a restore; return the new settled revision.

        `gives_up`: how many settled revisions the operator knows to be given up by it. Raises
        BadRequest("gives_up"), which says how many, unless it is that number;
        NotApplied("not_leader"), which says who leads.
        """
        ...
