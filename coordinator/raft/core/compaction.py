"""Save a snapshot of the machine when the log has grown, and drop the log entries that it covers.

Never cuts the log before the snapshot is on the disk, and never puts a snapshot in place before
what it covers is durable in the replica's own store, if it has one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from coordinator.log import Position
from coordinator.raft.core.environment import log
from coordinator.raft.core.following.transfer import Transfer
from coordinator.raft.core.giving import Giving
from coordinator.raft.core.leading.leader import Leader
from coordinator.raft.core.rules.membership import encode
from coordinator.raft.core.state import State

KEEP_ENTRIES: Final = 2000
KEEP_BYTES: Final = 4 << 20
"""Entries, and bytes of entries, kept in the log although a snapshot covers them, so that a member
that is only a little behind needs no snapshot.
"""
TRANSFER_KEEP_BYTES: Final = 1 << 30
"""Bytes of entries kept for a peer that pulls a state, or twice the size of that state if that is
more. Beyond it the peer needs a newer one.
"""
SAVE_AGAIN_S: Final = 2.0
"""Seconds to wait after a failed save, because each attempt encodes the whole machine."""


class LogBounds(NamedTuple):
    """How much the log grows until a snapshot is made, and how much of it stays behind that."""

    compact_bytes: int = 64 << 20
    keep_bytes: int = 0
    keep_s: float = 3600.0
    """As much as both allow stays beyond KEEP_ENTRIES and KEEP_BYTES, so that a member that was
    away needs no snapshot.
    """


class _Mark(NamedTuple):
    """A place where the log may begin."""

    base: int
    appended_bytes: int
    """`RaftLog.appended_bytes` when that entry was the newest applied one."""
    at_s: float


class Compaction:
    """The policy for when this member makes a snapshot, and how much of the log it keeps."""

    def __init__(
        self,
        state: State,
        leader: Leader,
        transfer: Transfer,
        giving: Giving,
        bounds: LogBounds,
    ) -> None:
        """Make a snapshot when the log has grown by so many bytes since the last one, or by the
        number of entries in the library's configuration (`logCompactionMinEntries`).
        """
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._roster, self._leader, self._transfer = state.roster, leader, transfer
        self._giving = giving
        self._compact_bytes, self._bounds = bounds.compact_bytes, bounds
        self._saved_bytes = 0
        """`RaftLog.appended_bytes` when the newest snapshot was begun."""
        self._saving = False
        self._save_after = float("-inf")
        self._marks: list[_Mark] = []
        """The ends of the snapshots that were made here and still lie within the log, oldest first,
        and the newest one before it. Where the log begins is chosen by them, because measuring
        entries takes time.
        """

    def force(self) -> None:
        """Make a snapshot at the next possible tick, and keep no log entries before its end."""
        self._library.compaction_forced = True

    def maybe_save(self) -> None:
        """Make a snapshot if the log has grown by enough entries or bytes since the last one, a
        peer has asked for a newer one, or `force` was called.
        """
        if self._saving or self._log.resting or self._transfer.fetching:
            return
        library, newest = self._library, self._environment.snapshots.newest
        grown = library.applied_index - (newest.index if newest is not None else 1)
        if grown <= 0:
            return
        size = self._log.appended_bytes - self._saved_bytes
        due = grown > library.conf.logCompactionMinEntries or size > self._compact_bytes
        ends, peers = newest.index if newest is not None else 0, self._leader.progress.values()
        due = due or any(progress.asked > ends for progress in peers)
        due = due or self._giving.wanted_beyond(ends)
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
        """Say whether to wait because a peer is being sent a snapshot, or pulls a state: a newer
        one would make that transfer useless. The wait ends when the log has grown by twice the
        usual amount.
        """
        now, peers = self._environment.now(), self._leader.progress.values()
        if not any(peer.transfers or peer.pulls(now) for peer in peers):
            return False
        patience = grown <= 2 * self._library.conf.logCompactionMinEntries
        return patience and size <= 2 * self._compact_bytes

    def _save(self, size: int, keep: int) -> None:
        self._saving, self._saved_bytes = True, self._log.appended_bytes
        position, replica = self._log.applied, self._environment.replica
        configuration = encode(self._roster.history.at(position.index))
        saving = self._environment.snapshots.save(
            position.index,
            position.term,
            configuration,
            replica.snapshot(),
            lambda: replica.secure(position),
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
        if self._log.resting or self._transfer.fetching:
            return  # what is fetched may end before it, and goes on in the log from there
        self._environment.replica.saved(position)
        if self._log.agrees(position):
            base = self._base_behind(position.index, keep)
            if keep:
                base = min(base, self._kept_mark(position))
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

    def _kept_mark(self, position: Position) -> int:
        """Return the oldest index that `LogBounds` allows the log to begin at, or that a transfer
        under way needs, and note the end of the newest snapshot.
        """
        raft_log, now = self._log, self._environment.now()
        if not self._marks:
            held = raft_log.size_bytes  # a little more than the entries before `position`
            self._marks.append(_Mark(raft_log.first_index, self._saved_bytes - held, now))
        self._marks.append(_Mark(position.index, self._saved_bytes, now))
        while len(self._marks) > 1 and self._marks[1].base <= raft_log.first_index:
            del self._marks[0]
        size, age_s = self._bounds.keep_bytes, self._bounds.keep_s
        base = next(
            mark.base
            for mark in self._marks
            if mark.base == position.index
            or (self._behind(mark) <= size and now - mark.at_s <= age_s)
        )
        needed, needed_size = self._needed_by_transfers()
        before = [mark for mark in self._marks if mark.base <= needed]
        if needed < base and before and self._behind(before[-1]) <= needed_size:
            return needed
        return base

    def _behind(self, mark: _Mark) -> int:
        """Return how many bytes of the log lie between a mark and the newest snapshot."""
        return self._saved_bytes - mark.appended_bytes

    def _needed_by_transfers(self) -> tuple[int, int]:
        """Return the lowest end of the states that peers pull, and how many bytes may stay behind
        the newest snapshot for the sake of that transfer.
        """
        now, peers = self._environment.now(), self._leader.progress.values()
        pulled = [state for state in (peer.pulls(now) for peer in peers) if state is not None]
        if not pulled:
            return self._log.last_index, 0
        first = min(pulled, key=lambda state: state.end)
        return first.end, max(TRANSFER_KEEP_BYTES, 2 * first.total)
