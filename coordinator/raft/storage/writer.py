"""Write a journal's records to the files of its segments, in order, and make them durable.

It never decides what a record means, never writes a byte after one that was lost, and never retries
a failed fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Iterable
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
        self.writing: Awaitable[None] | None = None
        """The call that does it, until somebody awaits that."""
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
        self.waiting_bytes = 0
        """How many they are; asked for with every command."""
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
        self.waiting_bytes += len(content)

    def append_now(self, segment: Segment, content: bytes) -> None:
        """Write `content` to the page cache. Raises OSError."""
        self._opened(segment).append_now(content)
        segment.dirty = True

    def begin_group(self) -> None:
        """Take everything that waits as the next group, and pass its first piece to its file, so
        that the disk already works while the event loop goes on. `write_group` must follow. Bytes
        that arrive meanwhile wait for the next group.
        """
        self._group, self.waiting, self.waiting_bytes = self.waiting, [], 0
        segment, pieces = self._group.pop(0)
        self._begin_write(segment, b"".join(pieces))

    async def write_group(self) -> None:
        """Write and sync the group that was begun, file after file.

        Raises OSError, which is final; returns early if the journal has failed.
        """
        await self._finish_write()
        # What was given up leaves a gap: a later segment would say that it had been durable.
        while self._group and not self.failed:
            segment, pieces = self._group.pop(0)
            self._begin_write(segment, b"".join(pieces))
            await self._finish_write()

    def flush_now(self, segments: Iterable[Segment]) -> None:
        """Write and sync everything, blocking. Raises OSError.

        A group that is under way is finished here first; otherwise parts of it could be written
        after newer records.
        """
        if self.flight is not None:
            self._land_now(self.flight)
        waiting, self._group, self.waiting = [*self._group, *self.waiting], [], []
        self.waiting_bytes = 0
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

    def _begin_write(self, segment: Segment, content: bytes) -> None:
        before = 0 if segment.file is None else segment.file.size
        self.flight = Flight(segment, content, before)
        # What cannot even begin is tried again, or raised, where the write is waited for.
        with contextlib.suppress(OSError):
            self.flight.writing = self._opened(segment).append(content, sync=True)

    async def _finish_write(self) -> None:
        """Wait for the write under way. If the disk is full or no file descriptor is left, wait and
        try again; every other error, including a failed fsync, is final.
        """
        flight = self.flight
        if flight is None:  # `flush_now` has completed it
            return
        segment, waited = flight.segment, 0.0
        while not flight.landed:
            try:
                writing, flight.writing = flight.writing, None
                await (writing or self._opened(segment).append(flight.content, sync=True))
                break
            except SyncError:
                raise
            except OSError as exc:
                if flight.landed:
                    break
                if not self._may_pass(exc, waited):
                    raise
                self._note_no_room(segment, exc)
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

    def _may_pass(self, exc: OSError, waited: float) -> bool:
        return exc.errno in _PASSING and waited < FULL_PATIENCE_S and not self.closing

    def _note_no_room(self, segment: Segment, exc: OSError) -> None:
        if not self.waits_for_room:
            _log.error("no_room", file=self._files.path(segment.name), why=exc.strerror)
        self.waits_for_room = True

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
