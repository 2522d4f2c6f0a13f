"""Write settled entries to the shared cache, from one node of the cluster: the leader."""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

from kv.access import ACCESS_PREFIX
from kv.model import Entry
from kv.ports import Cache, Consensus

FILL_MAX: Final = 4096
"""Entries waiting to be written; beyond, the oldest are dropped."""
FILL_BATCH: Final = 256


class CacheFiller:
    """The writer of settled entries to the shared cache. It writes only while this node leads:
    readers judge every entry they find, so one writer is enough.
    """

    def __init__(self, consensus: Consensus, cache: Cache) -> None:
        self._consensus, self._cache = consensus, cache
        self._entries: dict[bytes, Entry] = {}
        self._namespace = 0
        """The namespace that the queued entries belong to."""
        self._wake = asyncio.Event()

    def add(self, entries: list[Entry]) -> None:
        """Queue entries for the shared cache. A newer entry of a key replaces the queued one.
        Those of access stay out of it: they hold secrets.
        """
        if not self._consensus.leads:
            return
        if self._namespace != self._consensus.namespace:
            self._namespace = self._consensus.namespace
            self._entries.clear()
        for entry in entries[-FILL_MAX:]:
            if entry.key.startswith(ACCESS_PREFIX):
                continue
            self._entries.pop(entry.key, None)
            self._entries[entry.key] = entry
        # All at once: a dictionary whose first key is looked for again and again, each time after
        # that key was deleted, is walked from its beginning each time.
        for key in list(itertools.islice(self._entries, max(0, len(self._entries) - FILL_MAX))):
            del self._entries[key]
        if self._entries:
            self._wake.set()

    async def run(self) -> None:
        """Write queued entries to the shared cache, forever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._entries:
                keys = list(self._entries)[:FILL_BATCH]
                batch = [self._entries.pop(key) for key in keys]
                space = self._consensus.space
                if space is None or space.namespace != self._namespace:
                    continue  # they are of another history, or of what the log has lost (R12)
                if self._consensus.leads:
                    await self._cache.put(space, batch)
