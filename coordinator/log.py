"""Declare what the coordinator needs from a replicated log, and what the log needs from the state
machine that it drives.

`coordinator.raft.member` implements `Log` on PySyncObj; tests and the simulation may use others.
Log indexes stay behind this interface: outside the log they appear only in `Position`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, Self

import msgspec

from kv.ports import StateCopy


class Position(msgspec.Struct, frozen=True, order=True, array_like=True):
    """A position in the log. Two logs that hold the same (index, term) are equal up to there (Raft
    section 5.3).
    """

    index: int
    term: int


class PeerStatus(msgspec.Struct, frozen=True):
    """One member as Raft knows it. `match` and `last_seen_s` are known to the leader only, except
    for the member itself.
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
    """Why there is no connection to this peer, for people to read; empty when there is one, or
    nothing is known.
    """
    note_term: int = 0
    """The term that the peer was in when it sent that note."""
    note_age_s: float = 0.0
    """Seconds since that note arrived."""


class RaftStatus(msgspec.Struct, frozen=True):
    """One member's view of Raft: its own state, and what it knows of its peers."""

    id: str
    role: Literal["leader", "follower", "candidate", "observer"]
    term: int
    leader: str | None
    quorum: bool
    """On the leader: a majority of voters answered within one election timeout. On other members: a
    leader is known and was heard from.
    """
    applied: int
    committed: int
    last: int
    fsync: Literal["always", "interval", "off"]
    peers: tuple[PeerStatus, ...]
    """All members, this one included."""
    unsynced_age_s: float = 0.0
    """Seconds that the oldest unsynced entry has waited for this member's own disk (policy
    `always`); 0 when none waits.
    """
    unfit: Literal["removed", "disk_lost"] | None = None
    """Why this member may not take part: it was removed for good, or its disk lost what it had
    acknowledged.
    """
    conflicts: tuple[str, ...] = ()
    """Conflicts that keep this member from taking part, or others from being admitted, for people
    to read: different first member lists, another history, one id used twice, another member's
    state that could not be used here.
    """


class Replica(Protocol):
    """The state machine that a log drives, with the store that goes with it, if it has its own.

    All methods are called on the event loop, and none may block it. Those that are not async do
    not raise, except that `apply` may raise NewerCommand before it has changed anything.
    """

    @property
    def keeps_store(self) -> bool:
        """Say whether this replica has a store of its own, without which a snapshot is of no use.
        It never changes.
        """
        ...

    @property
    def takes_more(self) -> bool:
        """Say whether `apply` may be called now. While it is False the log applies nothing, and it
        looks again when `Log.resume` is called.
        """
        ...

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        """Apply one committed command. `stamp_ms` is what the leader's `stamp_ms()` returned when
        it appended the command (0: that leader did not know the log time).
        """
        ...

    def foresee(self, command: bytes) -> None:
        """Look at a command that this follower's log has got, and that may never be ordered. It
        changes no state. Call it before `apply`, if at all.
        """
        ...

    def stamp_ms(self) -> int:
        """Return the time stamp for what this member, as the leader, appends now; 0 while it does
        not know the log time.
        """
        ...

    def snapshot(self) -> Callable[[], bytes]:
        """Capture the state now (cheaply, and as immutable data) and return a function that encodes
        it in a worker thread.
        """
        ...

    async def secure(self, position: Position) -> None:
        """Return once everything that the entries up to `position` made outlives a power cut. Then
        the log may be cut up to there, and not before.

        Raises BackendUnavailable or OSError when it cannot be said: nothing may be cut.
        """
        ...

    def saved(self, position: Position) -> None:
        """Note that the snapshot that was captured last, at `position`, is in place."""
        ...

    async def attach(self) -> StateCopy | None:
        """Return a copy of the own store, as it is now or later, that goes with the snapshot in
        place; None if there is no own store. The caller closes it.

        Raises BackendUnavailable or OSError.
        """
        ...

    async def install(self, snapshot: bytes, state: StateCopy | None) -> None:
        """Replace the own store by `state`, if any, and then all state by the snapshot's. The
        caller closes `state`.

        Raises ValueError, with everything untouched, when they cannot be used; BackendUnavailable
        or OSError when there is no room.
        """
        ...

    def restore(self, snapshot: bytes) -> None:
        """Replace all state by that of a snapshot of this member, at the start or before a replay.
        Raises ValueError, with the state untouched, when it cannot be decoded.
        """
        ...

    def reset(self) -> None:
        """Discard all state, because applied entries have been overwritten in the log. A restore or
        a replay follows.
        """
        ...

    def led(self, term: int) -> None:
        """Start leading `term`. The term's own no-op is already applied here."""
        ...

    def deposed(self, term: int) -> None:
        """Stop leading `term`."""
        ...

    async def answer(self, question: bytes) -> bytes:
        """Answer, as the leader, a question that a member has put by `Log.ask`.

        Raises NotApplied: who asked may ask again.
        """
        ...

    def note(self) -> bytes:
        """Return a note about this member's machine (≤ 256 bytes). The log carries it to the peers
        a few times a second, and at once to a new leader.
        """
        ...


