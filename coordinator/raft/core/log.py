"""Keep the log of one member: its entries, how far they are committed, and how far applied.

Never decides what belongs into it: a leader, a follower or a snapshot says so. What is on the disk
is the journal's to say (`synced_index`).
"""

from __future__ import annotations

from typing import Final

from coordinator.log import Position
from coordinator.raft.core.library import NO_OP, DurableLog, Library, Record
from coordinator.raft.core.rules.tail import Unsynced

WIPED: Final = NO_OP + b"wiped"
"""The base of a log that was begun again: the disk is not lost."""


class RaftLog:
    """The log that this member holds, from its base on. It is never empty."""

    def __init__(self, library: Library, journal: DurableLog, now: float) -> None:
        """Take the log from the disk: what it says was durable before anyone heard of it."""
        if len(journal) == 0:
            journal.add(NO_OP, 1, 0)
        self._library, self._journal = library, journal
        base = journal[0]
        library.journal = journal
        library.applied_index = base[1]
        library.commit_index = max(base[1], min(journal.getRaftCommitIndex(), journal[-1][1]))
        self.applied_term = base[2]
        self.frozen = False
        """A snapshot is being verified or put in place: the log stands still until it is."""
        self.appended_bytes = 0
        """Bytes of all commands that were appended, whatever became of them, and of those that a
        start found behind the snapshot.
        """
        self._unsynced = Unsynced()
        self._seconds, self._started = 0, now

    # -------------------------------------------------------------------------------- what it holds

    @property
    def first_index(self) -> int:
        """Where the log begins: its base."""
        return self._journal[0][1]

    @property
    def last_index(self) -> int:
        """Where it ends."""
        return self._journal[-1][1]

    @property
    def last_term(self) -> int:
        """The term of its last entry."""
        return self._journal[-1][2]

    @property
    def synced_index(self) -> int:
        """The last entry that is on the disk."""
        return self._journal.synced_index

    @property
    def unsynced_bytes(self) -> int:
        """How much waits for the disk."""
        return self._journal.unsynced_bytes

    def term_at(self, index: int) -> int:
        """Return the term of an entry that is held."""
        journal = self._journal
        return journal[index - journal[0][1]][2]

    def command_at(self, index: int) -> bytes:
        """Return the command of an entry that is held."""
        journal = self._journal
        return journal[index - journal[0][1]][0]

    def holds(self, index: int) -> bool:
        """Say whether an entry of that index is held."""
        return self.first_index <= index <= self.last_index

    def agrees(self, position: Position) -> bool:
        """Say whether that very entry is held."""
        return self.holds(position.index) and self.term_at(position.index) == position.term

    def has_applied(self, position: Position) -> bool:
        """Say whether that very entry is applied; one below the log's base is in the snapshot.

        Unless its term is later than the base's: terms only rise along a log, so it is another
        log's.
        """
        if self._library.applied_index < position.index:
            return False
        if position.index < self.first_index:
            return position.term <= self.term_at(self.first_index)
        return self.term_at(position.index) == position.term

    def entries(self, start: int, count: int, bytes_max: int | None = None) -> list[Record]:
        """Return entries from index `start` on: at most `count`, and none behind the one with which
        they are `bytes_max` long.
        """
        journal = self._journal
        place = start - journal[0][1]
        if place < 0:  # compacted: a negative place would count from the end
            return []
        found = journal[place : place + count]
        if bytes_max is None:
            return found
        size = 0
        for number, entry in enumerate(found, 1):
            size += len(entry[0])
            if size >= bytes_max:
                return found[:number]
        return found

    def held(self) -> list[Record]:
        """Return all entries, the base included."""
        return self._journal[:]

    def uncommitted(self) -> list[Record]:
        """Return the entries that are not known to be committed."""
        return self._journal[self._library.commit_index + 1 - self.first_index :]

    @property
    def applied(self) -> Position:
        """The last entry that the machine has."""
        return Position(self._library.applied_index, self.applied_term)

    @property
    def committed(self) -> Position:
        """The last entry that is known to be committed."""
        index = self._library.commit_index
        return Position(index, self.term_at(index))

    # ------------------------------------------------------------------------------- how it changes

    def append(self, command: bytes, index: int, term: int) -> None:
        """Append an entry, and count its bytes."""
        self._journal.add(command, index, term)
        self.appended_bytes += len(command)

    def note_held(self, size: int) -> None:
        """Count what a start found behind the snapshot as appended."""
        self.appended_bytes += size

    def append_no_op(self, term: int) -> int:
        """Append what a new leader's term begins with; return where."""
        index = self.last_index + 1
        self._journal.add(NO_OP, index, term)
        return index

    def cut_from(self, index: int) -> None:
        """Drop a conflicting tail. What of it was committed is so no more."""
        self._library.delete_from(index)
        if index <= self._library.commit_index:
            self._library.commit_index = index - 1

    def drop_before(self, index: int) -> None:
        """Let the log begin at `index`: a snapshot on the disk holds what is before."""
        self._library.delete_to(index)

    def begin_at(self, base: Position, command: bytes = NO_OP) -> None:
        """Let the log begin, and end, at `base`."""
        self._journal.clear()
        self._journal.add(command, base.index, base.term)
        self.apply_to(base)
        self._library.commit_index = base.index

    def commit_to(self, index: int) -> None:
        """Note that all up to there is committed."""
        journal = self._journal
        self._library.commit_index = index
        # On disk it is a hint for the next start: never one about entries that a power cut could
        # take.
        journal.setRaftCommitIndex(min(index, journal.synced_index))

    def load_commit(self, at_least: int) -> None:
        """Take the commit index that the disk has, and one that a snapshot proves."""
        self._library.commit_index = max(
            at_least, min(self._journal.getRaftCommitIndex(), self.last_index)
        )

    def apply_to(self, position: Position) -> None:
        """Say that the machine has that entry, and nothing behind it."""
        self._library.applied_index, self.applied_term = position.index, position.term

    def freeze(self) -> None:
        """Let the log stand still: a snapshot is to take its place."""
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on: the snapshot is in place, or was refused."""
        self.frozen = False

    # ----------------------------------------------------------------------------------- the disk

    def maybe_sync(self) -> None:
        """Begin to make durable what is not."""
        self._journal.maybe_sync()

    def flush(self) -> None:
        """Make durable what is not, before it returns."""
        self._journal.flush()

    def note_tail(self, now: float) -> None:
        """Take in how far the disk is behind the log."""
        self._unsynced.note(self._journal.synced_index, self.last_index, now)

    def unsynced_age_s(self, now: float) -> float:
        """Return for how many seconds the oldest entry has waited for the disk, as last noted."""
        return self._unsynced.age_s(now)

    @property
    def unsynced(self) -> Unsynced:
        """How long the log has been ahead of the disk, and by what."""
        return self._unsynced

    def each_second(self, now: float) -> None:
        """Let the journal do what it does once a second."""
        up_s = now - self._started
        if up_s > self._seconds:
            self._seconds = int(up_s) + 1
            self._journal.onOneSecondTimer()
