"""Model the parts of a journal: its segments, the live log that they hold, and their files' names.

It does not read or write segments: recovery reads them back, and the writer fills them.
"""

from __future__ import annotations

import os
from typing import Final, TypeAlias

from coordinator.raft.storage.disk import Disk, File, write_whole_now
from coordinator.raft.storage.records import SegmentHeader, StoredVote, encode_vote

JournalEntry: TypeAlias = tuple[bytes, int, int]
"""(command, index, term), in the library's order."""

_DIGITS: Final = 10


class Segment:
    """One segment of an open journal."""

    def __init__(self, header: SegmentHeader, name: str) -> None:
        self.header, self.name = header, name
        self.file: File | None = None
        self.end = 0
        """Length in bytes once everything that was added to the segment is written."""
        self.last = 0
        """The highest index in the segment that was not cut; 0: none."""
        self.dirty = False
        """Whether bytes were written but not synced (policies interval and off)."""

    def shut(self) -> None:
        """Close the segment's file if it is open."""
        if self.file is not None:
            self.file.close()
            self.file = None


class LiveLog:
    """The log that results from all records so far. Its entries have consecutive indexes."""

    def __init__(self) -> None:
        self.entries: list[JournalEntry] = []
        self.segments: list[Segment] = []
        self.committed = 1

    @property
    def last_index(self) -> int:
        """The index of the last entry; 0: there is none."""
        return self.entries[-1][1] if self.entries else 0

    def append(self, entry: JournalEntry) -> None:
        """Add one entry, whose record is in the newest segment."""
        self.entries.append(entry)
        self.segments[-1].last = entry[1]

    def cut(self, index: int) -> None:
        """Drop the entries from `index` on, which conflict with the leader's."""
        if self.entries:
            del self.entries[max(0, index - self.entries[0][1]) :]
        for segment in self.segments:
            segment.last = min(segment.last, index - 1)
        self.committed = max(1, min(self.committed, index - 1))

    def trim(self, index: int) -> None:
        """Drop the entries before `index`, which a snapshot covers."""
        if self.entries:
            del self.entries[: max(0, index - self.entries[0][1])]

    def clear(self) -> None:
        """Drop all entries."""
        self.entries.clear()
        for segment in self.segments:
            segment.last = 0
        self.committed = 1

    def retire(self) -> list[Segment]:
        """Remove and return the oldest segments without a live entry; the newest always stays."""
        first = self.entries[0][1] if self.entries else self.segments[-1].last + 1
        count = 0
        while count < len(self.segments) - 1 and self.segments[count].last < first:
            count += 1
        retired = self.segments[:count]
        del self.segments[:count]
        return retired


class JournalFiles:
    """The location and the owner of a journal's files. Every file contains `cluster` and `member`.

    `sync` is false for policy off.
    """

    def __init__(self, disk: Disk, name: str, cluster: str, member: str, *, sync: bool) -> None:
        self.disk, self.name, self.sync = disk, name, sync
        self.cluster, self.member = cluster, member

    @property
    def vote_name(self) -> str:
        """The name of the file that holds term and vote."""
        return f"{self.name}.vote"

    def segment_name(self, number: int) -> str:
        """Return the name of a segment's file."""
        return f"{self.name}.{number:0{_DIGITS}}"

    def numbers(self) -> list[int]:
        """Return the numbers of the segments on the disk, sorted."""
        prefix = self.name + "."
        names = self.disk.names()
        tails = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
        return sorted(int(tail) for tail in tails if len(tail) == _DIGITS and tail.isdecimal())

    def path(self, name: str) -> str:
        """Return the path of a file, for messages."""
        return os.path.join(self.disk.directory, name)

    def header(self, number: int, previous_bytes: int, *, sealed: bool) -> SegmentHeader:
        """Return the header for a new segment."""
        return SegmentHeader(self.cluster, self.member, number, previous_bytes, sealed)

    def store_vote(self, term: int, voted_for: str | None) -> None:
        """Block until term and vote are on the disk, under every policy. Raises OSError.

        The syncs cost little, because elections are rare; a torn vote file would keep the node from
        starting.
        """
        vote = StoredVote(self.cluster, self.member, term, voted_for)
        write_whole_now(self.disk, self.vote_name, encode_vote(vote), sync=True)
