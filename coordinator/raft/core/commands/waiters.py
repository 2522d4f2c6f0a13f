"""Notify, once each, the callbacks that wait for an entry of the log.

Never lets a waiter's exception affect the log, and never reports an unknown outcome as definite.
"""

from __future__ import annotations

from typing import Any

from coordinator.log import Position
from coordinator.raft.core.environment import log
from coordinator.raft.core.pysyncobj_library import (
    DISCARDED,
    SUCCESS,
    UNKNOWN_OUTCOME,
    Callback,
)
from coordinator.raft.core.state import State


class Waiters:
    """The callbacks of commands whose position in the log is known."""

    def __init__(self, state: State) -> None:
        self._environment = state.environment
        self._waiting = state.pysyncobj.waiting_commit

    def add(self, position: Position, callback: Callback) -> None:
        """Register a callback for the time when the entry at that index is applied; the command
        succeeded if that entry has that term.
        """
        self._waiting[position.index].append((position.term, callback))

    def notify(self, position: Position, result: Any, *, new_term: bool) -> None:
        """Answer the callbacks that wait for an applied entry; `new_term` says that it is the first
        entry of its term.
        """
        waiting = self._waiting
        for term, callback in waiting.pop(position.index, ()):
            if term == position.term:
                self.call(callback, result, SUCCESS)
            else:
                self.call(callback, None, DISCARDED)
        if new_term and waiting:
            self._discard_older(position.term)

    def _discard_older(self, newest: int) -> None:
        """Answer callbacks that wait for an entry of an older term than `newest` with a definite
        refusal: terms only rise along the log, so such an entry can no longer commit.
        """
        waiting = self._waiting
        for index in sorted(waiting):
            kept = [(term, callback) for term, callback in waiting[index] if term >= newest]
            for term, callback in waiting[index]:
                if term < newest:
                    self.call(callback, None, DISCARDED)
            if kept:
                waiting[index] = kept
            else:
                del waiting[index]

    def notify_below(self, base: Position) -> None:
        """Answer "unknown" to callbacks that wait for an entry up to `base`: the snapshot that ends
        there does not show which commands it contains.
        """
        waiting = self._waiting
        for index in sorted(index for index in waiting if index <= base.index):
            for _, callback in waiting.pop(index):
                self.call(callback, None, UNKNOWN_OUTCOME)

    def call(self, callback: Callback | None, result: Any, reason: int) -> None:
        """Call a callback; log and count an exception that it raises (HAZ-4)."""
        if callback is None:
            return
        try:
            callback(result, reason)
        except Exception:  # noqa: BLE001 whatever a waiter raises must not touch the log
            self._environment.count("callback_errors")
            member = self._environment.member
            log.exception("a waiter raised", member=member, succeeded=reason == SUCCESS)
