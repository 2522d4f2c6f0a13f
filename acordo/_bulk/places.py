"""Keep files in a directory or in a bucket: under its name a file is whole, or it is not there.

A place never shows a file of which a part is missing, whatever interrupts who writes it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol

from acordo._bulk.checkpoints import beside, in_thread_to_its_end

PIECE_BYTES: Final = 1024 * 1024
"""Bytes that are read at a time."""


class Stored(NamedTuple):
    """A file in a place."""

    name: str
    size: int


class Place(Protocol):
    """Where backups are kept. Every call raises OSError if the place does not do it."""

    async def write(self, name: str, pieces: AsyncIterator[bytes]) -> None:
        """Keep what the pieces hold, durable, under a name, in place of what was there.

        If the iterator raises, or the call is cancelled, what was there stays.
        """

    def read(self, name: str, *, start: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield a file from an offset on, in pieces. Raises FileNotFoundError."""

    async def stored(self) -> list[Stored]:
        """Return the whole files that are there, in the order of their names."""

    async def remove(self, name: str) -> None:
        """Remove a file; nothing happens if it is not there."""


class Directory:
    """A directory as a place; a subdirectory in it is nothing of ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def write(self, name: str, pieces: AsyncIterator[bytes]) -> None:
        """Write beside the name and rename at the end; see `Place`."""
        target = self._path / name
        part = beside(target, "part")
        file = await in_thread_to_its_end(lambda: part.open("wb"))
        try:
            async for piece in pieces:
                await in_thread_to_its_end(lambda piece=piece: file.write(piece))  # type: ignore[misc]  # called before the next
            await in_thread_to_its_end(lambda: _finish(file, part, target))
        except BaseException:
            _give_up(file, part)
            raise

    async def read(self, name: str, *, start: int = 0) -> AsyncGenerator[bytes, None]:
        """Read in threads; see `Place`."""
        file = await in_thread_to_its_end(lambda: (self._path / name).open("rb"))
        try:
            file.seek(start)
            while piece := await in_thread_to_its_end(lambda: file.read(PIECE_BYTES)):
                yield piece
        finally:
            file.close()

    async def stored(self) -> list[Stored]:
        """List the directory; see `Place`."""
        return await in_thread_to_its_end(self._stored)

    def _stored(self) -> list[Stored]:
        with os.scandir(self._path) as found:
            return sorted(
                Stored(each.name, each.stat().st_size)
                for each in found
                if each.is_file(follow_symlinks=False)
            )

    async def remove(self, name: str) -> None:
        """Unlink; see `Place`."""
        await in_thread_to_its_end(lambda: (self._path / name).unlink(missing_ok=True))


def _finish(file: BinaryIO, part: Path, target: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
    part.replace(target)
    directory = os.open(target.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # else a power cut may undo the renaming
    finally:
        os.close(directory)


def _give_up(file: BinaryIO, part: Path) -> None:
    with contextlib.suppress(OSError):  # on a full disk it tries again to write what is buffered
        file.close()
    part.unlink(missing_ok=True)
