"""Apply committed entries, in order, each exactly once.

Never raises because of what a command did, and never applies so much at a time that elections and
heartbeats are late.
"""

from __future__ import annotations

from typing import Any, Final

from coordinator.log import Position
from coordinator.raft.core.commands.changes import Changes
from coordinator.raft.core.commands.waiters import Waiters
from coordinator.raft.core.environment import log
from coordinator.raft.core.leading.leader import Leader
from coordinator.raft.core.pysyncobj_library import MEMBERSHIP, NO_OP, REGULAR, STAMP_BYTES
from coordinator.raft.core.state import State
from kv.errors import InvariantViolated, NewerCommand

APPLY_PER_TICK_MAX: Final = 2000
APPLY_BYTES_MAX: Final = 16 << 20
APPLY_S_MAX: Final = 0.01
"""Seconds of applying in one tick; the remaining entries wait for the next tick, so that elections
and heartbeats are on time.
"""

LONG_S: Final = 0.05
"""A command that takes longer is followed by a rest as long as it took, so that whatever else the
process does gets its turns between several of them.
"""
REST_S_MAX: Final = 0.3
EARLY_S_MAX: Final = 0.002
"""By so much a timer of the event loop may be early."""


class CommandFailed(Exception):
    """The result of a command for which `Replica.apply` raised. That is a bug of ours, and the same
    on all members; the command counts as applied, once.
    """


class EntryApplier:
    """The part that feeds committed entries to the machine."""

    def __init__(self, state: State, leader: Leader, changes: Changes, waiters: Waiters) -> None:
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._leader, self._changes, self._waiters = leader, changes, waiters
        self._replica = state.environment.replica
        self._rests_until = 0.0

    def apply(self) -> None:
        """Apply committed entries, as many as one tick may and the machine takes; ask for another
        tick if some remain that it takes.
        """
        library, replica, now = self._library, self._replica, self._environment.now
        if self._log.resting or not replica.takes_more:
            return
        applied = library.applied_index
        count = min(library.commit_index - applied, APPLY_PER_TICK_MAX)
        if count <= 0:
            return
        began = now()
        if began < self._rests_until:
            return  # a tick was asked for at its end: ticks until then would take up turns
        enough = began + APPLY_S_MAX
        for command, index, term in self._log.entries(applied + 1, count, APPLY_BYTES_MAX):
            self._apply_entry(command, Position(index, term))
            if not replica.takes_more:
                return
            if now() > enough:
                break
        took = now() - began
        if took > LONG_S:
            rest = min(took, REST_S_MAX)
            self._rests_until = began + took + rest
            self._environment.wake_in(rest + EARLY_S_MAX)
        elif library.commit_index > library.applied_index:
            self._environment.wake()

    def _apply_entry(self, command: bytes, position: Position) -> None:
        new_term = position.term > self._log.applied_term
        # The entry is counted as applied before it runs. Otherwise one whose command raises would
        # be applied again (HAZ-4).
        self._log.apply_to(position)
        apply = self._apply_command if command[:1] == REGULAR else self._apply_own
        self._waiters.notify(position, apply(command, position), new_term=new_term)

    def _apply_command(self, command: bytes, position: Position) -> Any:
        """Hand a command to the machine. If the machine raises, return CommandFailed, the same on
        every member.

        Raises InvariantViolated and NewerCommand, which must end the process.
        """
        stamp = int.from_bytes(command[1 : 1 + STAMP_BYTES], "big")
        try:
            self._replica.apply(position, stamp, command[1 + STAMP_BYTES :])
        except (InvariantViolated, NewerCommand):
            raise
        except Exception as exc:  # noqa: BLE001 an error result, not a stopped cluster
            self._environment.count("apply_errors")
            member = self._environment.member
            log.exception("a command raised", member=member, index=position.index)
            return CommandFailed(repr(exc))
        return position

    def _apply_own(self, command: bytes, position: Position) -> Position:
        """Apply an entry of the protocol itself: a membership change or a no-op.

        Raises NewerCommand for a kind that this version does not know.
        """
        kind = command[:1]
        if kind == MEMBERSHIP:
            self._changes.on_committed()
        elif kind != NO_OP:
            raise NewerCommand(f"an entry of kind {kind.hex() or 'none'} at {position.index}")
        elif self._library.leads and position.term == self._library.term:
            self._leader.note_own_term_applied()
        return position
