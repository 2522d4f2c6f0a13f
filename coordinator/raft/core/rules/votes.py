"""Decide from plain values whether a member grants its vote.

Never reads a clock or a log itself, and never changes anything. Sections are those of the Raft
dissertation (Ongaro 2014).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias


class VoteRequest(NamedTuple):
    """A candidate's request. `term` is the term that it wants to lead; with `pre` it has not raised
    its own term to that yet. `forced`: the leader asked it to stand.
    """

    candidate: str
    term: int
    last_term: int
    last_index: int
    pre: bool
    forced: bool


class Voter(NamedTuple):
    """What a voter knows when it is asked for its vote."""

    term: int
    voted_for: str | None
    last_term: int
    last_index: int
    leader_heard: bool
    """Whether it leads with a quorum, or heard a leader within the least election time-out."""
    votes: bool
    """Whether it may vote at all (eligibility.py)."""
    id: str = ""
    asking: int | None = None
    """The term for which it is asking for pre-votes itself; None: it is not."""


Ballot: TypeAlias = Literal[
    "granted", "not_a_voter", "leader_heard", "old_term", "behind", "voted", "standing"
]


def judge_vote(request: VoteRequest, voter: Voter) -> Ballot:
    """Grant or refuse a vote or pre-vote (sections 3.4, 3.6, 9.6).

    If a real request carries a higher term that the voter is to adopt, `voter.term` must already be
    that term.
    """
    if not voter.votes:
        return "not_a_voter"
    if voter.leader_heard and not request.forced:
        return "leader_heard"
    if request.term < voter.term or (request.pre and request.term == voter.term):
        return "old_term"
    if (request.last_term, request.last_index) < (voter.last_term, voter.last_index):
        return "behind"
    if not request.pre and voter.voted_for not in (None, request.candidate):
        return "voted"
    level = (request.last_term, request.last_index) == (voter.last_term, voter.last_index)
    if request.pre and voter.asking == request.term and level and request.candidate < voter.id:
        # Two members ask for pre-votes at the same moment. If both gave way or both went on, their
        # votes could be split; so with equal logs the higher id goes on.
        return "standing"
    return "granted"
