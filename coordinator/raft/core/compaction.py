"""Save a snapshot of the machine when the log has grown, and drop the log entries that it covers.

Never cuts the log before the snapshot is on the disk.
"""

from __future__ import annotations

from typing import Final

from coordinator.log import Position
from coordinator.raft.core.environment import log
from coordinator.raft.core.following.transfer import Transfer
from coordinator.raft.core.leading.leader import Leader
from coordinator.raft.core.rules.membership import encode
from coordinator.raft.core.state import State

KEEP_ENTRIES: Final = 2000
KEEP_BYTES: Final = 4 << 20
"""Entries, and bytes of entries, kept in the log although a snapshot covers them, so that a member
that is only a little behind needs no snapshot.
"""
SAVE_AGAIN_S: Final = 2.0
"""Seconds to wait after a failed save, because each attempt encodes the whole machine."""


class Compaction:
    """The policy for when this member makes a snapshot, and how much of the log it keeps."""

    def __init__(
        self, state: State, leader: Leader, transfer: Transfer, *, compact_bytes: int
    ) -> None:
        """Make a snapshot when the log has grown by `compact_bytes` since the last one, or by the
        number of entries in the library's configuration (`logCompactionMinEntries`).
        """
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._roster, self._leader, self._transfer = state.roster, leader, transfer
        self._compact_bytes = compact_bytes
        self._saved_bytes = 0
        """`RaftLog.appended_bytes` when the newest snapshot was begun."""
        self._saving = False
        self._save_after = float("-inf")

    def force(self) -> None:
        """Make a snapshot at the next possible tick, and keep no log entries before its end."""
        self._library.compaction_forced = True

    def maybe_save(self) -> None:
        """Make a snapshot if the log has grown by enough entries or bytes since the last one, a
        peer has asked for a newer one, or `force` was called.
        """
        if self._saving or self._log.frozen or self._transfer.fetching:
            return
        library, newest = self._library, self._environment.snapshots.newest
        grown = library.applied_index - (newest.index if newest is not None else 1)
        if grown <= 0:
            return
        size = self._log.appended_bytes - self._saved_bytes
        due = grown > library.conf.logCompactionMinEntries or size > self._compact_bytes
        ends, peers = newest.index if newest is not None else 0, self._leader.progress.values()
        due = due or any(progress.asked > ends for progress in peers)
        if (
            not (due or library.compaction_forced)
            or self._environment.now() < self._save_after
            or self._waits_for_peers(grown, size)
        ):
            return
        keep = 0 if library.compaction_forced else KEEP_ENTRIES
        library.compaction_forced = False
        self._save(size, keep)

    def _waits_for_peers(self, grown: int, size: int) -> bool:
        """Say whether to wait because a snapshot is being sent to a peer: a newer one would make
        that transfer useless. The wait ends when the log has grown by twice the usual amount.
        """
        if all(progress.snapshot is None for progress in self._leader.progress.values()):
            return False
        patience = grown <= 2 * self._library.conf.logCompactionMinEntries
        return patience and size <= 2 * self._compact_bytes

    def _save(self, size: int, keep: int) -> None:
        self._saving, self._saved_bytes = True, self._log.appended_bytes
        position = self._log.applied
        configuration = encode(self._roster.history.at(position.index))
        saving = self._environment.snapshots.save(
            position.index, position.term, configuration, self._environment.replica.snapshot()
        )
        self._environment.spawn(saving, lambda _, exc: self._on_saved(position, size, keep, exc))

    def _on_saved(
        self, position: Position, size: int, keep: int, exc: BaseException | None
    ) -> None:
        """Drop the log entries that the snapshot covers, now that it is on the disk."""
        self._saving = False
        if exc is not None:
            self._save_after = self._environment.now() + SAVE_AGAIN_S
            self._saved_bytes -= size
            log.error("snapshot not saved", member=self._roster.id, error=repr(exc))
            self._environment.count("snapshot_failures")
            return
        self._environment.count("snapshots_saved")
        newest = self._environment.snapshots.newest
        if newest is None or newest.index < position.index:
            return  # a snapshot fetched from the leader, and older, has replaced it meanwhile
        if self._log.agrees(position):
            base = self._base_behind(position.index, keep)
            if base > self._log.first_index:
                self._log.drop_before(base)
        self._roster.compact(position.index)

    def _base_behind(self, index: int, keep: int) -> int:
        """Return the index where the log may begin, so that at most `keep` entries and KEEP_BYTES
        are kept before `index`.
        """
        size, base = 0, index
        while base > max(self._log.first_index, index - keep):
            size += len(self._log.command_at(base))
            if size > KEEP_BYTES:
                break
            base -= 1
        return base
