"""Declare the port that gives writes one order, and that reports what a node knows of the cluster.

Nothing of Raft is visible here: neither log positions nor the library.
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
    """The effect of one Settle or Rebase on a node: the revisions `previous` + 1 … `last` are in
    the store.
    """

    previous: int
    last: int
    digest: Digest
    records: tuple[Recorded, ...]
    """One record for each revision previous + 1 … last. Empty when the machine jumped (snapshot,
    Adopt): then read the ledger.
    """
    versions: tuple[Version, ...] | None
    """Every version made in that range, in order. None: they are not in memory; read the store."""
    log_time_ms: int
    undone_after: int | None = None
    """Not None: an operator adopted the store's head. What listeners received about revisions above
    this one and below `last` is undone: nothing of it is certain, and a position below `last`
    cannot be continued from.

    If `last` is no higher than what was told before, the log of members' own stores has lost all
    above it: whatever was told of that is undone, and those revisions are given again.
    """
    term: int = 0
    """Of the ledger row, where each member has its own store; 0: the store is shared."""


class Member(msgspec.Struct, frozen=True):
    """One member as this node knows it. Unknown figures are None."""

    id: str
    url: str
    raft_address: str
    voter: bool
    role: Literal["leader", "follower", "candidate", "observer", "unknown"]
    term: int | None = None
    applied: int | None = None
    """The newest revision ordered on that member."""
    settled: int | None = None
    digest: str | None = None
    """The hex digest of its machine at its settled revision."""
    lag: int | None = None
    """The number of log entries that it is behind the leader."""
    last_seen_s: float | None = None
    trouble: str = ""
    """Why the answering node has no connection to it, for people to read; empty: it has one, or
    does not know.
    """


class Leadership(msgspec.Struct, frozen=True):
    """One change of leader, as one node saw it."""

    leader: str
    term: int
    since_ms: int
    """When it began to lead, by its wall clock, else by that of the node that saw it."""
    former: str | None = None
    """The leader before it; None: this node knew none."""
    silent_ms: int | None = None
    """How long nothing had been heard of the former leader when this one was seen to lead. After a
    hand-over it is less than a heartbeat. None: not known.
    """


class Status(msgspec.Struct, frozen=True):
    """How one node sees the cluster."""

    node: str
    role: Literal["leader", "follower", "candidate", "observer"]
    term: int
    leader: str | None
    leader_url: str | None
    leader_since_ms: int | None
    quorum: bool
    """On the leader: a majority answered within one election timeout. On other nodes: a leader is
    known and was heard from.
    """
    taken_over: bool
    ordered: int
    settled: int
    digest: str
    pending: int
    floor: int
    namespace: int
    log_time_ms: int
    refusal: str | None
    """Why writes and store reads are refused (the store was restored or pruned), until an operator
    adopts the head.
    """
    fsync: str
    members: tuple[Member, ...]
    gives_up: int | None = None
    """While the store is refused: the number of settled revisions that adopting its head gives up,
    all of them after `gives_up_after`. An operator who adopts it has to give this number.
    """
    gives_up_after: int | None = None
    cluster_id: str = ""
    history: str | None = None
    """The hex id of the replicated history; None until it is founded."""
    limits_differ: tuple[str, ...] = ()
    """The limits in which this member's settings differ from the cluster's, which apply."""
    diverged: bool = False
    """Whether this member's machine diverged from the leader's. It confirms no read then, and is
    rebuilt.
    """
    broadcast_lag: int | None = None
    """The number of settled revisions that are not broadcast yet; None: another member
    broadcasts.
    """
    stamped: bool = True
    """Whether a stamp of the present term is applied here and this node knows the log time. Only
    then does a write get all the time that it asks for.
    """
    unsynced_age_s: float = 0.0
    """Seconds that the oldest log entry has waited for this node's own disk; 0: none waits."""
    store_trouble: str | None = None
    """Why ordered intents do not get committed, although the store is the right one. Committing is
    retried.
    """
    unfit: Literal["removed", "disk_lost"] | None = None
    """Why this member is unfit to be one, for good."""
    conflicts: tuple[str, ...] = ()
    """Conflicts that keep this node, or another, from taking part, for people to read: different
    first member lists, two clusters of one name, one id used twice, a member's state that could not
    be used here.
    """
    store_kind: Literal["shared", "replicated"] = "shared"
    """One store for all members, or one for each (docs/replicated-store.md). The fields below
    belong to the latter.
    """
    store_state: Literal[
        "sound",
        "catching_up",
        "fetching",
        "set_aside",
        "diverged",
        "undecided",
        "full",
        "emptied",
    ] = "sound"
    """What this member's own store is in. sound: all is well. catching_up: the log has not reached
    what its file holds. fetching: its state comes from another member. set_aside: its file cannot
    be used. diverged: its contents are not the majority's. undecided: the members' contents differ
    and none has a majority: an operator has to decide. full: nothing gets into the file. emptied:
    log and votes are gone from its disk, and it never counts again (R13).
    """
    store_detail: str = ""
    """The same in a sentence; empty when there is nothing to say."""
    unwritten_bytes: int = 0
    """Bytes that are settled here and not in the file yet."""
    content_seq: int = 0
    """The newest row of the own ledger, and the hex content digest after it (`kv.content`)."""
    content_digest: str = ""
    dump_index: int = 0
    """The log index up to which this member needs no log to rebuild its state."""
    feature_level: int = 0
    """The feature level in force: no version that speaks less can be a member (R14). 0 where a
    store is shared.
    """
    feature_level_spoken: int = 0
    """The newest one that the answering member speaks."""
    limits: Mapping[str, int] = {}
    """The limits in force, by name: the same on every member."""
    leaderships: tuple[Leadership, ...] = ()
    """The newest changes of leader that this member saw since it started, oldest first."""
    counts: Mapping[str, int] = {}
    """Running totals of this member's coordinator since it started, by snake_case name."""


