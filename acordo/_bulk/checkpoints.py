"""Keep on disk how far a load or a dump has come. Never speaks of more than is done.

A checkpoint lies beside the file that it is about and is replaced whole, so a crash leaves the old
one or the new one.
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
    """How far a load has come: up to here every line is known to be in."""

    version: int
    load_id: str
    lines: int = 0
    offset: int = 0
    prefix_hash: str = ""
    """Hash of the file's first `offset` bytes: another file is noticed."""
    began_ms: int = 0
    """Log time when the first line that expires was met, from which every ttl counts: a line that
    is sent again after an interruption has to be the same. So a key may outlive its moment by as
    long as the load took.
    """


class DumpPoint(msgspec.Struct, frozen=True, kw_only=True, tag="dump"):
    """How far a dump has come: up to here it is on disk."""

    version: int
    prefix: str
    revision: int
    token: str | None
    offset: int
    keys: int


_Point = TypeVar("_Point", LoadPoint, DumpPoint)
_T = TypeVar("_T")


def checkpoint_of_load(source: Path) -> Path:
    """Return where the checkpoint of a load lies."""
    return beside(source, "load")


def checkpoint_of_dump(target: Path) -> Path:
    """Return where the checkpoint of a dump lies."""
    return beside(target, "dump")


def beside(path: Path, what: str) -> Path:
    """Return the name of a file of ours beside `path`."""
    return path.with_name(f"{path.name}.acordo-{what}")


def read_point(checkpoint: Path, kind: type[_Point]) -> _Point:
    """Return what a checkpoint says. Raises BadRequest when it is none of this kind and version."""
    try:
        point = msgspec.json.decode(checkpoint.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
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
    """Replace a checkpoint so that a crash leaves the old one or the new one."""
    fresh = checkpoint.with_name(checkpoint.name + "~")
    with fresh.open("wb") as file:
        file.write(msgspec.json.encode(point))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(checkpoint)
    descriptor = os.open(checkpoint.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # without it a power cut may take the new name back
    finally:
        os.close(descriptor)


async def in_thread_to_its_end(work: Callable[[], _T]) -> _T:
    """Do disk work in a thread; a cancellation waits for its end.

    Else an interrupted run would still be writing the checkpoint when the next one reads it.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
