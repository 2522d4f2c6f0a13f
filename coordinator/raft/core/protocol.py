"""The hardened core: PySyncObj 0.3.17 with every step replaced that loses, doubles or reorders
(research 5.1 to 5.13).

Never pickles, blocks, sleeps or raises for what a command, a waiter or a peer did. It is driven
from outside: messages through the transport's callbacks, time through `doTick`, which never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pysyncobj.node import Node

from coordinator.log import PeerAddress, Position
from coordinator.raft.core.replication import Replication, configuration_at
from coordinator.raft.core.rules.membership import (
    Add,
    Already,
    Change,
    Configuration,
    History,
    Join,
    Move,
    Refusal,
    Remove,
    Situation,
    decide,
    decode_change,
    decode_configuration,
    encode,
    founded,
)
from coordinator.raft.core.rules.tail import UNCOMMITTED_BYTES_MAX
from coordinator.raft.core.state import (
    DISCARDED,
    FOLLOWER,
    LEADER,
    MEMBERSHIP,
    MISSING_LEADER,
    NO_OP,
    NOT_LEADER,
    QUEUE_FULL,
    REGULAR,
    REQUEST_DENIED,
    SUCCESS,
    UNKNOWN_OUTCOME,
    Role,
    log,
)
from kv.errors import BadRequest, InvariantViolated, NewerCommand

APPLY_PER_TICK_MAX: Final = 2000
APPLY_S_MAX: Final = 0.01
"""Time after which the rest of what is committed waits for the next tick: elections and heartbeats
have no patience.
"""
DRAIN_BYTES_MAX: Final = 4 << 20
"""Bytes of commands appended or forwarded in one tick; the rest has its turn after other work."""
FORWARDED_BYTES_MAX: Final = 64 << 20
"""Bytes that wait for our disk before commands of other members are refused."""
KEEP_ENTRIES: Final = 2000
KEEP_BYTES: Final = 4 << 20
"""Entries, and their bytes, kept behind a snapshot, so that a member that is a little behind needs
none.
"""
SAVE_AGAIN_S: Final = 2.0
"""Pause after a snapshot that could not be saved: each try encodes the whole machine."""
STAMP_BYTES: Final = 8
HISTORY_BYTES: Final = 16


class CommandFailed(Exception):
    """`Replica.apply` raised: a fault of ours, the same on all members; the command counts as
    applied, once.
    """


class Core(Replication):
    """One member's Raft."""

    def __init__(
        self,
        *args: Any,
        joins: bool = True,
        compact_bytes: int = 64 << 20,
        leader_wait_s: float = 0.0,
        **kwargs: Any,
    ) -> None:
        """`joins`: note in the configuration which members have acknowledged the log
        (membership.Seat).

        `leader_wait_s`: how long commands wait, in no log, when there is no leader.
        """
        self._joins = joins
        self._compact_bytes = compact_bytes
        self._saving = False
        self._save_after = float("-inf")
        self.on_disconnect: Callable[[Node], None] | None = None
        self._hold_until = float("-inf")
        """Until then commands wait in the queue: the leadership is on its way to another member."""
        self._leaderless_since: float | None = None
        self._leader_wait_s = leader_wait_s
        super().__init__(*args, **kwargs)
        self._handlers["apply_command"] = self._on_apply_command
        self._handlers["apply_command_response"] = self._on_apply_command_response
        self._handlers["contacts"] = self._on_contacts
        self._load()

    def _load(self) -> None:
        """Line snapshot and journal up (research 5.5). Raises BadRequest for what an operator must
        look at.
        """
        snapshot = self._snapshots.load_now()
        journal = self._SyncObj__raftLog
        history = self._history
        if snapshot is None:
            if self._first_index != 1:
                raise BadRequest(
                    "snapshot_missing",
                    f"the journal begins at {self._first_index}, and no snapshot is there",
                )
        else:
            index, term = snapshot.header.index, snapshot.header.term
            if self._first_index > index:
                detail = (
                    f"the journal begins at {self._first_index}, after the snapshot's end {index}"
                )
                raise BadRequest("journal_gap", detail)
            if index > self._last_index or self._term_at(index) != term:
                journal.clear()
                journal.add(NO_OP, index, term)
                journal.maybe_sync()
            try:
                self._replica.restore(snapshot.body)
                history = History(decode_configuration(snapshot.header.config), index)
            except ValueError as exc:
                raise BadRequest(
                    "snapshot_unreadable", f"the snapshot cannot be decoded: {exc}"
                ) from exc
            self._blank = False
            self._SyncObj__raftCurrentTerm = max(self._term, self._last_term)
            self._SyncObj__raftLastApplied, self._applied_term = index, term
            self._SyncObj__raftCommitIndex = max(
                index, min(journal.getRaftCommitIndex(), self._last_index)
            )
        for command, index, _ in journal[:]:
            self._bytes_since_snapshot += (
                len(command) if index > self._SyncObj__raftLastApplied else 0
            )
            if command[:1] == MEMBERSHIP and index > history.newest_index:
                history.append(index, configuration_at(index, command))
        self._history = history
        self._configure()
        for seat in history.seats:
            self._reach(seat.id, seat.address)

    # ---------------------------------------------------------------------------------------- ticks

    def _onTick(self, timeToWait: float = 0.0) -> None:
        """Elect, commit, apply, drain, send, sync, compact: in this order, each at most once."""
        self._each_second()
        self._note_tail()
        if self._untold:
            self._say_farewell()
        self._elect()
        if self._leads:
            self._check_quorum()
        if self._leads:
            self._check_disk()
        if self._leads:
            self._maybe_commit()
        self._SyncObj__applyLogEntries()
        self._checkCommandsToApply()
        if self._leads:
            self._maybe_join()
            self._maybe_move()
            # Entries leave before our own disk has them: disk and network work at the same time.
            self._SyncObj__sendAppendEntries()
        self._SyncObj__raftLog.maybe_sync()
        if self._leads and self._maybe_commit():
            self.kick()
        self._SyncObj__tryLogCompaction()

    def _each_second(self) -> None:
        up_s = self._now() - self._SyncObj__startTime
        if up_s > self._SyncObj__numOneSecondDumps:
            self._SyncObj__numOneSecondDumps = int(up_s) + 1
            self._SyncObj__raftLog.onOneSecondTimer()

    def _SyncObj__onMessageReceived(self, node: Node, message: dict[str, Any]) -> None:
        handler = self._handlers.get(message["type"])
        if handler is None:
            self.count("unknown_messages")
            return
        handler(self._nodes.setdefault(node.id, node), message)

    # ---------------------------------------------------------------------------------------- apply

    def _SyncObj__applyLogEntries(self) -> bool:
        if self._installing:
            return False
        applied = self._SyncObj__raftLastApplied
        count = min(self._SyncObj__raftCommitIndex - applied, APPLY_PER_TICK_MAX)
        if count <= 0:
            return False
        enough = self._now() + APPLY_S_MAX
        for command, index, term in self._SyncObj__getEntries(applied + 1, count):
            self._apply_entry(command, Position(index, term))
            if self._now() > enough:
                break
        if self._SyncObj__raftCommitIndex > self._SyncObj__raftLastApplied:
            self.kick()
        return True

    def _apply_entry(self, command: bytes, position: Position) -> None:
        waiting = self._SyncObj__commandsWaitingCommit
        subscribers = waiting.pop(position.index, ())
        new_term = position.term > self._applied_term
        # Counted first: whatever it does, an entry is applied once (research 3.4).
        self._SyncObj__raftLastApplied, self._applied_term = position.index, position.term
        result = self._SyncObj__doApplyCommand(command)
        for term, callback in subscribers:
            if term == position.term:
                self._call(callback, result, SUCCESS)
            else:
                self._call(callback, None, DISCARDED)
        if new_term and waiting:
            # Terms only rise along the log, so entries of older terms that lie further on can never
            # commit.
            for index in sorted(waiting):
                kept = [
                    (term, callback) for term, callback in waiting[index] if term >= position.term
                ]
                for term, callback in waiting[index]:
                    if term < position.term:
                        self._call(callback, None, DISCARDED)
                if kept:
                    waiting[index] = kept
                else:
                    del waiting[index]

    def _SyncObj__doApplyCommand(self, command: bytes) -> Any:
        """Apply one entry; what raises becomes an error result, the same on every member."""
        position = self.applied
        kind = command[:1]
        if kind == REGULAR:
            stamp = int.from_bytes(command[1 : 1 + STAMP_BYTES], "big")
            try:
                return self._apply_regular(position, stamp, command[1 + STAMP_BYTES :])
            except (InvariantViolated, NewerCommand):
                raise
            except Exception as exc:  # noqa: BLE001 an error result, not a stopped cluster
                self.count("apply_errors")
                log.exception("a command raised", member=self._node_id, index=position.index)
                return CommandFailed(repr(exc))
        if kind == MEMBERSHIP:
            self._on_configuration_committed()
        elif kind != NO_OP:
            raise NewerCommand(f"an entry of kind {kind.hex() or 'none'} at {position.index}")
        elif self._leads and position.term == self._term:
            self._led_term = self._term
            self._replica.led(self._term)
        return position

    def _on_configuration_committed(self) -> None:
        """Tell everyone where the members are now, and leave those behind who are none any more."""
        committed = self._history.at(self._SyncObj__raftLastApplied)
        contacts = [(seat.id, seat.address) for seat in committed.seats]
        for member, node in self._nodes.items():
            if member in committed.retired:
                self._untold[member] = None
            elif node in self._SyncObj__connectedNodes:
                self._send(node, {"type": "contacts", "members": contacts})
        if self._node_id in committed.retired:
            self._removed = True
            self._become_follower(self._term, self._SyncObj__raftLeader)

    def _on_contacts(self, node: Node, message: dict[str, Any]) -> None:
        for member, address in message["members"]:
            self._reach(member, address)

    def _say_farewell(self) -> None:
        """Tell removed members, and leave them. One that is away hears it when it connects
        (peer_check.py): nobody dials it.
        """
        for member in self._untold:
            node = self._nodes.pop(member, None)
            if node is None:
                continue
            self._send(node, {"type": "removed", "term": self._term})
            progress = self._progress.pop(member, None)
            if progress is not None:
                progress.drop_snapshot()
            self._SyncObj__transport.dropNode(node)
        self._untold.clear()

    def _on_left_leadership(self) -> None:
        self._drop_progress()
        self._SyncObj__noopIDx = None
        if self._led_term is not None:
            term, self._led_term = self._led_term, None
            self._replica.deposed(term)

    # ------------------------------------------------------------------------------------- commands

    def _applyCommand(self, command: bytes, callback: Any, commandType: int | None = None) -> None:
        """Queue a command: never raises, never writes to a pipe (research 3.13)."""
        if commandType is not None:
            command = bytes([commandType]) + command
        queue = self._SyncObj__commandsQueue
        try:
            queue.put_nowait((command, callback))
        except Exception:  # noqa: BLE001 the library's queue has one way to fail: it is full
            self._SyncObj__callErrCallback(QUEUE_FULL, callback)
            return
        self.kick()

    def propose(self, command: bytes, callback: Any) -> None:
        """Order a command: `callback(result, reason)` is called once, with reasons as research
        section 4 sorts them.
        """
        self._applyCommand(REGULAR + command, callback)

    def _checkCommandsToApply(self) -> None:
        """Append or forward all that is queued; `_onTick` then sends once (group send)."""
        if self._holding():
            return
        queue, drained = self._SyncObj__commandsQueue, 0
        while drained < DRAIN_BYTES_MAX:
            try:
                command, callback = queue.get_nowait()
            except Exception:  # noqa: BLE001 the library's queue has one way to fail: it is empty
                return
            drained += len(command) + 64
            if self._leads:
                self._append(command, callback)
            elif self._SyncObj__raftLeader is None or self._SyncObj__raftLeader == self.selfNode:
                self._SyncObj__callErrCallback(MISSING_LEADER, callback)
            elif isinstance(callback, tuple):
                self._SyncObj__callErrCallback(NOT_LEADER, callback)
            else:
                self._forward(self._SyncObj__raftLeader, command, callback)
        self.kick()

    def _holding(self) -> bool:
        """Say whether commands wait: while the leadership is being handed over, and for one
        election without a leader.

        What waits here is in no log, so refusing it later is still definite.
        """
        now = self._now()
        if self._SyncObj__raftLeader is not None:
            self._leaderless_since = None
            return self._leads and now < self._hold_until
        if self._leaderless_since is None:
            self._leaderless_since = now
        return now < max(self._hold_until, self._leaderless_since + self._leader_wait_s)

    def _append(self, command: bytes, callback: Any) -> None:
        if command[:1] == MEMBERSHIP:
            verdict = self._judge_change(command[1:])
            if not isinstance(verdict, Configuration):
                self._reply(callback, verdict)
                return
            command = MEMBERSHIP + encode(verdict)
        elif self._uncommitted.bytes > UNCOMMITTED_BYTES_MAX:
            self._SyncObj__callErrCallback(QUEUE_FULL, callback)
            return
        elif command[:1] == REGULAR:
            command = REGULAR + self._replica.stamp_ms().to_bytes(STAMP_BYTES, "big") + command[1:]
        else:
            self._SyncObj__callErrCallback(REQUEST_DENIED, callback)
            return
        index = self._append_entry(command)
        if isinstance(callback, tuple):
            node, request = callback
            self._respond(node, request, log_idx=index, log_term=self._term)
        elif callback is not None:
            self._SyncObj__commandsWaitingCommit[index].append((self._term, callback))

    def _append_entry(self, command: bytes) -> int:
        index = self._last_index + 1
        self._SyncObj__raftLog.add(command, index, self._term)
        self._blank = False
        self._bytes_since_snapshot += len(command)
        self._uncommitted.add(index, len(command))
        if command[:1] == MEMBERSHIP:
            self._history.append(index, decode_configuration(command[1:]))
            self._configure()
        return index

    def _reply(self, callback: Any, verdict: Already | Refusal) -> None:
        """Answer a membership change that needs or gets no entry."""
        if isinstance(callback, tuple):
            node, request = callback
            if isinstance(verdict, Refusal):
                self._respond(
                    node, request, error=REQUEST_DENIED, reason=verdict.reason, later=verdict.later
                )
            else:
                self._respond(node, request, error=SUCCESS)
        elif isinstance(verdict, Refusal):
            self._call(callback, verdict, REQUEST_DENIED)
        else:
            self._call(callback, None, SUCCESS)

    def _respond(self, node: Node, request: int, **fields: Any) -> None:
        self._send(node, {"type": "apply_command_response", "request_id": request, **fields})

    def _SyncObj__callErrCallback(self, err: int, callback: Any) -> None:
        if isinstance(callback, tuple):
            node, request = callback
            self._respond(node, request, error=err)
        else:
            self._call(callback, None, err)

    def _forward(self, leader: Node, command: bytes, callback: Any) -> None:
        """Hand a command to the leader, once; if the transport takes nothing, it is in no log and
        never will be.
        """
        self._SyncObj__commandsLocalCounter += 1
        request = self._SyncObj__commandsLocalCounter
        if not self._send(
            leader, {"type": "apply_command", "command": command, "request_id": request}
        ):
            self._call(callback, None, NOT_LEADER)
        elif callback is not None:
            self._SyncObj__commandsWaitingReply[request] = (leader, callback)

    def _on_apply_command(self, node: Node, message: dict[str, Any]) -> None:
        if self._SyncObj__raftLog.unsynced_bytes > FORWARDED_BYTES_MAX:
            self._SyncObj__callErrCallback(QUEUE_FULL, (node, message["request_id"]))
            return
        self._applyCommand(message["command"], (node, message["request_id"]))

    def _on_apply_command_response(self, node: Node, message: dict[str, Any]) -> None:
        entry = self._SyncObj__commandsWaitingReply.get(message["request_id"])
        if entry is None or entry[0] != node:
            return
        del self._SyncObj__commandsWaitingReply[message["request_id"]]
        callback = entry[1]
        error = message.get("error")
        if error is not None:
            refusal = (
                Refusal(message["reason"], message.get("later", False))
                if message.get("reason")
                else None
            )
            self._call(callback, refusal, error)
            return
        index, term = message["log_idx"], message["log_term"]
        if index <= self._SyncObj__raftLastApplied:
            # Applied before the answer came: ours if the entry there is still held and is of that
            # term.
            held = index >= self._first_index and self._term_at(index) == term
            if held:
                self._call(callback, Position(index, term), SUCCESS)
            else:
                self._call(callback, None, UNKNOWN_OUTCOME)
        elif term < self._applied_term:
            self._call(callback, None, DISCARDED)
        else:
            self._SyncObj__commandsWaitingCommit[index].append((term, callback))

    def _SyncObj__onLeaderChanged(self) -> None:
        """Nothing is decided by it: what was forwarded is answered by its receiver, or its
        connection breaks.
        """

    def _forget_connection(self, node: Node) -> None:
        """What was forwarded there and not answered may be in its log: unknown. Never sent
        again.
        """
        if self.on_disconnect is not None:
            self.on_disconnect(node)
        waiting = self._SyncObj__commandsWaitingReply
        for request in sorted(request for request, (to, _) in waiting.items() if to == node):
            self._call(waiting.pop(request)[1], None, UNKNOWN_OUTCOME)

    # ----------------------------------------------------------------------------------- membership

    def change(self, change: Change, callback: Any) -> None:
        """Ask for a membership change, from any member: `callback(result, reason)`, result a
        Refusal when denied.
        """
        self._applyCommand(MEMBERSHIP + encode(change), callback)

    def _judge_change(self, encoded: bytes) -> Configuration | Already | Refusal:
        try:
            change = decode_change(encoded)
        except ValueError as exc:
            return Refusal(str(exc))
        return decide(self.configuration, change, self.situation())

    def situation(self) -> Situation:
        """Say what this leader knows that decides whether a change is safe."""
        since = self._now() - self._SyncObj__conf.raftMaxTimeout
        heard = self._SyncObj__lastResponseTime
        live = {node.id for node in self._peers if heard.get(node, since) > since} | {self._node_id}
        matches = self._SyncObj__raftMatchIndex
        lag = {
            node.id: self._last_index - matches[node] for node in self._peers if matches.get(node)
        }
        return Situation(
            leader=self._node_id,
            pending=self._history.newest_index > self._SyncObj__raftCommitIndex,
            own_term_committed=self.own_term_committed,
            live=frozenset(live),
            lag=lag,
            troubles={
                node.id: trouble for node in self._peers if (trouble := self.trouble(node.id))
            },
        )

    @property
    def own_term_committed(self) -> bool:
        noop = self._SyncObj__noopIDx
        return self._leads and noop is not None and self._SyncObj__raftCommitIndex >= noop

    def _maybe_join(self) -> None:
        """Note who has acknowledged the log, once there is nothing else to change."""
        if (
            not self._joins
            or all(seat.joined for seat in self.configuration.seats)
            or not self.own_term_committed
        ):
            return
        noop = self._SyncObj__noopIDx or 0
        matches = self._SyncObj__raftMatchIndex
        ids = [self._node_id, *(node.id for node in self._peers if matches.get(node, 0) >= noop)]
        verdict = decide(self.configuration, Join(tuple(ids)), self.situation())
        if isinstance(verdict, Configuration):
            self._append_entry(MEMBERSHIP + encode(verdict))

    def _maybe_move(self) -> None:
        """Note where members say that they are, once they are heard from there and there is nothing
        else to change.
        """
        pending = self._history.newest_index > self._SyncObj__raftCommitIndex
        if not self._joins or pending or not self.own_term_committed:
            return
        for seat in self.configuration.seats:
            told = self.reported_address(seat.id)
            if told and told != seat.address:
                verdict = decide(self.configuration, Move(seat.id, told), self.situation())
                if isinstance(verdict, Configuration):
                    log.info("member moved", member=self._node_id, moved=seat.id, to=told)
                    self._append_entry(MEMBERSHIP + encode(verdict))
                    return

    def reported_address(self, member: str) -> str:
        """Return where a connected member says it is reached; empty: it does not say."""
        node, ask = (
            self._nodes.get(member),
            getattr(self._SyncObj__transport, "reported_address", None),
        )
        if member == self._node_id:
            return str(getattr(self.selfNode, "address", ""))
        return (
            ""
            if node is None or ask is None or node not in self._SyncObj__connectedNodes
            else ask(node)
        )

    def trouble(self, member: str) -> str:
        """Return why a member is not connected, in words, as far as is known."""
        node, ask = self._nodes.get(member), getattr(self._SyncObj__transport, "trouble", None)
        return "" if node is None or ask is None else ask(node)

    def retired(self, member: str) -> bool:
        """Say whether a member was removed for good."""
        return member in self._committed_configuration.retired

    def on_told_removed(self, by: str) -> None:
        """A member did not let us in, for we were removed."""
        self._on_removed(self._nodes.get(by) or self._SyncObj__nodeClass(by), {})

    def _SyncObj__onBecomeLeader(self) -> None:
        """Lead; the first leader of all says what the log began from before anything else
        is in it.
        """
        super()._SyncObj__onBecomeLeader()
        if self._joins and not self.configuration.origin.history:
            history = self._chance.getrandbits(8 * HISTORY_BYTES).to_bytes(HISTORY_BYTES, "big")
            self._append_entry(
                MEMBERSHIP + encode(founded(self.configuration, history, self._first))
            )

    def addNodeToCluster(self, node: Node | str, callback: Any = None) -> None:
        member = node.id if isinstance(node, Node) else node
        self.change(Add(member, getattr(node, "address", member)), callback)

    def removeNodeFromCluster(self, node: Node | str, callback: Any = None) -> None:
        self.change(Remove(node.id if isinstance(node, Node) else node), callback)

    def setCodeVersion(self, newVersion: int, callback: Any = None) -> None:
        raise NotImplementedError("feature levels are ordinary commands (research 3.4)")

    # ------------------------------------------------------------------------------------- transfer

    def transfer_target(self, member: str | None) -> Node | None:
        """Return the asked voter, or the one furthest on, if it is connected."""
        able = [node for node in self._voters if node in self._SyncObj__connectedNodes]
        if member is not None:
            able = [node for node in able if node.id == member]
        matches = self._SyncObj__raftMatchIndex
        return max(able, key=lambda node: (matches.get(node, 0), node.id), default=None)

    def hold(self, seconds: float) -> None:
        """Let commands wait in the queue while the leadership moves; 0: no longer."""
        self._hold_until = self._now() + seconds
        self.kick()

    def maybe_hand_over(self, node: Node) -> bool:
        """Tell a voter that holds all of our log to stand at once; False: it does not hold
        it yet.
        """
        if not self._leads or self._SyncObj__raftMatchIndex.get(node, 0) != self._last_index:
            return False
        return self._send(node, {"type": "timeout_now", "term": self._term})

    # ----------------------------------------------------------------------------------- compaction

    def _SyncObj__tryLogCompaction(self) -> None:
        """Snapshot the machine when the log has grown by enough entries or bytes since the last
        one.
        """
        if self._saving or self._installing or self._fetching:
            return
        newest = self._snapshots.newest
        grown = self._SyncObj__raftLastApplied - (newest.index if newest is not None else 1)
        due = (
            grown > self._SyncObj__conf.logCompactionMinEntries
            or self._bytes_since_snapshot > self._compact_bytes
        )
        ends = newest.index if newest is not None else 0
        due = due or any(progress.asked > ends for progress in self._progress.values())
        if (
            grown <= 0
            or not (due or self._SyncObj__forceLogCompaction)
            or self._now() < self._save_after
        ):
            return
        sending = any(progress.snapshot is not None for progress in self._progress.values())
        patience = grown <= 2 * self._SyncObj__conf.logCompactionMinEntries
        if sending and patience and self._bytes_since_snapshot <= 2 * self._compact_bytes:
            # A newer snapshot would make the one on its way useless: wait, but not without bound.
            return
        keep = 0 if self._SyncObj__forceLogCompaction else KEEP_ENTRIES
        self._SyncObj__forceLogCompaction = False
        size, self._saving, self._bytes_since_snapshot = self._bytes_since_snapshot, True, 0
        position, configuration = (
            self.applied,
            encode(self._history.at(self._SyncObj__raftLastApplied)),
        )
        saving = self._snapshots.save(
            position.index, position.term, configuration, self._replica.snapshot()
        )
        self._spawn(saving, lambda _, exc: self._on_saved(position, size, keep, exc))

    def _on_saved(
        self, position: Position, size: int, keep: int, exc: BaseException | None
    ) -> None:
        """The snapshot is on disk: only now may the log before it go."""
        self._saving = False
        if exc is not None:
            self._save_after = self._now() + SAVE_AGAIN_S
            self._bytes_since_snapshot += size
            log.error("snapshot not saved", member=self._node_id, error=repr(exc))
            self.count("snapshot_failures")
            return
        self.count("snapshots_saved")
        newest = self._snapshots.newest
        held = self._first_index <= position.index <= self._last_index
        if newest is None or newest.index < position.index:
            return  # an older one that was asked for took its place at once
        if held and self._term_at(position.index) == position.term:
            base = self._base_behind(position.index, keep)
            if base > self._first_index:
                self._SyncObj__deleteEntriesTo(base)
        self._history.compact(position.index)

    def _base_behind(self, index: int, keep: int) -> int:
        """Return where the log may begin, so that no more than `keep` entries and KEEP_BYTES lie
        behind `index`.
        """
        size, base = 0, index
        while base > max(self._first_index, index - keep):
            size += len(self._SyncObj__raftLog[base - self._first_index][0])
            if size > KEEP_BYTES:
                break
            base -= 1
        return base

    # ---------------------------------------------------------------- what member.py asks and tells

    def handle(self, type: str, handler: Callable[[Node, dict[str, Any]], None]) -> None:
        """Hand messages of another type to their driver."""
        self._handlers[type] = handler

    def tell(self, node: Node, message: dict[str, Any]) -> bool:
        return self._send(node, message)

    def tell_member(self, member: str, message: dict[str, Any]) -> bool:
        node = self._nodes.get(member)
        return (
            node is not None and node in self._SyncObj__connectedNodes and self._send(node, message)
        )

    def broadcast(self, message: dict[str, Any]) -> None:
        for node in self._peers:
            if node in self._SyncObj__connectedNodes:
                self._send(node, message)

    def now(self) -> float:
        return self._now()

    def next_due(self) -> float:
        """Return when a tick has to do something even if nothing happens."""
        due = float("inf")
        if self._leads:
            due = self._SyncObj__newAppendEntriesTime
        elif self.votes:
            due = self._SyncObj__raftElectionDeadline
        now = self._now()
        for waited in (self._hold_until, (self._leaderless_since or now) + self._leader_wait_s):
            if waited > now:
                due = min(due, waited)
        return due

    def has_applied(self, position: Position) -> bool:
        """Say whether that very entry is applied; one below the log's base is in the snapshot.

        Unless its term is later than the base's: terms only rise along a log, so it is another
        log's.
        """
        if self._SyncObj__raftLastApplied < position.index:
            return False
        if position.index < self._first_index:
            return position.term <= self._term_at(self._first_index)
        return self._term_at(position.index) == position.term

    def holds_all(self, node: Node) -> bool:
        return self._SyncObj__raftMatchIndex.get(node, 0) == self._last_index

    @property
    def node_id(self) -> str:
        return self._node_id

    @property
    def leads(self) -> bool:
        return self._leads

    @property
    def last_index(self) -> int:
        return self._last_index

    @property
    def members(self) -> tuple[PeerAddress, ...]:
        return tuple(
            PeerAddress(seat.id, seat.address, seat.voter) for seat in self.configuration.seats
        )

    @property
    def quorate(self) -> bool:
        """As leader: a majority answered within one election time-out; else: a leader is heard."""
        within = self._SyncObj__conf.raftMaxTimeout
        return self.has_quorum(within) if self._leads else self._now() - self._heard < within

    def connected(self, member: str) -> bool:
        return self._nodes.get(member) in self._SyncObj__connectedNodes

    def match(self, member: str) -> int | None:
        node = self._nodes.get(member)
        return self._SyncObj__raftMatchIndex.get(node) if node is not None and self._leads else None

    def last_seen_s(self, member: str) -> float | None:
        """Return the seconds since it answered the leader, or else since anything came from it."""
        node = self._nodes.get(member)
        if node is None:  # it was left behind, and the entry that removed it is not ours any more
            return None
        seen = self._SyncObj__lastResponseTime.get(node) if self._leads else None
        if seen is not None:
            return max(0.0, self._now() - seen)
        ask = getattr(self._SyncObj__transport, "last_seen_s", None)
        return None if ask is None else ask(node)

    @property
    def role(self) -> Role:
        if self._leads:
            return "leader"
        if not self.configuration.votes(self._node_id) or self._removed:
            return "observer"
        return (
            "follower"
            if self._SyncObj__raftState == FOLLOWER and self._asking_pre is None
            else "candidate"
        )


__all__ = ["LEADER", "CommandFailed", "Core"]