class LeaseTime(msgspec.Struct, frozen=True):
    """How long a lease lives, in milliseconds."""

    ttl_ms: int
    left_ms: int
    """What is left, unless it is renewed. It may live longer: its leader may change."""


Listener: TypeAlias = Callable[[Settled], None]


class Consensus(Protocol):
    """The order of all writes, and what this node knows of it.

    The synchronous members read this node's replicated machine at its applied position and never
    block.
    """

    def submit(self, intents: Sequence[Intent | Cancel]) -> list[asyncio.Future[Answer]]:
        """Hand intents to Raft as one command. Return one future for each, which resolves when this
        node knows the outcome.

        A future fails with NotApplied (this attempt never reached the log) or OutcomeUnknown. The
        caller bounds its wait: after giving up, the outcome is unknown. Cancelling a future only
        stops the waiting.
        """
        ...

    def refuses(self, intents: Sequence[Intent | Cancel]) -> NotApplied | None:
        """Return why these intents would be refused if they were submitted now, as far as this node
        knows; None: nothing is known against them. Ask before doing work for their sake.
        """
        ...

    async def read_index(self, *, timeout_s: float) -> None:
        """Return once this node's machine holds everything that was acknowledged anywhere before
        the call.

        Calls that arrive before a round begins share it. Raises NotApplied("no_quorum" |
        "no_leader" | …).
        """
        ...

    async def lease_time(self, lease: int, *, renew: bool, timeout_s: float) -> LeaseTime | None:
        """Return how long a lease lives; None: there was no such lease at some moment after the
        call. It takes no revision. With `renew` the lease lives its whole ttl, at least, from some
        moment after the call on.

        Calls of one node share messages and rounds. Raises NotApplied: the lease may have been
        renewed all the same.
        """
        ...

    @property
    def ordered(self) -> int:
        """The newest revision given: the read position R for judging right after `read_index`."""
        ...

    @property
    def settled(self) -> Head:
        """`last` and `digest` of what is settled here (seq, term, committer may be empty)."""
        ...

    @property
    def namespace(self) -> int:
        """The namespace of the caches, drawn anew whenever an operator adopts a head; 0 until the
        history is founded.
        """
        ...

    @property
    def space(self) -> Space | None:
        """The space whose cache entries may be served here; None until the history is founded."""
        ...

    @property
    def undone(self) -> UndoneRange:
        """The revisions that the newest adoption undid.

        A reader whose position lies within them is answered so, and cannot continue from there.
        """
        ...

    def term_of(self, revision: int) -> int:
        """Return the term of the ledger row that gave a revision, where each member has its own
        store: a position that a client keeps is both (R12). 0: not known, or the store is shared.
        """
        ...

    def holds_to(self, revision: int, term: int) -> int:
        """Return the newest revision, up to `revision`, to which a kept position is in force: it is
        `revision` itself unless another row gave that here. What was told behind the returned one
        is undone.
        """
        ...

    @property
    def refusal(self) -> str | None:
        """Why the store must not be written or read: it is not what was settled. None: it may be
        used.
        """
        ...

    def touched(self, key: bytes) -> int:
        """Return max(last[key], floor): an entry holds at R iff this is ≤ its as_of (INV-5)."""
        ...

    def now_ms(self) -> int:
        """Return the log time now, carried on by this node's monotonic clock. It is wrong before
        `Status.stamped`.
        """
        ...

    @property
    def operation_retention_ms(self) -> int:
        """How long op_ids are remembered, in milliseconds of log time. The history's log decides
        it, not a member's settings.
        """
        ...

    def recorded(self, op_id: str) -> Answer | Literal["pending"] | None:
        """Return the recorded answer for an op_id from the machine's window, or "pending",
        or None.
        """
        ...

    async def wait_settled(self, revision: int, *, timeout_s: float) -> None:
        """Return once this node has settled at least `revision`. Raises TimeoutError."""
        ...

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` synchronously with each Settled, in order. The returned function
        unsubscribes it.
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
        """Transfer the leadership to a member (None: the most advanced one) and return who leads
        then. Raises NotApplied, BadRequest.
        """
        ...

    async def add_member(
        self, member: str, raft_address: str, url: str, *, voter: bool, timeout_s: float
    ) -> str:
        """Add an observer, or promote one to voter (voter=True).

        Return "" when everything was done, otherwise a sentence that says what was not: there was
        nothing to do, or it is a member now and not yet a voter. Raises NotApplied or BadRequest
        while it would be unsafe; OutcomeUnknown when an attempt may still take effect.
        """
        ...

    async def remove_member(self, member: str, *, timeout_s: float) -> str:
        """Remove a member for good. Returns and raises as `add_member` does."""
        ...

    async def amend(self, *, timeout_s: float) -> tuple[str, ...]:
        """Make this member's settings the limits of all members. Return the names of those that
        changed.

        Raises NotApplied (also before a history is founded), OutcomeUnknown.
        """
        ...

    async def compact(self, revision: int, *, timeout_s: float) -> bool:
        """Let nobody read below a revision any more, on any member, whatever the retention.

        False: the store is shared, and keeps history as its retention says. Raises Pruned when the
        floor is there already, BadRequest("future_revision"), NotApplied (also while what is below
        is not broadcast), OutcomeUnknown.
        """
        ...

    async def adopt(self, *, gives_up: int | None = None, timeout_s: float) -> int:
        """Adopt the store's head for an operator, after a restore. Return the new settled revision.

        `gives_up` is the number of settled revisions that the operator knows to be given up. Raises
        BadRequest("gives_up"), which states the number, unless it is right;
        NotApplied("not_leader"), which names the leader.
        """
        ...
