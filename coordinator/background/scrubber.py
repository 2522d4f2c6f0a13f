"""Scrub the store's versions slowly, so that damage is reported before somebody needs the value: a
shared store's while this member leads, its own one always.

It never repairs anything, and does not replace the check at each read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from coordinator.settings import CoordinatorSettings
from kv.errors import BackendUnavailable, StoreDamaged
from kv.ports import StoreReader

DAMAGED_MAX: Final = 1000
"""The number of damaged places that are remembered, and reported once each. Further ones are not
counted.
"""

_log = structlog.get_logger("acordo.scrubber")


class Scrubber:
    """The scrub of the store: one step after another, then a long rest. Call `run` once."""

    def __init__(
        self,
        store: StoreReader,
        settings: CoordinatorSettings,
        *,
        found: Callable[[str], None] | None = None,
    ) -> None:
        """`found` is called with what is damaged in a store that is this member's own, which it
        scrubs whether or not it leads.
        """
        self._found = found
        self._store, self._settings = store, settings
        self._leads = asyncio.Event()
        if found is not None:
            self._leads.set()
        self._reached = 0
        self.scrubbed = 0
        """The number of versions scrubbed."""
        self.damaged: set[tuple[bytes, int]] = set()
        """The (key, revision) of each version found damaged by this member; (op_id, 0) for a large
        value.
        """

    def led(self) -> None:
        """Start scrubbing: this member leads."""
        self._leads.set()

    def deposed(self) -> None:
        """Stop scrubbing a shared store after the present step: this member leads no more."""
        if self._found is None:
            self._leads.clear()

    async def run(self) -> None:
        """Scrub all versions over and over, forever."""
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
        """Scrub a few versions, and the large values that they refer to. Return whether there are
        more.
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
        if self._found is not None:
            self._found(f"the version of {key!r} at revision {revision} is damaged")
