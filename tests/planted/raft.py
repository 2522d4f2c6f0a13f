"""Break the Raft core on purpose, one protection at a time.

Each class stands in the place of the simulation's core: a mistake that somebody could make there.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pysyncobj.node import Node

from coordinator.raft.core.rules.readindex import Rounds
from coordinator.raft.core.rules.replication import quorum_index
from coordinator.raft.core.state import CANDIDATE
from coordinator.raft.member import MemberCore
from coordinator.raft.net.peer_identity import Origin
from tests.planted.registry import subclass
from tests.simulation import node as simulated

T = TypeVar("T")


class StockTruncation(MemberCore):
    """Cut everything behind the place before the sent entries, as the library does."""

    def _on_append_entries(self, node: Node, message: dict[str, Any]) -> None:
        previous = message["prevLogIdx"]
        current = message["term"] >= self._term and not self._installing and not self._disk_lost
        held = current and self._first_index <= previous < self._last_index
        if held and self._term_at(previous) == message["prevLogTerm"]:
            self._truncate(previous + 1)
        super()._on_append_entries(node, message)


class AckBeforeSync(MemberCore):
    """Acknowledge what has only been written."""

    def _acknowledge(self, node: Node) -> None:
        self._answer(node, self._verified + 1, success=True)

    def _on_append_entries(self, node: Node, message: dict[str, Any]) -> None:
        super()._on_append_entries(node, message)
        if message["entries"] and self._SyncObj__raftLeader == node and not self._installing:
            self._acknowledge(node)


class TwoVotes(MemberCore):
    """Forget whom the vote of this term was given to."""

    def _on_request_vote(self, node: Node, message: dict[str, Any]) -> None:
        if not self._leads:
            self._SyncObj__votedForNodeId = None
        super()._on_request_vote(node, message)


class AcksWithoutTerm(MemberCore):
    """Take every acknowledgement for one of this term."""

    def _on_next_node_idx(self, node: Node, message: dict[str, Any]) -> None:
        super()._on_next_node_idx(
            node, {**message, "term": min(message["term"], self._term) and self._term}
        )


class AnyLogWins(MemberCore):
    """Vote for candidates whose log is behind."""

    def _on_request_vote(self, node: Node, message: dict[str, Any]) -> None:
        super()._on_request_vote(
            node, {**message, "last_log_term": self._last_term, "last_log_index": self._last_index}
        )


class NoQuorum(MemberCore):
    """Confirm reads without asking anybody."""

    def tell_member(self, member: str, message: dict[str, Any]) -> bool:
        if message["type"] == "read_ping":
            pong = {"type": "read_pong", "term": message["term"], "round": message["round"]}
            self._handlers["read_pong"](self._nodes[member], pong)
            return True
        return super().tell_member(member, message)


class _LateRounds(Rounds[T]):
    """Let a read join the round that is under way."""

    def arrive(self, read: T) -> bool:
        if self._round is None:
            return super().arrive(read)
        self._serving = (*self._serving, read)
        return True


class LateJoiner(MemberCore):
    """Serve a read by a ReadIndex round that began before it arrived."""

    def handle(self, type: str, handler: Any) -> None:
        if type == "read_ping":
            handler.__self__._rounds = _LateRounds(first_id=handler.__self__._rounds._next_id)
        super().handle(type, handler)


class MinorityLeads(MemberCore):
    """Count a lost quorum as held, and commit without one."""

    def has_quorum(self, within_s: float) -> bool:
        return True

    def _maybe_commit(self) -> bool:
        index = self._SyncObj__raftLog.synced_index
        if index <= self._SyncObj__raftCommitIndex or self._term_at(index) != self._term:
            return False
        self._set_commit(index)
        return True


class LateVotes(MemberCore):
    """Stay a candidate while pre-votes of the next term are asked: a late vote is added to them."""

    def _stand(self, *, forced: bool) -> None:
        stood = self._SyncObj__raftState == CANDIDATE
        super()._stand(forced=forced)
        if stood and self._asking_pre is not None:
            self._SyncObj__raftState = CANDIDATE


class ForgetfulBase(MemberCore):
    """Take the base entry that a start writes for a sign that the disk was never lost."""

    def _use_journal(self, journal: Any) -> None:
        blank = len(journal) == 0 and journal.getCurrentTerm() == 0
        super()._use_journal(journal)
        self._blank = blank


class ForgetfulOrigin(MemberCore):
    """Tell nobody what the log began from, and of which members."""

    @property
    def origin(self) -> Origin:
        return Origin()


class HeardTerm(MemberCore):
    """Take a term that was heard for a sign that the disk was never lost."""

    def _use_journal(self, journal: Any) -> None:
        heard = journal.getCurrentTerm() > 0
        super()._use_journal(journal)
        self._blank = self._blank and not heard


class CountsOldTerms(MemberCore):
    """Commit an entry of an older term as soon as a majority has it (figure 8 of the Raft
    paper).
    """

    def _maybe_commit(self) -> bool:
        durable = [self._SyncObj__raftMatchIndex.get(node, 0) for node in self._voters]
        index = quorum_index(
            [*durable, *([self._SyncObj__raftLog.synced_index] if self.votes else [])]
        )
        if index <= self._SyncObj__raftCommitIndex:
            return False
        self._set_commit(index)
        return True


class ConfirmsAnyTerm(MemberCore):
    """Confirm the reads of whoever asks, of whatever term it is."""

    def handle(self, type: str, handler: Any) -> None:
        def pong(node: Node, message: dict[str, Any]) -> None:
            if self.votes and not self.leads:
                self.tell(
                    node, {"type": "read_pong", "term": message["term"], "round": message["round"]}
                )

        super().handle(type, pong if type == "read_ping" else handler)


class KeepsWhatWasCutOff(MemberCore):
    """Go by a configuration whose entry was cut off."""

    def _truncate(self, index: int) -> None:
        held = list(self._history._held)
        super()._truncate(index)
        if len(held) > len(self._history._held):
            self._history._held[:] = held
            self._configure()


class AcksWithLostDisk(MemberCore):
    """Follow and acknowledge with a disk that was lost; votes it gives none."""

    def _follow(self, node: Node, message: dict[str, Any]) -> bool:
        if self._blank and message["joined"]:
            self._lose_disk()
        lost, self._disk_lost, blank, self._blank = self._disk_lost, False, self._blank, False
        try:
            return super()._follow(node, message)
        finally:
            self._disk_lost, self._blank = lost, blank


class ConfirmsWithLostDisk(MemberCore):
    """Confirm reads with a disk that was lost, and with it the term that was promised; else only of
    the very term.
    """

    def handle(self, type: str, handler: Any) -> None:
        def pong(node: Node, message: dict[str, Any]) -> None:
            if self._disk_lost:
                self.tell(
                    node, {"type": "read_pong", "term": message["term"], "round": message["round"]}
                )
            else:
                handler(node, message)

        super().handle(type, pong if type == "read_ping" else handler)


subclass("Raft: committed entries stay", StockTruncation, simulated, "MemberCore")
subclass("Raft: leader completeness", AckBeforeSync, simulated, "MemberCore")
subclass("Raft: one leader per term", TwoVotes, simulated, "MemberCore")
subclass("Raft: committed entries stay", AcksWithoutTerm, simulated, "MemberCore")
subclass("Raft: committed entries stay", AnyLogWins, simulated, "MemberCore")
subclass("INV-1", NoQuorum, simulated, "MemberCore")
subclass("INV-1", LateJoiner, simulated, "MemberCore")
subclass("Raft: leader completeness", MinorityLeads, simulated, "MemberCore")
subclass("Raft: one leader per term", LateVotes, simulated, "MemberCore")
subclass("Raft: leader completeness", ForgetfulBase, simulated, "MemberCore")
subclass("Raft: one leader per term", ForgetfulOrigin, simulated, "MemberCore")
subclass("Raft: leader completeness", HeardTerm, simulated, "MemberCore")
subclass("Raft: committed entries stay", CountsOldTerms, simulated, "MemberCore")
subclass("INV-1", ConfirmsAnyTerm, simulated, "MemberCore")
subclass("Raft: configuration in force", KeepsWhatWasCutOff, simulated, "MemberCore")
subclass("Raft: state machine safety", AcksWithLostDisk, simulated, "MemberCore")
subclass("INV-1", ConfirmsWithLostDisk, simulated, "MemberCore")
