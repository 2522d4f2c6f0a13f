"""Keep the term, the vote given in it, its leader, this member's role and the election timer.

Never gives two votes in a term and never lets a term fall; who is voted for and followed is for
others to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from pysyncobj.node import Node

from coordinator.raft.core.environment import Environment
from coordinator.raft.core.library import CANDIDATE, FOLLOWER, LEADER, DurableLog, Library
from kv.errors import InvariantViolated

STORE_S_MAX: Final = 2.0
"""Of the time that storing a vote took, what is allowed to others for theirs."""

Role: TypeAlias = Literal["leader", "follower", "candidate", "observer"]


class ElectionTimer:
    """When this member stands if it hears of no leader."""

    def __init__(self, library: Library, environment: Environment) -> None:
        self._library, self._environment = library, environment
        conf = library.conf
        self.least_s, self.most_s = conf.raftMinTimeout, conf.raftMaxTimeout
        self.reset()

    def draw(self) -> float:
        """Return a random time-out, so that two members seldom stand at the same moment."""
        return self.least_s + (self.most_s - self.least_s) * self._environment.rng.random()

    @property
    def due(self) -> bool:
        """Say whether it has fired."""
        return self._library.election_deadline < self._environment.now()

    def reset(self) -> None:
        """Begin anew, with another random time-out."""
        self._library.election_deadline = self._environment.now() + self.draw()

    def put_off(self, seconds: float) -> None:
        """Let it fire so much later."""
        self._library.election_deadline += seconds

    def set_in(self, seconds: float) -> None:
        """Let it fire in so many seconds."""
        self._library.election_deadline = self._environment.now() + seconds

    def not_within(self, seconds: float) -> None:
        """Let it fire in so many seconds at the earliest."""
        soonest = self._environment.now() + seconds
        self._library.election_deadline = max(self._library.election_deadline, soonest)

    def within(self, seconds: float) -> None:
        """Let it fire in so many seconds at the latest."""
        latest = self._environment.now() + seconds
        self._library.election_deadline = min(self._library.election_deadline, latest)


class Terms:
    """The term that this member is in, and what it is in it."""

    def __init__(
        self, library: Library, environment: Environment, journal: DurableLog, last_term: int
    ) -> None:
        """Take term and vote from the disk; `last_term` is that of the log's last entry."""
        self._library, self._environment = library, environment
        self.on_left_leadership: Callable[[], None] = lambda: None
        """Called when this member leads no more."""
        self.timer = ElectionTimer(library, environment)
        self.heard = float("-inf")
        """When a leader was last heard."""
        self.stored_s = 0.0
        """How long the newest store of term and vote took, in seconds: others may need as long."""
        term = max(journal.getCurrentTerm(), last_term)
        stored = term == journal.getCurrentTerm()
        library.load_term(term, journal.getVotedForNodeId() if stored else None)

    def rise_to_log(self, last_term: int) -> None:
        """Begin at the term of the log's last entry, at least."""
        library = self._library
        library.load_term(max(library.term, last_term), library.voted_for)

    @property
    def stands(self) -> bool:
        """Say whether this member is a candidate."""
        return self._library.state == CANDIDATE

    @property
    def follows(self) -> bool:
        """Say whether it follows, or would."""
        return self._library.state == FOLLOWER

    # --------------------------------------------------------------------------------- the term

    def adopt(self, term: int, voted_for: str | None = None) -> None:
        """Store a term and vote, durably, before anyone hears of them (section 3.8).

        It blocks for as long as the disk takes, and that is off the election clock: what a leader
        or a candidate sent meanwhile is still to be read, so its silence says nothing. Only
        liveness rests on it; there are no leases.
        """
        if term < self._library.term:
            raise InvariantViolated(f"term {self._library.term} would fall to {term}")
        began = self._environment.now()
        self._library.store_term(term, voted_for)
        took = self._environment.now() - began
        self.heard += took
        self.timer.put_off(took)
        self.stored_s = min(took, STORE_S_MAX)

    # --------------------------------------------------------------------------------- the role

    def follow(self, term: int, leader: Node | None, voted_for: str | None = None) -> None:
        """Follow, at `term` or the own one. The timer starts anew: a deposed leader does not stand
        at once (HAZ-8).

        A higher term is stored together with the vote that is given in it, if one is.
        """
        if term > self._library.term:
            self.adopt(term, voted_for)
        if self._library.state != FOLLOWER:
            self.timer.reset()
        self._library.leader = leader
        self._become(FOLLOWER)

    def end_candidacy(self) -> None:
        """Be no candidate any more, in the term as it is."""
        self._become(FOLLOWER)

    def stand(self) -> None:
        """Be a candidate of the next term. The timer starts anew when our vote is stored, and
        allows for that of others.
        """
        self._become(CANDIDATE)
        self.adopt(self._library.term + 1, self._library.selfNode.id)
        self.timer.reset()
        self.timer.put_off(2 * self.stored_s)

    def lead(self) -> None:
        """Be the leader of this term."""
        self._library.leader = self._library.selfNode
        self._become(LEADER)

    def _become(self, state: int) -> None:
        led = self._library.leads
        self._library.set_state(state)
        if led and state != LEADER:
            self.on_left_leadership()

    # -------------------------------------------------------------------------------- the leader

    def hear(self) -> None:
        """Take in a sign of life of the leader that is followed."""
        self.heard = self._environment.now()
        self.timer.reset()

    def heard_within(self, seconds: float) -> bool:
        """Say whether a leader was heard within so many seconds."""
        return self._environment.now() - self.heard < seconds

    def know_no_leader(self) -> None:
        """Follow nobody: this member asks to lead."""
        self._library.leader = None

    def lose_leader(self) -> None:
        """Take the leader for gone: no stickiness, and a short wait before we stand.

        It disturbs nobody if we are wrong: pre-votes need a majority that has lost it too.
        """
        self._library.leader = None
        self.heard = float("-inf")
        self.timer.within(self.timer.draw() - 0.8 * self.timer.least_s)
