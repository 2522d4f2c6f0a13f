"""Take a backup of a running cluster, checked while it is written. The requested file name never
holds one that is not whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO, Final, cast

from acordo._bulk.backup_file import BackupCheck, BackupSummary
from acordo._bulk.checkpoints import in_thread_to_its_end
from acordo._bulk.places import Directory, Place
from acordo._bulk.progress import OnProgress, Progress, ignore
from acordo._client import Client
from acordo._errors import BadRequest, Pruned

PIECE_BYTES: Final = 1024 * 1024


async def backup(
    client: Client, target: Path, *, on_progress: OnProgress = ignore
) -> BackupSummary:
    """Write a backup to `target`; as `backup_into`."""
    return await backup_into(client, Directory(target.parent), target.name, on_progress=on_progress)


async def backup_into(
    client: Client,
    place: Place,
    name: str,
    *,
    since: BackupSummary | None = None,
    on_progress: OnProgress = ignore,
) -> BackupSummary:
    """Write a backup to a place, where it appears, durable, once it is whole, and replaces what had
    its name; with `since`, only what changed after that one.

    Raises BadRequest, ReadFailed, Unreachable, OSError, and Pruned if the cluster does not keep all
    that changed; then what was there stays.
    """
    check = BackupCheck()
    found: list[BackupSummary] = []

    async def checked() -> AsyncGenerator[bytes, None]:
        async with aclosing(_given_by(client, since)) as pieces:
            async for piece in pieces:
                await in_thread_to_its_end(lambda piece=piece: check.feed(piece))  # type: ignore[misc]  # called before the next
                on_progress(Progress(0, check.size))
                yield piece
        found.append(check.end())  # raises, so that the place keeps nothing

    async with aclosing(checked()) as pieces:
        await place.write(name, pieces)
    return found[0]


async def _given_by(client: Client, since: BackupSummary | None) -> AsyncGenerator[bytes, None]:
    point = None if since is None else (since.revision, since.order)
    # it says less of itself than it is
    given = cast(AsyncGenerator[bytes, None], client.backup(since=point))
    try:
        async with aclosing(given) as pieces:
            async for piece in pieces:
                yield piece
    except Pruned as exc:
        assert since is not None
        raise Pruned(
            f"the cluster does not keep all that changed after revision {since.revision} any more: "
            "take a whole backup, and then incremental ones more often than the retention of "
            "history (ACORDO_HISTORY_RETENTION_S, …_REVISIONS)",
            floor=exc.floor,
            status=exc.status,
            node=exc.node,
        ) from exc


async def backup_to(
    client: Client,
    write: Callable[[bytes], object],
    *,
    since: BackupSummary | None = None,
    on_progress: OnProgress = ignore,
) -> BackupSummary:
    """Write a backup to a stream, checked as it passes; otherwise as `backup_into`."""
    check = BackupCheck()
    async for piece in _given_by(client, since):
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


async def verify_stored(
    place: Place, name: str, *, on_progress: OnProgress = ignore
) -> BackupSummary:
    """Check a backup in a place. Raises BadRequest, OSError."""
    check = BackupCheck()
    async with aclosing(place.read(name)) as pieces:
        async for piece in pieces:
            await in_thread_to_its_end(lambda piece=piece: check.feed(piece))  # type: ignore[misc]  # called before the next
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
