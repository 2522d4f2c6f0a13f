"""Look the store's versions through at rest, slowly, while this member leads, so that damage is
reported before somebody needs the value.

It never repairs anything, and never takes the place of the check at each read.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from coordinator.settings import CoordinatorSettings
from kv.errors import BackendUnavailable, StoreDamaged
from kv.ports import Store

DAMAGED_MAX: Final = 1000
"""So many damaged places are remembered and reported once each; more are counted no further."""

_log = structlog.get_logger("acordo.scrubber")


class Scrubber:
    """The leader's walk through the store: one step after another, then a long rest. `run` it
    once; it works while this member leads.
    """

    def __init__(self, store: Store, settings: CoordinatorSettings) -> None:
        self._store, self._settings = store, settings
        self._leads = asyncio.Event()
        self._reached = 0
        self.scrubbed = 0
        """Versions looked at."""
        self.damaged: set[tuple[bytes, int]] = set()
        """(key, revision) of what is not what was written, as far as was looked here; (op_id, 0): a
        large value.
        """

    def led(self) -> None:
        """Begin: this member leads."""
        self._leads.set()

    def deposed(self) -> None:
        """End, after the step under way: this member leads no more."""
        self._leads.clear()

    async def run(self) -> None:
        """Look everything through, over and over, for ever."""
        while True:
            await self._leads.wait()
            await asyncio.sleep(self._settings.scrub_interval_s)
            try:
                more = await self.step()
            except (BackendUnavailable, TimeoutError) as exc:
                _log.info("scrub waits", error=str(exc) or type(exc).__name__)
                continue
            if not more:
                self._reached = 0
                await asyncio.sleep(self._settings.scrub_rest_s)

    async def step(self) -> bool:
        """Look a few versions through, and the large values that they stand for; say whether there
        are more.
        """
        timeout_s = self._settings.store_timeout_s
        done = await self._store.scrub(self._reached, timeout_s=timeout_s)
        for key, revision in done.damaged:
            self._report(key, revision, "the value is not what was written")
        for reference in done.references:
            try:
                await self._store.blob(reference, timeout_s=timeout_s)
            except StoreDamaged as exc:
                self._report(reference.op_id.encode(), 0, exc.detail)
        self.scrubbed += done.versions
        self._reached = done.reached
        return done.more

    def _report(self, key: bytes, revision: int, why: str) -> None:
        if (key, revision) in self.damaged or len(self.damaged) >= DAMAGED_MAX:
            return
        self.damaged.add((key, revision))
        _log.error("damaged in the store", key=repr(key), revision=revision, why=why)
