"""Write a journal's records to the files of its segments, in order, and make them durable.

It never decides what a record means, never writes a byte after one that was lost, and never retries
a failed fsync.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable
from typing import Final

import structlog

from coordinator.raft.storage.disk import File, SyncError
from coordinator.raft.storage.segments import JournalFiles, Segment

FULL_PAUSE_S: Final = 0.5
FULL_PATIENCE_S: Final = 60.0
"""Seconds that writes wait for room on a full disk before it is fatal; nothing is acknowledged
meanwhile.
"""
_PASSING: Final = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""Errors that may pass by themselves: the disk is full, or no file descriptor is left."""

_log = structlog.get_logger("acordo.raft.journal")


class Flight:
    """The one write to a file that is under way."""

    def __init__(self, segment: Segment, content: bytes, before: int) -> None:
        self.segment, self.content = segment, content
        self.before = before
        """Bytes in the file before the write."""
        self.landed = False
        """Whether `flush_now` has completed the write in place of the group."""


class Writer:
    """The writer of a journal's segments: it writes each byte once, in the order it was given."""

    def __init__(self, files: JournalFiles) -> None:
        self._files, self._disk = files, files.disk
        self.failed = False
        """Set by the journal when a write was lost: nothing may be written after it."""
        self.closing = False
        """Set by the journal on closing: writes no longer wait for room on the disk."""
        self.waits_for_room = False
        """Whether writes wait, for at most FULL_PATIENCE_S, because the disk is full or no file
        descriptor is left.
        """
        self.waiting: list[tuple[Segment, list[bytes]]] = []
        """Bytes held in memory for the next group, in order."""
        self._group: list[tuple[Segment, list[bytes]]] = []
        """The part of the group under way that has not been passed to its files yet, in order."""
        self.flight: Flight | None = None
        """The write of the group under way that a file is doing now."""
        self._names_dirty = False
        """Whether a new segment's name may still be lost in a power cut; until the directory is
        synced, nothing in that segment is durable.
        """

    def hold(self, segment: Segment, content: bytes) -> None:
        """Keep `content` in memory until `write_group` or `flush_now` writes it."""
        if not self.waiting or self.waiting[-1][0] is not segment:
            self.waiting.append((segment, []))
        self.waiting[-1][1].append(content)

    def append_now(self, segment: Segment, content: bytes) -> None:
        """Write `content` to the page cache. Raises OSError."""
        self._opened(segment).append_now(content)
        segment.dirty = True

    async def write_group(self) -> None:
        """Write and sync everything that waits, file after file. Bytes that arrive meanwhile wait
        for the next group.

        Raises OSError, which is final; returns early if the journal has failed.
        """
        self._group, self.waiting = self.waiting, []
        while self._group:
            segment, pieces = self._group.pop(0)
            await self._append(segment, b"".join(pieces))

    def flush_now(self, segments: Iterable[Segment]) -> None:
        """Write and sync everything, blocking. Raises OSError.

        A group that is under way is finished here first; otherwise parts of it could be written
        after newer records.
        """
        if self.flight is not None:
            self._land_now(self.flight)
        waiting, self._group, self.waiting = [*self._group, *self.waiting], [], []
        for segment, pieces in waiting:
            self.append_now(segment, b"".join(pieces))
            self._sync_now([segment])
        self._sync_now(segments)

    async def sync_dirty(self, segments: Iterable[Segment]) -> None:
        """Sync what `append_now` has written, off the event loop. Raises OSError."""
        for segment in list(segments):
            if segment.dirty and segment.file is not None:
                segment.dirty = False
                await segment.file.sync()
        await self._disk.sync_directory()
        self._names_dirty = False

    async def remove(self, obsolete: Iterable[Segment]) -> None:
        """Remove segments, oldest first, and make each removal durable before the next.

        Otherwise a power cut could bring an older segment back but not a newer one. The next start
        would take that gap for damage.
        """
        for segment in obsolete:
            segment.shut()
            await self._disk.remove(segment.name)
            await self._disk.sync_directory()

    async def _append(self, segment: Segment, content: bytes) -> None:
        """Write and sync. If the disk is full or no file descriptor is left, wait and try again;
        every other error, including a failed fsync, is final.
        """
        before = 0 if segment.file is None else segment.file.size
        flight = self.flight = Flight(segment, content, before)
        waited = 0.0
        while not flight.landed:
            try:
                await self._opened(segment).append(content, sync=True)
                break
            except SyncError:
                raise
            except OSError as exc:
                if flight.landed:
                    break
                if exc.errno not in _PASSING or waited >= FULL_PATIENCE_S or self.closing:
                    raise
                if not self.waits_for_room:
                    _log.error("no_room", file=self._files.path(segment.name), why=exc.strerror)
                self.waits_for_room = True
            if segment.file is not None:
                segment.file.truncate_now(flight.before)
            waited += FULL_PAUSE_S
            await asyncio.sleep(FULL_PAUSE_S)
            if self.failed:
                return
        self.flight = None
        self.waits_for_room = False
        if self._names_dirty:
            await self._disk.sync_directory()
            self._names_dirty = False

    def _land_now(self, flight: Flight) -> None:
        """Complete the write that is under way for the group, unless the file has completed it.

        Raises OSError.
        """
        file = self._opened(flight.segment)
        file.sync_now()  # waits for the write under way; fails if that one's sync has failed
        if file.size != flight.before + len(flight.content):  # the disk was full
            file.truncate_now(flight.before)
            file.append_now(flight.content)
        flight.segment.dirty = flight.landed = True
        self._sync_now([flight.segment])
        self.flight = None

    def _sync_now(self, segments: Iterable[Segment]) -> None:
        synced = False
        for segment in segments:
            if segment.dirty and segment.file is not None:
                segment.file.sync_now()
                segment.dirty, synced = False, True
        if synced or self._names_dirty:
            self._disk.sync_directory_now()
            self._names_dirty = False

    def _opened(self, segment: Segment) -> File:
        if segment.file is None:
            segment.file = self._disk.create(segment.name)
            self._names_dirty = True
        return segment.file
