"""Load an NDJSON file, many batches at a time, and resume after an interruption. Never writes a
line twice or loses one.

A checkpoint beside the file holds the load's id, from which the op_ids of its lines are made, and
the position up to which every line is known to be written. It is removed at the end, so loading a
file again writes it again. A key with an expiry time keeps it: a line whose time has passed is
skipped. A key with a lease keeps that too: leases are granted, and kept alive until the load ends.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from acordo._bulk.checkpoints import (
    CHECKPOINT_VERSION,
    LoadPoint,
    in_thread_to_its_end,
    read_point,
    write_point,
)
from acordo._bulk.leasing import Leases
from acordo._bulk.lines import LineReader, Mark
from acordo._bulk.progress import OnProgress, Progress, ignore
from acordo._bulk.sending import Sender
from acordo._bulk.tally import Tally
from acordo._client import Client

IN_FLIGHT: Final = 4
"""Batches in flight at a time."""
TIMEOUT_S: Final = 30.0
"""Seconds that the cluster has for one batch."""


class LoadDone(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a load. `again`: lines written by an earlier, interrupted run."""

    lines: int
    again: int
    rejected: int
    resumed_at: int
    revision: int
    expired: int = 0
    """Lines skipped because their expiry time had passed before the load began."""
    leases: int = 0
    """Leases granted, or found where an interrupted run had granted them."""


async def load(
    client: Client,
    source: BinaryIO,
    *,
    checkpoint: Path | None,
    in_flight: int = IN_FLIGHT,
    keep_going: bool = False,
    timeout_s: float = TIMEOUT_S,
    on_progress: OnProgress = ignore,
    on_rejected: Callable[[int, str], None] = lambda line, why: None,
) -> LoadDone:
    """Write every line of `source`; the last line of a key wins. The load resumes at `checkpoint`
    if that exists.

    Raises Rejected for a line that can never be loaded (with `keep_going` it is reported and
    skipped), NotApplied or OutcomeUnknown when the cluster does not take a line in time. Then run
    the load again; no line is written twice.
    """
    point = _load_point(checkpoint)
    tally = Tally(keep_going=keep_going, on_rejected=on_rejected)
    loading = _Loading(
        client,
        tally,
        checkpoint=checkpoint,
        point=point,
        timeout_s=timeout_s,
        on_progress=on_progress,
    )
    reader = LineReader(source, point, tally, loading.began_ms)
    await asyncio.to_thread(reader.skip_to_point)
    await loading.run(reader, in_flight)
    if checkpoint is not None:
        await in_thread_to_its_end(partial(checkpoint.unlink, missing_ok=True))
    return LoadDone(
        lines=tally.lines,
        again=tally.again,
        rejected=tally.rejected,
        resumed_at=point.lines,
        revision=tally.revision,
        expired=tally.expired,
        leases=loading.leases.count,
    )


class _Flight(msgspec.Struct, frozen=True):
    """A batch in flight."""

    lines: int
    keys: frozenset[bytes]
    mark: Mark
    task: asyncio.Task[None]


class _Loading:
    """One run of a load: batches in flight, in the order of the file, no two of which share a
    key.
    """

    def __init__(
        self,
        client: Client,
        tally: Tally,
        *,
        checkpoint: Path | None,
        point: LoadPoint,
        timeout_s: float,
        on_progress: OnProgress,
    ) -> None:
        self._client, self._tally, self._timeout_s = client, tally, timeout_s
        self._checkpoint, self._point, self._on_progress = checkpoint, point, on_progress
        self.leases = Leases(client, timeout_s=timeout_s)
        self._sender = Sender(client, tally, self.leases, timeout_s=timeout_s)
        self._flying: deque[_Flight] = deque()

    async def began_ms(self) -> int:
        """Return the log time from which the lines' ttls count. It is determined once per load,
        even across interruptions.
        """
        if not self._point.began_ms:
            now_ms = (await self._client.cluster(timeout_s=self._timeout_s)).now_ms
            self._point = msgspec.structs.replace(
                self._point, began_ms=now_ms or time.time_ns() // 1_000_000
            )
            await self._save()
        return self._point.began_ms

    async def run(self, reader: LineReader, in_flight: int) -> None:
        """Send all batches, `in_flight` at a time, and advance the checkpoint after each."""
        await self._save()
        renewing = asyncio.create_task(self.leases.run())
        try:
            async for batch, mark in reader.batches():
                keys = frozenset(line.key for line in batch if line.key)
                # Batches in flight may overtake each other. If two shared a key, the older line's
                # value could win.
                while len(self._flying) >= in_flight or any(
                    keys & flight.keys for flight in self._flying
                ):
                    await self._land()
                task = asyncio.create_task(self._sender.send(batch))
                self._flying.append(_Flight(len(batch), keys, mark, task))
            while self._flying:
                await self._land()
        finally:
            ends = [renewing, *(flight.task for flight in self._flying)]
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _land(self) -> None:
        """Wait for the oldest batch, then advance the checkpoint past it."""
        flight = self._flying[0]
        await flight.task
        self._flying.popleft()
        self._tally.lines += flight.lines
        self._point = msgspec.structs.replace(
            self._point,
            lines=flight.mark.lines,
            offset=flight.mark.offset,
            prefix_hash=flight.mark.prefix_hash,
        )
        await self._save()
        self._on_progress(Progress(flight.mark.lines, flight.mark.offset))

    async def _save(self) -> None:
        if self._checkpoint is not None:
            await in_thread_to_its_end(partial(write_point, self._checkpoint, self._point))


def _load_point(checkpoint: Path | None) -> LoadPoint:
    fresh = LoadPoint(version=CHECKPOINT_VERSION, load_id=f"load-{secrets.token_hex(10)}")
    if checkpoint is None or not checkpoint.exists():
        return fresh
    return read_point(checkpoint, LoadPoint)
