"""Implement the port of disk.py on the operating system, with one thread for each file that blocks.

It never calls fsync on the event loop, except in methods whose name ends in `_now`, and never
retries a failed sync.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import fcntl
import os
import queue
import stat
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from coordinator.raft.storage.disk import SyncError
from kv.errors import BadRequest

LOCK_FILE: Final = "lock"
FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
READ_BYTES_MAX: Final = 1 << 30
RESERVE: Final = 4
"""File descriptors kept in reserve: a vote, the next segment and a snapshot need one each even when
connections have taken all others.
"""

T = TypeVar("T")


def make_directory_now(path: Path) -> None:
    """Make a directory and its missing parents, durably.

    Files that are synced in it later depend on its name: a power cut that loses the name loses them
    all.
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
    """A worker thread that starts at the first call and runs the submitted work in order.

    It is a thread and a queue, and not an executor, because every write of the log passes through
    one: an executor's futures cost more turns of the event loop and more time than a short write.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Begin work after everything that was submitted before. It is finished even if the future
        is cancelled: otherwise the next call on the file could overtake or drop that write.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def act() -> None:
            try:
                settle = partial(_resolve, future, work())
            except BaseException as exc:  # noqa: BLE001 it belongs to whoever awaits the future
                settle = partial(_fail, future, exc)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle)

        self._start()
        self._queue.put(act)
        return future

    def run_now(self, work: Callable[[], T]) -> T:
        """Run work after everything that was submitted before, and block. If the thread was never
        started, run it on the calling thread.
        """
        if self._thread is None:
            return work()
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def act() -> None:
            try:
                done.set_result(work())
            except BaseException as exc:  # noqa: BLE001 it is raised where it is waited for
                done.set_exception(exc)

        self._queue.put(act)
        return done.result()

    def close(self) -> None:
        """Wait for the submitted work, and end the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (act := self._queue.get()) is not None:
            act()


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], exc: BaseException) -> None:
    if not future.done():
        future.set_exception(exc)


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
    """A file of the operating system, with one thread for blocking calls (disk.py: File)."""

    def __init__(self, path: Path, flags: int, reserve: Reserve) -> None:
        self._path = path
        self._fd = reserve.open(path, flags | os.O_RDWR | os.O_APPEND)
        self._size = os.fstat(self._fd).st_size
        self._lane = _Lane(f"raft-{path.name}")
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

    def append(self, content: bytes | memoryview, *, sync: bool) -> Awaitable[None]:
        """See `File.append`."""
        return self._lane.submit(lambda: self._append(content, sync))

    async def sync(self) -> None:
        """See `File.sync`."""
        await self._lane.submit(self._sync)

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
    """A directory of the operating system, locked by one process at a time.

    The lock is a POSIX record lock, which child processes do not inherit: they can neither hold nor
    release it. The constructor makes the directory and takes the lock, because the library expects
    a journal that is ready when its constructor returns. It raises BadRequest
    "data_directory_in_use", naming the directory and the holder.
    """

    def __init__(self, directory: str | os.PathLike[str], *, lock: bool = True) -> None:
        self._path = Path(directory)
        make_directory_now(self._path)
        self._reserve = Reserve(RESERVE)
        self._directory_fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock_fd = -1
        # Two threads. With one, a group sync that needs the directory, and with it every write,
        # would wait until a snapshot is encoded.
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
                # If an fsync failed in an earlier process, the kernel keeps pages that it marks
                # clean although the disk lacks them. Drop them, so that we read from the disk.
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
        await self._lane.submit(lambda: self.remove_now(name))

    def sync_directory_now(self) -> None:
        """See `Disk.sync_directory_now`."""
        self._lane.run_now(lambda: os.fsync(self._directory_fd))

    async def sync_directory(self) -> None:
        """See `Disk.sync_directory`."""
        await self._lane.submit(lambda: os.fsync(self._directory_fd))

    async def compute(self, work: Callable[[], T]) -> T:
        """See `Disk.compute`."""
        return await self._work.submit(work)

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
    """Read up to `length` bytes. This loops because one system call may return less than asked for,
    and never returns more than 2 GiB.
    """
    pieces: list[bytes] = []
    while length > 0 and (piece := os.pread(fd, min(length, READ_BYTES_MAX), offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
