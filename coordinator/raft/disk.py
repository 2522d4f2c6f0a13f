"""Touch files for Raft: the one port through which `coordinator.raft` reads, writes, syncs and renames.

It never decides what a file holds, and never calls fsync on the event loop except where a method's name ends in `_now`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol, TypeVar

from kv.errors import BadRequest

LOCK_FILE: Final = "lock"
FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
WRITE_BYTES_MAX: Final = 1 << 20
"""Bytes given to one write call by `write_whole`."""

T = TypeVar("T")


class File(Protocol):
    """One open file that only grows at its end, or is cut.

    Operations on one file take effect in the order of the calls, sync and async ones together. All raise OSError.
    Guarantee: once `sync` returned, the content, and the file's size survive a power cut; its *name* survives only after
    `Disk.sync_directory`. Non-guarantee: after an OSError part of the bytes may be there.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes in the file, those of writes still under way not counted."""
        ...

    def append_now(self, content: bytes) -> None:
        """Write to the page cache: survives the death of the process, not a power cut."""
        ...

    def truncate_now(self, size: int) -> None: ...

    def sync_now(self) -> None:
        """Block until everything written is on the disk. For start-up and for what is small and rare."""
        ...

    async def append(self, content: bytes, *, sync: bool) -> None:
        """Write, then fdatasync if `sync`, off the event loop."""
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

    def read_now(self, name: str, offset: int = 0, length: int = -1) -> bytes:
        """Read on the calling thread. Shorter than asked at the end of the file."""
        ...

    async def read(self, name: str, offset: int = 0, length: int = -1) -> bytes: ...

    def create(self, name: str) -> File:
        """Make an empty file, or empty the one that is there."""
        ...

    def open(self, name: str) -> File:
        """Open a file that exists, to append to it."""
        ...

    def rename_now(self, old: str, new: str) -> None:
        """Give a file another name, replacing what had it. Survives a power cut after `sync_directory`."""
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


async def write_whole(disk: Disk, name: str, pieces: Iterable[bytes]) -> None:
    """As `write_whole_now`, off the event loop, for large files. On an error the spare file is removed."""
    new = disk.create(name + ".new")
    try:
        for piece in pieces:
            for start in range(0, len(piece), WRITE_BYTES_MAX):
                await new.append(piece[start : start + WRITE_BYTES_MAX], sync=False)
        await new.sync()
    except OSError:
        new.close()
        disk.remove_now(name + ".new")
        raise
    new.close()
    disk.rename_now(name + ".new", name)
    await disk.sync_directory()


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
        # Shielded: a cancelled waiter must not make the next call of this file overtake or drop the write under way.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._started(), work))

    def run_now(self, work: Callable[[], T]) -> T:
        """Run behind all that was given before; on this very thread if nothing ever was."""
        return work() if self._pool is None else self._pool.submit(work).result()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None


class RealFile:
    """A file of the operating system, with one thread for what blocks."""

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        self._fd = os.open(path, flags | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
        self._size = os.fstat(self._fd).st_size
        self._lane = _Lane(f"raft-{path.name}")

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def size(self) -> int:
        return self._size

    def append_now(self, content: bytes) -> None:
        self._lane.run_now(lambda: self._append(content))

    def truncate_now(self, size: int) -> None:
        self._lane.run_now(lambda: self._truncate(size))

    def sync_now(self) -> None:
        self._lane.run_now(lambda: os.fdatasync(self._fd))

    async def append(self, content: bytes, *, sync: bool) -> None:
        await self._lane.run(lambda: self._append(content, sync))

    async def sync(self) -> None:
        await self._lane.run(lambda: os.fdatasync(self._fd))

    def close(self) -> None:
        if self._fd >= 0:
            self._lane.close()
            os.close(self._fd)
            self._fd = -1

    def _append(self, content: bytes, sync: bool = False) -> None:
        rest = memoryview(content)
        while rest:
            written = os.write(self._fd, rest)
            self._size += written
            rest = rest[written:]
        if sync:
            os.fdatasync(self._fd)

    def _truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self._size = size


class RealDisk:
    """A directory of the operating system, held by one process at a time.

    The lock is a POSIX record lock: children do not inherit it (a forked or spawned one can neither hold the directory
    nor give it free). The constructor makes the directory and takes the lock: what Raft reads at start-up it reads before
    the event loop serves anyone. Raises BadRequest "data_directory_in_use" naming directory and holder.
    """

    def __init__(self, directory: str | os.PathLike[str], *, lock: bool = True) -> None:
        self._path = Path(directory)
        self._path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        self._directory_fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock_fd = -1
        self._lane = _Lane("raft-disk")
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
            return sorted(e.name for e in found if e.name != LOCK_FILE and e.is_file(follow_symlinks=False))

    def exists(self, name: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(self._path / name).st_mode)
        except FileNotFoundError:
            return False

    def size(self, name: str) -> int:
        return os.stat(self._path / name).st_size

    def read_now(self, name: str, offset: int = 0, length: int = -1) -> bytes:
        with open(self._path / name, "rb", buffering=0) as file:
            file.seek(offset)
            return _read_all(file.fileno(), length)

    async def read(self, name: str, offset: int = 0, length: int = -1) -> bytes:
        return await self._lane.run(lambda: self.read_now(name, offset, length))

    def create(self, name: str) -> RealFile:
        return RealFile(self._path / name, os.O_CREAT | os.O_TRUNC)

    def open(self, name: str) -> RealFile:
        return RealFile(self._path / name, 0)

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
        return await self._lane.run(work)

    def close(self) -> None:
        self._lane.close()
        for fd in (self._directory_fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._directory_fd = self._lock_fd = -1

    def _lock(self) -> None:
        self._lock_fd = os.open(self._path / LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
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


def _read_all(fd: int, length: int) -> bytes:
    """Read `length` bytes, or all when negative: one read call may return less than 2 GiB and less than asked."""
    if length < 0:
        length = max(0, os.fstat(fd).st_size - os.lseek(fd, 0, os.SEEK_CUR))
    pieces: list[bytes] = []
    while length > 0 and (piece := os.read(fd, length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)
