"""Implement the port of disk.py on the operating system, with one thread for each file that blocks.

It never calls fsync on the event loop except where a method's name ends in `_now`, and never asks
again for a sync that has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from coordinator.raft.storage.disk import SyncError
from kv.errors import BadRequest

LOCK_FILE: Final = "lock"
FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
READ_BYTES_MAX: Final = 1 << 30
RESERVE: Final = 4
"""Descriptors kept in hand: a vote, the next segment and a snapshot need one when connections have
taken the rest.
"""

T = TypeVar("T")


def make_directory_now(path: Path) -> None:
    """Make a directory and what is missing above it, durably.

    What is synced in it later rests on its name: a power cut that takes the name takes it all.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    for made in missing:
        fd = os.open(made.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class _Lane:
    """One worker thread, started by its first call; what it is given runs in order."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool: ThreadPoolExecutor | None = None

    def _started(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)
        return self._pool

    async def run(self, work: Callable[[], T]) -> T:
        """Run work behind all that was given before."""
        # Shielded: when the waiter is cancelled, the write under way goes on. Without it the next
        # call on this file would overtake or drop that write.
        return await asyncio.shield(
            asyncio.get_running_loop().run_in_executor(self._started(), work)
        )

    def run_now(self, work: Callable[[], T]) -> T:
        """Run behind all that was given before; on this very thread if nothing ever was."""
        return work() if self._pool is None else self._pool.submit(work).result()

    def close(self) -> None:
        """Wait for what it was given, and end the thread."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None


class Reserve:
    """Descriptors that are open for nothing, to be given up to whoever finds that none is left."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[int] = []
        self._refill()

    def open(self, path: Path, flags: int) -> int:
        """Open a file, with one of the reserve if there is no other way. Raises OSError."""
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
        """Give them all back to the operating system."""
        self._count = 0
        while self._held:
            os.close(self._held.pop())

    def _refill(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._held) < self._count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


class RealFile:
    """A file of the operating system, with one thread for what blocks (disk.py: File)."""

    def __init__(self, path: Path, flags: int, reserve: Reserve) -> None:
        self._path = path
        self._fd = reserve.open(path, flags | os.O_RDWR | os.O_APPEND)
        self._size = os.fstat(self._fd).st_size
        self._lane = _Lane(f"raft-{path.name}")
        self._sync_failed = False
        """Remembered, because the kernel forgets: it calls the pages clean after a failed sync, and
        the next sync would succeed though the disk lacks them.
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
        return _read(self._fd, offset, length)

    def append_now(self, content: bytes) -> None:
        """See `File.append_now`."""
        self._lane.run_now(lambda: self._append(content))

    def truncate_now(self, size: int) -> None:
        """See `File.truncate_now`."""
        self._lane.run_now(lambda: self._truncate(size))

    def sync_now(self) -> None:
        """See `File.sync_now`."""
        self._lane.run_now(self._sync)

    async def append(self, content: bytes | memoryview, *, sync: bool) -> None:
        """See `File.append`."""
        await self._lane.run(lambda: self._append(content, sync))

    async def sync(self) -> None:
        """See `File.sync`."""
        await self._lane.run(self._sync)

    def close(self) -> None:
        """See `File.close`."""
        if self._fd >= 0:
            self._lane.close()
            os.close(self._fd)
            self._fd = -1

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


class RealDisk:
    """A directory of the operating system, held by one process at a time.

    The lock is a POSIX record lock: children do not inherit it (a forked or spawned one can neither
    hold the directory nor give it free). The constructor makes the directory and takes the lock:
    the library asks for a journal that is ready when its constructor returns. Raises BadRequest
    "data_directory_in_use" naming directory and holder.
    """

    def __init__(self, directory: str | os.PathLike[str], *, lock: bool = True) -> None:
        self._path = Path(directory)
        make_directory_now(self._path)
        self._reserve = Reserve(RESERVE)
        self._directory_fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock_fd = -1
        # Two threads: else a group sync that waits for the directory, and with it every write,
        # would wait for a snapshot to be encoded.
        self._lane, self._work = _Lane("raft-directory"), _Lane("raft-work")
        if lock:
            try:
                self._lock()
            except BaseException:
                self.close()
                raise

    @property
    def directory(self) -> str:
        """See `Disk.directory`."""
        return str(self._path)

    def names(self) -> list[str]:
        """See `Disk.names`."""
        with os.scandir(self._path) as found:
            return sorted(
                e.name for e in found if e.name != LOCK_FILE and e.is_file(follow_symlinks=False)
            )

    def exists(self, name: str) -> bool:
        """See `Disk.exists`."""
        try:
            return stat.S_ISREG(os.stat(self._path / name).st_mode)
        except FileNotFoundError:
            return False

    def size(self, name: str) -> int:
        """See `Disk.size`."""
        return os.stat(self._path / name).st_size

    def load_now(self, name: str, *, sync: bool = True) -> bytes:
        """See `Disk.load_now`."""
        fd = self._reserve.open(self._path / name, os.O_RDWR if sync else os.O_RDONLY)
        try:
            if sync:
                os.fdatasync(fd)
                # After a failed fsync of a predecessor the kernel keeps pages that it calls clean
                # though the disk lacks them. So they are dropped, and what follows reads the disk.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return _read(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def create(self, name: str) -> RealFile:
        """See `Disk.create`."""
        return RealFile(self._path / name, os.O_CREAT | os.O_TRUNC, self._reserve)

    def open(self, name: str) -> RealFile:
        """See `Disk.open`."""
        return RealFile(self._path / name, 0, self._reserve)

    def rename_now(self, old: str, new: str) -> None:
        """See `Disk.rename_now`."""
        os.rename(self._path / old, self._path / new)

    def remove_now(self, name: str) -> None:
        """See `Disk.remove_now`."""
        os.unlink(self._path / name)

    async def remove(self, name: str) -> None:
        """See `Disk.remove`."""
        await self._lane.run(lambda: self.remove_now(name))

    def sync_directory_now(self) -> None:
        """See `Disk.sync_directory_now`."""
        self._lane.run_now(lambda: os.fsync(self._directory_fd))

    async def sync_directory(self) -> None:
        """See `Disk.sync_directory`."""
        await self._lane.run(lambda: os.fsync(self._directory_fd))

    async def compute(self, work: Callable[[], T]) -> T:
        """See `Disk.compute`."""
        return await self._work.run(work)

    def close(self) -> None:
        """See `Disk.close`."""
        self._lane.close()
        self._work.close()
        self._reserve.close()
        for fd in (self._directory_fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._directory_fd = self._lock_fd = -1

    def _lock(self) -> None:
        self._lock_fd = os.open(
            self._path / LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE
        )
        try:
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(self._lock_fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise BadRequest(
                "data_directory_in_use",
                f"{self._path} is held by another process (pid {holder})",
                allowed="one node per data directory",
            ) from exc
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)


def _read(fd: int, offset: int, length: int) -> bytes:
    """Read up to `length` bytes: one call may return less than asked, and never more than 2 GiB."""
    pieces: list[bytes] = []
    while length > 0 and (piece := os.pread(fd, min(length, READ_BYTES_MAX), offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
