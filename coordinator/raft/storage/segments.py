"""Model the parts of a journal: its segments, the live log that they hold, and their files' names.

It writes no segment: the writer fills them, and recovery reads them back at the start.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final, overload

from coordinator.raft.storage.disk import Disk, File, write_whole_now
from coordinator.raft.storage.entries import Entries, JournalEntry, Place
from coordinator.raft.storage.records import (
    RECORD_HEAD_BYTES,
    SegmentHeader,
    StoredVote,
    encode_vote,
    payload_length,
    record_in,
)

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

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.entries = Entries()
        self.entries.read = self._read
        self.segments: list[Segment] = []
        self.committed = 1

    @property
    def last_index(self) -> int:
        """The index of the last entry; 0: there is none."""
        return self.entries.last_index

    def append(self, entry: JournalEntry, offset: int) -> None:
        """Add one entry, whose record is at that offset of the newest segment."""
        newest = self.segments[-1]
        self.entries.append(entry, newest.header.number, offset)
        newest.last = entry[1]

    def cut(self, index: int) -> None:
        """Drop the entries from `index` on, which conflict with the leader's."""
        self.entries.cut(index)
        for segment in self.segments:
            segment.last = min(segment.last, index - 1)
        self.committed = max(1, min(self.committed, index - 1))

    def trim(self, index: int) -> None:
        """Drop the entries before `index`, which a snapshot covers."""
        self.entries.trim(index)

    def clear(self) -> None:
        """Drop all entries."""
        self.entries.clear()
        for segment in self.segments:
            segment.last = 0
        self.committed = 1

    def retire(self) -> list[Segment]:
        """Remove and return the oldest segments without a live entry; the newest always stays."""
        first = self.entries.first_index or self.segments[-1].last + 1
        count = 0
        while count < len(self.segments) - 1 and self.segments[count].last < first:
            count += 1
        retired = self.segments[:count]
        del self.segments[:count]
        return retired

    def _read(self, places: Sequence[Place]) -> list[bytes]:
        """Read the commands of entries from their segment's file, and check them. Raises OSError.
        This blocks: they were written lately, so most are in the page cache.
        """
        number = places[0].segment
        segment = next(segment for segment in self.segments if segment.header.number == number)
        if segment.file is None:
            segment.file = self._disk.open(segment.name)
        begin, last = places[0].offset, places[-1].offset
        content = segment.file.read_now(begin, last - begin + RECORD_HEAD_BYTES)
        if len(content) < last - begin + RECORD_HEAD_BYTES:
            raise OSError(errno.EIO, f"it is shorter than {last} bytes", segment.name)
        rest = payload_length(content[-RECORD_HEAD_BYTES:])
        content += segment.file.read_now(last + RECORD_HEAD_BYTES, rest)
        commands = []
        for place in places:
            found = record_in(segment.header.salt, content, begin, place.offset)
            if found is None or (found[0].index, found[0].term) != (place.entry, place.term):
                raise OSError(
                    errno.EIO,
                    f"entry {place.entry} at byte {place.offset} is damaged",
                    segment.name,
                )
            commands.append(found[0].payload)
        return commands


class LogReader:
    """A log as the library reads it: a sequence of entries, the oldest at position 0."""

    _log: LiveLog

    @overload
    def __getitem__(self, item: int) -> JournalEntry: ...
    @overload
    def __getitem__(self, item: slice) -> list[JournalEntry]: ...
    def __getitem__(self, item: int | slice) -> JournalEntry | list[JournalEntry]:
        return self._log.entries[item]

    def __len__(self) -> int:
        return len(self._log.entries)

    @property
    def first_index(self) -> int:
        """The index of the first entry; 0: there is none."""
        return self._log.entries.first_index

    @property
    def last_index(self) -> int:
        """The index of the last entry; 0: there is none."""
        return self._log.entries.last_index

    def term_of(self, position: int) -> int:
        """Return the term of the entry at that position, without reading it."""
        return self._log.entries.term_of(position)

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments, including bytes not written yet; compact when this grows."""
        return sum(segment.end for segment in self._log.segments)


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
