"""Keep the term, the vote given in it, its leader, this member's role and the election timer.

Never gives two votes in a term and never lowers the term; the callers decide whom to vote for and
whom to follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from pysyncobj.node import Node

from coordinator.raft.core.durable_log import DurableLog
from coordinator.raft.core.environment import Environment
from coordinator.raft.core.pysyncobj_library import CANDIDATE, FOLLOWER, LEADER, Library
from kv.errors import InvariantViolated

STORE_S_MAX: Final = 2.0
"""Cap on the time that is allowed to others for storing their vote; it is estimated from ours."""

Role: TypeAlias = Literal["leader", "follower", "candidate", "observer"]


class ElectionTimer:
    """The timer after which this member stands for election unless it hears from a leader."""

    def __init__(self, library: Library, environment: Environment) -> None:
        self._library, self._environment = library, environment
        conf = library.conf
        self.least_s, self.most_s = conf.raftMinTimeout, conf.raftMaxTimeout
        self.reset()

    def draw(self) -> float:
        """Return a random time-out in seconds, so that two members seldom stand at once."""
        return self.least_s + (self.most_s - self.least_s) * self._environment.rng.random()

    @property
    def due(self) -> bool:
        """Say whether the timer has expired."""
        return self._library.election_deadline < self._environment.now()

    def reset(self) -> None:
        """Restart with a new random time-out."""
        self._library.election_deadline = self._environment.now() + self.draw()

    def put_off(self, seconds: float) -> None:
        """Delay the deadline by `seconds`."""
        self._library.election_deadline += seconds

    def set_in(self, seconds: float) -> None:
        """Set the deadline to `seconds` from now."""
        self._library.election_deadline = self._environment.now() + seconds

    def not_within(self, seconds: float) -> None:
        """Move the deadline to at least `seconds` from now."""
        soonest = self._environment.now() + seconds
        self._library.election_deadline = max(self._library.election_deadline, soonest)

    def within(self, seconds: float) -> None:
        """Move the deadline to at most `seconds` from now."""
        latest = self._environment.now() + seconds
        self._library.election_deadline = min(self._library.election_deadline, latest)


class Terms:
    """The term that this member is in, and its role, vote and leader in that term."""

    def __init__(
        self, library: Library, environment: Environment, journal: DurableLog, last_term: int
    ) -> None:
        """Load term and vote from the disk; `last_term` is the term of the log's last entry."""
        self._library, self._environment = library, environment
        self.on_left_leadership: Callable[[], None] = lambda: None
        """Called when this member stops leading."""
        self.timer = ElectionTimer(library, environment)
        self.heard = float("-inf")
        """Monotonic time at which a leader was last heard."""
        self.stored_s = 0.0
        """How long the latest store of term and vote took, in seconds, at most STORE_S_MAX. Others
        may need as long.
        """
        term = max(journal.getCurrentTerm(), last_term)
        stored = term == journal.getCurrentTerm()
        library.load_term(term, journal.getVotedForNodeId() if stored else None)

    def rise_to_log(self, last_term: int) -> None:
        """Raise the term at the start to at least that of the log's last entry."""
        library = self._library
        library.load_term(max(library.term, last_term), library.voted_for)

    @property
    def stands(self) -> bool:
        """Say whether this member is a candidate."""
        return self._library.state == CANDIDATE

    @property
    def follows(self) -> bool:
        """Say whether this member is a follower, with or without a known leader."""
        return self._library.state == FOLLOWER

    # --------------------------------------------------------------------------------- the term

    def adopt(self, term: int, voted_for: str | None = None) -> None:
        """Store a term and vote durably, before any message reveals them (section 3.8). Raises
        InvariantViolated if the term would fall.

        This blocks for as long as the disk takes. The election timer does not count that time:
        messages that arrived meanwhile have not been read yet, so a slow disk would look like a
        silent leader. Only liveness depends on this, because there are no leases.
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
        """Become a follower of `leader` (None: unknown). If `term` is higher than ours, store it
        first, together with the vote given in it, if any.

        A member that was no follower restarts its timer, so that a deposed leader does not stand
        again at once (HAZ-8).
        """
        if term > self._library.term:
            self.adopt(term, voted_for)
        if self._library.state != FOLLOWER:
            self.timer.reset()
        self._library.leader = leader
        self._become(FOLLOWER)

    def end_candidacy(self) -> None:
        """Stop being a candidate, without changing the term."""
        self._become(FOLLOWER)

    def stand(self) -> None:
        """Become a candidate in the next term, and vote for ourselves. The timer restarts once our
        vote is stored, and adds time for others to store theirs.
        """
        self._become(CANDIDATE)
        self.adopt(self._library.term + 1, self._library.selfNode.id)
        self.timer.reset()
        self.timer.put_off(2 * self.stored_s)

    def lead(self) -> None:
        """Become the leader of this term."""
        self._library.leader = self._library.selfNode
        self._become(LEADER)

    def _become(self, state: int) -> None:
        led = self._library.leads
        self._library.set_state(state)
        if led and state != LEADER:
            self.on_left_leadership()

    # -------------------------------------------------------------------------------- the leader

    def hear(self) -> None:
        """Record a sign of life from the leader, and restart the timer."""
        self.heard = self._environment.now()
        self.timer.reset()

    def heard_within(self, seconds: float) -> bool:
        """Say whether a leader was heard within the last `seconds`."""
        return self._environment.now() - self.heard < seconds

    def know_no_leader(self) -> None:
        """Forget the leader: this member is about to ask for votes."""
        self._library.leader = None

    def lose_leader(self) -> None:
        """Treat the leader as gone: grant votes to others at once, and stand after a short wait.

        If the leader is alive after all, this disturbs nobody: a pre-vote is only won if a majority
        has lost the leader too.
        """
        self._library.leader = None
        self.heard = float("-inf")
        self.timer.within(self.timer.draw() - 0.8 * self.timer.least_s)
