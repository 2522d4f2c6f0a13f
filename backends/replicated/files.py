"""Place, lock, replace and keep the files of a member's store, so that an interruption at any
moment leaves the old file or the new one.

It never looks into a file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Final

from backends.replicated.schema import UnsoundFile
from kv.errors import BackendUnavailable, BadRequest

ASIDE_MAX: Final = 2
"""The number of files kept that were put aside. An older one is deleted."""
FREE_BYTES_MIN: Final = 4 * 1024 * 1024
"""A disk with less room counts as full: the log needs it."""
_TO_BE_MENDED: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
)
_SQLITE_TO_BE_MENDED: Final = frozenset({sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY})
_BESIDE: Final = ("-wal", "-shm", "-journal")


class Lock:
    """The right to open a member's file, of one object in one process."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}.lock"
        self._file: int | None = None

    def take(self) -> None:
        """Take it, or raise BadRequest("store_in_use"), OSError."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(file)
            raise BadRequest(
                "store_in_use",
                f"another process holds {self._path}",
                allowed="one member to one file: end the other process",
            ) from exc
        self._file = file

    def release(self) -> None:
        """Let others open the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Identities:
    """Which files were opened. What is written to one that has no name any more is lost."""

    def __init__(self, path: str) -> None:
        self._opened = {
            place: _identity_of(place) for place in (path, f"{path}-wal") if os.path.exists(place)
        }

    def check(self) -> None:
        """Raise UnsoundFile if a name is gone, or is another file's now.

        SQLite does not delete the write-ahead log while it is open: somebody else did.
        """
        for place, noted in self._opened.items():
            try:
                found = _identity_of(place)
            except OSError as exc:
                raise UnsoundFile(f"{place} is gone while it is open") from exc
            if found != noted:
                raise UnsoundFile(f"{place} was replaced while it was open")


def _identity_of(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def incoming(path: str) -> str:
    """Return where a new file is built, until it is whole."""
    return f"{path}.new"


def _ready(path: str) -> str:
    """Return where a new file that is whole and durable waits to be put in place."""
    return f"{path}.ready"


def put_in_place(path: str) -> None:
    """Replace the file by the one that was built beside it, durably. Raises OSError.

    From the first rename on, the new file is the store: `tidy` completes what was interrupted.
    """
    _sync(incoming(path))
    os.rename(incoming(path), _ready(path))
    sync_directory(path)
    _complete(path)


def put_fetched_in_place(path: str) -> None:
    """Do the same with another member's file. It is marked as that before it is there, durably.
    Raises OSError.
    """
    Path(_mark(path)).touch(mode=0o600)
    sync_directory(path)
    put_in_place(path)


def is_fetched(path: str) -> bool:
    """Return whether the file is another member's, or may be."""
    return os.path.exists(_mark(path))


def confirm(path: str) -> None:
    """Take the mark of another member's file away. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_mark(path))


def _mark(path: str) -> str:
    return f"{path}.fetched"


def tidy(path: str) -> None:
    """Complete or remove what an interruption left. Raises OSError."""
    if os.path.exists(_ready(path)):
        _complete(path)
    if not os.path.exists(path):
        # a write-ahead log without its file is of no use, and would be taken for the next one's
        _remove_beside(path)
    for new in (incoming(path), _ready(path)):
        _remove_beside(new)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(incoming(path))
    place = Path(path)
    for copy in place.parent.glob(f"{place.name}.copy-*"):
        copy.unlink()


def _complete(path: str) -> None:
    # the old write-ahead log must never meet the new file
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    _remove_beside(path)
    sync_directory(path)
    os.rename(_ready(path), path)
    sync_directory(path)


def put_aside(path: str) -> str:
    """Move the file out of the way, and return where it is. Raises OSError."""
    numbers = sorted(_aside(path))
    place = f"{path}.aside-{max(numbers, default=0) + 1}"
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, place)
    for suffix in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + suffix, place + suffix)
    sync_directory(path)
    confirm(path)  # what takes its place is this member's own
    for number in numbers[: len(numbers) + 1 - ASIDE_MAX]:
        old = f"{path}.aside-{number}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(old)
        _remove_beside(old)
    return place


def _aside(path: str) -> list[int]:
    place = Path(path)
    there = place.parent.glob(f"{place.name}.aside-*")
    suffixes = [found.name.rpartition("-")[2] for found in there]
    return [int(suffix) for suffix in suffixes if suffix.isdecimal()]


def _remove_beside(path: str) -> None:
    for suffix in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)


def sync_directory(path: str) -> None:
    """Make renames in the directory of a file durable. Raises OSError."""
    _sync(os.path.dirname(os.path.abspath(path)))


def _sync(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def free_bytes(path: str) -> int:
    """Return how much room the file's disk has; 0 when it is read-only. Raises OSError."""
    found = os.statvfs(os.path.dirname(os.path.abspath(path)))
    return 0 if found.f_flag & os.ST_RDONLY else found.f_bavail * found.f_frsize


def check_room(path: str, size: int = 0) -> None:
    """Raise BackendUnavailable if the disk has no room for `size` more bytes, or is read-only."""
    try:
        free = free_bytes(path)
    except OSError as exc:
        raise unavailable(path, exc) from exc
    if free < FREE_BYTES_MIN + size:
        raise BackendUnavailable(
            "own store",
            f"{path}: its disk is full or read-only ({free} bytes are left, {size} are wanted)",
        )


def unusable(path: str, exc: Exception) -> BadRequest | BackendUnavailable:
    """Return the error for a file that cannot be opened: BadRequest("bad_store") for a path that
    somebody has to mend, because waiting would not help.
    """
    number = exc.errno if isinstance(exc, OSError) else None
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    if number not in _TO_BE_MENDED and code not in _SQLITE_TO_BE_MENDED:
        return unavailable(path, exc)
    return BadRequest(
        "bad_store",
        f"{path} cannot be opened: {exc}",
        allowed="a file that this user may read and write, in a directory that is there",
    )


def unavailable(path: str, exc: Exception) -> BackendUnavailable:
    """Return the error for a file that the system does not let us use."""
    return BackendUnavailable("own store", f"{path}: {exc}")
