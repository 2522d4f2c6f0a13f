"""Decide ReadIndex rounds (Ongaro 2014, section 6.4): which reads a quorum's answers confirm.

Never touches a network or a clock: `reads.py` carries the questions and answers. A read is
confirmed only by a round that began after the read arrived; one round serves all reads that were
waiting when it began.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from coordinator.log import Position
from coordinator.raft.core.rules.replication import majority

WAITING_MAX = 10_000
"""Number of reads (or batches of reads) that may wait for a round; more are refused at once."""

T = TypeVar("T")


class Round(NamedTuple):
    """The question of one round to every voter: whether it still follows `term`."""

    id: int
    term: int


class Confirmed(NamedTuple, Generic[T]):
    """The reads of a finished round; they may be served once `position` is applied."""

    reads: tuple[T, ...]
    position: Position


class Rounds(Generic[T]):
    """The leader's ReadIndex rounds. One round runs at a time; later reads wait for the next one.

    Invariant: a round's position is captured when the round begins, so it is at or above everything
    that was committed when its reads arrived. An answer counts only for exactly its (term, round
    id), and once for each voter of the configuration in force when the round ends.
    """

    def __init__(self, first_id: int = 1) -> None:
        """Start without a round. `first_id` must be random, so that a late answer to an earlier
        process of this member does not match one of our rounds.
        """
        self._next_id = first_id
        self._waiting: list[T] = []
        self._serving: tuple[T, ...] = ()
        self._round: Round | None = None
        self._position = Position(0, 0)
        self._answered: set[str] = set()

    @property
    def open(self) -> Round | None:
        """The round under way, or None; the question may be repeated to voters that are missing."""
        return self._round

    @property
    def idle(self) -> bool:
        """Say whether no round is under way and no read waits."""
        return self._round is None and not self._waiting

    def arrive(self, read: T) -> bool:
        """Add a read for the next round; return False if WAITING_MAX reads wait already."""
        if len(self._waiting) >= WAITING_MAX:
            return False
        self._waiting.append(read)
        return True

    def maybe_begin(self, term: int, committed: Position, leader: str) -> Round | None:
        """Begin a round for all reads that wait, unless a round is under way or no read waits.

        Call this only as leader of `term`, with an entry of that term committed at or below
        `committed`.
        """
        if self._round is not None or not self._waiting:
            return None
        self._serving, self._waiting = tuple(self._waiting), []
        self._round, self._position, self._answered = (
            Round(self._next_id, term),
            committed,
            {leader},
        )
        self._next_id += 1
        return self._round

    def missing(self, voters: tuple[str, ...]) -> tuple[str, ...]:
        """Return the voters that have not answered the round."""
        return tuple(voter for voter in voters if voter not in self._answered)

    def answer(self, voter: str, round: Round) -> None:
        """Count a voter's confirmation; ignore one for any other round."""
        if round == self._round:
            self._answered.add(voter)

    def maybe_finish(self, voters: tuple[str, ...]) -> Confirmed[T] | None:
        """End the round if a majority of `voters` has confirmed it; else return None."""
        if self._round is None or sum(voter in self._answered for voter in voters) < majority(
            len(voters)
        ):
            return None
        confirmed = Confirmed(self._serving, self._position)
        self._round, self._serving = None, ()
        return confirmed

    def abandon(self) -> tuple[T, ...]:
        """Drop the round and return all reads unconfirmed: the leadership was lost."""
        reads = (*self._serving, *self._waiting)
        self._round, self._serving, self._waiting = None, (), []
        return reads
