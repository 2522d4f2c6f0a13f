"""Elect: pre-vote, sticky followers, durable votes, check-quorum, transfer (Ongaro 2014, sections
3.4, 3.10, 6.2, 9.6).

Never grants two votes in a term, and never raises a term for a node that a majority would not
elect.
"""

from __future__ import annotations

from typing import Any

from pysyncobj.node import Node

from coordinator.raft.core.rules.replication import majority
from coordinator.raft.core.rules.tail import DISK_PATIENCE, Unsynced, steps_aside
from coordinator.raft.core.rules.votes import Voter, VoteRequest, judge_vote
from coordinator.raft.core.state import CANDIDATE, FOLLOWER, LEADER, NO_OP, State, log


class Elections(State):
    """Who leads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._ballots: set[str] = set()
        """Distinct voters that granted what is being asked now."""
        self._asking_pre: int | None = None
        """The term that a pre-vote under way asks for."""
        self._forced = False
        self._unsynced = Unsynced()
        super().__init__(*args, **kwargs)
        self._handlers["request_vote"] = self._on_request_vote
        self._handlers["response_vote"] = self._on_response_vote
        self._handlers["timeout_now"] = self._on_timeout_now
        self._handlers["resigned"] = self._on_resigned
        self._handlers["removed"] = self._on_removed

    # --------------------------------------------------------------------------------------- timers

    def _elect(self) -> None:
        """Stand if the election timer has fired."""
        if self._leads or not self.votes or self._SyncObj__raftElectionDeadline >= self._now():
            return
        if (self._voters and not self._SyncObj__connectedNodes) or not self._fit():
            self._reset_election_timer()
            return
        self._stand(forced=False)

    def _fit(self) -> bool:
        """Say whether this member could lead at all, whatever others think of its log.

        Not while its own disk hangs, if it can be told: what it would order would wait for that.
        """
        return (
            self._unsynced.age_s(self._now()) <= DISK_PATIENCE * self._SyncObj__conf.raftMaxTimeout
        )

    def _stand(self, *, forced: bool) -> None:
        """Ask for pre-votes, or at once for votes when the leader told us to (`forced`)."""
        self._reset_election_timer()
        self._SyncObj__raftLeader = None
        self._forced = forced
        if forced or not self._voters:
            self._campaign()
            return
        # Invariant: ballots are of one question. A candidacy ends here, so that a late vote of its
        # term counts no more.
        self._SyncObj__setState(FOLLOWER)
        self._asking_pre = self._term + 1
        self._ballots = {self._node_id}
        log.debug(
            "asking pre-votes", member=self._node_id, term=self._term + 1, last=self._last_index
        )
        self._ask(self._term + 1, pre=True)

    def _campaign(self) -> None:
        """Stand for the next term. The timer starts anew when our vote is stored, and allows for
        that of others.
        """
        self._asking_pre = None
        self._SyncObj__setState(CANDIDATE)
        self._adopt_term(self._term + 1, self._node_id)
        self._reset_election_timer()
        self._SyncObj__raftElectionDeadline += 2 * self._stored_s
        self._ballots = {self._node_id}
        self.count("elections")
        log.debug(
            "standing",
            member=self._node_id,
            term=self._term,
            last=self._last_index,
            forced=self._forced,
        )
        self._ask(self._term, pre=False)
        self._maybe_win()

    def _ask(self, term: int, *, pre: bool) -> None:
        for node in self._voters:
            self._send(
                node,
                {
                    "type": "request_vote",
                    "term": term,
                    "last_log_index": self._last_index,
                    "last_log_term": self._last_term,
                    "pre": pre,
                    "forced": self._forced,
                    "joined": node.id in self._joined,
                },
            )

    def _maybe_win(self) -> None:
        voters = self._voter_ids
        if sum(voter in self._ballots for voter in voters) < majority(len(voters)):
            return
        if self._asking_pre is not None:
            self._campaign()
        elif self._SyncObj__raftState == CANDIDATE:
            self._SyncObj__onBecomeLeader()

    def _SyncObj__onBecomeLeader(self) -> None:
        """Lead: append the term's own no-op; nothing older commits before it (section 3.6.2)."""
        now = self._now()
        self._SyncObj__raftLeader = self.selfNode
        self._SyncObj__setState(LEADER)
        self._SyncObj__lastResponseTime = dict.fromkeys(self._peers, now)
        self._SyncObj__raftNextIndex = dict.fromkeys(self._peers, self._last_index + 1)
        self._SyncObj__raftMatchIndex = dict.fromkeys(self._peers, 0)
        self._on_took_leadership()
        self._SyncObj__noopIDx = self._last_index + 1
        self._SyncObj__raftLog.add(NO_OP, self._SyncObj__noopIDx, self._term)
        self.count("leaderships")
        log.info("leading", member=self._node_id, term=self._term, index=self._SyncObj__noopIDx)
        self.kick()

    def _on_took_leadership(self) -> None: ...

    # --------------------------------------------------------------------------------- check-quorum

    def has_quorum(self, within_s: float) -> bool:
        """Say whether a majority of voters, this leader included, answered within so many
        seconds.
        """
        since = self._now() - within_s
        heard = sum(
            self._SyncObj__lastResponseTime.get(node, since) > since for node in self._voters
        )
        return heard + self.votes >= majority(len(self._voter_ids))

    def _check_quorum(self) -> None:
        """Stop leading within one election time-out of losing the majority (section 6.2)."""
        if not self.has_quorum(self._SyncObj__conf.leaderFallbackTimeout):
            log.warning("quorum lost", member=self._node_id, term=self._term)
            self.count("quorum_losses")
            self._become_follower(self._term, None)

    def _check_disk(self) -> None:
        """Step aside when a majority has long had on disk what this leader has not; its own disk
        hangs, or is full.
        """
        commit, longest = self._SyncObj__raftCommitIndex, self._SyncObj__conf.raftMaxTimeout
        if steps_aside(self._unsynced, commit, longest, self._now()):
            age_s = self._unsynced.age_s(self._now())
            log.error(
                "steps aside: its disk hangs",
                member=self._node_id,
                term=self._term,
                unsynced_s=round(age_s, 1),
            )
            self.count("disk_resignations")
            self.resign()

    def leader_heard(self) -> bool:
        """Say whether a leader is alive as far as we know: then nobody gets our vote (section
        4.2.3).
        """
        least = self._SyncObj__conf.raftMinTimeout
        if self._leads:
            since = max(self._now() - least, self._forgotten)
            heard = sum(
                self._SyncObj__lastResponseTime.get(node, since) > since for node in self._voters
            )
            return heard + self.votes >= majority(len(self._voter_ids))
        return self._now() - self._heard < least

    # ------------------------------------------------------------------------------------- messages

    def _on_request_vote(self, node: Node, message: dict[str, Any]) -> None:
        request = VoteRequest(
            node.id,
            message["term"],
            message["last_log_term"],
            message["last_log_index"],
            message.get("pre", False),
            message.get("forced", False),
        )
        if self._blank and message.get("joined", False):
            self._lose_disk()
        # a removal that may still be cut off removes nobody
        if node.id in self._committed_configuration.retired:
            self._send(node, {"type": "removed", "term": self._term})
            return
        heard = self.leader_heard()
        rises = (
            request.term > self._term
            and not request.pre
            and self.may_vote
            and (request.forced or not heard)
        )
        ballot = judge_vote(
            request,
            Voter(
                request.term if rises else self._term,
                None if rises else self._SyncObj__votedForNodeId,
                self._last_term,
                self._last_index,
                heard,
                self.may_vote,
                self._node_id,
                self._asking_pre,
            ),
        )
        log.debug(
            "ballot",
            member=self._node_id,
            candidate=node.id,
            term=request.term,
            pre=request.pre,
            ballot=ballot,
        )
        vote = node.id if ballot == "granted" and not request.pre else None
        if rises:
            self._become_follower(request.term, None, vote)
        elif vote is not None and vote != self._SyncObj__votedForNodeId:
            self._adopt_term(self._term, vote)
        if ballot == "granted":
            if not request.pre:
                self._reset_election_timer()
            elif not self._leads:
                # Let it try first; ours does not count any more. It stores its vote before it asks
                # for another.
                self._asking_pre = None
                pause = self._now() + self._SyncObj__conf.raftMinTimeout / 2 + self._stored_s
                self._SyncObj__raftElectionDeadline = max(
                    self._SyncObj__raftElectionDeadline, pause
                )
        self._send(
            node,
            {
                "type": "response_vote",
                "term": request.term,
                "pre": request.pre,
                "granted": ballot == "granted",
                "current": self._term,
            },
        )

    def _on_response_vote(self, node: Node, message: dict[str, Any]) -> None:
        if not message["granted"]:
            if message["current"] > self._term:
                # Ours would never be enough: take the higher term, and stand for a still higher one
                # later.
                self._asking_pre = None
                self._become_follower(message["current"], None)
            return
        if message["pre"]:
            # Invariant: they were asked for the very next term. Ours may have risen since, by a
            # vote for another.
            if (
                self._asking_pre != message["term"]
                or message["term"] != self._term + 1
                or self._leads
            ):
                return
        elif self._SyncObj__raftState != CANDIDATE or message["term"] != self._term:
            return
        self._ballots.add(node.id)
        self._maybe_win()

    def _on_timeout_now(self, node: Node, message: dict[str, Any]) -> None:
        """Stand at once, unhindered by stickiness: the leader of our term asks for it (section
        3.10).
        """
        if (
            message["term"] == self._term
            and node == self._SyncObj__raftLeader
            and self.votes
            and self._fit()
        ):
            self._stand(forced=True)
            self.kick()

    def _on_resigned(self, node: Node, message: dict[str, Any]) -> None:
        """The leader of our term has stepped down: do not wait for its silence."""
        if message["term"] == self._term and node == self._SyncObj__raftLeader:
            self._lose_leader()

    def _lose_leader(self) -> None:
        """Take the leader for gone: no stickiness, and a short wait before we stand.

        It disturbs nobody if we are wrong: pre-votes need a majority that has lost it too.
        """
        self._SyncObj__raftLeader = None
        self._heard = float("-inf")
        least = self._SyncObj__conf.raftMinTimeout
        soon = self._now() + self._SyncObj__generateRaftTimeout() - 0.8 * least
        self._SyncObj__raftElectionDeadline = min(self._SyncObj__raftElectionDeadline, soon)

    def _on_removed(self, node: Node, message: dict[str, Any]) -> None:
        """We are no member any more, a member says: never stand or vote again."""
        if self.configuration.seat(node.id) is None or self._removed:
            return
        log.warning("removed from the cluster", member=self._node_id, told_by=node.id)
        self._removed = True
        self._become_follower(self._term, None)

    def _lose_disk(self) -> None:
        """This member joined once and its disk is empty: what it promised is forgotten, so it must
        never vote again.
        """
        if not self._disk_lost:
            log.error(
                "disk lost: remove this member and add it under a new id", member=self._node_id
            )
        self._disk_lost = True
        if self._SyncObj__raftState != FOLLOWER:
            self._become_follower(self._term, None)

    # ----------------------------------------------------------------------------------- on command

    def resign(self) -> None:
        """Stop leading without a successor; stand later than anyone else would."""
        if not self._leads:
            return
        for node in self._voters:
            self._send(node, {"type": "resigned", "term": self._term})
        self._become_follower(self._term, None)
        high = self._SyncObj__conf.raftMaxTimeout
        self._SyncObj__raftElectionDeadline = self._now() + 2 * high

    def outrank(self, term: int) -> None:
        """Stand at once for a term above `term`."""
        if not self.votes or term < self._term:
            return
        was_leader = self._leads
        self._become_follower(term, None)
        if not self._fit():
            return
        self._stand(forced=was_leader)
        self.kick()
