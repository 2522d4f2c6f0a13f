"""Define the port through which `coordinator.raft` reads, writes, syncs and renames files.

`RealDisk` (real_disk.py) implements it on the operating system, `SimDisk` in tests; both pass one
suite. It never decides what a file holds. Only methods whose name ends in `_now` block.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

WRITE_BYTES_MAX: Final = 1 << 20
"""Bytes to pass to one `append` of a large file, so that other calls on the file do not wait long.
"""

T = TypeVar("T")


class SyncError(OSError):
    """A failed sync: it is unknown which part of the file is on the disk, and a retry would not
    tell. All later syncs of the same open file therefore fail too.
    """


class File(Protocol):
    """One open file that is only appended to or truncated.

    Operations on one file take effect in the order of the calls, blocking and async ones together.
    All raise OSError. Guarantee: once `sync` has returned, content and size survive a power cut;
    the *name* does so only after `Disk.sync_directory`. Non-guarantee: after an OSError, part of
    the bytes may have been written.
    """

    @property
    def name(self) -> str:
        """The file's name in its directory."""
        ...

    @property
    def size(self) -> int:
        """Bytes in the file, not counting writes that are still under way."""
        ...

    def read_now(self, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset`; return fewer only at the end of the file."""
        ...

    def append_now(self, content: bytes) -> None:
        """Append to the page cache; this survives the death of the process, but not a power cut."""
        ...

    def truncate_now(self, size: int) -> None:
        """Truncate the file to that size."""
        ...

    def sync_now(self) -> None:
        """Block until everything written is on the disk. Raises SyncError.

        Use this at start-up, and for small and rare writes.
        """
        ...

    def append(self, content: bytes | memoryview, *, sync: bool) -> Awaitable[None]:
        """Begin to append off the event loop, and to fdatasync if `sync`; await the result. It is
        finished even if nobody waits for it.

        Raises SyncError if the fdatasync failed.
        """
        ...

    async def sync(self) -> None:
        """Do what `sync_now` does, off the event loop."""
        ...

    def close(self) -> None:
        """Close the file after all earlier operations on it."""
        ...


class Disk(Protocol):
    """One directory of files, created with mode 0600. All methods raise OSError."""

    @property
    def directory(self) -> str:
        """The directory's path, for messages."""
        ...

    def names(self) -> list[str]:
        """Return the sorted names of the files, except the lock file."""
        ...

    def exists(self, name: str) -> bool:
        """Say whether there is a file of that name."""
        ...

    def size(self, name: str) -> int:
        """Return the bytes in that file."""
        ...

    def load_now(self, name: str, *, sync: bool = True) -> bytes:
        """Read a whole file; for start-up.

        With `sync`, the returned content is on the disk and not only in the page cache. An earlier
        process that was killed between write and fsync leaves content in the cache that a power cut
        would undo; building on that content would leave later writes without what they follow.
        """
        ...

    def create(self, name: str) -> File:
        """Make an empty file, or empty the one that is there."""
        ...

    def open(self, name: str) -> File:
        """Open a file that exists, to append to it."""
        ...

    def rename_now(self, old: str, new: str) -> None:
        """Rename a file, replacing one that has the new name.

        The rename survives a power cut only after `sync_directory`.
        """
        ...

    def remove_now(self, name: str) -> None:
        """Remove a file. Until `sync_directory`, a power cut may bring it back."""
        ...

    async def remove(self, name: str) -> None:
        """Do what `remove_now` does, off the event loop."""
        ...

    def sync_directory_now(self) -> None:
        """Block until every creation, rename and removal so far is durable."""
        ...

    async def sync_directory(self) -> None:
        """Do what `sync_directory_now` does, off the event loop."""
        ...

    async def compute(self, work: Callable[[], T]) -> T:
        """Run work of more than 5 ms (encode, hash) off the event loop."""
        ...

    def close(self) -> None:
        """Release the directory. Open files must be closed by those who opened them."""
        ...


def write_whole_now(disk: Disk, name: str, content: bytes, *, sync: bool = True) -> None:
    """Replace a small file atomically: at any moment either the old or the new content is there.

    With `sync`, the new content is durable when this returns. Raises OSError.
    """
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
