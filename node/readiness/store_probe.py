"""Probe the store, at most once a second: whether it answers, and whether it matches what was
settled.
"""

from __future__ import annotations

import asyncio
from typing import Final

from kv.errors import KvError
from kv.ports import Clock, Consensus, StoreReader
from node.readiness.findings import differs

PROBE_EVERY_S: Final = 1.0
"""Least time between two probes, however often readiness is requested."""
PROBE_TIMEOUT_S: Final = 1.0


class StoreProbe:
    """The last probe of a store, kept for a moment so that readiness requests do not load the
    store.
    """

    def __init__(self, store: StoreReader, consensus: Consensus, clock: Clock) -> None:
        self._store, self._consensus, self._clock = store, consensus, clock
        self._at: float | None = None
        self._trouble: str | None = "it was not asked yet"
        self._differs: str | None = None

    def forget(self) -> None:
        """Forget the last probe, so that the next `ask` probes again."""
        self._at = None

    @property
    def trouble(self) -> str | None:
        """Why the store did not answer the last probe; None: it did."""
        return self._trouble

    @property
    def differs(self) -> str | None:
        """How the store differed from what is settled here when it last answered; None: it did
        not.
        """
        return self._differs

    async def ask(self) -> None:
        """Probe the store, unless that was done less than PROBE_EVERY_S ago."""
        now = self._clock.monotonic()
        if self._at is not None and now - self._at < PROBE_EVERY_S:
            return
        self._at = now
        # Read the settled head first. A group that settles during the probe may be missing from the
        # store's answers, and must not make a sound store look incomplete.
        settled = self._consensus.settled
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._store.probe(timeout_s=PROBE_TIMEOUT_S)
                head = await self._store.head(timeout_s=PROBE_TIMEOUT_S)
                ending = (
                    await self._store.row_ending(settled.last, timeout_s=PROBE_TIMEOUT_S)
                    if settled.last
                    else None
                )
        except (KvError, TimeoutError) as exc:
            self._trouble = str(exc) or "no answer in time"
            return
        self._trouble, self._differs = None, differs(settled, head, ending)
