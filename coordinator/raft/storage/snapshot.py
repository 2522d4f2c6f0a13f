"""Keep a snapshot of the machine's state on the disk, and transfer it between members.

It never returns a snapshot that it has not verified, and never removes the current one before the
next is durable.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import structlog

from coordinator.raft.storage.disk import WRITE_BYTES_MAX, Disk, File
from coordinator.raft.storage.recovery import MENDED_BY
from coordinator.raft.storage.snapshot_format import (
    DIGEST_BYTES,
    NotASnapshotError,
    Snapshot,
    SnapshotHeader,
    decode,
    pieces_of,
)
from kv.errors import BadRequest

SNAPSHOT_BYTES_MAX: Final = 4 << 30
"""Size above which a snapshot is neither saved nor received."""
CHUNK_BYTES_MAX: Final = 4 << 20

_log = structlog.get_logger("acordo.raft.snapshot")


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """A part of a transfer. `offset` and `total` count bytes of the snapshot's file; `id` is its
    digest.
    """

    id: bytes
    offset: int
    total: int
    content: bytes


class SnapshotStore:
    """The snapshots of one member: one in place (the current one), at most one being saved, and at
    most one being received. The constructor does no I/O.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        cluster: str,
        name: str = "snapshot",
        bytes_max: int = SNAPSHOT_BYTES_MAX,
    ) -> None:
        self._disk, self._name = disk, name
        self._cluster, self._bytes_max = cluster, bytes_max
        self._newest: SnapshotHeader | None = None
        self._id = b""
        self._epoch = 0
        """A counter, increased when the snapshot in place is replaced or discarded. A save that
        began before that is obsolete.
        """

    @property
    def newest(self) -> SnapshotHeader | None:
        """The header of the snapshot in place; None before `load_now`, or if there is none."""
        return self._newest

    def load_now(self) -> Snapshot | None:
        """Verify and return the snapshot in place; None if there is none. Files of unfinished saves
        and transfers are removed.

        This blocks; use it at start-up, and after the log was overwritten. Raises BadRequest
        "snapshot_corrupt", "snapshot_foreign", "snapshot_newer" or "snapshot_unreadable", naming
        the file, which is kept.
        """
        self._epoch += 1  # a save that is under way holds a state that is being dropped
        for spare in (self._spare, self._part):
            if self._disk.exists(spare):
                self._disk.remove_now(spare)
        if not self._disk.exists(self._name):
            return None
        # A process that was killed may have renamed the file without syncing the name. The log will
        # be cut because this snapshot exists, so a power cut must not undo the rename afterwards.
        self._disk.sync_directory_now()
        try:
            found = decode(self._disk.load_now(self._name))
        except NotASnapshotError as exc:
            raise BadRequest(
                exc.code,
                f"{self._path}: {exc}; it was left as it is",
                allowed=MENDED_BY,
            ) from exc
        except OSError as exc:
            raise BadRequest("snapshot_unreadable", f"{self._path}: {exc}") from exc
        if found.header.cluster != self._cluster:
            raise BadRequest(
                "snapshot_foreign",
                f"{self._path} belongs to cluster {found.header.cluster!r}",
                allowed=f"cluster {self._cluster!r}",
            )
        self._newest, self._id = found.header, found.id
        return found

    async def save(
        self, index: int, term: int, config: bytes, encode: Callable[[], bytes]
    ) -> SnapshotHeader:
        """Save a snapshot: encode it off the event loop, write a spare file, sync it, rename it,
        and sync the directory.

        The log up to `index` may be dropped only after this has returned. Raises OSError and keeps
        the old snapshot if there is no room, or (ESTALE) if another snapshot was installed or the
        old one discarded meanwhile.
        """
        epoch = self._epoch

        def pieces() -> tuple[SnapshotHeader, tuple[bytes, bytes, bytes]]:
            body = encode()
            header = SnapshotHeader(self._cluster, index, term, config, len(body))
            return header, pieces_of(header, body)

        header, (head, body, digest) = await self._disk.compute(pieces)
        if len(head) + len(body) + len(digest) > self._bytes_max:
            raise OSError(
                errno.EFBIG,
                f"a snapshot of {len(body)} bytes; at most {self._bytes_max} are allowed",
            )
        file = self._disk.create(self._spare)
        try:
            await _write(file, (head, body, digest))
        except OSError:
            file.close()
            self._disk.remove_now(self._spare)
            raise
        file.close()
        if epoch != self._epoch:
            raise OSError(errno.ESTALE, "another snapshot took its place meanwhile")
        await self._put_in_place(self._spare, header, digest)
        return header

    def outgoing(self) -> Outgoing:
        """Open the snapshot in place for sending; a newer snapshot does not affect the transfer.

        Raises FileNotFoundError if there is none.
        """
        if self._newest is None:
            raise FileNotFoundError(errno.ENOENT, "there is no snapshot", self._path)
        return Outgoing(self._disk.open(self._name), self._newest, self._id)

    def incoming(self) -> Incoming:
        """Return a receiver that writes to a spare file; only one may be in use at a time."""
        return Incoming(self, self._disk, self._part, self._cluster, self._bytes_max)

    def discard_now(self) -> None:
        """Remove the snapshot in place; this blocks. The log must not begin after the snapshot's
        end when this is called; otherwise the next start finds entries missing and refuses.
        """
        self._epoch += 1
        self._newest, self._id = None, b""
        if self._disk.exists(self._name):
            self._disk.remove_now(self._name)
            self._disk.sync_directory_now()

    async def _put_in_place(self, spare: str, header: SnapshotHeader, digest: bytes) -> None:
        self._disk.rename_now(spare, self._name)
        self._epoch += 1
        self._newest, self._id = header, digest
        await self._disk.sync_directory()

    @property
    def _spare(self) -> str:
        return self._name + ".new"

    @property
    def _part(self) -> str:
        return self._name + ".part"

    @property
    def _path(self) -> str:
        return os.path.join(self._disk.directory, self._name)


