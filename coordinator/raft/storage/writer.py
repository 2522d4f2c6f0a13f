"""Give what a journal has to say to the files of its segments, in order, and make it durable.

It never decides what a record means, never lets a byte come behind one that was lost, and never
retries a failed fsync.
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
"""How long writes wait for room on a full disk, nothing being acknowledged meanwhile; then it is
fatal.
"""
_PASSING: Final = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""What of a machine runs out and comes back."""

_log = structlog.get_logger("acordo.raft.journal")


class Flight:
    """What a file is being given just now."""

    def __init__(self, segment: Segment, content: bytes, before: int) -> None:
        self.segment, self.content = segment, content
        self.before = before
        """Bytes that the file had."""
        self.landed = False
        """Somebody else has seen to it (`flush_now`)."""


class Writer:
    """The hand that writes a journal's segments: each byte once, in the order it was given."""

    def __init__(self, files: JournalFiles) -> None:
        self._files, self._disk = files, files.disk
        self.failed = False
        """Set by the journal: something was lost, and nothing may come behind it."""
        self.closing = False
        """Set by the journal: room that is missing is no longer waited for."""
        self.waits_for_room = False
        """The disk is full, or no descriptor is left: writes wait, at most FULL_PATIENCE_S."""
        self.waiting: list[tuple[Segment, list[bytes]]] = []
        """What is held in memory until a group is written, in order."""
        self._group: list[tuple[Segment, list[bytes]]] = []
        """What of the group under way its files have not got yet, in order …"""
        self.flight: Flight | None = None
        """… and what a file is getting just now."""
        self._names_dirty = False
        """A segment was made whose name a power cut may still take: nothing in it is durable."""

    def hold(self, segment: Segment, content: bytes) -> None:
        """Keep it in memory; `write_group` or `flush_now` writes it."""
        if not self.waiting or self.waiting[-1][0] is not segment:
            self.waiting.append((segment, []))
        self.waiting[-1][1].append(content)

    def append_now(self, segment: Segment, content: bytes) -> None:
        """Write it to the page cache. Raises OSError."""
        self._opened(segment).append_now(content)
        segment.dirty = True

    async def write_group(self) -> None:
        """Write and sync all that waits, file after file. What comes meanwhile waits.

        Raises OSError, which is final; returns early when the journal has failed.
        """
        self._group, self.waiting = self.waiting, []
        while self._group:
            segment, pieces = self._group.pop(0)
            await self._append(segment, b"".join(pieces))

    def flush_now(self, segments: Iterable[Segment]) -> None:
        """Write and sync everything, blocking. Raises OSError.

        A group that is under way is taken over, so that nothing of it comes behind what is written
        here.
        """
        if self.flight is not None:
            self._land_now(self.flight)
        waiting, self._group, self.waiting = [*self._group, *self.waiting], [], []
        for segment, pieces in waiting:
            self.append_now(segment, b"".join(pieces))
            self._sync_now([segment])
        self._sync_now(segments)

    async def sync_dirty(self, segments: Iterable[Segment]) -> None:
        """Sync what was written at once, off the event loop. Raises OSError."""
        for segment in list(segments):
            if segment.dirty and segment.file is not None:
                segment.dirty = False
                await segment.file.sync()
        await self._disk.sync_directory()
        self._names_dirty = False

    async def remove(self, obsolete: Iterable[Segment]) -> None:
        """Remove segments, oldest first, each for good before the next.

        Else a power cut might bring an older one back and not a newer one: a gap, which a start
        takes for damage.
        """
        for segment in obsolete:
            segment.shut()
            await self._disk.remove(segment.name)
            await self._disk.sync_directory()

    async def _append(self, segment: Segment, content: bytes) -> None:
        """Write and sync. Want of room or of descriptors is waited for; every other error, a failed
        fsync among them, is final.
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
        """Do what a file is doing for the group, unless it has done it by the time it is asked.

        Raises OSError.
        """
        file = self._opened(flight.segment)
        file.sync_now()  # behind the write under way; if that one's sync failed, so does this one
        if file.size != flight.before + len(flight.content):  # there was no room
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
