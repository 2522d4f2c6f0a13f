"""Break the Raft core on purpose, one protection at a time.

Each class stands in the place of a part of the core, or of the core: a mistake that somebody could
make there.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pysyncobj.node import Node

from coordinator.raft import member
from coordinator.raft.core import protocol
from coordinator.raft.core.durable_log import DurableLog
from coordinator.raft.core.election import Elections
from coordinator.raft.core.eligibility import Eligibility
from coordinator.raft.core.following.follower import Follower
from coordinator.raft.core.leading.leader import Leader
from coordinator.raft.core.protocol import Core
from coordinator.raft.core.pysyncobj_library import CANDIDATE
from coordinator.raft.core.roster import Roster
from coordinator.raft.core.rules.readindex import Rounds
from coordinator.raft.core.rules.replication import quorum_index
from coordinator.raft.net.peer_identity import Origin
from tests.planted.registry import subclass

T = TypeVar("T")


class StockTruncation(Follower):
    """Cut everything behind the place before the sent entries, as the library does."""

    def on_append_entries(self, node: Node, message: dict[str, Any]) -> None:
        previous, log = message["prevLogIdx"], self._log
        current = (
            message["term"] >= self._library.term
            and not log.frozen
            and not self._eligibility.disk_lost
        )
        held = current and log.first_index <= previous < log.last_index
        if held and log.term_at(previous) == message["prevLogTerm"]:
            self._truncate(previous + 1)
        super().on_append_entries(node, message)


class AckBeforeSync(Follower):
    """Acknowledge what has only been written."""

    def acknowledge(self, node: Node) -> None:
        self._answer(node, self._verified + 1, success=True)

    def on_append_entries(self, node: Node, message: dict[str, Any]) -> None:
        super().on_append_entries(node, message)
        if message["entries"] and self._library.leader == node and not self._log.frozen:
            self.acknowledge(node)


class TwoVotes(Elections):
    """Forget whom the vote of this term was given to."""

    def on_request_vote(self, node: Node, message: dict[str, Any]) -> None:
        if not self._library.leads:
            self._library.load_term(self._library.term, None)
        super().on_request_vote(node, message)


class AcksWithoutTerm(Leader):
    """Take every acknowledgement for one of this term."""

    def on_next_node_idx(self, node: Node, message: dict[str, Any]) -> None:
        own = self._library.term
        super().on_next_node_idx(node, {**message, "term": min(message["term"], own) and own})


class AnyLogWins(Elections):
    """Vote for candidates whose log is behind."""

    def on_request_vote(self, node: Node, message: dict[str, Any]) -> None:
        ends = {"last_log_term": self._log.last_term, "last_log_index": self._log.last_index}
        super().on_request_vote(node, {**message, **ends})


class NoQuorum(Core):
    """Confirm reads without asking anybody."""

    def tell_member(self, member: str, message: dict[str, Any]) -> bool:
        node = self.roster.node(member)
        if message["type"] == "read_ping" and node is not None:
            pong = {"type": "read_pong", "term": message["term"], "round": message["round"]}
            self._handlers["read_pong"](node, pong)
            return True
        return super().tell_member(member, message)


class _LateRounds(Rounds[T]):
    """Let a read join the round that is under way."""

    def arrive(self, read: T) -> bool:
        if self._round is None:
            return super().arrive(read)
        self._serving = (*self._serving, read)
        return True


class LateJoiner(Core):
    """Serve a read by a ReadIndex round that began before it arrived."""

    def handle(self, type: str, handler: Any) -> None:
        if type == "read_ping":
            handler.__self__._rounds = _LateRounds(first_id=handler.__self__._rounds._next_id)
        super().handle(type, handler)


class MinorityLeads(Leader):
    """Count a lost quorum as held, and commit without one."""

    def has_quorum(self, within_s: float) -> bool:
        return True

    def maybe_commit(self) -> bool:
        index = self._log.synced_index
        if index <= self._library.commit_index or self._log.term_at(index) != self._library.term:
            return False
        self._commit_to(index)
        return True


class LateVotes(Elections):
    """Stay a candidate while pre-votes of the next term are asked: a late vote is added to them."""

    def _stand(self, *, forced: bool) -> None:
        stood = self._terms.stands
        super()._stand(forced=forced)
        if stood and self._asking_pre is not None:
            self._library.state = CANDIDATE


class ForgetfulBase(Eligibility):
    """Take the base entry that a start writes for a sign that the disk was never lost."""

    def _is_blank(self, journal: DurableLog) -> bool:
        return len(journal) == 0 and journal.getCurrentTerm() == 0


class ForgetfulOrigin(Core):
    """Tell nobody what the log began from, and of which members."""

    @property
    def origin(self) -> Origin:
        return Origin()


class HeardTerm(Eligibility):
    """Take a term that was heard for a sign that the disk was never lost."""

    def _is_blank(self, journal: DurableLog) -> bool:
        return super()._is_blank(journal) and journal.getCurrentTerm() == 0


class CountsOldTerms(Leader):
    """Commit an entry of an older term as soon as a majority has it (the Raft paper, figure 8)."""

    def maybe_commit(self) -> bool:
        durable = [self._library.match_index.get(node, 0) for node in self._roster.voters]
        own = [self._log.synced_index] if self._eligibility.votes else []
        index = quorum_index([*durable, *own])
        if index <= self._library.commit_index:
            return False
        self._commit_to(index)
        return True


class ConfirmsAnyTerm(Core):
    """Confirm the reads of whoever asks, of whatever term it is."""

    def handle(self, type: str, handler: Any) -> None:
        def pong(node: Node, message: dict[str, Any]) -> None:
            if self.votes and not self.leads:
                self.tell(
                    node, {"type": "read_pong", "term": message["term"], "round": message["round"]}
                )

        super().handle(type, pong if type == "read_ping" else handler)


class KeepsWhatWasCutOff(Roster):
    """Go by a configuration whose entry was cut off."""

    def truncate(self, index: int) -> None:
        held = list(self.history._held)
        super().truncate(index)
        if len(held) > len(self.history._held):
            self.history._held[:] = held
            self.configure()


class AcksWithLostDisk(Follower):
    """Follow and acknowledge with a disk that was lost; votes it gives none."""

    def follow(self, node: Node, message: dict[str, Any]) -> bool:
        able = self._eligibility
        if able.blank and message["joined"]:
            self._elections.lose_disk()
        lost, blank = able.disk_lost, able.blank
        able.disk_lost = able.blank = False
        try:
            return super().follow(node, message)
        finally:
            able.disk_lost, able.blank = lost, blank


class ConfirmsWithLostDisk(Core):
    """Confirm reads with a disk that was lost, and with it the term that was promised; else only
    of the very term.
    """

    def handle(self, type: str, handler: Any) -> None:
        def pong(node: Node, message: dict[str, Any]) -> None:
            if self.eligibility.disk_lost:
                self.tell(
                    node, {"type": "read_pong", "term": message["term"], "round": message["round"]}
                )
            else:
                handler(node, message)

        super().handle(type, pong if type == "read_ping" else handler)


subclass("Raft: committed entries stay", StockTruncation, protocol, "Follower")
subclass("Raft: leader completeness", AckBeforeSync, protocol, "Follower")
subclass("Raft: one leader per term", TwoVotes, protocol, "Elections")
subclass("Raft: committed entries stay", AcksWithoutTerm, protocol, "Leader")
subclass("Raft: committed entries stay", AnyLogWins, protocol, "Elections")
subclass("INV-1", NoQuorum, member, "Core")
subclass("INV-1", LateJoiner, member, "Core")
subclass("Raft: leader completeness", MinorityLeads, protocol, "Leader")
subclass("Raft: one leader per term", LateVotes, protocol, "Elections")
subclass("Raft: leader completeness", ForgetfulBase, protocol, "Eligibility")
subclass("Raft: one leader per term", ForgetfulOrigin, member, "Core")
subclass("Raft: leader completeness", HeardTerm, protocol, "Eligibility")
subclass("Raft: committed entries stay", CountsOldTerms, protocol, "Leader")
subclass("INV-1", ConfirmsAnyTerm, member, "Core")
subclass("Raft: configuration in force", KeepsWhatWasCutOff, protocol, "Roster")
subclass("Raft: state machine safety", AcksWithLostDisk, protocol, "Follower")
subclass("INV-1", ConfirmsWithLostDisk, member, "Core")
