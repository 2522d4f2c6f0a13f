"""Keep the Raft log, term and vote on the disk, and report how far the log is durable.

It never acknowledges anything, never rewrites a byte in place, and never retries a failed fsync.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeAlias

import structlog

from coordinator.raft.storage.disk import Disk
from coordinator.raft.storage.real_disk import RealDisk
from coordinator.raft.storage.records import Kind, Record, encode_record, encode_segment
from coordinator.raft.storage.recovery import recover
from coordinator.raft.storage.segments import JournalFiles, LogReader, Segment
from coordinator.raft.storage.writer import Writer
from kv.errors import BadRequest

SEGMENT_BYTES_MAX: Final = 16 << 20
"""Size at which a new segment is begun; a segment exceeds it by at most one record."""

MEMORY_BYTES_MAX: Final = 32 << 20
"""Bytes of commands that are held in memory; older ones are read from their segments."""

Policy: TypeAlias = Literal["always", "interval", "off"]

_log = structlog.get_logger("acordo.raft.journal")


class Journal(LogReader):
    """The log of one member, with the interface that PySyncObj's core calls on its journal.

    It is append-only: a conflict, a trim and a clear are records too, so a process that dies at any
    byte leaves a state that was intended. The log is a chain of segments; compaction removes whole
    segments from its front and never copies an entry.

    `synced_index` says how far the log is durable. Under policy `always`, added entries are held in
    memory until `maybe_sync()` writes and fdatasyncs them as one group, off the event loop;
    `on_synced` is called afterwards. Under policies `interval` and `off`, entries are written at
    once, so that they survive kill -9, and `synced_index` is the last index.

    With only a path it is a drop-in replacement for the library's FileJournal (policy off;
    `flush()` syncs). The constructor reads the disk, because the library expects a journal that is
    ready. It raises BadRequest, naming the file, for a journal that is damaged, belongs to another
    cluster or member, or has a newer format; the file is left unchanged.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        disk: Disk | None = None,
        name: str = "journal",
        cluster: str = "",
        member: str = "",
        fsync: Policy = "off",
        interval_s: float = 0.1,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
    ) -> None:
        if path is not None:
            disk, name = RealDisk(os.path.dirname(path) or ".", lock=False), os.path.basename(path)
        if disk is None:
            raise ValueError("give a path or a disk")
        self._disk, self._owns_disk = disk, path is not None
        self._files = JournalFiles(disk, name, cluster, member, sync=fsync != "off")
        self._writer = Writer(self._files)
        self._fsync: Policy = fsync
        self._interval_s, self._segment_bytes_max = interval_s, segment_bytes_max
        self._memory_bytes_max = memory_bytes_max
        self.on_synced: Callable[[int], None] = lambda index: None
        """Called on the event loop after each group with the new `synced_index`."""
        self.on_fatal: Callable[[BaseException], None] = lambda exc: _log.critical(
            "journal_failed", error=str(exc)
        )
        """Called once when the log can no longer be made durable; it must stop the process."""
        self._obsolete: list[Segment] = []
        """Segments to remove once the record that made them obsolete is durable."""
        self._begun: list[Segment] | None = None
        """Those of the group that was begun and that nobody waits for yet; None: there is none."""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        try:
            self._log, self._term, self._voted_for = recover(self._files, memory_bytes_max)
            self._open_newest()
        except OSError as exc:
            raise BadRequest("journal_unreadable", f"{self._files.path(name)}: {exc}") from exc
        self._hinted = self._log.committed
        self._synced_index = self._group_index = self._log.last_index

    # ----------------------------------------------------------------------- what the library calls

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry; it is durable once `synced_index` has reached its index.

        Raises ValueError if the index does not follow the last one.
        """
        if len(self._log.entries) and idx != self._log.last_index + 1:
            raise ValueError(f"entry {idx} does not follow {self._log.last_index}")
        offset = self._write(Record(Kind.ENTRY, idx, term, command))
        self._log.append((command, idx, term), offset)
        if self._fsync != "always":
            self._forget()

    def clear(self) -> None:
        """Drop all entries. The next entry added may have any index."""
        if self._log.entries:
            self._write(Record(Kind.CLEAR, 0))
            self._log.clear()
            self._synced_index = self._group_index = 0
            self._hinted = 1
            self._retire()

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Drop the entries from that position on, and lower `synced_index` accordingly."""
        if entryFrom >= len(self._log.entries):
            return
        index = self._log.entries.first_index + entryFrom
        self._write(Record(Kind.CUT, index))
        self._log.cut(index)
        # The group under way is lowered too: it makes the entries durable that were just cut. If
        # its old index counted, the leader would believe that the replacements are durable before
        # they are.
        self._synced_index = min(self._synced_index, index - 1)
        self._group_index = min(self._group_index, index - 1)
        self._hinted = min(self._hinted, self._log.committed)

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Drop the entries before that position, which a durable snapshot must cover."""
        if entryTo >= len(self._log.entries):
            self.clear()
        elif entryTo > 0:
            index = self._log.entries.first_index + entryTo
            self._write(Record(Kind.TRIM, index))
            self._log.trim(index)
            self._retire()

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Block until term and vote are durable, under every policy (two fsyncs). Raises OSError.

        No message of the new term may be sent before this returns. Otherwise a member that loses
        power right after it voted restarts, votes for another candidate in the same term, and both
        candidates are elected.
        """
        if (term, votedForNodeId) == (self._term, self._voted_for):
            return
        try:
            self._files.store_vote(term, votedForNodeId)
        except OSError as exc:
            self._fail(exc)
            raise
        self._term, self._voted_for = term, votedForNodeId

    def getCurrentTerm(self) -> int:
        """Return the term that was stored last."""
        return self._term

    def getVotedForNodeId(self) -> str | None:
        """Return the vote that was stored with the term; None: no vote was given."""
        return self._voted_for

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Remember the commit index as a hint; it is not synced for its own sake."""
        self._log.committed = raftCommitIndex

    def getRaftCommitIndex(self) -> int:
        """Return the hint: at least the entries up to this index are committed."""
        return self._log.committed

    def onOneSecondTimer(self) -> None:
        """Write the hint, and start a sync if one is due."""
        self._hint()
        self.maybe_sync()

    def flush(self) -> None:
        """Write and sync everything, blocking, under every policy. Raises OSError, which is fatal.

        A group that is under way is finished here first; otherwise parts of it could be written
        after newer records.
        """
        self._refuse_after_failure()
        try:
            self._writer.flush_now(self._log.segments)
        except OSError as exc:
            self._fail(exc)
            raise
        self._synced_index = self._group_index = self._log.last_index

    def _destroy(self) -> None:
        """Write, sync unless the policy is off, and close. This blocks; `aclose` does not."""
        if self._closed:
            return
        if not self._writer.failed:
            self._hint()
            if self._fsync != "off":
                self.flush()
        self._close()

    # -------------------------------------------------------------------------- what our rules call

    @property
    def synced_index(self) -> int:
        """The index up to which every entry is as durable as the policy promises.

        It decreases when entries are cut.
        """
        return self._synced_index if self._fsync == "always" else self._log.last_index

    @property
    def waits_for_room(self) -> bool:
        """Say whether writes wait for room on the disk, or for a file descriptor."""
        return self._writer.waits_for_room

    @property
    def policy(self) -> Policy:
        """The sync policy: `always`, `interval` or `off`."""
        return self._fsync

    @property
    def unsynced_bytes(self) -> int:
        """Bytes that wait in memory for the disk; accept no more commands when this grows."""
        return self._writer.waiting_bytes

    def maybe_sync(self, *, at_once: bool = False) -> bool:
        """Start a sync if anything is unsynced and no sync is running or scheduled; say whether one
        was started or scheduled. What is added before the loop's next turn joins the group, unless
        the write is to begin `at_once`.
        """
        if self._closed or self._writer.failed or self._task is not None or self._timer is not None:
            return False
        if self._fsync == "always" and self._writer.waiting:
            if at_once:
                self._begin_group()
            self._task = asyncio.get_running_loop().create_task(self._guard(self._sync_groups))
            return True
        if self._fsync == "interval" and any(segment.dirty for segment in self._log.segments):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._interval_s, self._sync_interval)
            return True
        return False

    async def aclose(self) -> None:
        """Write, sync unless the policy is off, and close."""
        self._writer.closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            await asyncio.wait([self._task])
        if not self._closed and not self._writer.failed:
            self._hint()
            if self._fsync != "off":
                await self._guard(
                    self._sync_groups if self._fsync == "always" else self._sync_dirty
                )
        if not self._closed:
            self._close()

    # -------------------------------------------------------------------------------------- writing

    def _hint(self) -> None:
        if self._log.committed > self._hinted:
            self._write(Record(Kind.COMMITTED, self._log.committed))
            self._hinted = self._log.committed

    def _write(self, record: Record) -> int:
        """Write a record; return its offset in the newest segment."""
        segment = self._log.segments[-1]
        if segment.end >= self._segment_bytes_max:
            segment = self._begin(segment.header.number + 1, segment.end)
        content = encode_record(segment.header.salt, segment.end, record)
        if self._fsync == "always":
            self._writer.hold(segment, content)
        else:
            self._append_now(segment, content)
        segment.end += len(content)
        return segment.end - len(content)

    def _forget(self) -> None:
        """Keep no more commands in memory than is allowed; the others are in their files."""
        waiting = self._writer.waiting
        written = waiting[0][0] if waiting else self._log.segments[-1]
        self._log.entries.forget(written.header.number, self._memory_bytes_max)

    def _begin(self, number: int, previous_bytes: int) -> Segment:
        # Sealed means that the previous segment was durable when this one was created. Only policy
        # `always` writes in that order.
        header = self._files.header(number, previous_bytes, sealed=self._fsync == "always")
        segment = Segment(header, self._files.segment_name(number))
        content = encode_segment(header)
        segment.end = len(content)
        self._log.segments.append(segment)
        if self._fsync == "always":
            self._writer.hold(segment, content)
        else:
            self._append_now(segment, content)
        return segment

    def _append_now(self, segment: Segment, content: bytes) -> None:
        self._refuse_after_failure()
        try:
            self._writer.append_now(segment, content)
        except OSError as exc:
            self._fail(exc)
            raise

    def _refuse_after_failure(self) -> None:
        if self._writer.failed:
            path = self._files.path(self._log.segments[-1].name)
            raise OSError(errno.EIO, "the journal has failed before", path)

    def _open_newest(self) -> None:
        if not self._log.segments:
            self._begin(1, 0)
        else:
            newest = self._log.segments[-1]
            newest.file = newest.file or self._disk.open(newest.name)
            if newest.header.sealed != (self._fsync == "always"):
                # The segment was written under another policy. The header tells recovery whether
                # all of a segment was promised to be durable, so the new policy needs a new one.
                self._begin(newest.header.number + 1, newest.end)
        self._retire()

    def _retire(self) -> None:
        """Mark the oldest segments that hold no live entry for removal.

        They are removed only when everything written so far is durable. The record that made them
        obsolete is in a later segment: if a power cut took that record after they were gone, the
        log would have a gap.
        """
        self._obsolete.extend(self._log.retire())
        if self._fsync == "off":
            for segment in self._obsolete:
                segment.shut()
                self._disk.remove_now(segment.name)
            self._obsolete.clear()

    # -------------------------------------------------------------------------------------- syncing

    async def _guard(self, syncing: Callable[[], Awaitable[None]]) -> None:
        try:
            await syncing()
        except asyncio.CancelledError:
            # The write may be incomplete, so nothing may be written after it, not even on closing.
            self._writer.failed = True
            raise
        except Exception as exc:  # noqa: BLE001  after any failure nothing more counts as durable
            self._fail(exc)
        finally:
            self._task = None

    async def _sync_groups(self) -> None:
        """Make all entries durable, group after group; what arrives meanwhile forms the next."""
        while (self._begun is not None or self._writer.waiting) and not self._closed:
            obsolete, self._begun = self._begin_group(), None
            await self._writer.write_group()
            if self._closed or self._writer.failed:
                return
            self._synced_index = max(self._synced_index, self._group_index)
            self._forget()
            self.on_synced(self._synced_index)
            await self._writer.remove(obsolete)

    def _begin_group(self) -> list[Segment]:
        """Begin to write what waits, if that was not done, and return what may be removed after."""
        if self._begun is None:
            self._begun, self._obsolete = self._obsolete, []
            self._group_index = self._log.last_index
            self._writer.begin_group()
        return self._begun

    def _sync_interval(self) -> None:
        self._timer = None
        if not self._closed and not self._writer.failed and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._guard(self._sync_dirty))

    async def _sync_dirty(self) -> None:
        obsolete, self._obsolete = self._obsolete, []
        await self._writer.sync_dirty(self._log.segments)
        await self._writer.remove(obsolete)

    def _fail(self, exc: BaseException) -> None:
        if not self._writer.failed:
            self._writer.failed = True
            self.on_fatal(exc)

    def _close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for segment in (*(self._begun or ()), *self._obsolete, *self._log.segments):
            segment.shut()
        if self._owns_disk:
            self._disk.close()