class Outgoing:
    """The sending side of one transfer, of the snapshot that was in place when it began."""

    def __init__(self, file: File, header: SnapshotHeader, id: bytes) -> None:
        self._file, self.header = file, header
        self.id, self.total = id, file.size

    def chunk(self, offset: int, length: int) -> Chunk:
        """Return a chunk of at most `length` bytes, and at most CHUNK_BYTES_MAX, from `offset`."""
        return Chunk(
            self.id, offset, self.total, self._file.read_now(offset, min(length, CHUNK_BYTES_MAX))
        )

    def close(self) -> None:
        """End the transfer."""
        self._file.close()


class Incoming:
    """The receiving side of one transfer."""

    def __init__(
        self, store: SnapshotStore, disk: Disk, name: str, cluster: str, bytes_max: int
    ) -> None:
        self._store, self._disk, self._name = store, disk, name
        self._cluster, self._bytes_max = cluster, bytes_max
        self._file: File | None = None
        self._id = b""
        self._total = self._offset = 0
        self._verified: Snapshot | None = None

    def accept(self, chunk: Chunk) -> int:
        """Accept a chunk; return the offset wanted next. When that is the chunk's `total`, all
        bytes have arrived: call `finish`.

        A chunk that is out of order (repeated, or after a lost one) changes nothing. A chunk of a
        different snapshot, an invalid chunk, or a full disk makes the transfer start again at 0.
        """
        end = chunk.offset + len(chunk.content)
        if (
            not 0 <= chunk.offset <= end <= chunk.total <= self._bytes_max
            or len(chunk.id) != DIGEST_BYTES
        ):
            self.reset()
            return 0
        if (chunk.id, chunk.total) != (self._id, self._total):
            self.reset()
            self._id, self._total = chunk.id, chunk.total
        if chunk.offset == self._offset and chunk.content:
            try:
                if self._file is None:
                    self._file = self._disk.create(self._name)
                self._file.append_now(chunk.content)
                self._offset = end
            except OSError as exc:
                _log.warning("snapshot_not_received", error=str(exc))
                self.reset()
        return self._offset

    async def finish(self) -> Snapshot:
        """Sync and verify the received snapshot.

        Raises ValueError if it is incomplete or not the announced one; an invalid one is dropped.
        """
        file, id = self._file, self._id
        if file is None or self._offset != self._total:
            raise ValueError(f"{self._offset} of {self._total} bytes have arrived")
        await file.sync()
        try:
            found = await self._disk.compute(lambda: decode(self._disk.load_now(self._name)))
            if found.id != id:
                raise NotASnapshotError("snapshot_corrupt", "it is not the one that was announced")
            if found.header.cluster != self._cluster:
                raise NotASnapshotError(
                    "snapshot_foreign", f"it is of cluster {found.header.cluster!r}"
                )
        except NotASnapshotError:
            self.reset()
            raise
        if self._file is not file:
            raise ValueError("the transfer was interrupted")
        self._verified = found
        return found

    async def install(self) -> None:
        """Replace the snapshot in place by the one that `finish` verified. Raises OSError."""
        if self._verified is None or self._file is None:
            raise ValueError("only a finished snapshot can be installed")
        found = self._verified
        self._file.close()
        self._file = None
        await self._store._put_in_place(self._name, found.header, found.id)

    def reset(self) -> None:
        """Drop what has been received so far, because the transfer was interrupted."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._disk.remove_now(self._name)
        self._id, self._verified = b"", None
        self._total = self._offset = 0


async def _write(file: File, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), WRITE_BYTES_MAX):
            await file.append(view[start : start + WRITE_BYTES_MAX], sync=False)
    await file.sync()
