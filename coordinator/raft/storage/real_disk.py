"""Implement the port of disk.py on the operating system.

It never calls fsync on the event loop, except in methods whose name ends in `_now`.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from coordinator.raft.storage.kernel_sync import open_kernel_sync
from coordinator.raft.storage.lane import Lane
from coordinator.raft.storage.real_file import FILE_MODE, RealFile, Reserve, read_at
from kv.errors import BadRequest

LOCK_FILE: Final = "lock"
DIRECTORY_MODE: Final = 0o700
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


class RealDisk:
    """A directory of the operating system, locked by one process at a time.

    The lock is a POSIX record lock, which child processes do not inherit: they can neither hold nor
    release it. The constructor makes the directory and takes the lock, because the library expects
    a journal that is ready when its constructor returns. It raises BadRequest
    "data_directory_in_use", naming the directory and the holder.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, lock: bool = True, kernel: bool = True
    ) -> None:
        """`kernel`: let the kernel sync, where it can."""
        self._path = Path(directory)
        make_directory_now(self._path)
        self._reserve = Reserve(RESERVE)
        self._directory_fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock_fd = -1
        # Two threads. With one, a group sync that needs the directory, and with it every write,
        # would wait until a snapshot is encoded.
        self._lane, self._work = Lane("raft-directory"), Lane("raft-work")
        self._kernel = open_kernel_sync() if kernel else None
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
            return read_at(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def create(self, name: str) -> RealFile:
        """See `Disk.create`."""
        return RealFile(self._path / name, os.O_CREAT | os.O_TRUNC, self._reserve, self._kernel)

    def open(self, name: str) -> RealFile:
        """See `Disk.open`."""
        return RealFile(self._path / name, 0, self._reserve, self._kernel)

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
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
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


__all__ = ["RealDisk", "RealFile", "make_directory_now"]
