"""Declare the port that gives writes one order, and what a node knows of the cluster by it.

Nothing of Raft shows here: neither log positions nor the library.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from kv.errors import NotApplied
from kv.model import (
    Answer,
    Cancel,
    Digest,
    Head,
    Intent,
    Recorded,
    Version,
)
from kv.ports.broadcast import UndoneRange
from kv.ports.cache import Space


class Settled(msgspec.Struct, frozen=True):
    """What a node learns by applying one Settle or Rebase: `previous` + 1 … `last` are stored."""

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
    """Not None: an operator adopted the store's head. What was said of revisions above this one and
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
    """What gives writes one order, and says what this node knows of it.

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
    def undone(self) -> UndoneRange:
        """What the newest adoption undid.

        Who stands at a position within it is answered so, and can not go on from there.
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

    def status(self) -> Status:
        """Return how this node sees the cluster now."""
        ...

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
