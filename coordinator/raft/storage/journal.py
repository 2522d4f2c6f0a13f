"""Keep the Raft log, term and vote on the disk, and say how far the log is durable.

It never acknowledges anything, never rewrites a byte in place, and never retries a failed fsync.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal, TypeAlias, overload

import structlog

from coordinator.raft.storage.disk import Disk, File, SyncError
from coordinator.raft.storage.real_disk import RealDisk
from coordinator.raft.storage.records import Kind, Record, encode_record, encode_segment
from coordinator.raft.storage.recovery import Entry, Journaled, Part, recover
from kv.errors import BadRequest

SEGMENT_BYTES_MAX: Final = 16 << 20
"""A segment that has reached this is followed by a new one: it is overshot by one record at
most.
"""
FULL_PAUSE_S: Final = 0.5
FULL_PATIENCE_S: Final = 60.0
"""How long writes wait for room on a full disk, nothing being acknowledged meanwhile; then it is
fatal.
"""
_PASSING: Final = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""What of a machine runs out and comes back."""

Policy: TypeAlias = Literal["always", "interval", "off"]

_log = structlog.get_logger("acordo.raft.journal")


class _Flight:
    """What a file is being given: it had `before` bytes. `landed`: somebody else has seen to it."""

    def __init__(self, part: Part, content: bytes, before: int) -> None:
        self.part, self.content, self.before = part, content, before
        self.landed = False


