"""Take backups at an interval, verify each by reading it back, and keep the newest ones.

It removes a backup only once a newer one is verified, and nothing that it did not write.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog
from prometheus_client import Counter, Gauge

from acordo import AcordoError, Client
from acordo.backups import Place, backup_into, verify_stored
from cluster.workers import kept_backups as kept
from cluster.workers.kept_backups import NOTE, BackupNote
from cluster.workers.turn import TurnTaken, in_turn

TURN: Final = "acordo/backups/turn"
"""The key of the worker that takes a backup."""
LOOK_S: Final = 300.0
"""Longest pause between two looks at what is there."""
RETRY_S: Final = (5.0, 600.0)
"""First and longest pause after a failure; doubled each time."""
NOTE_BYTES_MAX: Final = 16 * 1024

_LAST: Final = Gauge(
    "acordo_backup_last_success_timestamp_seconds",
    "When the newest backup that was verified began, as Unix time; 0: none is known",
)
_BYTES: Final = Gauge("acordo_backup_bytes", "Size of the newest backup that was verified")
_KEPT: Final = Gauge("acordo_backups_kept", "Verified backups that are kept")
_EVERY: Final = Gauge(
    "acordo_backup_interval_seconds", "Interval of the backups that this worker takes; 0: none"
)
_DONE: Final = Counter("acordo_backups", "Backups by what became of them", ["result"])
_log = structlog.get_logger("acordo.backups")


class Backups:
    """The backups that the workers take into one place, each worker in its turn."""

    def __init__(
        self,
        client: Client,
        place: Place,
        worker: str,
        *,
        every_s: float,
        keep: int,
        rng: random.Random,
    ) -> None:
        self._client, self._place, self._worker = client, place, worker
        self._every_s, self._keep, self._rng = every_s, keep, rng

    async def run(self) -> None:
        """Take backups when they are due, for ever."""
        _EVERY.set(self._every_s)
        for result in ("verified", "failed"):
            _DONE.labels(result)
        pause_s = RETRY_S[0]
        try:
            while True:
                try:
                    wait_s = await self.look()
                    pause_s = RETRY_S[0]
                except (AcordoError, OSError) as exc:
                    _DONE.labels("failed").inc()
                    _log.error("no backup was taken", reason=str(exc)[:300], again_in_s=pause_s)
                    wait_s, pause_s = pause_s, min(pause_s * 2, RETRY_S[1])
                await asyncio.sleep(min(wait_s, LOOK_S) * (0.75 + self._rng.random() / 2))
        finally:
            _EVERY.set(0)

    async def look(self) -> float:
        """Take a backup if one is due; return in how many seconds to look again.

        Raises AcordoError, OSError.
        """
        found = await self._found()
        wait_s = kept.due_in_s(found, _now_ms(), self._every_s)
        if wait_s > 0:
            return wait_s
        try:
            await in_turn(self._client, TURN, self._worker, self._take)
        except TurnTaken:
            return RETRY_S[0]
        return self._every_s

    async def _take(self) -> None:
        """Take one, verify it, note it, and remove what is superfluous then. Raises AcordoError,
        OSError.
        """
        if kept.due_in_s(await self._found(), _now_ms(), self._every_s) > 0:
            return  # another worker was faster
        made_ms = _now_ms()
        stamp = datetime.fromtimestamp(made_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
        name = kept.name_of(stamp, secrets.token_hex(4))
        try:
            note = await self._written(name, made_ms)
        except BaseException:
            # it is no backup to rely on: each further attempt would leave another one
            with contextlib.suppress(OSError):
                await self._place.remove(name)
            raise
        _DONE.labels("verified").inc()
        _log.info("backup taken and verified", file=name, revision=note.revision, bytes=note.size)
        for old in kept.superfluous(await self._found(), self._keep):
            await self._remove(old)
        await self._found()

    async def _written(self, name: str, made_ms: int) -> BackupNote:
        """Write a backup, read it back, and write its note. Raises AcordoError, OSError."""
        written = await backup_into(self._client, self._place, name)
        read = await verify_stored(self._place, name)
        if read != written:
            raise OSError(0, "what was read back is not what was written", name)
        note = BackupNote(
            name=name,
            size=read.bytes,
            digest=read.digest,
            revision=read.revision,
            made_ms=made_ms,
            cluster_id=read.cluster_id,
            history=read.history,
        )
        await self._place.write(name + NOTE, _once(msgspec.json.encode(note)))
        return note

    async def _found(self) -> list[BackupNote]:
        """Return the good backups of this history, the newest first, and show them."""
        history = str((await self._client.cluster()).raw.get("history") or "")
        stored = await self._place.stored()
        sizes = {each.name: each.size for each in stored}
        notes = []
        for each in stored:
            if each.name.endswith(NOTE) and each.size <= NOTE_BYTES_MAX:
                note = kept.note_of(await self._read(each.name), each.name)
                notes += [] if note is None else [note]
        found = kept.good(notes, sizes, history)
        _KEPT.set(len(found))
        _LAST.set(found[0].made_ms / 1000 if found else 0)
        _BYTES.set(found[0].size if found else 0)
        return found

    async def _remove(self, note: BackupNote) -> None:
        """Remove a backup and then its note, if it is still what the note says."""
        digest = bytes.fromhex(note.digest)
        if await self._read(note.name, start=note.size - len(digest)) != digest:
            _log.warning("a file that is not what was written is left", file=note.name)
            return
        await self._place.remove(note.name)
        await self._place.remove(note.name + NOTE)
        _log.info("backup removed: newer ones are kept", file=note.name)

    async def _read(self, name: str, *, start: int = 0) -> bytes:
        """Return a small file, or the end of a large one; empty if it is gone meanwhile."""
        found = b""
        try:
            async with aclosing(self._place.read(name, start=start)) as pieces:
                async for piece in pieces:
                    found += piece
        except FileNotFoundError:
            return b""
        return found


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
