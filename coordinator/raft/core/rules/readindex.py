"""Decide ReadIndex rounds (Ongaro 2014, section 6.4): which reads a quorum's answers confirm.

Never touches a network or a clock: `member.py` carries the questions and answers. A read is
confirmed only by a round that began after the read arrived; one round serves all that were waiting
when it began.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from coordinator.log import Position
from coordinator.raft.core.rules.replication import majority

WAITING_MAX = 10_000
"""Reads (or batches of them) that may wait for a round; more are refused at once."""

T = TypeVar("T")


class Round(NamedTuple):
    """What every voter is asked: whether it still follows `term`."""

    id: int
    term: int


class Confirmed(NamedTuple, Generic[T]):
    """These reads may be served once `position` is applied."""

    reads: tuple[T, ...]
    position: Position


class Rounds(Generic[T]):
    """The leader's side. One round at a time; late arrivals wait for the next one.

    Invariant: `position` of a round is captured when it begins, so it is at or above everything
    that was committed when its reads arrived; answers count only for the very (term, round id),
    once per voter of that moment.
    """

    def __init__(self, first_id: int = 1) -> None:
        """`first_id`: drawn at random, so that answers to an earlier process are not mistaken for
        ours.
        """
        self._next_id = first_id
        self._waiting: list[T] = []
        self._serving: tuple[T, ...] = ()
        self._round: Round | None = None
        self._position = Position(0, 0)
        self._answered: set[str] = set()

    @property
    def open(self) -> Round | None:
        """The round under way; its question may be repeated to voters that have not answered."""
        return self._round

    @property
    def idle(self) -> bool:
        """Say whether no round is under way and no read waits."""
        return self._round is None and not self._waiting

    def arrive(self, read: T) -> bool:
        """Let a read wait for the next round; False: too many wait."""
        if len(self._waiting) >= WAITING_MAX:
            return False
        self._waiting.append(read)
        return True

    def maybe_begin(self, term: int, committed: Position, leader: str) -> Round | None:
        """Begin a round for all that wait, unless one is under way or nothing waits.

        Call only as leader of `term` with an entry of that term committed at or below `committed`.
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
        """Count a voter's yes; one to any other round is nothing."""
        if round == self._round:
            self._answered.add(voter)

    def maybe_finish(self, voters: tuple[str, ...]) -> Confirmed[T] | None:
        """Close the round if a majority of the voters in force has answered it."""
        if self._round is None or sum(voter in self._answered for voter in voters) < majority(
            len(voters)
        ):
            return None
        confirmed = Confirmed(self._serving, self._position)
        self._round, self._serving = None, ()
        return confirmed

    def abandon(self) -> tuple[T, ...]:
        """Give all reads back, unconfirmed: leadership or quorum is lost."""
        reads = (*self._serving, *self._waiting)
        self._round, self._serving, self._waiting = None, (), []
        return reads
