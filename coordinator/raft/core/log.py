"""Keep the log of one member: its entries, how far they are committed, and how far applied.

Never decides what belongs in it: the leader, the follower or a snapshot does. Which entries are on
the disk is known by the journal (`synced_index`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from coordinator.log import Position
from coordinator.raft.core.durable_log import DurableLog, Record
from coordinator.raft.core.pysyncobj_library import NO_OP, Library
from coordinator.raft.core.rules.tail import Unsynced

READ_ENTRIES: Final = 64
"""Number of entries to take from the journal at once; they may have to be read from the disk."""
WIPED: Final = NO_OP + b"wiped"
"""The command of the base of a log that was wiped: it shows that the disk itself was not lost."""


class RaftLog:
    """The log that this member holds. It starts with its base entry, so it is never empty."""

    def __init__(self, library: Library, journal: DurableLog, now: float) -> None:
        """Take the log from the journal; start an empty journal with the base entry (1, 0)."""
        if len(journal) == 0:
            journal.add(NO_OP, 1, 0)
        self._library, self._journal = library, journal
        base = journal[0]
        library.journal = journal
        library.applied_index = base[1]
        library.commit_index = max(base[1], min(journal.getRaftCommitIndex(), journal[-1][1]))
        self.applied_term = base[2]
        self.resting = False
        """Whether a snapshot is being verified or put in place; nothing is applied until then."""
        self.frozen = False
        """Whether that snapshot is to replace the log too, which does not change until then."""
        self.appended_bytes = 0
        """Bytes of all commands appended since the start, including those cut off later, and of
        those that the start found in the journal after the snapshot.
        """
        self._unsynced = Unsynced()
        self._seconds, self._started = 0, now

    # -------------------------------------------------------------------------------- what it holds

    @property
    def first_index(self) -> int:
        """The index of the base, where the log begins."""
        return self._journal.first_index

    @property
    def last_index(self) -> int:
        """The index of the last entry."""
        return self._journal.last_index

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self._journal.term_of(-1)

    @property
    def synced_index(self) -> int:
        """The index of the last entry that is on the disk."""
        return self._journal.synced_index

    @property
    def unsynced_bytes(self) -> int:
        """Bytes that are not on the disk yet."""
        return self._journal.unsynced_bytes

    def term_at(self, index: int) -> int:
        """Return the term of an entry, which must be held."""
        journal = self._journal
        return journal.term_of(index - journal.first_index)

    def command_at(self, index: int) -> bytes:
        """Return the command of an entry, which must be held."""
        journal = self._journal
        return journal[index - journal.first_index][0]

    def holds(self, index: int) -> bool:
        """Say whether the log here has an entry at that index."""
        return self.first_index <= index <= self.last_index

    def agrees(self, position: Position) -> bool:
        """Say whether the log here has an entry of exactly that index and term."""
        return self.holds(position.index) and self.term_at(position.index) == position.term

    def has_applied(self, position: Position) -> bool:
        """Say whether the entry of exactly that index and term is applied.

        An entry below the log's base is in the snapshot, so it counts as applied, unless its term
        is above the base's: terms only rise along a log, so it then belongs to another log.
        """
        if self._library.applied_index < position.index:
            return False
        if position.index < self.first_index:
            return position.term <= self.term_at(self.first_index)
        return self.term_at(position.index) == position.term

    def entries(self, start: int, count: int, bytes_max: int | None = None) -> list[Record]:
        """Return at most `count` entries from index `start` on. With `bytes_max`, stop after the
        entry with which their commands reach that size.
        """
        journal = self._journal
        place = start - journal.first_index
        if place < 0:  # `start` is compacted; a negative index would count from the end of the list
            return []
        if bytes_max is None:
            return journal[place : place + count]
        count = min(count, self.last_index + 1 - start)
        found: list[Record] = []
        size = 0
        # Entries that are not in memory are read, so no more of them than are wanted.
        while len(found) < count:
            begin = place + len(found)
            for entry in journal[begin : begin + min(READ_ENTRIES, count - len(found))]:
                found.append(entry)
                size += len(entry[0])
                if size >= bytes_max:
                    return found
        return found

    def held(self, after: int = 0) -> Iterator[Record]:
        """Iterate over the entries whose index is above `after`, the base included."""
        place = max(0, after + 1 - self.first_index)
        while step := self._journal[place : place + READ_ENTRIES]:
            yield from step
            place += len(step)

    @property
    def size_bytes(self) -> int:
        """Bytes that the journal takes on the disk."""
        return self._journal.size_bytes

    def uncommitted(self) -> list[Record]:
        """Return the entries that are not known to be committed."""
        return self._journal[self._library.commit_index + 1 - self.first_index :]

    @property
    def applied(self) -> Position:
        """The last entry that the machine has applied."""
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
        """Count bytes that the start found after the snapshot as appended."""
        self.appended_bytes += size

    def append_no_op(self, term: int) -> int:
        """Append the no-op that begins a new leader's term; return its index."""
        index = self.last_index + 1
        self._journal.add(NO_OP, index, term)
        return index

    def cut_from(self, index: int) -> None:
        """Drop a conflicting tail; lower the commit index if the tail reaches below it."""
        self._library.delete_from(index)
        if index <= self._library.commit_index:
            self._library.commit_index = index - 1

    def drop_before(self, index: int) -> None:
        """Make `index` the base of the log: a snapshot on the disk holds everything before it."""
        self._library.delete_to(index)

    def begin_at(self, base: Position, command: bytes = NO_OP) -> None:
        """Replace the whole log by a single base entry at `base`."""
        self._journal.clear()
        self._journal.add(command, base.index, base.term)
        self.apply_to(base)
        self._library.commit_index = base.index

    def commit_to(self, index: int) -> None:
        """Note that all entries up to `index` are committed."""
        self._library.commit_index = index
        self.keep_commit()

    def keep_commit(self) -> None:
        """Give the journal the commit index as a hint for the next start, as far as the entries are
        on the disk: otherwise it could name entries that a power cut took.
        """
        journal = self._journal
        journal.setRaftCommitIndex(min(self._library.commit_index, journal.synced_index))

    def load_commit(self, at_least: int) -> None:
        """Set the commit index from the hint on the disk, at least to the end of a snapshot."""
        self._library.commit_index = max(
            at_least, min(self._journal.getRaftCommitIndex(), self.last_index)
        )

    def apply_to(self, position: Position) -> None:
        """Note that the machine has applied that entry, and none after it."""
        self._library.applied_index, self.applied_term = position.index, position.term

    def rest(self, *, keep: bool) -> None:
        """Apply nothing: a snapshot is about to replace the machine. Unless `keep`, it replaces the
        log too, which then does not change any more.
        """
        self.resting, self.frozen = True, not keep

    def go_on(self) -> None:
        """Apply and change again: the snapshot is in place, or was refused."""
        self.resting = self.frozen = False

    # ----------------------------------------------------------------------------------- the disk

    def maybe_sync(self, *, at_once: bool = False) -> None:
        """Start a sync of what is not on the disk yet; `at_once`: nothing more will be appended in
        this turn of the loop.
        """
        self._journal.maybe_sync(at_once=at_once)

    def flush(self) -> None:
        """Make the whole log durable before returning; this blocks."""
        self._journal.flush()

    def note_tail(self, now: float) -> None:
        """Record how far the disk is behind the log at `now`."""
        self._unsynced.note(self._journal.synced_index, self.last_index, now)

    def unsynced_age_s(self, now: float) -> float:
        """Return how many seconds the oldest unsynced entry has waited, as of `note_tail`."""
        return self._unsynced.age_s(now)

    @property
    def unsynced(self) -> Unsynced:
        """When the entries were added that are not on the disk yet."""
        return self._unsynced

    def each_second(self, now: float) -> None:
        """Call the journal's one-second timer, at most once a second."""
        up_s = now - self._started
        if up_s > self._seconds:
            self._seconds = int(up_s) + 1
            self._journal.onOneSecondTimer()
