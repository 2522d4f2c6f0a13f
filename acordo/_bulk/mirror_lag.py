"""Tell how far a mirror is behind its source. Never decides anything."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

import msgspec

from acordo._client import Client
from acordo._errors import AcordoError
from acordo._wire.forms import Damaged, integer

EVERY_S: Final = 1.0
ASK_TIMEOUT_S: Final = 5.0
SIGHTINGS_MAX: Final = 4096


class MirrorProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a mirror is."""

    revision: int
    """The target has everything up to this revision of the source; 0: not yet."""
    source_revision: int
    """The newest revision of the source, as last heard."""
    lag_revisions: int
    lag_s: float
    """For how long the source has had something that the target does not have, about."""
    written: int
    """Keys that this run has put."""
    deleted: int
    copies: int
    """How often this run has copied a listing."""


OnMirrored: TypeAlias = Callable[[MirrorProgress], None]


class Lag:
    """Compares what a mirror has reached with what the source is at."""

    def __init__(self, source: Client, on_progress: OnMirrored | None) -> None:
        self._source, self._on_progress = source, on_progress
        self._revision = self._newest = self._written = self._deleted = 0
        self.copies = 0
        self._sightings: deque[tuple[float, int]] = deque()
        """When a revision of the source was first seen that is not reached yet."""

    def reach(self, revision: int) -> None:
        """Note that the target has everything up to a revision."""
        self._revision = revision
        self._newest = max(self._newest, revision)
        while self._sightings and self._sightings[0][1] <= revision:
            self._sightings.popleft()

    def see(self, revision: int) -> None:
        """Note that the source is at a revision."""
        self._newest = revision
        if revision > self._revision and (not self._sightings or revision > self._sightings[-1][1]):
            if len(self._sightings) == SIGHTINGS_MAX:
                self._sightings.pop()  # the oldest one tells the lag
            self._sightings.append((time.monotonic(), revision))

    def count(self, written: int, deleted: int) -> None:
        """Count keys of the target that were changed."""
        self._written += written
        self._deleted += deleted

    def progress(self) -> MirrorProgress:
        """Return how far the mirror is."""
        since = self._sightings[0][0] if self._sightings else None
        return MirrorProgress(
            revision=self._revision,
            source_revision=self._newest,
            lag_revisions=max(0, self._newest - self._revision),
            lag_s=0.0 if since is None else round(time.monotonic() - since, 1),
            written=self._written,
            deleted=self._deleted,
            copies=self.copies,
        )

    async def tell(self) -> None:
        """Ask the source how far it is, and report, again and again."""
        if self._on_progress is None:
            return
        while True:
            await asyncio.sleep(EVERY_S)
            with suppress(AcordoError, Damaged):  # who mirrors meets the same, and says so
                cluster = await self._source.cluster(timeout_s=ASK_TIMEOUT_S)
                self.see(integer(cluster.settled))
            self._on_progress(self.progress())
