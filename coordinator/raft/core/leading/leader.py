"""Lead: send each peer what it lacks, count acknowledgements, commit, step down.

Never counts an acknowledgement in a term other than the one it was given in, and never commits an
entry that a majority does not hold durably. Entries are sent before the leader's own disk has them.
(More than 400 lines: sending and what is answered share what is known of the peers.)
"""

from __future__ import annotations

from typing import Any, Final

from pysyncobj.node import Node

from coordinator.raft.core.durable_log import Record
from coordinator.raft.core.environment import log
from coordinator.raft.core.leading.offers import Offers
from coordinator.raft.core.leading.progress import Progress
from coordinator.raft.core.leading.snapshot_sender import SnapshotSender
from coordinator.raft.core.pysyncobj_library import MEMBERSHIP
from coordinator.raft.core.rules.membership import decode_configuration
from coordinator.raft.core.rules.replication import majority, quorum_index
from coordinator.raft.core.rules.tail import Uncommitted, steps_aside
from coordinator.raft.core.state import State

ENTRIES_PER_MESSAGE_MAX: Final = 1024


class Leader:
    """The leader's part of one member: its knowledge of the peers, and what it does with it."""

    def __init__(self, state: State) -> None:
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._roster, self._eligibility, self._terms = state.roster, state.eligibility, state.terms
        self._conf = state.pysyncobj.conf
        self._sender, self._offers = SnapshotSender(state), Offers(state)
        self.progress: dict[str, Progress] = {}
        """The progress of each peer, by id; empty while this member does not lead."""
        self.uncommitted = Uncommitted()
        self._hands_over = False
        """Whether it is waited until a peer holds all of our log."""
        self._led_term: int | None = None
        """The term for which `Replica.led` was called and `Replica.deposed` not yet."""

    # ------------------------------------------------------------------------- begin and end

    def take_over(self) -> None:
        """Become leader: append a no-op of the new term. Entries of earlier terms are committed
        only together with it (section 3.6.2).
        """
        library, peers = self._library, self._roster.peers
        self._terms.lead()
        following = self._log.last_index + 1
        library.last_response = dict.fromkeys(peers, self._environment.now())
        library.next_index = dict.fromkeys(peers, following)
        library.match_index = dict.fromkeys(peers, 0)
        self._drop_progress()
        self.progress = {node.id: Progress() for node in peers}
        self.uncommitted.begin(self._log.uncommitted())
        library.no_op_index = self._log.append_no_op(library.term)
        self._environment.count("leaderships")
        log.info("leading", member=self._roster.id, term=library.term, index=library.no_op_index)
        self._environment.wake()

    def step_down(self) -> None:
        """Drop the leader's state, because this member no longer leads."""
        self._drop_progress()
        self._library.no_op_index = None
        if self._led_term is not None:
            term, self._led_term = self._led_term, None
            self._environment.replica.deposed(term)

    def note_own_term_applied(self) -> None:
        """Notify the machine that this member leads and has applied all earlier terms' entries."""
        self._led_term = self._library.term
        self._environment.replica.led(self._led_term)

    def close(self) -> None:
        """Close what is being sent, because this member stops."""
        self._drop_progress()

    def _drop_progress(self) -> None:
        for progress in self.progress.values():
            progress.drop_snapshot()
        self.progress = {}

    def add_peer(self, node: Node) -> None:
        """Start to track a new peer. Peers are dropped elsewhere, once their removal is committed
        (commands/changes.py).
        """
        library = self._library
        if library.leads:
            library.next_index[node] = self._log.last_index + 1
            library.match_index[node] = 0
            library.last_response[node] = self._environment.now()
            self.progress[node.id] = Progress()

    def drop_peer(self, member: str) -> None:
        """Forget the progress of a removed member."""
        progress = self.progress.pop(member, None)
        if progress is not None:
            progress.drop_snapshot()

    # ---------------------------------------------------------------------------- the quorum

    def has_quorum(self, within_s: float) -> bool:
        """Say whether a majority of voters, including this leader, answered within the last
        `within_s` seconds.
        """
        since, answered = self._environment.now() - within_s, self._library.last_response
        heard = sum(answered.get(node, since) > since for node in self._roster.voters)
        return heard + self._eligibility.votes >= majority(len(self._roster.voter_ids))

    def check_quorum(self) -> None:
        """Stop leading if a majority has not answered for one election time-out (section 6.2)."""
        library = self._library
        if not self.has_quorum(self._conf.leaderFallbackTimeout):
            log.warning("quorum lost", member=self._roster.id, term=library.term)
            self._environment.count("quorum_losses")
            self._terms.follow(library.term, None)

    def check_disk(self) -> None:
        """Resign when a majority has long had entries on disk that this leader's own disk has not:
        the disk hangs or is full.
        """
        library, now = self._library, self._environment.now()
        longest = self._conf.raftMaxTimeout
        if steps_aside(self._log.unsynced, library.commit_index, longest, now):
            log.error(
                "steps aside: its disk hangs",
                member=self._roster.id,
                term=library.term,
                unsynced_s=round(self._log.unsynced_age_s(now), 1),
            )
            self._environment.count("disk_resignations")
            self.resign()

    def resign(self) -> None:
        """Stop leading without naming a successor. This member then waits two election time-outs
        before it stands, so that another voter stands first.
        """
        library = self._library
        if not library.leads:
            return
        for node in self._roster.voters:
            library.send(node, {"type": "resigned", "term": library.term})
        self._terms.follow(library.term, None)
        self._terms.timer.set_in(2 * self._conf.raftMaxTimeout)

    @property
    def own_term_committed(self) -> bool:
        """Say whether an entry of the own term is committed, and so everything before it."""
        library = self._library
        no_op = library.no_op_index
        return library.leads and no_op is not None and library.commit_index >= no_op

    # ------------------------------------------------------------------------ append, commit

    def append(self, command: bytes) -> int:
        """Append a command to the log; return its index. A configuration is in force at once."""
        raft_log, library = self._log, self._library
        index = raft_log.last_index + 1
        raft_log.append(command, index, library.term)
        self._eligibility.hold_something()
        self.uncommitted.add(index, len(command))
        if command[:1] == MEMBERSHIP:
            self._roster.append(index, decode_configuration(command[1:]))
        return index

    def maybe_commit(self) -> bool:
        """Commit up to the index that a majority of voters holds durably; say whether that moved
        the commit index.

        This leader counts only as far as its own disk is synced. An entry of an earlier term is
        never committed by counting (section 3.6.2).
        """
        index = self.committable
        if index:
            self._commit_to(index)
        return index > 0

    @property
    def committable(self) -> int:
        """The index that `maybe_commit` would move the commit index to; 0: it would not."""
        library, match = self._library, self._library.match_index
        durable = [match.get(node, 0) for node in self._roster.voters]
        if self._eligibility.votes:
            durable.append(self._log.synced_index)
        index = quorum_index(durable)
        moves = index > library.commit_index and self._log.term_at(index) == library.term
        return index if moves else 0

    def _commit_to(self, index: int) -> None:
        self._log.commit_to(index)
        self.uncommitted.commit(index)

    # ---------------------------------------------------------------------------------- send

    def send(self) -> None:
        """Send each peer what it lacks, and a heartbeat when it is due."""
        library, now = self._library, self._environment.now()
        heartbeat = now > library.heartbeat_due
        if heartbeat:
            library.heartbeat_due = now + self._conf.appendEntriesPeriod
        connected = library.connected_nodes
        for node in self._roster.peers:
            if node in connected:
                self._send_to(node, heartbeat)

    def _send_to(self, node: Node, heartbeat: bool) -> None:
        library, raft_log = self._library, self._log
        progress = self.progress[node.id]
        following = library.next_index[node]
        first = raft_log.first_index
        newest = self._environment.snapshots.newest
        if following <= first:
            following = first + 1
            if newest is not None:
                self._send_snapshot(node, progress, heartbeat, following)
                return
        if (
            progress.asked
            and newest is not None
            and newest.index >= progress.asked
            and not self._sender.waits(progress, heartbeat)
        ):
            # Its log lacks nothing: it gets the entries too, and counts for the quorum meanwhile.
            self._sender.send(node, progress)
        if progress.probing:
            # While an answer is due, heartbeats are sent without entries. Otherwise a peer that is
            # slow to sync would get the same entries again with every heartbeat.
            if heartbeat or not progress.paused:
                self._send_entries(node, progress, following, empty=progress.paused)
                progress.pause()
            return
        last = raft_log.last_index
        while following <= last and not progress.full:
            sent = self._send_entries(node, progress, following)
            if sent is None:
                return
            following = library.next_index[node] = sent + 1
        if heartbeat:
            self._send_entries(node, progress, following, empty=True)
        elif progress.commit_sent < library.commit_index:
            self._send_entries(node, progress, following, empty=True, answer=False)

    def _send_snapshot(
        self, node: Node, progress: Progress, heartbeat: bool, following: int
    ) -> None:
        """Send the chunk that the peer wants, one at a time, and heartbeats in between; where the
        machine has its own store, let the peer choose a member from which it pulls a state.
        """
        if self._environment.replica.keeps_store:
            if heartbeat:
                self._offers.offer(node)
            return
        waiting, waits = progress.waiting, self._sender.waits(progress, heartbeat)
        if heartbeat and (waiting or waits):
            self._send_entries(node, progress, following, empty=True)
        if not waits:
            self._sender.send(node, progress)

    def _send_entries(
        self,
        node: Node,
        progress: Progress,
        following: int,
        *,
        empty: bool = False,
        answer: bool = True,
    ) -> int | None:
        """Send one message; return the index it ends at, None if the transport did not take it.

        With `answer` false the message only announces the commit index, and the peer answers only
        if its log does not match.
        """
        library = self._library
        entries: list[Record] = []
        if not empty:
            limit = self._conf.appendEntriesBatchSizeBytes
            entries = self._log.entries(following, ENTRIES_PER_MESSAGE_MAX, limit)
        commit = library.commit_index
        message = {
            "type": "append_entries",
            "term": library.term,
            "commit_index": commit,
            "entries": entries,
            "prevLogIdx": following - 1,
            "prevLogTerm": self._log.term_at(following - 1),
            "joined": node.id in self._roster.joined,
            "answer": answer,
        }
        if not library.send(node, message):
            return None
        progress.commit_sent = commit
        last = following - 1 + len(entries)
        if entries:
            progress.note_sent(last, sum(len(entry[0]) for entry in entries))
        return last

    # ------------------------------------------------------------------------------- answers

    def on_next_node_idx(self, node: Node, message: dict[str, Any]) -> None:
        """Record up to where a peer's log equals ours durably, or from where to send it again."""
        library, term = self._library, message.get("term")
        if term is None:
            return
        if term > library.term:
            self._terms.follow(term, None)
            return
        if message.get("disk_lost", False):  # in any term: it accepts entries from no leader
            self._environment.count("disk_lost_refusals")
            return
        # Invariant: an answer counts only in the term it was given in. In a later term the entries
        # that it acknowledged may have been cut off.
        progress = self.progress.get(node.id)
        if not library.leads or term != library.term or progress is None:
            return
        library.last_response[node] = self._environment.now()
        following = message["next_node_idx"]
        match, due = library.match_index, library.next_index
        if message["reset"]:
            # Messages on one connection keep their order, so this is not an old reset after a newer
            # success: a peer that asks for an entry it acknowledged has lost that entry (possible
            # under the policies interval and off).
            match[node] = min(match[node], following - 1)
            due[node] = min(due[node], following)
            if not progress.transfers:
                progress.probe()
                self._environment.count("backtracks")
        # No tick is needed before a majority has more on disk, or more can be sent.
        news = message["reset"] or progress.probing or progress.full
        news = news or self._hands_over or not self._roster.all_joined
        if message["success"] and following - 1 <= self._log.last_index:
            match[node] = max(match[node], following - 1)
            due[node] = max(due[node], following)
            progress.acknowledge(following - 1)
            if not progress.asked and self._needless(progress, following):
                progress.drop_snapshot()
        if news or self.committable:
            self._environment.wake()

    def _needless(self, progress: Progress, following: int) -> bool:
        """Say whether the snapshot that is sent or prepared contains nothing that the peer lacks,
        whose log ends before `following`.
        """
        if progress.snapshot is not None:
            return following > progress.snapshot.header.index
        return progress.opening is not None and following > self._log.first_index

    def on_snapshot_wanted(self, node: Node, message: dict[str, Any]) -> None:
        """Record how much of a snapshot a peer has, or that it asks for one."""
        progress, library = self.progress.get(node.id), self._library
        if not library.leads or message["term"] != library.term or progress is None:
            return
        library.last_response[node] = self._environment.now()
        lacks = library.next_index[node] <= self._log.first_index
        self._sender.on_wanted(progress, message, lacks=lacks)

    def on_state_underway(self, node: Node, message: dict[str, Any]) -> None:
        """Note which state a peer pulls, and answer whether it is of use."""
        progress, library = self.progress.get(node.id), self._library
        if not library.leads or message["term"] != library.term or progress is None:
            return
        library.last_response[node] = self._environment.now()
        self._offers.on_underway(node, progress, message)

    def on_connected(self, node: Node) -> None:
        """Start over with a peer: what was in flight on an earlier connection is lost."""
        progress, library = self.progress.get(node.id), self._library
        if library.leads and progress is not None:
            library.next_index[node] = library.match_index[node] + 1
            progress.probe()
            progress.drop_snapshot()

    def on_disconnected(self, node: Node) -> None:
        """Treat what is in flight to a peer as lost."""
        progress = self.progress.get(node.id)
        if progress is not None:
            progress.probe()
            progress.drop_snapshot()

    # ------------------------------------------------------------------------------ hand over

    def note_hand_over(self, *, begins: bool) -> None:
        """Look at each acknowledgement at once, as commands wait for the hand-over; or no more."""
        self._hands_over = begins

    def transfer_target(self, member: str | None) -> Node | None:
        """Return the voter `member`, or if None the most up-to-date one. Returns None if no such
        voter is connected.
        """
        able = [node for node in self._roster.voters if node in self._library.connected_nodes]
        if member is not None:
            able = [node for node in able if node.id == member]
        match = self._library.match_index
        return max(able, key=lambda node: (match.get(node, 0), node.id), default=None)

    def holds_all(self, node: Node) -> bool:
        """Say whether a peer durably holds all of our log."""
        return self._library.match_index.get(node, 0) == self._log.last_index

    def maybe_hand_over(self, node: Node) -> bool:
        """Ask a voter that holds all of our log to stand at once. Return False if it does not hold
        all yet, this member does not lead, or the transport did not take the message.
        """
        if not self._library.leads or not self.holds_all(node):
            return False
        return self._library.send(node, {"type": "timeout_now", "term": self._library.term})
