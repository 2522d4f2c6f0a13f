"""Take a backup of a running cluster, checked while it is written. The requested file name never
holds one that is not whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from acordo._bulk.backup_file import BackupCheck, BackupSummary
from acordo._bulk.checkpoints import beside, in_thread_to_its_end
from acordo._bulk.progress import OnProgress, Progress, ignore
from acordo._client import Client
from acordo._errors import BadRequest

PIECE_BYTES: Final = 1024 * 1024


async def backup(
    client: Client, target: Path, *, on_progress: OnProgress = ignore
) -> BackupSummary:
    """Write a backup to `target`, which appears, durable, once it is whole, and replaces what was
    there. Raises BadRequest, ReadFailed, Unreachable, OSError; then the file is as it was.
    """
    part = beside(target, "part")
    file = await in_thread_to_its_end(lambda: part.open("wb"))
    try:
        done = await backup_to(client, file.write, on_progress=on_progress)
        await in_thread_to_its_end(lambda: _finish(file, part, target))
    except BaseException:
        file.close()
        part.unlink(missing_ok=True)
        raise
    return done


async def backup_to(
    client: Client, write: Callable[[bytes], object], *, on_progress: OnProgress = ignore
) -> BackupSummary:
    """Write a backup to a stream, checked as it passes."""
    check = BackupCheck()
    async for piece in client.backup():
        await in_thread_to_its_end(lambda piece=piece: _take(check, write, piece))  # type: ignore[misc]  # called before the next
        on_progress(Progress(0, check.size))
    return check.end()


def _take(check: BackupCheck, write: Callable[[bytes], object], piece: bytes) -> None:
    check.feed(piece)
    write(piece)


def verify_file(source: BinaryIO, *, on_progress: OnProgress = ignore) -> BackupSummary:
    """Check a backup at rest. Raises BadRequest, OSError."""
    check = BackupCheck()
    while piece := source.read(PIECE_BYTES):
        check.feed(piece)
        on_progress(Progress(0, check.size))
    return check.end()


def check_cluster(found: BackupSummary, cluster_id: str) -> None:
    """Raise BadRequest if a backup is not of the named cluster."""
    if found.cluster_id != cluster_id:
        raise BadRequest(
            f"the backup is of cluster {found.cluster_id!r}, not of {cluster_id!r}",
            code="backup_of_another_cluster",
            allowed="a backup of that cluster, or no --cluster-id",
        )


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
