"""Put what settles into the shared cache, in one place of the cluster: where the leader is."""

from __future__ import annotations

import asyncio
from typing import Final

from kv.model import Entry
from kv.ports import Cache, Consensus

FILL_MAX: Final = 4096
"""Entries waiting to go to the shared cache; beyond, the oldest are forgotten."""
FILL_BATCH: Final = 256


class CacheFiller:
    """The writer of the shared cache. It writes only while this node leads: readers judge what they
    find anyway, so one writer is enough.
    """

    def __init__(self, consensus: Consensus, cache: Cache) -> None:
        self._consensus, self._cache = consensus, cache
        self._entries: dict[bytes, Entry] = {}
        self._wake = asyncio.Event()

    def add(self, entries: list[Entry]) -> None:
        """Let entries be put into the shared cache soon; newer ones of a key replace older ones."""
        for entry in entries:
            self._entries.pop(entry.key, None)
            self._entries[entry.key] = entry
        while len(self._entries) > FILL_MAX:
            del self._entries[next(iter(self._entries))]
        if self._entries:
            self._wake.set()

    async def run(self) -> None:
        """Put entries into the shared cache, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._entries:
                keys = list(self._entries)[:FILL_BATCH]
                batch = [self._entries.pop(key) for key in keys]
                space = self._consensus.space
                if self._consensus.leads and space is not None:
                    await self._cache.put(space, batch)
