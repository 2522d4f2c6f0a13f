"""Open the backup that is restored: a file, standard input, or an object of a bucket, as a stream.

It never reads ahead by more than a piece, and keeps nothing of a bucket's credentials.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from acordo import BadRequest as Rejected
from acordo.backups import place_of, split
from kv.errors import BadRequest

BUFFER_BYTES: Final = 1024 * 1024


@contextmanager
def opened(source: str) -> Iterator[BinaryIO]:
    """Open a backup by its path, `-` or `s3://BUCKET/KEY`. Raises BadRequest, OSError."""
    if source == "-":
        yield sys.stdin.buffer
    elif not source.startswith("s3://"):
        with Path(source).open("rb") as file:
            yield file
    else:
        try:
            place, name = split(source)
            pieces = place_of(place).read(name)
        except Rejected as exc:
            raise BadRequest(exc.code, exc.detail, allowed=exc.allowed) from exc
        with asyncio.Runner() as runner:
            try:
                yield io.BufferedReader(_Stream(runner, pieces), BUFFER_BYTES)
            finally:
                runner.run(pieces.aclose())


class _Stream(io.RawIOBase):
    """What a bucket gives piece by piece, read as a file is."""

    def __init__(self, runner: asyncio.Runner, pieces: AsyncGenerator[bytes, None]) -> None:
        self._runner, self._pieces, self._left = runner, pieces, b""

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # a writable buffer is one of these
        """Fill a buffer as far as the next piece goes; 0 at the end. Raises OSError."""
        if not self._left:
            self._left = self._runner.run(self._next())
        taken = self._left[: len(buffer)]
        self._left = self._left[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    async def _next(self) -> bytes:
        return await anext(self._pieces, b"")
