"""Take commands in, and append them as the leader or forward them to the leader, once.

Never sends a command twice, and never refuses one as if nothing had happened that may be in a log.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from pysyncobj.node import Node

from coordinator.log import Position
from coordinator.raft.core.commands.applier import STAMP_BYTES
from coordinator.raft.core.commands.changes import Changes
from coordinator.raft.core.commands.waiters import Waiters
from coordinator.raft.core.leading.leader import Leader
from coordinator.raft.core.library import (
    DISCARDED,
    MEMBERSHIP,
    MISSING_LEADER,
    NOT_LEADER,
    QUEUE_FULL,
    REGULAR,
    REQUEST_DENIED,
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
"""Bytes of commands appended or forwarded in one tick; the rest has its turn after other work."""
FORWARDED_BYTES_MAX: Final = 64 << 20
"""Bytes that wait for our disk before commands of other members are refused."""

Asker: TypeAlias = "Callback | tuple[Node, int] | None"
"""Who asked for a command: a callback here, or (member, its request) that forwarded it."""


class CommandQueue:
    """The commands that wait in no log yet, and those that were forwarded and not answered."""

    def __init__(
        self,
        state: State,
        leader: Leader,
        changes: Changes,
        waiters: Waiters,
        *,
        leader_wait_s: float,
    ) -> None:
        """`leader_wait_s`: how long commands wait, in no log, when there is no leader."""
        self._library, self._environment, self._log = state.library, state.environment, state.log
        self._leader, self._changes, self._waiters = leader, changes, waiters
        self._queue = state.library.queue
        self._forwarded = state.library.waiting_reply
        self._next_request = state.environment.rng.getrandbits(48)
        self._hold_until = float("-inf")
        """Until then commands wait in the queue: the leadership is on its way to another member."""
        self._leaderless_since: float | None = None
        self._leader_wait_s = leader_wait_s

    # ---------------------------------------------------------------------------------- in

    def propose(self, command: bytes, callback: Callback) -> None:
        """Order a command: `callback(result, reason)` is called once, with one of the library's
        reasons (library.py).
        """
        self.enqueue(REGULAR + command, callback)

    def change(self, change: Change, callback: Callback) -> None:
        """Ask for a membership change, from any member: `callback(result, reason)`, result a
        Refusal when denied.
        """
        self.enqueue(MEMBERSHIP + encode(change), callback)

    def enqueue(self, command: bytes, asker: Asker) -> None:
        """Queue a command, its kind in front: never raises, never writes to a pipe (HAZ-13)."""
        try:
            self._queue.put_nowait((command, asker))
        except Exception:  # noqa: BLE001 the library's queue has one way to fail: it is full
            self._refuse(asker, QUEUE_FULL)
            return
        self._environment.wake()

    # ------------------------------------------------------------------------------- onwards

    def drain(self) -> None:
        """Append or forward all that is queued; the tick then sends once (group send)."""
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
        """Let commands wait in the queue while the leadership moves; 0: no longer."""
        self._hold_until = self._environment.now() + seconds
        self._environment.wake()

    def _holding(self) -> bool:
        """Say whether commands wait: while the leadership is being handed over, and for one
        election without a leader.

        What waits here is in no log, so refusing it later is still definite.
        """
        now = self._environment.now()
        if self._library.leader is not None:
            self._leaderless_since = None
            return self._library.leads and now < self._hold_until
        if self._leaderless_since is None:
            self._leaderless_since = now
        return now < max(self._hold_until, self._leaderless_since + self._leader_wait_s)

    def next_due(self, now: float) -> float:
        """Return when commands have waited long enough."""
        waits = self._hold_until, (self._leaderless_since or now) + self._leader_wait_s
        return min((until for until in waits if until > now), default=float("inf"))

    def _order(self, command: bytes, asker: Asker) -> None:
        """Judge a command as the leader, and put it into the log or refuse it."""
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
        """Hand a command to the leader, once; if the transport takes nothing, it is in no log and
        never will be.
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
        """Answer a membership change that needs or gets no entry."""
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
        """Take in a command that another member forwards."""
        asker = node, message["request_id"]
        if self._log.unsynced_bytes > FORWARDED_BYTES_MAX:
            self._refuse(asker, QUEUE_FULL)
            return
        self.enqueue(message["command"], asker)

    def on_answered(self, node: Node, message: dict[str, Any]) -> None:
        """Take in what the leader says of a forwarded command: refused, or where it is."""
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
            # Applied before the answer came: ours if the entry there is still held and is of that
            # term.
            if self._log.agrees(position):
                self._waiters.call(callback, position, SUCCESS)
            else:
                self._waiters.call(callback, None, UNKNOWN_OUTCOME)
        elif position.term < self._log.applied_term:
            self._waiters.call(callback, None, DISCARDED)
        else:
            self._waiters.add(position, callback)

    def on_connection_lost(self, node: Node) -> None:
        """Call unknown what was forwarded there and not answered: it may be in that log. It is
        never sent again.
        """
        waiting = self._forwarded
        for request in sorted(request for request, (to, _) in waiting.items() if to == node):
            self._waiters.call(waiting.pop(request)[1], None, UNKNOWN_OUTCOME)
