"""Follow: append the leader's entries, and acknowledge those that are durable.

Never acknowledges an entry that is not on this member's disk, and never truncates an entry that
agrees with the leader's.
"""

from __future__ import annotations

from typing import Any

from pysyncobj.node import Node

from coordinator.raft.core.election import Elections
from coordinator.raft.core.environment import log
from coordinator.raft.core.following.rebuild import Rebuild
from coordinator.raft.core.pysyncobj_library import MEMBERSHIP, REGULAR, STAMP_BYTES
from coordinator.raft.core.roster import configuration_at
from coordinator.raft.core.rules.replication import (
    AppendVerdict,
    LogEnds,
    LogEntry,
    LogMismatch,
    Take,
    Wipe,
    judge_append,
)
from coordinator.raft.core.state import State
from kv.errors import InvariantViolated


class Follower:
    """The follower's part of one member: it handles the messages of a leader."""

    def __init__(self, state: State, elections: Elections, rebuild: Rebuild) -> None:
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._roster, self._eligibility = state.roster, state.eligibility
        self._elections, self._rebuild = elections, rebuild
        self._verified = 0
        """The index up to which our log is known to equal the current leader's."""

    def on_append_entries(self, node: Node, message: dict[str, Any]) -> None:
        """Make our log agree with the leader's, and acknowledge the durable part of it."""
        if not self.follow(node, message):
            return
        library, raft_log = self._library, self._log
        if raft_log.frozen:
            self._answer(node, library.commit_index + 1, success=False)
            return
        entries = [LogEntry(*entry) for entry in message["entries"]]
        ends = LogEnds(raft_log.first_index, raft_log.last_index, library.commit_index)
        verdict = judge_append(
            ends, raft_log.term_at, message["prevLogIdx"], message["prevLogTerm"], entries
        )
        if raft_log.resting and self._overwrites(verdict):
            # The log is kept while the machine is replaced; what the snapshot covers waits.
            self._answer(node, library.commit_index + 1, success=False)
            return
        match verdict:
            case LogMismatch():
                self._answer(node, verdict.next_index, reset=True)
            case Wipe():
                self.wipe()
                self._answer(node, raft_log.last_index + 1, reset=True)
            case Take():
                self._on_take(node, message, verdict)

    def _on_take(self, node: Node, message: dict[str, Any], verdict: Take) -> None:
        """Take the entries, commit what the leader has committed, and acknowledge what is on our
        disk; `on_synced` acknowledges the rest later.
        """
        library, raft_log, entries = self._library, self._log, message["entries"]
        if not self._take(verdict):
            self._answer(node, raft_log.last_index + 1, reset=True)
            return
        self._commit_to(message["commit_index"])
        if verdict.new:
            raft_log.maybe_sync()
        if (message["answer"] and not entries) or (
            entries and raft_log.synced_index >= self._verified
        ):
            self.acknowledge(node)
        if library.commit_index > library.applied_index:
            self._environment.wake()

    def follow(self, node: Node, message: dict[str, Any]) -> bool:
        """Follow the sender as leader. Return False if its term is below ours (the answer tells it
        our term) or our disk was lost.

        Raises InvariantViolated if this member leads the same term.
        """
        library, term = self._library, message["term"]
        if term < library.term:
            self._answer(node, self._log.last_index + 1, success=False)
            return False
        if self._eligibility.blank and message["joined"]:
            self._elections.lose_disk()
        if self._eligibility.disk_lost:
            library.send(node, {**self._no_index(), "disk_lost": True})
            return False
        if term == library.term and library.leads:
            raise InvariantViolated(f"{node.id} and {self._roster.id} both lead term {term}")
        if term > library.term or library.leader != node:
            # This comes before the new term is stored. Otherwise a sync that ends meanwhile would
            # acknowledge to the new leader what was verified against the old leader's log.
            self._verified = 0
            self._environment.wake()
        self._elections.follow(node, term)
        return True

    def _take(self, verdict: Take) -> bool:
        """Change the log as judged. Return False if the cut led to a wipe, so that the new entries
        have nothing to follow.
        """
        raft_log, cut = self._log, verdict.truncate_from
        if cut is not None and not self._truncate(cut):
            return False
        replica = self._environment.replica
        for entry in verdict.new:
            raft_log.append(entry.command, entry.idx, entry.term)
            if entry.command[:1] == REGULAR and not replica.keeps_store:
                replica.foresee(entry.command[1 + STAMP_BYTES :])
            if entry.command[:1] == MEMBERSHIP:
                self._roster.append(entry.idx, configuration_at(entry.idx, entry.command))
        if verdict.new:
            self._eligibility.hold_something()
        self.verify_to(verdict.verified)
        return True

    def _overwrites(self, verdict: AppendVerdict) -> bool:
        """Say whether committed entries would be cut off."""
        if isinstance(verdict, Take):
            cut = verdict.truncate_from
            return cut is not None and cut <= self._library.commit_index
        return isinstance(verdict, Wipe)

    def _truncate(self, index: int) -> bool:
        """Cut a conflicting tail. If part of it was applied, rebuild the machine from snapshot and
        log. Return False if neither could serve, so that the log was wiped.
        """
        library = self._library
        overwritten, applied = index <= library.commit_index, index <= library.applied_index
        self._environment.count("truncations")
        self._log.cut_from(index)
        self._roster.truncate(index)
        if not overwritten:
            return True
        # Committed entries differ from the leader's. This happens only if a majority lost its
        # disks, or a member whose disk was restored from a backup leads.
        log.critical(
            "committed entries overwritten", member=self._roster.id, index=index, term=library.term
        )
        self._environment.count("overwrites")
        if applied and not self._rebuild.start_again(index):
            self._verified = 0
            return False
        return True

    def _commit_to(self, leader_commit: int) -> None:
        """Commit what the leader has committed, as far as our log is known to equal its log."""
        commit = min(leader_commit, self._verified, self._log.last_index)
        if commit > self._library.commit_index:
            self._log.commit_to(commit)

    def wipe(self) -> None:
        """Start over with an empty log: our base itself conflicts with the leader's log."""
        self._rebuild.wipe()
        self._verified = 0

    # --------------------------------------------------------------------- how far we agree

    def verify_to(self, index: int) -> None:
        """Record that our log equals the leader's up to `index`, or further if known before."""
        self._verified = max(self._verified, index)

    def verify_only(self, index: int) -> None:
        """Record that our log equals the leader's up to `index` and not further: the log was
        replaced.
        """
        self._verified = index

    def acknowledge(self, node: Node) -> None:
        """Acknowledge the entries that equal the leader's and are on our disk. Invariant: never
        more than those (INV-2 depends on it).
        """
        durable = min(self._verified, self._log.synced_index)
        self._answer(node, durable + 1, success=True)

    def on_synced(self) -> None:
        """Acknowledge to the leader after a sync of our disk."""
        leader = self._library.leader
        if leader is not None and not self._library.leads:
            self.acknowledge(leader)

    def _no_index(self) -> dict[str, Any]:
        return {
            "type": "next_node_idx",
            "term": self._library.term,
            "next_node_idx": self._log.last_index + 1,
            "reset": False,
            "success": False,
        }

    def _answer(
        self, node: Node, following: int, *, reset: bool = False, success: bool | None = None
    ) -> None:
        message = {**self._no_index(), "next_node_idx": following, "reset": reset}
        message["success"] = not reset if success is None else success
        self._library.send(node, message)