class Log(Protocol):
    """A replicated log of opaque commands on a quorum of voters.

    Guarantees: a command whose `propose` succeeded is on a quorum's disks (policy `fsync`) and is
    applied by every member at the same Position. Does not guarantee that only one member believes
    to be the leader: see `read_index`.
    """

    async def __aenter__(self) -> Self:
        """Load the snapshot and the journal, listen, and join. Raises BadRequest for what an
        operator must repair.
        """
        ...

    async def __aexit__(self, *exc: object) -> None: ...

    def propose(self, command: bytes) -> asyncio.Future[Position]:
        """Order a command, from any member. The future resolves once this member has applied it.

        It fails with NotApplied (the command is in no log and never will be) or OutcomeUnknown;
        with NotApplied "overloaded" when too many bytes are waiting. The log never sends a command
        twice.
        """
        ...

    async def read_index(self, *, timeout_s: float) -> Position:
        """Return a position at or above everything committed before the call, confirmed by a quorum
        round.

        Calls that arrive before a round begins share it. Only a leader for whose own term
        `open_reads` was called answers. Raises NotApplied.
        """
        ...

    async def ask(self, question: bytes, *, timeout_s: float) -> bytes:
        """Return what the leader's `Replica.answer` says to a question, from any member. It takes
        no entry of the log. Both are at most 1 MiB.

        Raises NotApplied, also when no answer came in time.
        """
        ...

    def open_reads(self, term: int) -> None:
        """Allow ReadIndex to be answered while this member leads exactly `term` (it has taken over
        the store).
        """
        ...

    @property
    def applied(self) -> Position:
        """The position of the newest command that is applied here."""
        ...

    async def wait_applied(self, position: Position, *, timeout_s: float) -> None:
        """Return once this member has applied exactly that entry, or a snapshot that contains it.
        Raises TimeoutError.
        """
        ...

    def status(self) -> RaftStatus:
        """Return the state of this member's Raft, and what it knows of its peers."""
        ...

    def resume(self) -> None:
        """Look again whether the replica takes more commands."""
        ...

    def replay(self) -> bool:
        """Reset the replica, and rebuild it from the local snapshot and log. Return False, with the
        replica as it is, while another state is being put in its place, or if that must come from
        another member.
        """
        ...

    def fetch_snapshot(self) -> None:
        """Request another member's snapshot, to rebuild the replica, with its own store, from it
        and the local log. The log and the votes stay. The request may have no effect.
        """
        ...

    def step_down(self) -> None:
        """Stop leading without naming a successor, because a ledger row of a higher term is in the
        store.
        """
        ...

    def outrank(self, term: int) -> None:
        """Start an election at once for a term above `term`, because a ledger row of that term is
        in the way.
        """
        ...

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        """Transfer the leadership to a voter (None: the most advanced one) and return who leads
        then.

        Raises NotApplied, OutcomeUnknown, BadRequest.
        """
        ...

    async def add_member(self, member: str, address: str, *, voter: bool, timeout_s: float) -> str:
        """Add a member. Return "" when everything was done, otherwise a sentence that says what was
        not (nothing to do, or not yet a voter).
        """
        ...

    async def remove_member(self, member: str, *, timeout_s: float) -> str:
        """Remove a member. The result is that of `add_member`."""
        ...


class PeerAddress(NamedTuple):
    """A member's id, and the address of its Raft port."""

    id: str
    address: str
    voter: bool = True


Members = Sequence[PeerAddress]
