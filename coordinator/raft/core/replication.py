"""Replicate: term-tagged acknowledgements of what is durable, strip instead of truncate,
offset-carrying snapshots.

Never acknowledges an entry that is not on this member's disk, never counts one for a term in which
it was not acknowledged, never truncates an entry that agrees with the leader's.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from pysyncobj.node import Node

from coordinator.log import Position
from coordinator.raft.core.election import Elections
from coordinator.raft.core.rules.membership import Configuration, History, decode_configuration
from coordinator.raft.core.rules.replication import (
    Entry,
    LogEnds,
    Mismatch,
    Take,
    Wipe,
    judge_append,
    quorum_index,
)
from coordinator.raft.core.rules.tail import Uncommitted
from coordinator.raft.core.state import MEMBERSHIP, NO_OP, SUCCESS, UNKNOWN_OUTCOME, WIPED, log
from coordinator.raft.storage.snapshot import Chunk, Incoming, Outgoing, Snapshot
from kv.errors import BadRequest, InvariantViolated, NewerCommand

ENTRIES_PER_MESSAGE_MAX: Final = 1024
IN_FLIGHT_BYTES_MAX: Final = 16 << 20
"""Bytes of entries sent to one peer and not acknowledged; more wait in the log."""
CHUNK_BEATS_MAX: Final = 20
"""Heartbeats after which a snapshot chunk is sent again that was not answered, or not taken."""
IN_FLIGHT_MESSAGES_MAX: Final = 256


def configuration_at(index: int, command: bytes) -> Configuration:
    """Return what an entry of membership says. Raises NewerCommand: a later version wrote it, in a
    log or on a disk.
    """
    try:
        return decode_configuration(command[1:])
    except ValueError as exc:
        raise NewerCommand(f"a configuration that this version cannot read, at {index}") from exc


class Progress:
    """How the leader stands with one peer (etcd's probe and replicate states)."""

    def __init__(self) -> None:
        self.probing = True
        """Where the peer's log ends is not known: one message, then wait for its answer or the next
        heartbeat.
        """
        self.paused = False
        self.in_flight: deque[tuple[int, int]] = deque()
        """(last index, bytes) of each message that is not acknowledged."""
        self.in_flight_bytes = 0
        self.told_commit = 0
        self.snapshot: Outgoing | None = None
        self.asked = 0
        """The peer asks for a snapshot that ends here at least, though it lacks no entries; 0: it
        does not.
        """
        self.offset = 0
        self.beats = 0
        """Heartbeats since the chunk at `offset` was sent."""

    def probe(self) -> None:
        self.probing, self.paused = True, False
        self.in_flight.clear()
        self.in_flight_bytes = 0

    def sent(self, last: int, size: int) -> None:
        self.in_flight.append((last, size))
        self.in_flight_bytes += size

    def acknowledged(self, index: int) -> None:
        self.probing = self.paused = False
        while self.in_flight and self.in_flight[0][0] <= index:
            self.in_flight_bytes -= self.in_flight.popleft()[1]

    @property
    def full(self) -> bool:
        return (
            self.in_flight_bytes >= IN_FLIGHT_BYTES_MAX
            or len(self.in_flight) >= IN_FLIGHT_MESSAGES_MAX
        )

    def drop_snapshot(self) -> None:
        if self.snapshot is not None:
            self.snapshot.close()
        self.snapshot, self.offset, self.asked = None, 0, 0


class Replication(Elections):
    """How the log travels."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._progress: dict[str, Progress] = {}
        self._verified = 0
        """Our log equals the current leader's up to here."""
        self._incoming: Incoming | None = None
        self._incoming_id = b""
        self._installing = False
        """A snapshot is being verified or put in place: the log stands still until it is."""
        self._installing_of: tuple[Node | None, int] = None, 0
        """The leader that it comes from, and that leader's term."""
        self._fetching = False
        """The machine is to come from the leader's snapshot: the one here was made by a machine
        that went apart.
        """
        self._bytes_since_snapshot = 0
        self._uncommitted = Uncommitted()
        super().__init__(*args, **kwargs)
        self._handlers["append_entries"] = self._on_append_entries
        self._handlers["next_node_idx"] = self._on_next_node_idx
        self._handlers["install_snapshot"] = self._on_install_snapshot
        self._handlers["snapshot_wanted"] = self._on_snapshot_wanted

    def _fit(self) -> bool:
        """Nor while a snapshot is put in place: the log that it replaces would be the leader's."""
        return not self._installing and super()._fit()

    def _note_tail(self) -> None:
        self._unsynced.note(self._SyncObj__raftLog.synced_index, self._last_index, self._now())

    def unsynced_age_s(self) -> float:
        """Return for how many seconds the oldest entry has waited for this member's disk."""
        self._note_tail()
        return self._unsynced.age_s(self._now())

    # ----------------------------------------------------------------------------------- the leader

    def _on_took_leadership(self) -> None:
        self._fetching = False
        self._drop_progress()
        self._progress = {node.id: Progress() for node in self._peers}
        commit = self._SyncObj__raftCommitIndex
        self._uncommitted.begin(self._SyncObj__raftLog[commit + 1 - self._first_index :])

    def _drop_progress(self) -> None:
        for progress in self._progress.values():
            progress.drop_snapshot()
        self._progress = {}

    def _on_configured(self, added: list[Node]) -> None:
        """Reach the new ones. Who is no member any more is left only when that is committed
        (protocol.py).
        """
        for node in added:
            self._SyncObj__transport.addNode(node)
            if self._leads:
                self._SyncObj__raftNextIndex[node] = self._last_index + 1
                self._SyncObj__raftMatchIndex[node] = 0
                self._SyncObj__lastResponseTime[node] = self._now()
                self._progress[node.id] = Progress()

    def _maybe_commit(self) -> bool:
        """Commit what a majority of voters holds durably, ourselves included only as far as we do
        (section 3.6.2).
        """
        durable = [self._SyncObj__raftMatchIndex.get(node, 0) for node in self._voters]
        if self.votes:
            durable.append(self._SyncObj__raftLog.synced_index)
        index = quorum_index(durable)
        if index <= self._SyncObj__raftCommitIndex or self._term_at(index) != self._term:
            return False
        self._set_commit(index)
        return True

    def _set_commit(self, index: int) -> None:
        self._SyncObj__raftCommitIndex = index
        if self._leads:
            self._SyncObj__leaderCommitIndex = index
            self._uncommitted.commit(index)
        # On disk it is a hint for the next start: never one about entries that a power cut could
        # take.
        self._SyncObj__raftLog.setRaftCommitIndex(min(index, self._SyncObj__raftLog.synced_index))

    def _on_synced(self, index: int) -> None:
        """Our disk has caught up: count ourselves, or acknowledge."""
        if not self._leads and self._SyncObj__raftLeader is not None:
            self._acknowledge(self._SyncObj__raftLeader)
        self.kick()

    def _SyncObj__sendAppendEntries(self) -> None:
        """Send each peer what it lacks, and a heartbeat when it is due."""
        now = self._now()
        heartbeat = now > self._SyncObj__newAppendEntriesTime
        if heartbeat:
            self._SyncObj__newAppendEntriesTime = now + self._SyncObj__conf.appendEntriesPeriod
        for node in self._peers:
            if node in self._SyncObj__connectedNodes:
                self._send_to(node, heartbeat)

    def _send_to(self, node: Node, heartbeat: bool) -> None:
        progress = self._progress[node.id]
        following = self._SyncObj__raftNextIndex[node]
        if following <= self._first_index:
            following = self._first_index + 1
            if self._snapshots.newest is not None:
                self._send_snapshot(node, progress, heartbeat, following)
                return
        newest = self._snapshots.newest
        if progress.asked and newest is not None and newest.index >= progress.asked:
            self._send_snapshot(node, progress, heartbeat, following)
            return
        if progress.probing:
            # What was sent is not sent again with each heartbeat: a peer that is slow to sync would
            # get it many times.
            if heartbeat or not progress.paused:
                self._send_entries(node, progress, following, empty=progress.paused)
                progress.paused = True
            return
        while following <= self._last_index and not progress.full:
            sent = self._send_entries(node, progress, following)
            if sent is None:
                return
            following = self._SyncObj__raftNextIndex[node] = sent + 1
        if heartbeat:
            self._send_entries(node, progress, following, empty=True)
        elif progress.told_commit < self._SyncObj__raftCommitIndex:
            self._send_entries(node, progress, following, empty=True, answer=False)

    def _send_entries(
        self,
        node: Node,
        progress: Progress,
        following: int,
        *,
        empty: bool = False,
        answer: bool = True,
    ) -> int | None:
        """Send one message; return the index it ends at, None when the transport took nothing.

        `answer` false: it only tells the commit index, and a peer that agrees keeps silent.
        """
        entries: list[tuple[bytes, int, int]] = []
        if not empty:
            limit = self._SyncObj__conf.appendEntriesBatchSizeBytes
            entries = self._SyncObj__getEntries(following, ENTRIES_PER_MESSAGE_MAX, limit)
        commit = self._SyncObj__raftCommitIndex
        message = {
            "type": "append_entries",
            "term": self._term,
            "commit_index": commit,
            "entries": entries,
            "prevLogIdx": following - 1,
            "prevLogTerm": self._term_at(following - 1),
            "joined": node.id in self._joined,
            "answer": answer,
        }
        if not self._send(node, message):
            return None
        progress.told_commit = commit
        last = following - 1 + len(entries)
        if entries:
            progress.sent(last, sum(len(entry[0]) for entry in entries))
        return last

    def _on_next_node_idx(self, node: Node, message: dict[str, Any]) -> None:
        term = message.get("term")
        if term is None:
            return
        if term > self._term:
            self._become_follower(term, None)
            return
        if message.get("disk_lost", False):  # whatever its term: it takes none from anybody
            self.count("disk_lost_refusals")
            return
        # Invariant: an answer counts only in the term it was given in; in another the log may have
        # changed since.
        if not self._leads or term != self._term or node.id not in self._progress:
            return
        progress = self._progress[node.id]
        self._SyncObj__lastResponseTime[node] = self._now()
        following = message["next_node_idx"]
        match, due = self._SyncObj__raftMatchIndex, self._SyncObj__raftNextIndex
        if message["reset"]:
            # On one connection an older reset cannot come after a newer success: a peer that asks
            # for what it once acknowledged has lost it (policies interval and off).
            match[node] = min(match[node], following - 1)
            due[node] = min(due[node], following)
            if progress.snapshot is None:
                progress.probe()
                self.count("backtracks")
        news = message["reset"] or progress.probing or match[node] < following - 1
        if message["success"] and following - 1 <= self._last_index:
            match[node] = max(match[node], following - 1)
            due[node] = max(due[node], following)
            progress.acknowledged(following - 1)
            sent = progress.snapshot is not None and following > progress.snapshot.header.index
            if sent and not progress.asked:
                progress.drop_snapshot()
        if news:
            self.kick()

    # --------------------------------------------------------------------------------- the follower

    def _on_append_entries(self, node: Node, message: dict[str, Any]) -> None:
        if not self._follow(node, message):
            return
        if self._installing:
            self._answer(node, self._SyncObj__raftCommitIndex + 1, success=False)
            return
        entries = [Entry(*entry) for entry in message["entries"]]
        ends = LogEnds(self._first_index, self._last_index, self._SyncObj__raftCommitIndex)
        verdict = judge_append(
            ends, self._term_at, message["prevLogIdx"], message["prevLogTerm"], entries
        )
        match verdict:
            case Mismatch():
                self._answer(node, verdict.next_index, reset=True)
            case Wipe():
                self._wipe()
                self._answer(node, self._last_index + 1, reset=True)
            case Take():
                if not self._take(verdict):
                    self._answer(node, self._last_index + 1, reset=True)
                    return
                self._SyncObj__leaderCommitIndex = message["commit_index"]
                commit = min(message["commit_index"], self._verified, self._last_index)
                if commit > self._SyncObj__raftCommitIndex:
                    self._set_commit(commit)
                if verdict.new:
                    self._SyncObj__raftLog.maybe_sync()
                if (message["answer"] and not entries) or (
                    entries and self._SyncObj__raftLog.synced_index >= self._verified
                ):
                    self._acknowledge(node)
                if self._SyncObj__raftCommitIndex > self._SyncObj__raftLastApplied:
                    self.kick()

    def _follow(self, node: Node, message: dict[str, Any]) -> bool:
        """Take the sender for the leader, unless its term is over (then it learns of ours) or our
        disk was lost.
        """
        term = message["term"]
        if term < self._term:
            self._answer(node, self._last_index + 1, success=False)
            return False
        if self._blank and message["joined"]:
            self._lose_disk()
        if self._disk_lost:
            self._send(node, {**self._no_index(), "disk_lost": True})
            return False
        if term == self._term and self._leads:
            raise InvariantViolated(f"{node.id} and {self._node_id} both lead term {term}")
        if term > self._term or self._SyncObj__raftLeader != node:
            self._verified = 0
        self._asking_pre = None
        self._become_follower(term, node)
        self._heard = self._now()
        self._reset_election_timer()
        return True

    def _take(self, verdict: Take) -> bool:
        """Make the log what was judged; False: cutting it left nothing that the new entries could
        follow.
        """
        if verdict.truncate_from is not None:
            self._truncate(verdict.truncate_from)
            if self._last_index < verdict.truncate_from - 1:
                return False  # wiped: no snapshot to start again from
        for entry in verdict.new:
            self._SyncObj__raftLog.add(*entry)
            self._bytes_since_snapshot += len(entry.command)
            if entry.command[:1] == MEMBERSHIP:
                self._history.append(entry.idx, configuration_at(entry.idx, entry.command))
                self._configure()
        if verdict.new:
            self._blank = False
        self._verified = max(self._verified, verdict.verified)
        return True

    def _truncate(self, index: int) -> None:
        """Cut a conflicting tail. If part of it was applied, the machine starts again from snapshot
        and log.
        """
        self.count("truncations")
        self._SyncObj__deleteEntriesFrom(index)
        if self._history.truncate(index):
            self._configure()
        if index <= self._SyncObj__raftCommitIndex:
            # Committed entries differ: a majority lost its disks, or a restored one leads.
            log.critical(
                "committed entries overwritten", member=self._node_id, index=index, term=self._term
            )
            self.count("overwrites")
            self._SyncObj__raftCommitIndex = index - 1
            if index <= self._SyncObj__raftLastApplied:
                self._start_again(index)

    def _start_again(self, conflict: int) -> None:
        self._drop_incoming()  # its file is a leftover to whoever loads the dump in place
        self._replica.reset()
        snapshot = self._snapshots.load_now()
        if (
            snapshot is not None
            and snapshot.header.index < conflict
            and snapshot.header.index >= self._first_index
        ):
            self._replica.restore(snapshot.body)
            self._SyncObj__raftLastApplied, self._applied_term = (
                snapshot.header.index,
                snapshot.header.term,
            )
        elif self._first_index == 1:
            self._SyncObj__raftLastApplied, self._applied_term = 1, 0
            if snapshot is not None:
                self._discard_overwritten()
        else:
            self._wipe()

    def replay(self) -> None:
        """Drop the machine, and nothing of the log: it is built anew from what is here, or else by
        a leader's snapshot.

        A snapshot that is being put in place builds it anew anyway.
        """
        if self._installing:
            return
        self._drop_incoming()  # its file is a leftover to whoever loads the dump in place
        try:
            snapshot = self._snapshots.load_now()
            if (
                snapshot is not None
                and self._first_index <= snapshot.header.index <= self._last_index
            ):
                self._replica.restore(snapshot.body)
                self._SyncObj__raftLastApplied, self._applied_term = (
                    snapshot.header.index,
                    snapshot.header.term,
                )
                self.count("replays")
                return
        except (ValueError, BadRequest) as exc:
            log.error("snapshot cannot be used", member=self._node_id, error=str(exc))
        if self._first_index != 1:
            log.error(
                "machine cannot be built anew: no snapshot here fits the log", member=self._node_id
            )
            self.fetch_snapshot()
            return
        self._replica.reset()
        self._SyncObj__raftLastApplied, self._applied_term = 1, 0
        self.count("replays")

    def fetch_snapshot(self) -> None:
        """Ask the leader for its snapshot, though the log here lacks nothing: it takes the place of
        machine and dump.

        Until it comes, no dump is made here, and the log is kept: what follows the leader's dump is
        in it. The leader makes one that the log here can follow, if it has none.
        """
        leader = self._SyncObj__raftLeader
        if leader is None or self._leads or self._installing:
            return
        self._fetching = True
        self.count("snapshots_asked")
        self._want(leader, b"", self._first_index)

    def _discard_overwritten(self) -> None:
        """Drop a dump that holds what is overwritten, beside a log that is whole: at a restart it
        would be believed.

        The log is on the disk before the dump goes: it alone holds now what both did.
        """
        self._SyncObj__raftLog.flush()
        self._snapshots.discard_now()
        history = History(self._bootstrap)  # its base may be the dump's
        for command, index, _ in self._SyncObj__raftLog[:]:
            if command[:1] == MEMBERSHIP:
                history.append(index, configuration_at(index, command))
        self._history = history
        self._configure()

    def _wipe(self) -> None:
        """Drop log, machine and snapshot: what we compacted is not what the cluster holds."""
        log.critical(
            "log wiped: what was compacted has been overwritten",
            member=self._node_id,
            term=self._term,
        )
        self.count("wipes")
        self._drop_incoming()
        self._rebase(Position(1, 0), History(self._bootstrap), WIPED)
        # The snapshot goes last: a log that begins again beside it loads, one that begins after a
        # lost one does not.
        self._SyncObj__raftLog.flush()
        self._snapshots.discard_now()
        self._replica.reset()

    def _rebase(self, base: Position, history: History, command: bytes = NO_OP) -> None:
        """Let the log begin, and end, at `base`."""
        self._SyncObj__raftLog.clear()
        self._SyncObj__raftLog.add(command, base.index, base.term)
        self._SyncObj__raftLastApplied, self._applied_term = base.index, base.term
        self._SyncObj__raftCommitIndex = base.index
        self._verified = 0
        self._history = history
        self._configure()

    def _acknowledge(self, node: Node) -> None:
        """Say how far our log is the leader's and on disk. Invariant: never further (INV-2 rests on
        it).
        """
        durable = min(self._verified, self._SyncObj__raftLog.synced_index)
        self._answer(node, durable + 1, success=True)

    def _no_index(self) -> dict[str, Any]:
        return {
            "type": "next_node_idx",
            "term": self._term,
            "next_node_idx": self._last_index + 1,
            "reset": False,
            "success": False,
        }

    def _answer(
        self, node: Node, following: int, *, reset: bool = False, success: bool | None = None
    ) -> None:
        message = {**self._no_index(), "next_node_idx": following, "reset": reset}
        message["success"] = not reset if success is None else success
        self._send(node, message)

    # ------------------------------------------------------------------------------------ snapshots

    def _send_snapshot(
        self, node: Node, progress: Progress, heartbeat: bool, following: int
    ) -> None:
        """Send the chunk that the peer wants, one at a time; meanwhile heartbeats go on."""
        if progress.paused:
            if not heartbeat:
                return
            self._send_entries(node, progress, following, empty=True)
            progress.beats += 1
            if progress.beats < CHUNK_BEATS_MAX or progress.snapshot is None:
                return
            if progress.offset >= progress.snapshot.total:
                return  # all is there; the peer is putting it in place
        if progress.snapshot is None:
            try:
                progress.snapshot, progress.offset = self._snapshots.outgoing(), 0
            except OSError as exc:
                log.warning("snapshot not readable", member=self._node_id, error=str(exc))
                return
            self.count("snapshots_sent")
        outgoing = progress.snapshot
        chunk = outgoing.chunk(progress.offset, self._SyncObj__conf.logCompactionBatchSize)
        progress.paused, progress.beats = True, 0
        self._send(
            node,
            {
                "type": "install_snapshot",
                "term": self._term,
                "commit_index": self._SyncObj__raftCommitIndex,
                "index": outgoing.header.index,
                "index_term": outgoing.header.term,
                "id": chunk.id,
                "offset": chunk.offset,
                "total": chunk.total,
                "serialized": chunk.content,
                "joined": node.id in self._joined,
            },
        )

    def _on_snapshot_wanted(self, node: Node, message: dict[str, Any]) -> None:
        """The peer says which offset it wants next; without an id: it asks for one that
        ends there.
        """
        progress = self._progress.get(node.id)
        if not self._leads or message["term"] != self._term or progress is None:
            return
        self._SyncObj__lastResponseTime[node] = self._now()
        if not message["id"]:
            if progress.snapshot is None:
                progress.paused = False
                progress.asked = max(1, min(message["offset"], self._SyncObj__raftCommitIndex))
                self.kick()
            return
        if progress.snapshot is None or progress.snapshot.id != message["id"]:
            return
        if progress.asked and message["offset"] >= progress.snapshot.total:
            progress.drop_snapshot()
            progress.paused = False
            self.kick()
            return
        forward = message["offset"] > progress.offset
        progress.offset = message["offset"]
        if not forward:
            # It could not take what it got (no room, or not a dump that loads): at once it would be
            # the same again.
            progress.paused, progress.beats = True, 0
        elif progress.offset < progress.snapshot.total:
            progress.paused = False
            self.kick()

    def _on_install_snapshot(self, node: Node, message: dict[str, Any]) -> None:
        if not self._follow(node, message) or self._installing:
            return
        index, term = message["index"], message["index_term"]
        inside = self._first_index <= index <= self._last_index
        held = inside and self._term_at(index) == term
        if inside and not held and index <= self._SyncObj__raftCommitIndex:
            # Committed entries differ, as in _truncate: that it is older than what we hold says
            # nothing.
            self.count("overwrites")
            self._wipe()
        elif (index <= self._SyncObj__raftCommitIndex or held) and not (self._fetching and held):
            # Not newer than what we hold: committed entries, or the very entry, so our log equals
            # it up to there.
            self._verified = max(self._verified, index)
            self._drop_incoming()
            self._acknowledge(node)
            self._want(node, message["id"], message["total"])
            return
        if self._incoming is None or self._incoming_id != message["id"]:
            self._drop_incoming()
            self._incoming, self._incoming_id = self._snapshots.incoming(), message["id"]
        chunk = Chunk(message["id"], message["offset"], message["total"], message["serialized"])
        wanted = self._incoming.accept(chunk)
        if wanted < chunk.total:
            self._want(node, chunk.id, wanted)
            return
        self._want(node, chunk.id, wanted)
        self._installing, self._installing_of = True, (node, self._term)
        incoming, promised = self._incoming, Position(index, term)
        self._spawn(
            incoming.finish(),
            lambda found, exc: self._on_verified(node, incoming, promised, found, exc),
        )

    def _want(self, node: Node, id: bytes, offset: int) -> None:
        self._send(
            node, {"type": "snapshot_wanted", "term": self._term, "id": id, "offset": offset}
        )

    def _on_verified(
        self,
        node: Node,
        incoming: Incoming,
        promised: Position,
        found: Snapshot | None,
        exc: BaseException | None,
    ) -> None:
        """Restore from what came in. Until it has loaded, the old snapshot stays and nothing is
        acknowledged.
        """
        try:
            if isinstance(exc, ValueError) or found is None:
                raise ValueError(str(exc))
            if Position(found.header.index, found.header.term) != promised:
                raise ValueError("the snapshot is not the one that was announced")
            configuration = decode_configuration(found.header.config)
            self._replica.restore(found.body)
        except ValueError as bad:
            log.warning("snapshot refused", member=self._node_id, sender=node.id, error=str(bad))
            self.count("snapshots_refused")
            self._installing = False
            self._drop_incoming()
            self._want(node, self._incoming_id, 0)
            return
        history = History(configuration, found.header.index)
        self._spawn(
            incoming.install(),
            lambda _, failed: self._on_installed(node, promised, history, failed),
        )

    def _on_installed(
        self, node: Node, base: Position, history: History, failed: BaseException | None
    ) -> None:
        self._installing = False
        self._incoming = None
        if failed is not None:
            raise InvariantViolated(
                "a snapshot was restored but could not be put in place"
            ) from failed
        inside = self._first_index <= base.index <= self._last_index
        if self._fetching and inside and self._term_at(base.index) == base.term:
            self._fetched(node, base)
            return
        self._fetching = False
        self._rebase(base, history)
        self._blank = False
        # Another leader may lack what is in it (policies interval and off), and then says so by
        # what it sends.
        same = (self._SyncObj__raftLeader, self._term) == self._installing_of
        self._verified = base.index if same else 0
        self.count("snapshots_installed")
        log.info("snapshot installed", member=self._node_id, index=base.index, term=base.term)
        self._answer_waiters_below(base)
        if same and self._SyncObj__raftLog.synced_index >= base.index:
            self._acknowledge(node)
        self._SyncObj__raftLog.maybe_sync()
        self.kick()

    def _fetched(self, node: Node, base: Position) -> None:
        """Go on from a snapshot that was asked for: the log, which holds its place, is applied from
        there again.
        """
        self._fetching = False
        self._SyncObj__raftLastApplied, self._applied_term = base.index, base.term
        self.count("snapshots_fetched")
        log.info(
            "machine built anew from the leader's snapshot", member=self._node_id, index=base.index
        )
        if self._SyncObj__raftLeader == node:
            self._acknowledge(node)
        self.kick()

    def _drop_incoming(self) -> None:
        if self._incoming is not None:
            self._incoming.reset()
        self._incoming = None

    def _answer_waiters_below(self, base: Position) -> None:
        """Whether what they waited for is in the snapshot cannot be told from here (research
        section 4).
        """
        waiting = self._SyncObj__commandsWaitingCommit
        for index in sorted(index for index in waiting if index <= base.index):
            for _, callback in waiting.pop(index):
                self._call(callback, None, UNKNOWN_OUTCOME)

    def _call(self, callback: Any, result: Any, reason: int) -> None:
        """Call a waiter once; if it raises, that is its own affair (research 3.4)."""
        if callback is None:
            return
        try:
            callback(result, reason)
        except Exception:  # noqa: BLE001 whatever a waiter raises must not touch the log
            self.count("callback_errors")
            log.exception("a waiter raised", member=self._node_id, succeeded=reason == SUCCESS)

    # ---------------------------------------------------------------------------------- connections

    def _SyncObj__onNodeConnected(self, node: Node) -> None:
        """Begin anew with a peer: what was under way on an earlier connection is gone."""
        node = self._nodes.setdefault(node.id, node)
        if node in self._SyncObj__connectedNodes:
            self._forget_connection(node)
        self._SyncObj__connectedNodes.add(node)
        contacts = [(seat.id, seat.address) for seat in self._committed_configuration.seats]
        self._send(node, {"type": "contacts", "members": contacts})
        progress = self._progress.get(node.id)
        if self._leads and progress is not None:
            self._SyncObj__raftNextIndex[node] = self._SyncObj__raftMatchIndex[node] + 1
            progress.probe()
            progress.drop_snapshot()
        self.kick()

    def _SyncObj__onNodeDisconnected(self, node: Node) -> None:
        self._SyncObj__connectedNodes.discard(node)
        self._forget_connection(node)
        progress = self._progress.get(node.id)
        if progress is not None:
            progress.probe()
            progress.drop_snapshot()
        if node == self._SyncObj__raftLeader:
            self._drop_incoming_unless_installing()
            self._lose_leader()
        self.kick()

    def _SyncObj__onReadonlyNodeConnected(self, node: Node) -> None:
        self._SyncObj__onNodeConnected(node)

    def _SyncObj__onReadonlyNodeDisconnected(self, node: Node) -> None:
        self._SyncObj__onNodeDisconnected(node)

    def _drop_incoming_unless_installing(self) -> None:
        if not self._installing:
            self._drop_incoming()

    def _forget_connection(self, node: Node) -> None: ...
