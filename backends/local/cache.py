"""Cache entries in this process's memory; the least recently used ones are evicted first.

It never waits, and never holds more than its bounds allow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Self

from kv.model import Entry
from kv.ports import Space

CACHE_BYTES_MAX: Final = 32 * 1024 * 1024
CACHE_ENTRIES_MAX: Final = 200_000
ENTRY_OVERHEAD_BYTES: Final = 400
"""The memory of an entry besides its key and value: objects, dictionary and list nodes (measured on
CPython 3.11).
"""


class MemoryCache:
    """The Cache port in this process: an LRU cache, bounded by bytes and by count."""

    def __init__(
        self, *, bytes_max: int = CACHE_BYTES_MAX, entries_max: int = CACHE_ENTRIES_MAX
    ) -> None:
        self._bytes_max, self._entries_max = bytes_max, entries_max
        self._entries: OrderedDict[tuple[Space, bytes], Entry] = OrderedDict()
        self.bytes_held = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._entries.clear()
        self.bytes_held = 0

    async def get(self, space: Space, keys: Sequence[bytes]) -> tuple[Entry | None, ...]:
        return tuple(self.peek(space, key) for key in keys)

    async def put(self, space: Space, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.keep(space, entry)

    def healthy(self) -> bool:
        return True

    def peek(self, space: Space, key: bytes) -> Entry | None:
        """Return the cached entry of a key without waiting. It counts as a use."""
        place = (space, key)
        entry = self._entries.get(place)
        if entry is not None:
            self._entries.move_to_end(place)
        return entry

    def keep(self, space: Space, entry: Entry) -> None:
        """Cache an entry without waiting, unless one with the same or a newer `as_of` is held or it
        is too large.
        """
        place, size = (space, entry.key), _size(entry)
        held = self._entries.get(place)
        if (held is not None and held.as_of >= entry.as_of) or size > self._bytes_max:
            return
        if held is not None:
            self.bytes_held -= _size(held)
        self._entries[place] = entry
        self._entries.move_to_end(place)
        self.bytes_held += size
        while self.bytes_held > self._bytes_max or len(self._entries) > self._entries_max:
            _, gone = self._entries.popitem(last=False)
            self.bytes_held -= _size(gone)


def _size(entry: Entry) -> int:
    value = None if entry.version is None else entry.version.value
    return ENTRY_OVERHEAD_BYTES + len(entry.key) + (len(value) if isinstance(value, bytes) else 0)
