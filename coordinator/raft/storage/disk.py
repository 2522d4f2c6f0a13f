"""Name the one port through which `coordinator.raft` reads, writes, syncs and renames files.

`RealDisk` (real_disk.py) implements it on the operating system, `SimDisk` for tests; both pass one
suite. It never decides what a file holds. Only a method whose name ends in `_now` blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

WRITE_BYTES_MAX: Final = 1 << 20
"""Bytes to give to one `append` of a large file, so that what waits behind it does not wait
long.
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
    def name(self) -> str:
        """What it is called in its directory."""
        ...

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

    def truncate_now(self, size: int) -> None:
        """Cut it to that size."""
        ...

    def sync_now(self) -> None:
        """Block until everything written is on the disk. Raises SyncError.

        For start-up, and for what is small and rare.
        """
        ...

    async def append(self, content: bytes | memoryview, *, sync: bool) -> None:
        """Write, then fdatasync if `sync`, off the event loop.

        Raises SyncError if it was the latter that failed.
        """
        ...

    async def sync(self) -> None:
        """Do what `sync_now` does, off the event loop."""
        ...

    def close(self) -> None:
        """Close it, behind all that it was given."""
        ...


class Disk(Protocol):
    """One directory of flat files, made with mode 0600. All methods raise OSError."""

    @property
    def directory(self) -> str:
        """How messages to people name it."""
        ...

    def names(self) -> list[str]:
        """Return the files' names, sorted, the lock excepted."""
        ...

    def exists(self, name: str) -> bool:
        """Say whether there is a file of that name."""
        ...

    def size(self, name: str) -> int:
        """Return the bytes in that file."""
        ...

    def load_now(self, name: str, *, sync: bool = True) -> bytes:
        """Read a whole file, for start-up.

        With `sync`, what is returned is on the disk and not in the page cache alone: a predecessor
        that was killed between write and fsync leaves content there that a power cut would take
        back, and nothing must be built upon it.
        """
        ...

    def create(self, name: str) -> File:
        """Make an empty file, or empty the one that is there."""
        ...

    def open(self, name: str) -> File:
        """Open a file that exists, to append to it."""
        ...

    def rename_now(self, old: str, new: str) -> None:
        """Give a file another name, replacing what had it.

        It survives a power cut after `sync_directory`.
        """
        ...

    def remove_now(self, name: str) -> None:
        """Remove a file. It may come back by a power cut until `sync_directory`."""
        ...

    async def remove(self, name: str) -> None:
        """Do what `remove_now` does, off the event loop."""
        ...

    def sync_directory_now(self) -> None:
        """Block until every name made, changed or removed so far is durable."""
        ...

    async def sync_directory(self) -> None:
        """Do what `sync_directory_now` does, off the event loop."""
        ...

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
