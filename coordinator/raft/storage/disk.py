"""Touch files for Raft: the one port through which `coordinator.raft` reads, writes, syncs and
renames.

It never decides what a file holds, and never calls fsync on the event loop except where a method's
name ends in `_now`.
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
from typing import Final, Protocol, TypeVar

from kv.errors import BadRequest

LOCK_FILE: Final = "lock"
FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
WRITE_BYTES_MAX: Final = 1 << 20
"""Bytes to give to one `append` of a large file, so that what waits behind it does not wait
long.
"""

READ_BYTES_MAX: Final = 1 << 30
RESERVE: Final = 4
"""Descriptors kept in hand: a vote, the next segment and a snapshot need one when connections have
taken the rest.
"""

T = TypeVar("T")


class SyncError(OSError):
    """A sync failed: what of the file is on the disk is unknown, and asking again would not tell.

    So all later syncs of the same open file fail too.
    """


class File(Protocol):
    """One open file that only grows at its end, or is cut.

    Operations on one file take effect in the order of the calls, sync and async ones together. All
    raise OSError. Guarantee: once `sync` returned, content and size survive a power cut; the *name*
    does only after `Disk.sync_directory`. Non-guarantee: after an OSError part of the bytes may be
    there.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes in the file, those of writes still under way not counted."""
        ...

    def read_now(self, offset: int, length: int) -> bytes:
        """Return less than asked only at the end of the file."""
        ...

    def append_now(self, content: bytes) -> None:
        """Write to the page cache: survives the death of the process, not a power cut."""
        ...

    def truncate_now(self, size: int) -> None: ...

    def sync_now(self) -> None:
        """Block until everything written is on the disk. For start-up and what is small and rare.
        Raises SyncError.
        """
        ...

    async def append(self, content: bytes | memoryview, *, sync: bool) -> None:
        """Write, then fdatasync if `sync`, off the event loop. Raises SyncError if it was the
        latter that failed.
        """
        ...

    async def sync(self) -> None: ...

    def close(self) -> None: ...


class Disk(Protocol):
    """One directory of flat files, made with mode 0600. All methods raise OSError."""

    @property
    def directory(self) -> str:
        """How messages to people name it."""
        ...

    def names(self) -> list[str]:
        """Return the files' names, sorted, the lock excepted."""
        ...

    def exists(self, name: str) -> bool: ...

    def size(self, name: str) -> int: ...

    def load_now(self, name: str, *, sync: bool = True) -> bytes:
        """Read a whole file, for start-up. With `sync`, what is returned is on the disk and not
        only in the page cache.

        A predecessor that was killed between write and fsync leaves such content behind; it must
        not be built upon.
        """
        ...

    def create(self, name: str) -> File:
        """Make an empty file, or empty the one that is there."""
        ...

    def open(self, name: str) -> File:
        """Open a file that exists, to append to it."""
        ...

    def rename_now(self, old: str, new: str) -> None:
        """Give a file another name, replacing what had it. Survives a power cut after
        `sync_directory`.
        """
        ...

    def remove_now(self, name: str) -> None: ...

    async def remove(self, name: str) -> None: ...

    def sync_directory_now(self) -> None: ...

    async def sync_directory(self) -> None: ...

    async def compute(self, work: Callable[[], T]) -> T:
        """Run work of more than 5 ms (encode, hash) off the event loop."""
        ...

    def close(self) -> None:
        """Give the directory free. Files are closed by who opened them."""
        ...


def write_whole_now(disk: Disk, name: str, content: bytes, *, sync: bool = True) -> None:
    """Replace a small file so that at any moment either the old or the new one is there, whole."""
    new = disk.create(name + ".new")
    try:
        new.append_now(content)
        if sync:
            new.sync_now()
    finally:
        new.close()
    disk.rename_now(name + ".new", name)
    if sync:
        disk.sync_directory_now()


def make_directory_now(path: Path) -> None:
    """Make a directory and what is missing above it, durably: what is synced in it later rests on
    its name.
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
        # Shielded: a cancelled waiter must not make the next call of this file overtake or drop the
        # write under way.
        return await asyncio.shield(
            asyncio.get_running_loop().run_in_executor(self._started(), work)
        )

    def run_now(self, work: Callable[[], T]) -> T:
        """Run behind all that was given before; on this very thread if nothing ever was."""
        return work() if self._pool is None else self._pool.submit(work).result()

    def close(self) -> None:
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
        self._count = 0
        while self._held:
            os.close(self._held.pop())

    def _refill(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._held) < self._count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


class RealFile:
    """A file of the operating system, with one thread for what blocks."""

    def __init__(self, path: Path, flags: int, reserve: Reserve) -> None:
        self._path = path
        self._fd = reserve.open(path, flags | os.O_RDWR | os.O_APPEND)
        self._size = os.fstat(self._fd).st_size
        self._lane = _Lane(f"raft-{path.name}")
        self._sync_failed = False
        """The kernel would call the pages clean, and the next sync good."""

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def size(self) -> int:
        return self._size

    def read_now(self, offset: int, length: int) -> bytes:
        return _read(self._fd, offset, length)

    def append_now(self, content: bytes) -> None:
        self._lane.run_now(lambda: self._append(content))

    def truncate_now(self, size: int) -> None:
        self._lane.run_now(lambda: self._truncate(size))

    def sync_now(self) -> None:
        self._lane.run_now(self._sync)

    async def append(self, content: bytes | memoryview, *, sync: bool) -> None:
        await self._lane.run(lambda: self._append(content, sync))

    async def sync(self) -> None:
        await self._lane.run(self._sync)

    def close(self) -> None:
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
        # Two threads: a group sync that waits for the directory must not wait for a snapshot to be
        # encoded.
        self._lane, self._work = _Lane("raft-directory"), _Lane("raft-work")
        if lock:
            try:
                self._lock()
            except BaseException:
                self.close()
                raise

    @property
    def directory(self) -> str:
        return str(self._path)

    def names(self) -> list[str]:
        with os.scandir(self._path) as found:
            return sorted(
                e.name for e in found if e.name != LOCK_FILE and e.is_file(follow_symlinks=False)
            )

    def exists(self, name: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(self._path / name).st_mode)
        except FileNotFoundError:
            return False

    def size(self, name: str) -> int:
        return os.stat(self._path / name).st_size

    def load_now(self, name: str, *, sync: bool = True) -> bytes:
        fd = self._reserve.open(self._path / name, os.O_RDWR if sync else os.O_RDONLY)
        try:
            if sync:
                os.fdatasync(fd)
                # After a failed fsync the kernel keeps pages that it calls clean though the disk
                # lacks them: read it.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return _read(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def create(self, name: str) -> RealFile:
        return RealFile(self._path / name, os.O_CREAT | os.O_TRUNC, self._reserve)

    def open(self, name: str) -> RealFile:
        return RealFile(self._path / name, 0, self._reserve)

    def rename_now(self, old: str, new: str) -> None:
        os.rename(self._path / old, self._path / new)

    def remove_now(self, name: str) -> None:
        os.unlink(self._path / name)

    async def remove(self, name: str) -> None:
        await self._lane.run(lambda: self.remove_now(name))

    def sync_directory_now(self) -> None:
        self._lane.run_now(lambda: os.fsync(self._directory_fd))

    async def sync_directory(self) -> None:
        await self._lane.run(lambda: os.fsync(self._directory_fd))

    async def compute(self, work: Callable[[], T]) -> T:
        return await self._work.run(work)

    def close(self) -> None:
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
