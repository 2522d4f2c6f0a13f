"""Transfer a snapshot between members, with a copy of the sender's own store behind it.

The stream of one transfer is the snapshot's file, then the bytes of the copy. Neither side holds
the copy in memory, and nothing of what was received is used before all of it was verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from coordinator.raft.storage.disk import Disk, File
from coordinator.raft.storage.snapshot_format import (
    DIGEST_BYTES,
    NotASnapshotError,
    Snapshot,
    SnapshotHeader,
    decode,
)
from kv.ports import StateCopy

CHUNK_BYTES_MAX: Final = 4 << 20
STREAM_BYTES_MAX: Final = 1 << 40
"""Size above which a snapshot with a copy of a store behind it is not received."""
_PIECE: Final = 1 << 20
"""Bytes that are read at a time to compute a digest."""

_log = structlog.get_logger("acordo.raft.snapshot")


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """A part of a transfer. `offset` and `total` count bytes of the stream; `id` is its digest: the
    snapshot's own when nothing is attached.
    """

    id: bytes
    offset: int
    total: int
    content: bytes
    dump_bytes: int = 0
    """Bytes of the snapshot's file, after which the copy of the store begins; 0: nothing is
    attached.
    """


class Outgoing:
    """The sending side of one transfer, of the snapshot that was in place when it began."""

    def __init__(
        self, file: File, header: SnapshotHeader, id: bytes, state: StateCopy | None = None
    ) -> None:
        self._file, self.header, self._state = file, header, state
        self.id, self._dump_bytes = id, file.size
        self.attached_bytes = 0 if state is None else state.size
        self.total = self._dump_bytes + self.attached_bytes

    def attach(self, state: StateCopy) -> Outgoing:
        """Return this transfer with a copy behind it; `seal_now` must then be called once. Closing
        it closes both.
        """
        return Outgoing(self._file, self.header, b"", state)

    def chunk(self, offset: int, length: int) -> Chunk:
        """Return a chunk of at most `length` bytes, and at most CHUNK_BYTES_MAX, from `offset`."""
        content = self._read_now(offset, min(length, CHUNK_BYTES_MAX))
        dump_bytes = 0 if self._state is None else self._dump_bytes
        return Chunk(self.id, offset, self.total, content, dump_bytes)

    def _read_now(self, offset: int, length: int) -> bytes:
        """Read from the snapshot's file or from the copy behind it, never from both at once."""
        if self._state is None or offset < self._dump_bytes:
            return self._file.read_now(offset, min(length, max(0, self._dump_bytes - offset)))
        return self._state.read_now(offset - self._dump_bytes, length)

    def seal_now(self) -> None:
        """Compute the digest of the whole stream, which becomes its id. This blocks for as long as
        reading the copy takes.
        """
        self.id = _digest_now(self._read_now, self.total)

    def close(self) -> None:
        """End the transfer, and release the copy."""
        self._file.close()
        if self._state is not None:
            self._state.close()


class ReceivedCopy:
    """The attached copy of a store, as it lies in the received file; see `kv.ports.StateCopy`."""

    def __init__(self, file: File, begin: int) -> None:
        self._file, self._begin = file, begin

    @property
    def size(self) -> int:
        """See `StateCopy.size`."""
        return self._file.size - self._begin

    def read_now(self, offset: int, length: int) -> bytes:
        """See `StateCopy.read_now`."""
        return self._file.read_now(self._begin + offset, length)

    def close(self) -> None:
        """Close the file, which stays: it becomes the snapshot."""
        self._file.close()


