"""Accept commands, and append them as the leader or forward them to the leader, once.

Never sends a command twice, and never reports a command as definitely refused that may be in a log.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from pysyncobj.node import Node

from coordinator.log import Position
from coordinator.raft.core.commands.changes import Changes
from coordinator.raft.core.commands.waiters import Waiters
from coordinator.raft.core.leading.leader import Leader
from coordinator.raft.core.pysyncobj_library import (
    DISCARDED,
    MEMBERSHIP,
    MISSING_LEADER,
    NOT_LEADER,
    QUEUE_FULL,
    REGULAR,
    REQUEST_DENIED,
    STAMP_BYTES,
    SUCCESS,
    UNKNOWN_OUTCOME,
    Callback,
)
from coordinator.raft.core.rules.membership import (
    Already,
    Change,
    Configuration,
    Refusal,
    encode,
)
from coordinator.raft.core.rules.tail import UNCOMMITTED_BYTES_MAX
from coordinator.raft.core.state import State

DRAIN_BYTES_MAX: Final = 4 << 20
"""Bytes of commands appended or forwarded in one tick; the rest waits for the next tick."""
FORWARDED_BYTES_MAX: Final = 64 << 20
"""Bytes that may wait for our disk; above that, commands that others forward are refused."""

Asker: TypeAlias = "Callback | tuple[Node, int] | None"
"""The origin of a command: a callback here, or (node, request) of the member that forwarded it."""


class CommandQueue:
    """The commands that are in no log yet, and the forwarded ones that are not answered yet."""

    def __init__(
        self,
        state: State,
        leader: Leader,
        changes: Changes,
        waiters: Waiters,
        *,
        leader_wait_s: float,
    ) -> None:
        """Start empty; `leader_wait_s` is how long commands wait while there is no leader."""
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._leader, self._changes, self._waiters = leader, changes, waiters
        self._queue = state.pysyncobj.queue
        self._forwarded = state.pysyncobj.waiting_reply
        self._next_request = state.environment.rng.getrandbits(48)
        self._hold_until = float("-inf")
        """Monotonic time until which commands wait in the queue, because the leadership is being
        transferred.
        """
        self._leaderless_since: float | None = None
        self._leader_wait_s = leader_wait_s

    # ---------------------------------------------------------------------------------- in

    def propose(self, command: bytes, callback: Callback) -> None:
        """Queue a command. `callback(result, reason)` is called once, with one of the library's
        reasons (pysyncobj_library.py).
        """
        self.enqueue(REGULAR + command, callback)

    def change(self, change: Change, callback: Callback) -> None:
        """Queue a membership change, on any member. `callback(result, reason)` is called once; the
        result is a Refusal when the change is denied.
        """
        self.enqueue(MEMBERSHIP + encode(change), callback)

    def enqueue(self, command: bytes, asker: Asker) -> None:
        """Queue a command whose first byte is its kind. Refuses it when the queue is full; never
        raises, and never writes to a pipe (HAZ-13).
        """
        try:
            self._queue.put_nowait((command, asker))
        except Exception:  # noqa: BLE001 the library's queue has one way to fail: it is full
            self._refuse(asker, QUEUE_FULL)
            return
        self._environment.wake()

    # ------------------------------------------------------------------------------- onwards

    def drain(self) -> None:
        """Append or forward the queued commands, up to DRAIN_BYTES_MAX; the tick then sends all
        appended ones together (group send).
        """
        if self._holding():
            return
        library, queue, drained = self._library, self._queue, 0
        while drained < DRAIN_BYTES_MAX:
            try:
                command, asker = queue.get_nowait()
            except Exception:  # noqa: BLE001 the library's queue has one way to fail: it is empty
                return
            drained += len(command) + 64
            if library.leads:
                self._order(command, asker)
            elif library.leader is None or library.leader == library.selfNode:
                self._refuse(asker, MISSING_LEADER)
            elif isinstance(asker, tuple):
                self._refuse(asker, NOT_LEADER)
            else:
                self._forward(library.leader, command, asker)
        self._environment.wake()

    def hold(self, seconds: float) -> None:
        """Keep commands in the queue for `seconds` while the leadership moves; 0 ends the wait."""
        self._hold_until = self._environment.now() + seconds
        self._leader.note_hand_over(begins=seconds > 0)
        self._environment.wake()

    def _holding(self) -> bool:
        """Say whether commands stay in the queue: while the leadership is being handed over, and
        for `leader_wait_s` after the leader was lost.

        A queued command is in no log, so refusing it later is still definite.
        """
        now = self._environment.now()
        if self._library.leader is not None:
            self._leaderless_since = None
            return self._library.leads and now < self._hold_until
        if self._leaderless_since is None:
            self._leaderless_since = now
        return now < max(self._hold_until, self._leaderless_since + self._leader_wait_s)

    def next_due(self, now: float) -> float:
        """Return the next monotonic time at which queued commands may stop waiting, or infinity."""
        waits = self._hold_until, (self._leaderless_since or now) + self._leader_wait_s
        return min((until for until in waits if until > now), default=float("inf"))

    def _order(self, command: bytes, asker: Asker) -> None:
        """Judge a command as the leader, and append it to the log or refuse it."""
        kind = command[:1]
        if kind == MEMBERSHIP:
            verdict = self._changes.judge(command[1:])
            if not isinstance(verdict, Configuration):
                self._answer_change(asker, verdict)
                return
            command = MEMBERSHIP + encode(verdict)
        elif self._leader.uncommitted.bytes > UNCOMMITTED_BYTES_MAX:
            self._refuse(asker, QUEUE_FULL)
            return
        elif kind == REGULAR:
            stamp_ms = self._environment.replica.stamp_ms()
            command = REGULAR + stamp_ms.to_bytes(STAMP_BYTES, "big") + command[1:]
        else:
            self._refuse(asker, REQUEST_DENIED)
            return
        index = self._leader.append(command)
        if isinstance(asker, tuple):
            node, request = asker
            self._respond(node, request, log_idx=index, log_term=self._library.term)
        elif asker is not None:
            self._waiters.add(Position(index, self._library.term), asker)

    def _forward(self, leader: Node, command: bytes, callback: Callback | None) -> None:
        """Send a command to the leader, once. If the transport does not take it, the refusal is
        definite: the command is in no log and never will be.
        """
        self._next_request += 1
        request = self._next_request
        message = {"type": "apply_command", "command": command, "request_id": request}
        if not self._library.send(leader, message):
            self._waiters.call(callback, None, NOT_LEADER)
        elif callback is not None:
            self._forwarded[request] = (leader, callback)

    # ------------------------------------------------------------------------------- answers

    def _answer_change(self, asker: Asker, verdict: Already | Refusal) -> None:
        """Answer a membership change that is refused, or that needs no entry."""
        if isinstance(asker, tuple):
            node, request = asker
            if isinstance(verdict, Refusal):
                self._respond(
                    node, request, error=REQUEST_DENIED, reason=verdict.reason, later=verdict.later
                )
            else:
                self._respond(node, request, error=SUCCESS)
        elif isinstance(verdict, Refusal):
            self._waiters.call(asker, verdict, REQUEST_DENIED)
        else:
            self._waiters.call(asker, None, SUCCESS)

    def _refuse(self, asker: Asker, reason: int) -> None:
        if isinstance(asker, tuple):
            node, request = asker
            self._respond(node, request, error=reason)
        else:
            self._waiters.call(asker, None, reason)

    def _respond(self, node: Node, request: int, **fields: Any) -> None:
        message = {"type": "apply_command_response", "request_id": request, **fields}
        self._library.send(node, message)

    def on_forwarded(self, node: Node, message: dict[str, Any]) -> None:
        """Queue a command that another member forwards; refuse it if our disk is far behind."""
        asker = node, message["request_id"]
        if self._log.unsynced_bytes > FORWARDED_BYTES_MAX:
            self._refuse(asker, QUEUE_FULL)
            return
        self.enqueue(message["command"], asker)

    def on_answered(self, node: Node, message: dict[str, Any]) -> None:
        """Handle the leader's answer to a forwarded command: a refusal, or its place in the log."""
        forwarded = self._forwarded.get(message["request_id"])
        if forwarded is None or forwarded[0] != node:
            return
        del self._forwarded[message["request_id"]]
        callback, error = forwarded[1], message.get("error")
        if error is not None:
            refusal = (
                Refusal(message["reason"], message.get("later", False))
                if message.get("reason")
                else None
            )
            self._waiters.call(callback, refusal, error)
            return
        position = Position(message["log_idx"], message["log_term"])
        if position.index <= self._library.applied_index:
            # That index was applied before the answer arrived. If the log still holds the entry and
            # the term is the same, it is our command; otherwise the outcome is unknown.
            if self._log.agrees(position):
                self._waiters.call(callback, position, SUCCESS)
            else:
                self._waiters.call(callback, None, UNKNOWN_OUTCOME)
        elif position.term < self._log.applied_term:
            self._waiters.call(callback, None, DISCARDED)
        else:
            self._waiters.add(position, callback)

    def on_connection_lost(self, node: Node) -> None:
        """Answer "unknown" for the commands that were forwarded to `node` and not answered: they
        may be in its log. They are never sent again.
        """
        waiting = self._forwarded
        for request in sorted(request for request, (to, _) in waiting.items() if to == node):
            self._waiters.call(waiting.pop(request)[1], None, UNKNOWN_OUTCOME)
