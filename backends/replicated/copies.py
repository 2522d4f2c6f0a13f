"""Copy a member's file as it is at one moment, and receive such a copy.

A copy is read and written away from the loop, except for `read_now`.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from typing import Final

from backends.replicated import files, opening, schema
from backends.replicated.rows import BACKEND
from backends.replicated.schema import UnsoundFile
from kv.errors import BackendUnavailable, BadRequest
from kv.ports import StateCopy

CHUNK_BYTES: Final = 1024 * 1024
FLAWS_MAX: Final = 10
STEPS_UNSTOPPED: Final = 100_000
"""Steps of SQLite between two looks at whether it is to stop."""
COPIED_PAGES: Final = -1
"""All pages in one step: more steps would begin anew whenever the file changes in between."""

_NOT_DUE: Final = """SELECT (SELECT count(*) FROM due AS d LEFT JOIN versions AS v ON v.id = d.id
        WHERE v.id IS NULL OR v.key <> d.key OR v.expires IS NOT d.expires)
    + (SELECT count(*) FROM versions AS v WHERE v.expires IS NOT NULL AND v.kind > 0 AND v.id = (
            SELECT id FROM versions WHERE key = v.key ORDER BY id DESC LIMIT 1)
        AND NOT EXISTS (SELECT 1 FROM due WHERE due.key = v.key AND due.id = v.id))"""
"""What of the table `due`, which is derived, does not follow from the versions."""


class Stop:
    """A way to end what another thread does with a connection. That takes minutes for large files,
    and a process waits for its threads when it ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self.is_set = False

    def watch(self, connection: sqlite3.Connection | None) -> None:
        """Stop this connection when the time comes; None: it is going to be closed."""
        with self._lock:
            self._connection = connection
        if connection is not None:
            connection.set_progress_handler(lambda: self.is_set, STEPS_UNSTOPPED)

    def set(self) -> None:
        """Let what is done end soon, with an error."""
        with self._lock:
            self.is_set = True
            if self._connection is not None:
                self._connection.interrupt()


class FileCopy:
    """A copy in a file that has no name any more, so that it is gone with the process."""

    def __init__(self, file: int) -> None:
        self._file: int | None = file
        self._size = os.fstat(file).st_size

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self._size

    def read_now(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer only at the end. Raises OSError."""
        if self._file is None:
            raise OSError("the copy is closed")
        return os.pread(self._file, length, offset)

    def close(self) -> None:
        """Release the file's room."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        self.close()


def copy(path: str) -> FileCopy:
    """Copy the file in one read transaction. Raises sqlite3.Error, OSError, BackendUnavailable."""
    files.check_room(path, os.path.getsize(path))
    directory, name = os.path.split(os.path.abspath(path))
    handle, place = tempfile.mkstemp(prefix=f"{name}.copy-", dir=directory)
    try:
        source = schema.connect(path, cache_kib=64)
        target = schema.connect(place, cache_kib=64)
        try:
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            source.backup(target, pages=COPIED_PAGES)
        finally:
            target.close()
            source.close()
        return FileCopy(handle)
    except BaseException:
        os.close(handle)
        raise
    finally:
        os.unlink(place)


def receive(path: str, state: StateCopy, stop: threading.Event) -> None:
    """Write a copy beside the file, and check that it is a sound store. Raises ValueError if it is
    not, OSError, BackendUnavailable. When `stop` is set it ends early, and leaves nothing.
    """
    files.check_room(path, state.size)
    place = files.incoming(path)
    try:
        with open(place, "wb") as file:
            for offset in range(0, state.size, CHUNK_BYTES):
                if stop.is_set():
                    raise BackendUnavailable(BACKEND, "nobody waits for the copy any more")
                file.write(state.read_now(offset, CHUNK_BYTES))
            file.flush()
            os.fsync(file.fileno())
        check(place)
    except BaseException:
        files.tidy(path)
        raise


def check(path: str) -> None:
    """Check a closed file as a whole. Raises ValueError if it is no sound store, and
    BackendUnavailable if nobody can tell.
    """
    try:
        schema.identify(path)
        connection = schema.connect(path, cache_kib=1024)
        try:
            schema.check_tables(connection)
            schema.check_length(connection, path)
            schema.check_pages(connection)
        finally:
            connection.close()
    except BadRequest as exc:
        raise UnsoundFile(str(exc)) from exc
    except sqlite3.Error as exc:
        if opening.is_damage(exc):
            raise UnsoundFile(str(exc)) from exc
        raise files.unavailable(path, exc) from exc


def broken_pages(path: str, stop: Stop) -> tuple[str, ...]:
    """Return a few flaws of the pages of a file that may be open, and of its indexes, for people to
    read; none if it was stopped. Raises BackendUnavailable.
    """
    try:
        connection = schema.connect(path, cache_kib=1024, mode="ro")
        try:
            stop.watch(connection)
            if stop.is_set:  # before this thread had its turn
                return ()
            found = connection.execute(f"PRAGMA integrity_check({FLAWS_MAX})").fetchall()
            missing = schema.one(connection, _NOT_DUE)
        finally:
            stop.watch(None)
            connection.close()
    except sqlite3.Error as exc:
        if stop.is_set:
            return ()
        if opening.is_damage(exc):
            return (str(exc),)
        raise files.unavailable(path, exc) from exc
    flaws = [row[0].decode(errors="replace") for row in found if row[0] != b"ok"]
    if missing:
        flaws.append(f"{missing} versions and the search for what expires do not agree")
    return tuple(flaws)