class Incoming:
    """The receiving side of one transfer."""

    def __init__(
        self,
        disk: Disk,
        name: str,
        *,
        cluster: str,
        bytes_max: int,
        put_in_place: Callable[[SnapshotHeader, bytes], Awaitable[None]],
    ) -> None:
        """Collect the stream in the file `name`. `put_in_place` is called when that file is to
        become the snapshot, `bytes_max` bounds the snapshot's part of the stream.
        """
        self._disk, self._name, self._put_in_place = disk, name, put_in_place
        self._cluster, self._bytes_max = cluster, bytes_max
        self._file: File | None = None
        self._id = b""
        self._total = self._offset = self._dump_bytes = 0
        self._verified: Snapshot | None = None

    def accept(self, chunk: Chunk) -> int:
        """Accept a chunk; return the offset wanted next. When that is the chunk's `total`, all
        bytes have arrived: call `finish`.

        A chunk that is out of order (repeated, or after a lost one) changes nothing. A chunk of a
        different stream, an invalid chunk, or a full disk makes the transfer start again at 0.
        """
        end = chunk.offset + len(chunk.content)
        if not self.possible(chunk):
            self.reset()
            return 0
        if (chunk.id, chunk.total, chunk.dump_bytes) != (self._id, self._total, self._dump_bytes):
            self.reset()
            self._id, self._total, self._dump_bytes = chunk.id, chunk.total, chunk.dump_bytes
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

    def possible(self, chunk: Chunk) -> bool:
        """Say whether a chunk can be a part of any stream."""
        end, attached = chunk.offset + len(chunk.content), chunk.dump_bytes > 0
        return (
            0 <= chunk.offset <= end <= chunk.total
            and chunk.total <= (STREAM_BYTES_MAX if attached else self._bytes_max)
            and 0 <= chunk.dump_bytes <= min(chunk.total, self._bytes_max)
            and len(chunk.id) == DIGEST_BYTES
        )

    @property
    def offset(self) -> int:
        """The offset wanted next: all bytes before it have arrived."""
        return self._offset

    async def finish(self) -> Snapshot:
        """Sync and verify the whole stream; return the snapshot in it.

        Raises ValueError if it is incomplete or not the announced one; an invalid one is dropped.
        """
        file = self._file
        if file is None or self._offset != self._total:
            raise ValueError(f"{self._offset} of {self._total} bytes have arrived")
        await file.sync()
        id, dump_bytes = self._id, self._dump_bytes
        try:
            found = await self._disk.compute(lambda: self._verify_now(id, dump_bytes))
        except NotASnapshotError:
            self.reset()
            raise
        if self._file is not file:
            raise ValueError("the transfer was interrupted")
        self._verified = found
        return found

    def _verify_now(self, id: bytes, dump_bytes: int) -> Snapshot:
        if not dump_bytes:
            found = decode(self._disk.load_now(self._name))
            digest = found.id
        else:
            file = self._disk.open(self._name)
            try:
                digest = _digest_now(file.read_now, file.size)
                found = decode(file.read_now(0, dump_bytes))
            finally:
                file.close()
        if digest != id:
            raise NotASnapshotError("snapshot_corrupt", "it is not the one that was announced")
        if found.header.cluster != self._cluster:
            raise NotASnapshotError(
                "snapshot_foreign", f"it is of cluster {found.header.cluster!r}"
            )
        return found

    def attached(self) -> ReceivedCopy | None:
        """Open the copy of the store that came with the verified snapshot; None if none did. The
        caller closes it.
        """
        if self._verified is None:
            raise ValueError("only a finished snapshot has an attachment")
        if not self._dump_bytes:
            return None
        return ReceivedCopy(self._disk.open(self._name), self._dump_bytes)

    async def install(self) -> None:
        """Replace the snapshot in place by the one that `finish` verified. Raises OSError.

        A copy that came with it is cut off: it must have been installed before.
        """
        found, file = self._verified, self._file
        if found is None or file is None:
            raise ValueError("only a finished snapshot can be installed")
        if self._dump_bytes:
            file.truncate_now(self._dump_bytes)
            await file.sync()
        file.close()
        self._file = None
        await self._put_in_place(found.header, found.id)

    def reset(self) -> None:
        """Drop what has been received so far, because the transfer was interrupted."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._disk.remove_now(self._name)
        self._id, self._verified = b"", None
        self._total = self._offset = self._dump_bytes = 0


def _digest_now(read_now: Callable[[int, int], bytes], total: int) -> bytes:
    """Return the digest of `total` bytes, read piece by piece."""
    digest, offset = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
    while offset < total:
        piece = read_now(offset, min(_PIECE, total - offset))
        if not piece:
            raise OSError(f"{offset} of {total} bytes could be read")
        digest.update(piece)
        offset += len(piece)
    return digest.digest()
