"""Run elections: pre-votes, sticky followers, durable votes, standing on request (Ongaro 2014,
sections 3.4, 3.10, 6.2, 9.6).

Never grants two votes in a term, and never raises a term for a node that a majority would not
elect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pysyncobj.node import Node

from coordinator.raft.core.environment import log
from coordinator.raft.core.leading.leader import Leader
from coordinator.raft.core.rules.replication import majority
from coordinator.raft.core.rules.tail import DISK_PATIENCE
from coordinator.raft.core.rules.votes import Ballot, Voter, VoteRequest, judge_vote
from coordinator.raft.core.state import State


class Elections:
    """One member's part in elections: its candidacies, and its votes for others."""

    def __init__(
        self,
        state: State,
        leader: Leader,
        *,
        on_won: Callable[[], None],
    ) -> None:
        """Start without a candidacy; `on_won` is called when a majority elects this member."""
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._roster, self._eligibility = state.roster, state.eligibility
        self._terms, self._leader, self._on_won = state.terms, leader, on_won
        self._ballots: set[str] = set()
        """The voters that granted the current request."""
        self._asking_pre: int | None = None
        """The term of the pre-vote that is under way; None: none is."""
        self._forced = False

    # ------------------------------------------------------------------------------ to stand

    def elect(self) -> None:
        """Stand if the election timer has fired."""
        if self._library.leads or not self._eligibility.votes or not self._terms.timer.due:
            return
        if (self._roster.voters and not self._library.connected_nodes) or not self._fit():
            self._terms.timer.reset()
            return
        self._stand(forced=False)

    def _fit(self) -> bool:
        """Say whether this member could act as leader, apart from whether its log is new enough.

        It could not while its own disk hangs, because everything it orders would wait for that
        disk; nor while a snapshot is being put in place, because the log that the snapshot may be
        about to replace would be the leader's.
        """
        if self._log.resting:
            return False
        patience_s = DISK_PATIENCE * self._library.conf.raftMaxTimeout
        return self._log.unsynced_age_s(self._environment.now()) <= patience_s

    def _stand(self, *, forced: bool) -> None:
        """Ask for pre-votes; with `forced` (the leader asked us to stand), ask for votes at once.

        A lone voter skips pre-votes too.
        """
        self._terms.timer.reset()
        self._terms.know_no_leader()
        self._forced = forced
        if forced or not self._roster.voters:
            self._campaign()
            return
        # Invariant: `_ballots` holds answers to one request only. An earlier candidacy ends here;
        # otherwise a late vote of that candidacy's term would be counted as a pre-vote.
        self._terms.end_candidacy()
        asked = self._library.term + 1
        self._asking_pre = asked
        self._ballots = {self._roster.id}
        log.debug("asking pre-votes", member=self._roster.id, term=asked, last=self._log.last_index)
        self._ask(asked, pre=True)

    def _campaign(self) -> None:
        """Become a candidate in the next term and ask for votes."""
        self._asking_pre = None
        self._terms.stand()
        self._ballots = {self._roster.id}
        self._environment.count("elections")
        log.debug(
            "standing",
            member=self._roster.id,
            term=self._library.term,
            last=self._log.last_index,
            forced=self._forced,
        )
        self._ask(self._library.term, pre=False)
        self._maybe_win()

    def _ask(self, term: int, *, pre: bool) -> None:
        for node in self._roster.voters:
            self._library.send(
                node,
                {
                    "type": "request_vote",
                    "term": term,
                    "last_log_index": self._log.last_index,
                    "last_log_term": self._log.last_term,
                    "pre": pre,
                    "forced": self._forced,
                    "joined": node.id in self._roster.joined,
                },
            )

    def _maybe_win(self) -> None:
        voters = self._roster.voter_ids
        if sum(voter in self._ballots for voter in voters) < majority(len(voters)):
            return
        if self._asking_pre is not None:
            self._campaign()
        elif self._terms.stands:
            self._on_won()

    @property
    def standing(self) -> bool:
        """Say whether this member is asking for votes or pre-votes, or leads."""
        return self._asking_pre is not None or not self._terms.follows

    def outrank(self, term: int) -> None:
        """Stand at once for a term above `term`.

        Returns early if this member may not stand, or if `term` is below its own.
        """
        if not self._eligibility.votes or term < self._library.term:
            return
        was_leader = self._library.leads
        self._terms.follow(term, None)
        if not self._fit():
            return
        self._stand(forced=was_leader)
        self._environment.wake()

    # --------------------------------------------------------------------------- to be asked

    def leader_heard(self) -> bool:
        """Say whether a leader appears to be alive. While one does, votes are refused, so that a
        removed or disconnected member cannot disturb it (section 4.2.3).
        """
        least, terms = self._library.conf.raftMinTimeout, self._terms
        if self._library.leads:
            return self._leader.has_quorum(least)
        return terms.heard_within(least)

    def on_request_vote(self, node: Node, message: dict[str, Any]) -> None:
        """Answer a candidate; a granted vote is on the disk before the answer is sent."""
        request = VoteRequest(
            candidate=node.id,
            term=message["term"],
            last_term=message["last_log_term"],
            last_index=message["last_log_index"],
            pre=message.get("pre", False),
            forced=message.get("forced", False),
        )
        if self._eligibility.blank and message.get("joined", False):
            self.lose_disk()
        if self._roster.retired(node.id):
            self._library.send(node, {"type": "removed", "term": self._library.term})
            return
        ballot = self._vote(request)
        log.debug(
            "ballot",
            member=self._roster.id,
            candidate=node.id,
            term=request.term,
            pre=request.pre,
            ballot=ballot,
        )
        self._library.send(
            node,
            {
                "type": "response_vote",
                "term": request.term,
                "pre": request.pre,
                "granted": ballot == "granted",
                "current": self._library.term,
            },
        )

    def _vote(self, request: VoteRequest) -> Ballot:
        """Judge a request, store the vote if one is given, and adjust the timer."""
        library, terms = self._library, self._terms
        heard = self.leader_heard()
        rises = (
            request.term > library.term
            and not request.pre
            and self._eligibility.may_vote
            and (request.forced or not heard)
        )
        ballot = judge_vote(
            request,
            Voter(
                term=request.term if rises else library.term,
                voted_for=None if rises else library.voted_for,
                last_term=self._log.last_term,
                last_index=self._log.last_index,
                leader_heard=heard,
                votes=self._eligibility.may_vote,
                id=self._roster.id,
                asking=self._asking_pre,
            ),
        )
        granted = ballot == "granted"
        vote = request.candidate if granted and not request.pre else None
        if rises:
            terms.follow(request.term, None, vote)
        elif vote is not None and vote != library.voted_for:
            terms.adopt(library.term, vote)
        if vote is not None:
            terms.timer.reset()
        elif granted and not library.leads:
            # We granted a pre-vote: abandon our own and let that candidate stand first. The wait
            # includes a disk write, because it stores its own vote before it asks for others'.
            self._asking_pre = None
            terms.timer.not_within(library.conf.raftMinTimeout / 2 + terms.stored_s)
        return ballot

    # ------------------------------------------------------------------------------- answers

    def on_response_vote(self, node: Node, message: dict[str, Any]) -> None:
        """Count a vote or pre-vote if it answers the current request."""
        if not message["granted"]:
            if message["current"] > self._library.term:
                # This voter refuses every request below its own term: adopt that term, so that the
                # next candidacy asks for a higher one.
                self._asking_pre = None
                self._terms.follow(message["current"], None)
            return
        if message["pre"]:
            # Invariant: pre-votes count only for the term right after ours. Our term may have risen
            # since we asked, by a vote for another candidate.
            if (
                self._asking_pre != message["term"]
                or message["term"] != self._library.term + 1
                or self._library.leads
            ):
                return
        elif not self._terms.stands or message["term"] != self._library.term:
            return
        self._ballots.add(node.id)
        self._maybe_win()

    # -------------------------------------------------------------------- what a leader says

    def follow(self, node: Node, term: int) -> None:
        """Follow `node`, the leader of `term`, which was heard just now."""
        self._asking_pre = None
        self._terms.follow(term, node)
        self._terms.hear()

    def on_timeout_now(self, node: Node, message: dict[str, Any]) -> None:
        """Stand at once because the leader of our term asks for it; other members then vote even
        though they hear a leader (section 3.10).
        """
        if (
            message["term"] == self._library.term
            and node == self._library.leader
            and self._eligibility.votes
            and self._fit()
        ):
            self._stand(forced=True)
            self._environment.wake()

    def on_resigned(self, node: Node, message: dict[str, Any]) -> None:
        """Treat the leader of our term as gone: it says that it has stepped down."""
        if message["term"] == self._library.term and node == self._library.leader:
            self._terms.lose_leader()

    def on_removed(self, node: Node, message: dict[str, Any]) -> None:
        """Never stand or vote again: a member says that we were removed.

        Returns early if the sender is not in the configuration in force here.
        """
        if self._roster.configuration.seat(node.id) is None or self._eligibility.removed:
            return
        log.warning("removed from the cluster", member=self._roster.id, told_by=node.id)
        self._eligibility.remove()
        self._terms.follow(self._library.term, None)

    def lose_disk(self) -> None:
        """Never vote again: this member once joined and its disk is empty, so its earlier votes and
        acknowledgements are forgotten.
        """
        if not self._eligibility.disk_lost:
            log.error(
                "disk lost: remove this member and add it under a new id", member=self._roster.id
            )
        self._eligibility.lose_disk()
        if not self._terms.follows:
            self._terms.follow(self._library.term, None)
