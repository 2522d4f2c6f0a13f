"""Decide from plain values whether a member gives its vote.

Never reads a clock or a log itself, never changes anything. Sections are those of the Raft
dissertation (Ongaro 2014).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias


class VoteRequest(NamedTuple):
    """`term` is the one asked for: with `pre` the candidate has not raised its own yet. `forced`:
    the leader asked.
    """

    candidate: str
    term: int
    last_term: int
    last_index: int
    pre: bool
    forced: bool


class Voter(NamedTuple):
    """What a voter knows when it is asked."""

    term: int
    voted_for: str | None
    last_term: int
    last_index: int
    leader_heard: bool
    """It leads with a quorum, or heard a leader within the least election time-out."""
    votes: bool
    """Its disk is its own, and it was not removed (membership.py)."""
    id: str = ""
    asking: int | None = None
    """The term for which it asks pre-votes itself just now."""


Ballot: TypeAlias = Literal[
    "granted", "not_a_voter", "leader_heard", "old_term", "behind", "voted", "standing"
]


def judge_vote(request: VoteRequest, voter: Voter) -> Ballot:
    """Grant or refuse a vote or pre-vote (sections 3.4, 3.6, 9.6).

    `voter.term` for a real request is the term after a higher asked one has been adopted.
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
        # Two stand at the same moment: with equal logs the higher id goes on, or their votes would
        # be split.
        return "standing"
    return "granted"
