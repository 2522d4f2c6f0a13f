"""Write and sync one file of the operating system.

It never calls fsync on the event loop, except in methods whose name ends in `_now`, and never
retries a failed sync.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from coordinator.raft.storage.disk import SyncError
from coordinator.raft.storage.kernel_sync import KernelSync
from coordinator.raft.storage.lane import Lane

FILE_MODE: Final = 0o600
READ_BYTES_MAX: Final = 1 << 30
AT_ONCE_BYTES_MAX: Final = 256 << 10
"""Bytes up to which a group is written to the page cache by the event loop's thread itself."""


class Reserve:
    """A reserve of open file descriptors, closed one by one to open a file when none is left."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[int] = []
        self._refill()

    def open(self, path: Path, flags: int) -> int:
        """Open a file, using up a descriptor of the reserve if no other is left. Raises OSError."""
        try:
            fd = os.open(path, flags | os.O_CLOEXEC, FILE_MODE)
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            try:
                os.close(self._held.pop())
            except IndexError:
                raise exc from None
            return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)
        self._refill()
        return fd

    def close(self) -> None:
        """Close the whole reserve."""
        self._count = 0
        while self._held:
            os.close(self._held.pop())

    def _refill(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._held) < self._count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


class RealFile:
    """A file of the operating system, with one thread for blocking calls (disk.py: File).

    Small groups need no thread: they are written to the page cache at once, and the kernel syncs
    them. It does one thing at a time: what is asked for while it syncs comes after that.
    """

    def __init__(
        self, path: Path, flags: int, reserve: Reserve, kernel: KernelSync | None = None
    ) -> None:
        self._path, self._kernel = path, kernel
        self._fd = reserve.open(path, flags | os.O_RDWR | os.O_APPEND)
        self._size = os.fstat(self._fd).st_size
        self._lane = Lane(f"raft-{path.name}")
        self._syncing = False
        """Whether the kernel syncs now."""
        self._later: deque[Callable[[], None]] = deque()
        """What was asked for meanwhile."""
        self._sync_failed = False
        """Whether a sync has failed. This must be remembered, because the kernel marks the pages
        clean after a failed sync: the next sync would succeed although the disk lacks them.
        """

    @property
    def name(self) -> str:
        """See `File.name`."""
        return self._path.name

    @property
    def size(self) -> int:
        """See `File.size`."""
        return self._size

    def read_now(self, offset: int, length: int) -> bytes:
        """See `File.read_now`."""
        return read_at(self._fd, offset, length)

    def append_now(self, content: bytes) -> None:
        """See `File.append_now`."""
        self._settle()
        self._lane.run_now(lambda: self._append(content))

    def truncate_now(self, size: int) -> None:
        """See `File.truncate_now`."""
        self._settle()
        self._lane.run_now(lambda: self._truncate(size))

    def sync_now(self) -> None:
        """See `File.sync_now`."""
        self._settle()
        self._lane.run_now(self._sync)

    def append(self, content: bytes | memoryview, *, sync: bool) -> Awaitable[None]:
        """See `File.append`."""
        if self._syncing:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._later.append(lambda: self._begin_later(content, sync, done))
            return done
        return self._begin(content, sync)

    async def sync(self) -> None:
        """See `File.sync`."""
        await self.append(b"", sync=True)

    def close(self) -> None:
        """See `File.close`."""
        if self._fd >= 0:
            self._settle()
            self._lane.close()
            os.close(self._fd)
            self._fd = -1

    def _begin(self, content: bytes | memoryview, sync: bool) -> asyncio.Future[None]:
        kernel = self._kernel
        by_thread = not sync or self._lane.busy or len(content) > AT_ONCE_BYTES_MAX
        if kernel is None or self._sync_failed or by_thread:
            return self._lane.submit(lambda: self._append(content, sync))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._append(content)
        except OSError as exc:
            done.set_exception(exc)
            return done
        try:
            kernel.begin(self._fd, partial(self._synced, done))
        except OSError:  # it has no room for more
            return self._lane.submit(self._sync)
        self._syncing = True
        return done

    def _begin_later(
        self, content: bytes | memoryview, sync: bool, done: asyncio.Future[None]
    ) -> None:
        try:
            _follow(self._begin(content, sync), done)
        except Exception as exc:  # noqa: BLE001 it belongs to whoever awaits the future
            if not done.done():
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    done.set_exception(exc)

    def _synced(self, done: asyncio.Future[None], number: int) -> None:
        self._syncing = False
        if number:
            self._sync_failed = True
            failure = SyncError(number, os.strerror(number), str(self._path))
            end: Callable[[], None] = partial(done.set_exception, failure)
        else:
            end = partial(done.set_result, None)
        if not done.done():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                end()
        while self._later and not self._syncing:
            self._later.popleft()()

    def _settle(self) -> None:
        """Block until nothing of this file is left to the kernel; the thread has what comes after.
        The sync of another one, of a large dump for instance, may take much longer.
        """
        while self._kernel is not None and self._syncing:
            self._kernel.wait_now()

    def _append(self, content: bytes | memoryview, sync: bool = False) -> None:
        rest = memoryview(content)
        while rest:
            written = os.write(self._fd, rest)
            self._size += written
            rest = rest[written:]
        if sync:
            self._sync()

    def _sync(self) -> None:
        if self._sync_failed:
            raise SyncError(errno.EIO, "an earlier sync has failed", str(self._path))
        try:
            os.fdatasync(self._fd)
        except OSError as exc:
            self._sync_failed = True
            raise SyncError(exc.errno, exc.strerror, str(self._path)) from exc

    def _truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self._size = size


def _follow(first: asyncio.Future[None], second: asyncio.Future[None]) -> None:
    """End the second future as the first one ends."""

    def end(_: asyncio.Future[None]) -> None:
        exc = first.exception()
        if second.done():
            return
        if exc is None:
            second.set_result(None)
        else:
            second.set_exception(exc)

    first.add_done_callback(end)


def read_at(fd: int, offset: int, length: int) -> bytes:
    """Read up to `length` bytes. This loops because one system call may return less than asked for,
    and never returns more than 2 GiB.
    """
    pieces: list[bytes] = []
    while length > 0 and (piece := os.pread(fd, min(length, READ_BYTES_MAX), offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
