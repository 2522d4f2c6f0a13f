"""Notify, once each, those who wait for an entry of the log.

Never lets what a waiter raises touch the log, and calls no outcome definite that is not.
"""

from __future__ import annotations

from typing import Any

from coordinator.log import Position
from coordinator.raft.core.environment import log
from coordinator.raft.core.library import (
    DISCARDED,
    SUCCESS,
    UNKNOWN_OUTCOME,
    Callback,
)
from coordinator.raft.core.state import State


class Waiters:
    """The callbacks of commands whose place in the log is known."""

    def __init__(self, state: State) -> None:
        self._environment = state.environment
        self._waiting = state.library.waiting_commit

    def add(self, position: Position, callback: Callback) -> None:
        """Call back when the entry at that index is applied: with success if it is of that term."""
        self._waiting[position.index].append((position.term, callback))

    def notify(self, position: Position, result: Any, *, new_term: bool) -> None:
        """Answer who waits for an applied entry; `new_term`: it is the first of its term."""
        waiting = self._waiting
        for term, callback in waiting.pop(position.index, ()):
            if term == position.term:
                self.call(callback, result, SUCCESS)
            else:
                self.call(callback, None, DISCARDED)
        if new_term and waiting:
            self._discard_older(position.term)

    def _discard_older(self, newest: int) -> None:
        """Terms only rise along the log, so entries of older terms that lie further on can never
        commit.
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
        """Call unknown what was waited for below: the snapshot does not say whether it is in it."""
        waiting = self._waiting
        for index in sorted(index for index in waiting if index <= base.index):
            for _, callback in waiting.pop(index):
                self.call(callback, None, UNKNOWN_OUTCOME)

    def call(self, callback: Callback | None, result: Any, reason: int) -> None:
        """Call a waiter once; if it raises, that is its own affair (HAZ-4)."""
        if callback is None:
            return
        try:
            callback(result, reason)
        except Exception:  # noqa: BLE001 whatever a waiter raises must not touch the log
            self._environment.count("callback_errors")
            member = self._environment.member
            log.exception("a waiter raised", member=member, succeeded=reason == SUCCESS)