class Journal:
    """The log of one member, with the interface that PySyncObj's core calls on its journal.

    Append-only: a conflict, a trim and a clear are records too, so death at any byte leaves a state
    that was intended. The log is a chain of segments; compaction removes whole ones from its front
    and never copies an entry.

    `synced_index` says how far the log is durable. Policy `always`: what is added is held in memory
    until `maybe_sync()` starts one group (write, then fdatasync, in the file's thread); then
    `on_synced` is called. Policies `interval` and `off`: written at once, so that it survives kill
    -9, and `synced_index` is the last index.

    Called with a path alone it is a drop-in for the library's FileJournal (policy off; `flush()`
    syncs). It reads the disk in its constructor because the library asks for a journal that is
    ready then. Raises BadRequest, naming the file, for a journal that is damaged, of another
    cluster or member, or of a newer format; the file stays as it is.
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
    ) -> None:
        if path is not None:
            disk, name = RealDisk(os.path.dirname(path) or ".", lock=False), os.path.basename(path)
        if disk is None:
            raise ValueError("give a path or a disk")
        self._disk, self._owns_disk = disk, path is not None
        self._files = Journaled(disk, name, cluster, member, sync=fsync != "off")
        self._fsync: Policy = fsync
        self._interval_s, self._segment_bytes_max = interval_s, segment_bytes_max
        self.on_synced: Callable[[int], None] = _ignore
        """Called on the loop after each group with the new `synced_index`."""
        self.on_fatal: Callable[[BaseException], None] = _report
        """Called once when the log cannot be made durable any more: stop the process."""
        self.waits_for_room = False
        """The disk is full, or no descriptor is left: writes wait, at most FULL_PATIENCE_S."""

        self._pending: list[tuple[Part, list[bytes]]] = []
        """What `always` has not yet given to the disk, in order."""
        self._group: list[tuple[Part, list[bytes]]] = []
        """What of the group under way its files have not got yet, in order …"""
        self._flight: _Flight | None = None
        """… and what a file is getting just now."""
        self._obsolete: list[Part] = []
        """Segments to remove once the record that made them so is durable."""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._names_dirty = False
        """A segment was made whose name a power cut may still take: nothing in it is durable."""
        self._failed = self._closing = self._closed = False
        try:
            self._log, self._term, self._voted_for = recover(self._files)
            self._open_newest()
        except OSError as exc:
            raise BadRequest("journal_unreadable", f"{self._files.path(name)}: {exc}") from exc
        self._hinted = self._log.committed
        self._synced_index = self._group_index = self._log.last_index

    # ----------------------------------------------------------------------- what the library calls

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry; durable once `synced_index` has reached it."""
        if len(self._log.entries) and idx != self._log.last_index + 1:
            raise ValueError(f"entry {idx} does not follow {self._log.last_index}")
        self._write(Record(Kind.ENTRY, idx, term, command))
        self._log.append((command, idx, term))

    def clear(self) -> None:
        """Drop all entries. The next one added may have any index."""
        if self._log.entries:
            self._write(Record(Kind.CLEAR, 0))
            self._log.clear()
            self._synced_index = self._group_index = 0
            self._hinted = 1
            self._retire()

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Drop the entries from that position on. `synced_index` falls with them."""
        if entryFrom >= len(self._log.entries):
            return
        index = self._log.entries[entryFrom][1]
        self._write(Record(Kind.CUT, index))
        self._log.cut(index)
        # Also for the group under way: what it makes durable from `index` on is no longer the log.
        self._synced_index = min(self._synced_index, index - 1)
        self._group_index = min(self._group_index, index - 1)
        self._hinted = min(self._hinted, self._log.committed)

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Drop the entries before that position: a dump that is durable holds what they did."""
        if entryTo >= len(self._log.entries):
            self.clear()
        elif entryTo > 0:
            index = self._log.entries[entryTo][1]
            self._write(Record(Kind.TRIM, index))
            self._log.trim(index)
            self._retire()

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._log.entries[item]

    def __len__(self) -> int:
        return len(self._log.entries)

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Store term and vote; they are durable, whatever the policy, when it returns. Raises
        OSError.

        It blocks, two fsyncs long: elections are rare, and no message of the new term may leave
        before.
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
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._voted_for

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Remember a hint, worth no fsync: it goes along with what is written next."""
        self._log.committed = raftCommitIndex

    def getRaftCommitIndex(self) -> int:
        return self._log.committed

    def onOneSecondTimer(self) -> None:
        self._hint()
        self.maybe_sync()

    def flush(self) -> None:
        """Write and sync everything, blocking, whatever the policy. Raises OSError, which is fatal.

        A group that is under way is taken over, so that nothing of it comes behind what is written
        here.
        """
        if self._failed:
            raise OSError(
                errno.EIO,
                "the journal has failed before",
                self._files.path(self._log.parts[-1].name),
            )
        try:
            if self._flight is not None:
                self._land_now(self._flight)
            pending, self._group, self._pending = [*self._group, *self._pending], [], []
            for part, pieces in pending:
                self._opened(part).append_now(b"".join(pieces))
                part.dirty = True
                self._sync_now([part])
            self._sync_now(self._log.parts)
        except OSError as exc:
            self._fail(exc)
            raise
        self._synced_index = self._group_index = self._log.last_index

    def _destroy(self) -> None:
        """Write, sync unless the policy is off, and close. It blocks; `aclose` does not."""
        if self._closed:
            return
        if not self._failed:
            self._hint()
            if self._fsync != "off":
                self.flush()
        self._close()

    # -------------------------------------------------------------------------- what our rules call

    @property
    def synced_index(self) -> int:
        """Every entry up to here is as durable as the policy promises. It falls when entries are
        cut.
        """
        return self._synced_index if self._fsync == "always" else self._log.last_index

    @property
    def policy(self) -> Policy:
        return self._fsync

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments, unwritten ones included: compact when it grows."""
        return sum(part.end for part in self._log.parts)

    @property
    def unsynced_bytes(self) -> int:
        """Bytes that wait in memory for the disk: take in no more commands when it grows."""
        return sum(len(piece) for _, pieces in self._pending for piece in pieces)

    def maybe_sync(self) -> bool:
        """Start one group sync if anything is unsynced and none is running or due; say whether it
        did.
        """
        if self._closed or self._failed or self._task is not None or self._timer is not None:
            return False
        if self._fsync == "always" and self._pending:
            self._task = asyncio.get_running_loop().create_task(self._guard(self._sync_groups))
            return True
        if self._fsync == "interval" and any(part.dirty for part in self._log.parts):
            self._timer = asyncio.get_running_loop().call_later(
                self._interval_s, self._sync_interval
            )
            return True
        return False

    async def aclose(self) -> None:
        """Write, sync unless the policy is off, and close."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            await asyncio.wait([self._task])
        if not self._closed and not self._failed:
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

    def _write(self, record: Record) -> None:
        part = self._log.parts[-1]
        if part.end >= self._segment_bytes_max:
            part = self._begin(part.header.number + 1, part.end)
        content = encode_record(part.header.salt, part.end, record)
        if self._fsync == "always":
            if not self._pending or self._pending[-1][0] is not part:
                self._pending.append((part, []))
            self._pending[-1][1].append(content)
        else:
            self._append_now(part, content)
        part.end += len(content)

    def _begin(self, number: int, previous_bytes: int) -> Part:
        # `always` makes one segment durable before it creates the next; the other policies promise
        # no such order.
        header = self._files.segment(number, previous_bytes, sealed=self._fsync == "always")
        part = Part(header, self._files.segment_name(number))
        content = encode_segment(header)
        part.end = len(content)
        self._log.parts.append(part)
        if self._fsync == "always":
            self._pending.append((part, [content]))
        else:
            self._append_now(part, content)
        return part

    def _append_now(self, part: Part, content: bytes) -> None:
        if self._failed:
            raise OSError(errno.EIO, "the journal has failed before", self._files.path(part.name))
        try:
            self._opened(part).append_now(content)
        except OSError as exc:
            self._fail(exc)
            raise
        part.dirty = True

    def _opened(self, part: Part) -> File:
        if part.file is None:
            part.file = self._disk.create(part.name)
            self._names_dirty = True
        return part.file

    def _open_newest(self) -> None:
        if not self._log.parts:
            self._begin(1, 0)
        else:
            newest = self._log.parts[-1]
            newest.file = newest.file or self._disk.open(newest.name)
            if newest.header.sealed != (self._fsync == "always"):
                # Of another policy: a segment is all promised or not at all, and its header tells
                # (recovery.py).
                self._begin(newest.header.number + 1, newest.end)
        self._retire()

    def _retire(self) -> None:
        """Set aside the oldest segments without a live entry; they go once all that was written so
        far is durable.
        """
        self._obsolete.extend(self._log.retire())
        if self._fsync == "off":
            for part in self._obsolete:
                part.shut()
                self._disk.remove_now(part.name)
            self._obsolete.clear()

    # -------------------------------------------------------------------------------------- syncing

    async def _guard(self, syncing: Callable[[], Awaitable[None]]) -> None:
        try:
            await syncing()
        except asyncio.CancelledError:
            # what it had begun may not be whole: nothing must come behind it, closing included
            self._failed = True
            raise
        except Exception as exc:  # noqa: BLE001  whatever it is, nothing more can be called durable
            self._fail(exc)
        finally:
            self._task = None

    async def _sync_groups(self) -> None:
        """Make durable, group after group, all that was added; what arrives during one group makes
        the next.
        """
        while self._pending and not self._closed:
            self._group, self._pending = self._pending, []
            obsolete, self._obsolete = self._obsolete, []
            self._group_index = self._log.last_index
            while self._group:
                part, pieces = self._group.pop(0)
                await self._append(part, b"".join(pieces))
            if self._closed or self._failed:
                return
            self._synced_index = max(self._synced_index, self._group_index)
            self.on_synced(self._synced_index)
            await self._remove(obsolete)

    async def _append(self, part: Part, content: bytes) -> None:
        """Write and sync. Want of room or of descriptors is waited for; every other error, a failed
        fsync, is final.
        """
        flight = self._flight = _Flight(part, content, 0 if part.file is None else part.file.size)
        waited = 0.0
        while not flight.landed:
            try:
                await self._opened(part).append(content, sync=True)
                break
            except SyncError:
                raise
            except OSError as exc:
                if flight.landed:
                    break
                if exc.errno not in _PASSING or waited >= FULL_PATIENCE_S or self._closing:
                    raise
                if not self.waits_for_room:
                    _log.error("no_room", file=self._files.path(part.name), why=exc.strerror)
                self.waits_for_room = True
            if part.file is not None:
                part.file.truncate_now(flight.before)
            waited += FULL_PAUSE_S
            await asyncio.sleep(FULL_PAUSE_S)
            if self._failed:
                return
        self._flight = None
        self.waits_for_room = False
        if self._names_dirty:
            await self._disk.sync_directory()
            self._names_dirty = False

    def _land_now(self, flight: _Flight) -> None:
        """Do what a file is doing for the group, if it has not by the time that it is asked. Raises
        OSError.
        """
        file = self._opened(flight.part)
        file.sync_now()  # behind it; its failed sync fails this one too
        if file.size != flight.before + len(flight.content):  # there was no room
            file.truncate_now(flight.before)
            file.append_now(flight.content)
        flight.part.dirty = flight.landed = True
        self._sync_now([flight.part])
        self._flight = None

    def _sync_interval(self) -> None:
        self._timer = None
        if not self._closed and not self._failed and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._guard(self._sync_dirty))

    async def _sync_dirty(self) -> None:
        obsolete, self._obsolete = self._obsolete, []
        for part in list(self._log.parts):
            if part.dirty and part.file is not None:
                part.dirty = False
                await part.file.sync()
        await self._disk.sync_directory()
        self._names_dirty = False
        await self._remove(obsolete)

    def _sync_now(self, parts: Iterable[Part]) -> None:
        synced = False
        for part in parts:
            if part.dirty and part.file is not None:
                part.file.sync_now()
                part.dirty, synced = False, True
        if synced or self._names_dirty:
            self._disk.sync_directory_now()
            self._names_dirty = False

    async def _remove(self, obsolete: Iterable[Part]) -> None:
        """Remove oldest first, each for good before the next, so that a power cut never leaves a
        gap.
        """
        for part in obsolete:
            part.shut()
            await self._disk.remove(part.name)
            await self._disk.sync_directory()

    def _fail(self, exc: BaseException) -> None:
        if not self._failed:
            self._failed = True
            self.on_fatal(exc)

    def _close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for part in (*self._obsolete, *self._log.parts):
            part.shut()
        if self._owns_disk:
            self._disk.close()


def _ignore(index: int) -> None:
    """Stand in until a listener is set."""


def _report(exc: BaseException) -> None:
    _log.critical("journal_failed", error=str(exc))
