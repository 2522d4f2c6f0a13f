"""Keep a snapshot of the machine's state on the disk.

It never returns a snapshot that it has not verified, and never removes the current one before the
next is durable.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

import msgspec

from coordinator.raft.storage.disk import WRITE_BYTES_MAX, Disk, File
from coordinator.raft.storage.recovery import MENDED_BY
from coordinator.raft.storage.snapshot_format import (
    NotASnapshotError,
    Snapshot,
    SnapshotHeader,
    decode,
    pieces_of,
)
from coordinator.raft.storage.snapshot_stream import Incoming, Outgoing
from kv.errors import BadRequest
from kv.ports import StateCopy

SNAPSHOT_BYTES_MAX: Final = 4 << 30
"""Size above which a snapshot is neither saved nor received."""


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

    def save(
        self,
        index: int,
        term: int,
        config: bytes,
        encode: Callable[[], bytes],
        secured: Callable[[], Awaitable[None]] | None = None,
    ) -> Coroutine[Any, Any, SnapshotHeader]:
        """Save a snapshot that was captured just now: await `secured`, encode it off the event
        loop, write a spare file, sync it, await `secured` again, rename the file, and sync the
        directory.

        The log up to `index` may be dropped only after this has returned. Raises OSError and keeps
        the old snapshot if there is no room, or (ESTALE) if another snapshot was installed or the
        old one discarded since the call. Raises what `secured` raises, with nothing changed.
        """
        return self._save(
            self._epoch, SnapshotHeader(self._cluster, index, term, config, 0), encode, secured
        )

    async def _save(
        self,
        epoch: int,
        what: SnapshotHeader,
        encode: Callable[[], bytes],
        secured: Callable[[], Awaitable[None]] | None,
    ) -> SnapshotHeader:
        if secured is not None:
            await secured()

        def pieces() -> tuple[SnapshotHeader, tuple[bytes, bytes, bytes]]:
            body = encode()
            header = msgspec.structs.replace(what, length=len(body))
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
        if secured is not None:
            await self._secure_still(secured)
        if epoch != self._epoch:
            raise OSError(errno.ESTALE, "another snapshot took its place meanwhile")
        await self._put_in_place(self._spare, header, digest)
        return header

    async def _secure_still(self, secured: Callable[[], Awaitable[None]]) -> None:
        """Ask again, now that the snapshot is written: what it stands for may have been lost since.
        Raises what `secured` raises, with the spare file removed.
        """
        try:
            await secured()
        except BaseException:
            if self._disk.exists(self._spare):
                self._disk.remove_now(self._spare)
            raise

    def outgoing(self) -> Outgoing:
        """Open the snapshot in place for sending; a newer snapshot does not affect the transfer.

        Raises FileNotFoundError if there is none.
        """
        if self._newest is None:
            raise FileNotFoundError(errno.ENOENT, "there is no snapshot", self._path)
        return Outgoing(self._disk.open(self._name), self._newest, self._id)

    async def outgoing_with(self, attach: Callable[[], Awaitable[StateCopy | None]]) -> Outgoing:
        """Open the snapshot in place for sending, with the copy that `attach` then makes behind it.

        Raises what `outgoing` and `attach` raise.
        """
        bare = self.outgoing()
        try:
            state = await attach()
        except BaseException:
            bare.close()
            raise
        if state is None:
            return bare
        whole = bare.attach(state)
        sealing = asyncio.ensure_future(self._disk.compute(whole.seal_now))
        try:
            await asyncio.shield(sealing)
        except asyncio.CancelledError:
            sealing.add_done_callback(lambda _: whole.close())  # a worker reads it until then
            raise
        except BaseException:
            whole.close()
            raise
        return whole

    def incoming(self) -> Incoming:
        """Return a receiver that writes to a spare file; only one may be in use at a time."""
        return Incoming(
            self._disk,
            self._part,
            cluster=self._cluster,
            bytes_max=self._bytes_max,
            put_in_place=lambda header, digest: self._put_in_place(self._part, header, digest),
        )

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


async def _write(file: File, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), WRITE_BYTES_MAX):
            await file.append(view[start : start + WRITE_BYTES_MAX], sync=False)
    await file.sync()
