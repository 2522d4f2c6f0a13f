"""Keep the progress of a load or a dump on disk. A checkpoint never claims more than is done.

It lies beside the file that it belongs to and is replaced atomically, so a crash leaves the old one
or the new one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from acordo._errors import BadRequest

CHECKPOINT_VERSION: Final = 1


class LoadPoint(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """The progress of a load: every line up to here is known to be written."""

    version: int
    load_id: str
    lines: int = 0
    offset: int = 0
    prefix_hash: str = ""
    """Hash of the file's first `offset` bytes, by which a different file is detected."""
    began_ms: int = 0
    """Log time at which the load met its first line with an expiry; every ttl of the load counts
    from it. It stays the same after an interruption, because a line that is sent again has to be
    identical. So a key may live longer than intended by as much time as the load took.
    """


class DumpPoint(msgspec.Struct, frozen=True, kw_only=True, tag="dump"):
    """The progress of a dump: everything up to here is on disk."""

    version: int
    prefix: str
    revision: int
    token: str | None
    offset: int
    keys: int


_Point = TypeVar("_Point", LoadPoint, DumpPoint)
_T = TypeVar("_T")


def checkpoint_of_load(source: Path) -> Path:
    """Return the path of a load's checkpoint."""
    return beside(source, "load")


def checkpoint_of_dump(target: Path) -> Path:
    """Return the path of a dump's checkpoint."""
    return beside(target, "dump")


def beside(path: Path, what: str) -> Path:
    """Return the path of one of our files beside `path`."""
    return path.with_name(f"{path.name}.acordo-{what}")


def read_point(checkpoint: Path, kind: type[_Point]) -> _Point:
    """Return the contents of a checkpoint. Raises BadRequest when it is not of this kind and
    version.
    """
    try:
        point = msgspec.json.decode(checkpoint.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest(
            f"{checkpoint} is no checkpoint: {exc}",
            code="bad_checkpoint",
            allowed="--restart to begin anew",
        ) from exc
    if point.version != CHECKPOINT_VERSION:
        raise BadRequest(
            f"{checkpoint} is of another version", code="bad_checkpoint", allowed="--restart"
        )
    return point


def write_point(checkpoint: Path, point: LoadPoint | DumpPoint) -> None:
    """Replace a checkpoint atomically and durably: a crash leaves the old one or the new one."""
    fresh = checkpoint.with_name(checkpoint.name + "~")
    with fresh.open("wb") as file:
        file.write(msgspec.json.encode(point))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(checkpoint)
    descriptor = os.open(checkpoint.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # else a power cut may undo the renaming
    finally:
        os.close(descriptor)


async def in_thread_to_its_end(work: Callable[[], _T]) -> _T:
    """Run disk work in a thread; a cancellation waits until it has ended.

    Otherwise an interrupted run could still be writing the checkpoint when the next one reads it.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
