"""Rebuild the machine from this member's snapshot and log, or start over with both.

Never applies to the machine what the log does not hold, and drops a log only when the cluster holds
a different one in its place.
"""

from __future__ import annotations

from typing import Final

from coordinator.log import Position
from coordinator.raft.core.environment import log
from coordinator.raft.core.following.transfer import Transfer
from coordinator.raft.core.log import WIPED
from coordinator.raft.core.pysyncobj_library import MEMBERSHIP, NO_OP
from coordinator.raft.core.roster import configuration_at
from coordinator.raft.core.rules.membership import ConfigurationHistory, decode_configuration
from coordinator.raft.core.state import State
from coordinator.raft.storage.snapshot_format import Snapshot
from kv.errors import BadRequest

FIRST: Final = Position(1, 0)
"""The base that every new log begins with."""


class Rebuild:
    """The procedures that bring machine, snapshot and log of one member into agreement."""

    def __init__(self, state: State, transfer: Transfer) -> None:
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._roster, self._eligibility, self._terms = state.roster, state.eligibility, state.terms
        self._transfer = transfer
        self._replica, self._snapshots = self._environment.replica, self._environment.snapshots

    def load(self) -> None:
        """Align snapshot and journal at the start (HAZ-5).

        Raises BadRequest if they do not fit together or cannot be read: an operator must decide.
        """
        snapshot, raft_log = self._snapshots.load_now(), self._log
        history = self._roster.history
        if snapshot is None:
            if raft_log.first_index != 1:
                raise BadRequest(
                    "snapshot_missing",
                    f"the journal begins at {raft_log.first_index}, and no snapshot is there",
                )
        else:
            history = self._load_snapshot(snapshot)
            self._eligibility.hold_something()
            self._terms.rise_to_log(raft_log.last_term)
        size = 0
        known = min(self._library.applied_index, history.newest_index)
        for command, index, _ in raft_log.held(known):
            size += len(command) if index > self._library.applied_index else 0
            if command[:1] == MEMBERSHIP and index > history.newest_index:
                history.append(index, configuration_at(index, command))
        raft_log.note_held(size)
        self._roster.replace(history)
        for seat in history.seats:
            self._roster.reach(seat.id, seat.address)

    def _load_snapshot(self, snapshot: Snapshot) -> ConfigurationHistory:
        index, term, raft_log = snapshot.header.index, snapshot.header.term, self._log
        if raft_log.first_index > index:
            first = raft_log.first_index
            raise BadRequest(
                "journal_gap", f"the journal begins at {first}, after the snapshot's end {index}"
            )
        if index > raft_log.last_index or raft_log.term_at(index) != term:
            raft_log.begin_at(Position(index, term))
            raft_log.maybe_sync()
        try:
            self._replica.restore(snapshot.body)
            history = ConfigurationHistory(decode_configuration(snapshot.header.config), index)
        except ValueError as exc:
            raise BadRequest(
                "snapshot_unreadable", f"the snapshot cannot be decoded: {exc}"
            ) from exc
        raft_log.apply_to(Position(index, term))
        raft_log.load_commit(index)
        return history

    def start_again(self, conflict: int) -> bool:
        """Rebuild the machine after applied entries from `conflict` on were cut off. Return False
        if no usable snapshot exists and the log was wiped instead.
        """
        self._transfer.drop()  # `load_now` removes the file that the transfer is writing
        self._replica.reset()
        snapshot, first = self._snapshots.load_now(), self._log.first_index
        if (
            snapshot is not None
            and snapshot.header.index < conflict
            and snapshot.header.index >= first
        ):
            self._restore(snapshot)
        elif first == 1:
            self._log.apply_to(FIRST)
            if snapshot is not None:
                self._discard_overwritten()
        else:
            self.wipe()
            return False
        return True

    def replay(self) -> bool:
        """Rebuild the machine from the snapshot and log here without changing the log; if they do
        not suffice, fetch another member's snapshot, and return False.

        Returns False too while a snapshot is being put in place: that rebuilds the machine, unless
        it cannot be used.
        """
        if self._log.resting:
            return False
        self._transfer.drop()  # `load_now` removes the file that the transfer is writing
        try:
            snapshot = self._snapshots.load_now()
            if snapshot is not None and self._log.holds(snapshot.header.index):
                self._restore(snapshot)
                self._environment.count("replays")
                return True
        except (ValueError, BadRequest) as exc:
            log.error("snapshot cannot be used", member=self._roster.id, error=str(exc))
        if self._log.first_index != 1:
            log.error(
                "machine cannot be built anew: no snapshot here fits the log",
                member=self._roster.id,
            )
            self._transfer.fetch()
            return False
        self._replica.reset()
        self._log.apply_to(FIRST)
        self._environment.count("replays")
        return True

    def _restore(self, snapshot: Snapshot) -> None:
        self._replica.restore(snapshot.body)
        self._log.apply_to(Position(snapshot.header.index, snapshot.header.term))

    def _discard_overwritten(self) -> None:
        """Discard a snapshot that contains overwritten entries; the log is complete without it. If
        the snapshot stayed, the next start would load it.

        The log is flushed first: once the snapshot is gone, only the log holds those entries.
        """
        self._log.flush()
        self._snapshots.discard_now()
        self._roster.read_from(self._log.held())

    def wipe(self) -> None:
        """Drop log, machine and snapshot: what we compacted differs from the cluster's log."""
        log.critical(
            "log wiped: what was compacted has been overwritten",
            member=self._roster.id,
            term=self._library.term,
        )
        self._environment.count("wipes")
        self._transfer.drop()
        self._log.begin_at(FIRST, WIPED)
        self._roster.start_anew()
        # The snapshot is discarded last. If the process dies in between, an empty log beside an old
        # snapshot can be loaded; a log that begins after a missing snapshot cannot.
        self._log.flush()
        self._snapshots.discard_now()
        self._replica.reset()

    def begin_at(self, base: Position, history: ConfigurationHistory) -> None:
        """Replace the log by one that begins and ends where the newly installed snapshot ends."""
        self._log.begin_at(base, NO_OP)
        self._roster.replace(history)
