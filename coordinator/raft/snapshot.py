"""Keep the machine's dump on the disk and move it between members. Never hands over a dump that it has not verified.

Skeleton: signatures first.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from coordinator.raft.disk import Disk


class SnapshotHeader(msgspec.Struct, frozen=True):
    """What a dump says of itself. `config`: members and whatever else the upper half keeps with it."""

    cluster: str
    index: int
    term: int
    config: bytes
    length: int


class Snapshot(msgspec.Struct, frozen=True):
    header: SnapshotHeader
    body: bytes


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """Part of a transfer; `id` names one dump (its digest), `offset` and `total` count bytes of the whole file."""

    id: bytes
    offset: int
    total: int
    content: bytes


class SnapshotStore:
    def __init__(self, disk: Disk, *, cluster: str, name: str = "snapshot", bytes_max: int = 4 << 30) -> None: ...

    @property
    def newest(self) -> SnapshotHeader | None:
        """Header of the dump in place."""
        ...

    def load_now(self) -> Snapshot | None:
        """Verify and return the dump; None if there is none. Raises BadRequest "snapshot_corrupt" and keeps the file."""
        ...

    async def save(self, index: int, term: int, config: bytes, encode: Callable[[], bytes]) -> SnapshotHeader:
        """Encode in a worker, write new, sync, rename, sync the directory. Raises OSError with the old one in place."""
        ...

    def outgoing(self) -> Outgoing:
        """Begin to send the dump in place (one per peer; a newer dump does not disturb it). Raises FileNotFoundError."""
        ...

    def incoming(self) -> Incoming:
        """Begin to receive (one at a time)."""
        ...


class Outgoing:
    id: bytes
    header: SnapshotHeader
    total: int

    def chunk(self, offset: int, length: int) -> Chunk: ...
    def close(self) -> None: ...


class Incoming:
    def accept(self, chunk: Chunk) -> int:
        """Take a chunk; return the offset wanted next (`total`: complete). One out of place starts again at 0."""
        ...

    async def finish(self) -> Snapshot:
        """Verify what arrived, sync it. Raises ValueError (and starts clean) when it is not what its header says."""
        ...

    async def install(self) -> None:
        """Put the finished one in the place of the old dump: rename, sync the directory."""
        ...

    def reset(self) -> None:
        """Drop what came so far: the transfer was interrupted."""
        ...
