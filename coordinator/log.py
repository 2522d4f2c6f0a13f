"""Declare what the coordinator needs of a replicated log, and what the log asks of the machine.

`coordinator.raft.member` provides `Log` on PySyncObj; tests and the simulation may provide others.
Log indexes stay below this seam: nothing above it but `Position` ever sees one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, Self

import msgspec


class Position(msgspec.Struct, frozen=True, order=True, array_like=True):
    """A place in the log. Two logs that hold the same (index, term) are equal up to there (Raft
    section 5.3).
    """

    index: int
    term: int


class PeerStatus(msgspec.Struct, frozen=True):
    """One member as Raft knows it. `match`, `last_seen_s`: known to the leader only, except its
    own.
    """

    id: str
    address: str
    voter: bool
    role: Literal["leader", "follower", "candidate", "observer", "unknown"]
    match: int | None = None
    last_seen_s: float | None = None
    note: bytes = b""
    """The newest `Replica.note()` that this peer sent along with its traffic (at least once a
    second).
    """
    trouble: str = ""
    """Why there is no connection with it, for people; empty: there is one, or nothing is known."""
    note_term: int = 0
    """The term in which the peer was when it sent that note."""
    note_age_s: float = 0.0
    """How long ago it came."""


class RaftStatus(msgspec.Struct, frozen=True):
    """One member's view of Raft: its own state, and what it knows of its peers."""

    id: str
    role: Literal["leader", "follower", "candidate", "observer"]
    term: int
    leader: str | None
    quorum: bool
    """As leader: a majority of voters answered within one election time-out. Else: a leader is
    heard.
    """
    applied: int
    committed: int
    last: int
    fsync: Literal["always", "interval", "off"]
    peers: tuple[PeerStatus, ...]
    """All members, this one included."""
    unsynced_age_s: float = 0.0
    """For how many seconds its oldest entry has waited for its own disk (policy `always`); 0: none
    waits.
    """
    unfit: Literal["removed", "disk_lost"] | None = None
    """It was taken out for good, or has lost what it had acknowledged."""
    conflicts: tuple[str, ...] = ()
    """What keeps this member from taking part, or others from being let in, for people: other first
    lists, another history, one id used twice.
    """


class Replica(Protocol):
    """The member that a log drives. Called on the event loop, synchronously; none may block.

    None may raise, but `apply` NewerCommand, before it has changed anything.
    """

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        """Apply one committed command. `stamp_ms` is what the leader's `stamp_ms()` said when it
        appended it (0: it did not know the time).
        """
        ...

    def stamp_ms(self) -> int:
        """Return the stamp for what this member, as leader, appends now; 0: it does not know the
        time yet.
        """
        ...

    def snapshot(self) -> Callable[[], bytes]:
        """Capture the state now (cheap, immutable); the returned function encodes it, in a worker
        thread.
        """
        ...

    def restore(self, snapshot: bytes) -> None:
        """Take the place of all state. Raises ValueError, with state untouched, when it cannot be
        decoded.
        """
        ...

    def reset(self) -> None:
        """Forget all state: what was applied has been overwritten in the log; a restore or replay
        follows.
        """
        ...

    def led(self, term: int) -> None:
        """Begin to lead `term`, whose own no-op is applied here."""
        ...

    def deposed(self, term: int) -> None:
        """End to lead `term`."""
        ...

    def note(self) -> bytes:
        """Return a few bytes (≤ 256) about this member's machine, carried to its peers a few times
        a second, and at once to a new leader.
        """
        ...


class Log(Protocol):
    """A replicated log of opaque commands on a quorum of voters.

    Guarantees: a command whose `propose` succeeded is on a quorum's disks (policy `fsync`) and is
    applied by every member at the same Position. Does not guarantee that a leader is the only one
    who believes so: see `read_index`.
    """

    async def __aenter__(self) -> Self:
        """Load snapshot and journal, listen, join. Raises BadRequest for what an operator must
        mend.
        """
        ...

    async def __aexit__(self, *exc: object) -> None: ...

    def propose(self, command: bytes) -> asyncio.Future[Position]:
        """Order a command, from any member. Resolved once this member has applied it.

        Fails with NotApplied (it is in no log and never will be) or OutcomeUnknown. Bounded: raises
        NotApplied "overloaded" in the future when too many bytes wait. Never sent twice by us.
        """
        ...

    async def read_index(self, *, timeout_s: float) -> Position:
        """Return a position at or above everything committed before the call, confirmed by a quorum
        round.

        Rounds are shared by the calls that arrived before they began. Only a leader that has
        `open_reads` of its own term answers. Raises NotApplied.
        """
        ...

    def open_reads(self, term: int) -> None:
        """Let ReadIndex be answered while this member leads exactly `term` (it has taken over the
        store).
        """
        ...

    @property
    def applied(self) -> Position:
        """The place of the newest command that is applied here."""
        ...

    async def wait_applied(self, position: Position, *, timeout_s: float) -> None:
        """Return once this member has applied that very entry (or a snapshot that contains it).
        Raises TimeoutError.
        """
        ...

    def status(self) -> RaftStatus:
        """Return what this member's Raft says of itself and of the others."""
        ...

    def replay(self) -> None:
        """Let the replica forget all, and bring it up again from the snapshot and the log that are
        here.
        """
        ...

    def fetch_snapshot(self) -> None:
        """Ask the leader for its snapshot, to bring the replica up from that and the log here; may
        be in vain.
        """
        ...

    def step_down(self) -> None:
        """Stop leading without naming a successor (a row of a higher term stands in the store)."""
        ...

    def outrank(self, term: int) -> None:
        """Stand again at once for a term above `term` (a ledger row of that term is in the way)."""
        ...

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        """Hand the leadership to a voter (None: the most advanced); return who leads then.

        Raises NotApplied, OutcomeUnknown, BadRequest.
        """
        ...

    async def add_member(self, member: str, address: str, *, voter: bool, timeout_s: float) -> str:
        """Return "" when all was done, else in words what was not (nothing to do, or not yet a
        voter).
        """
        ...

    async def remove_member(self, member: str, *, timeout_s: float) -> str:
        """Return as `add_member` does."""
        ...


class PeerAddress(NamedTuple):
    """A member, and where its Raft port is."""

    id: str
    address: str
    voter: bool = True


Members = Sequence[PeerAddress]
