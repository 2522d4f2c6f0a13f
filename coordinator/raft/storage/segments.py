"""Keep what a journal is made of: its segments, the live log that they hold, and their names.

It decides nothing about the disk: recovery reads the segments back, the writer fills them.
"""

from __future__ import annotations

import os
from typing import Final, TypeAlias

from coordinator.raft.storage.disk import Disk, File, write_whole_now
from coordinator.raft.storage.records import SegmentHeader, StoredVote, encode_vote

JournalEntry: TypeAlias = tuple[bytes, int, int]
"""(command, index, term): the library's order."""

_DIGITS: Final = 10


class Segment:
    """One segment of a journal, as it is kept while the journal is open."""

    def __init__(self, header: SegmentHeader, name: str) -> None:
        self.header, self.name = header, name
        self.file: File | None = None
        self.end = 0
        """Bytes that it has once everything given to it is written."""
        self.last = 0
        """Highest live index in it; 0: none."""
        self.dirty = False
        """Written but not synced (policies interval and off)."""

    def shut(self) -> None:
        """Close its file, if it is open."""
        if self.file is not None:
            self.file.close()
            self.file = None


class LiveLog:
    """The log that replaying every record so far has left. Entries have consecutive indexes."""

    def __init__(self) -> None:
        self.entries: list[JournalEntry] = []
        self.segments: list[Segment] = []
        self.committed = 1

    @property
    def last_index(self) -> int:
        """Index of the last entry; 0: there is none."""
        return self.entries[-1][1] if self.entries else 0

    def append(self, entry: JournalEntry) -> None:
        """Add one entry, which the newest segment holds."""
        self.entries.append(entry)
        self.segments[-1].last = entry[1]

    def cut(self, index: int) -> None:
        """Drop the entries from `index` on: they conflict with the leader's."""
        if self.entries:
            del self.entries[max(0, index - self.entries[0][1]) :]
        for segment in self.segments:
            segment.last = min(segment.last, index - 1)
        self.committed = max(1, min(self.committed, index - 1))

    def trim(self, index: int) -> None:
        """Drop the entries before `index`: a snapshot holds what they did."""
        if self.entries:
            del self.entries[: max(0, index - self.entries[0][1])]

    def clear(self) -> None:
        """Drop all entries."""
        self.entries.clear()
        for segment in self.segments:
            segment.last = 0
        self.committed = 1

    def retire(self) -> list[Segment]:
        """Take out, and return, the oldest segments that have no live entry.

        The newest always stays.
        """
        first = self.entries[0][1] if self.entries else self.segments[-1].last + 1
        count = 0
        while count < len(self.segments) - 1 and self.segments[count].last < first:
            count += 1
        retired = self.segments[:count]
        del self.segments[:count]
        return retired


class JournalFiles:
    """Where a journal is and whose it is: `cluster` and `member` stand in every file.

    `sync` is false for policy off.
    """

    def __init__(self, disk: Disk, name: str, cluster: str, member: str, *, sync: bool) -> None:
        self.disk, self.name, self.sync = disk, name, sync
        self.cluster, self.member = cluster, member

    @property
    def vote_name(self) -> str:
        """The file that holds term and vote."""
        return f"{self.name}.vote"

    def segment_name(self, number: int) -> str:
        """Return the name of a segment's file."""
        return f"{self.name}.{number:0{_DIGITS}}"

    def numbers(self) -> list[int]:
        """Return the numbers of the segments that are there, in order."""
        prefix = self.name + "."
        names = self.disk.names()
        tails = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
        return sorted(int(tail) for tail in tails if len(tail) == _DIGITS and tail.isdecimal())

    def path(self, name: str) -> str:
        """Return how messages to people name a file."""
        return os.path.join(self.disk.directory, name)

    def header(self, number: int, previous_bytes: int, *, sealed: bool) -> SegmentHeader:
        """Return the header of a segment that is to be made."""
        return SegmentHeader(self.cluster, self.member, number, previous_bytes, sealed)

    def store_vote(self, term: int, voted_for: str | None) -> None:
        """Block until term and vote are on the disk, whatever the policy. Raises OSError.

        Elections are rare, and a torn vote keeps a node down.
        """
        vote = StoredVote(self.cluster, self.member, term, voted_for)
        write_whole_now(self.disk, self.vote_name, encode_vote(vote), sync=True)
