"""Ask the store, at most once a second, whether it answers and is what was settled."""

from __future__ import annotations

import asyncio
from typing import Final

from kv.errors import KvError
from kv.ports import Clock, Consensus, Store
from node.readiness.findings import differs

PROBE_EVERY_S: Final = 1.0
"""The store is asked no more often, however often readiness is."""
PROBE_TIMEOUT_S: Final = 1.0


class StoreProbe:
    """A store's last answer, kept for a moment so that probes of a node do not load the store."""

    def __init__(self, store: Store, consensus: Consensus, clock: Clock) -> None:
        self._store, self._consensus, self._clock = store, consensus, clock
        self._at: float | None = None
        self._trouble: str | None = "it was not asked yet"
        self._differs: str | None = None

    def forget(self) -> None:
        """Ask anew the next time."""
        self._at = None

    @property
    def trouble(self) -> str | None:
        """Why it did not answer when it was last asked."""
        return self._trouble

    @property
    def differs(self) -> str | None:
        """How it was not what is settled here, when it last answered."""
        return self._differs

    async def ask(self) -> None:
        """Ask the store, unless that was done a moment ago."""
        now = self._clock.monotonic()
        if self._at is not None and now - self._at < PROBE_EVERY_S:
            return
        self._at = now
        # Taken first: what settles while the store is asked may be in neither of its answers, and
        # must not make a sound store look like one that lacks something.
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
