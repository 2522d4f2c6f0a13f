"""Keep entries in this process, in front of the shared cache. Entries may be outdated: the reader
judges them (INV-5).

They come from store reads and from settled groups. Both entries and large values are bounded in
bytes; the least recently used are evicted first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from kv.model import Entry, Reference, Version
from kv.ports import Settled

ENTRY_OVERHEAD_BYTES: Final = 480
"""Bytes that an entry costs beyond key and value: objects and dictionary nodes (CPython 3.11)."""
BLOB_SHARE: Final = 0.25
"""Fraction of the memory that large values may take."""


class HeldEntry:
    """An entry held in this process. `proved_at`: loop time at which it was last proved to be the
    newest; None: never.
    """

    __slots__ = ("entry", "proved_at", "size")

    def __init__(self, entry: Entry, proved_at: float | None) -> None:
        self.entry, self.proved_at = entry, proved_at
        value = None if entry.version is None else entry.version.value
        self.size = (
            ENTRY_OVERHEAD_BYTES + len(entry.key) + (len(value) if isinstance(value, bytes) else 0)
        )


class MemoryTier:
    """The in-process cache tier: entries by key, and large values by reference. Large values are
    immutable and so need no judgement.
    """

    def __init__(self, bytes_max: int, namespace: int) -> None:
        self.namespace = namespace
        """The cache namespace (history) that the entries belong to."""
        self._blobs_max = int(bytes_max * BLOB_SHARE)
        self._entries_max = bytes_max - self._blobs_max
        self._entries: OrderedDict[bytes, HeldEntry] = OrderedDict()
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        self.entry_bytes = 0
        self.blob_bytes = 0
        self.get = self._entries.get
        """Return the held entry of a key, without counting a use."""
        self.used = self._entries.move_to_end
        """Mark a held key as the most recently used."""

    def __len__(self) -> int:
        return len(self._entries)

    def enter(self, namespace: int) -> None:
        """Switch to a namespace, dropping every entry if it is a new one. The namespace changes
        when an operator adopts another head, and entries read before that must not be judged by the
        new history.
        """
        if namespace != self.namespace:
            self.namespace = namespace
            self.clear()

    def keep(self, entry: Entry, proved_at: float | None) -> None:
        """Keep the entry unless one with the same or a newer `as_of` is held, or the entry is too
        large.
        """
        key = entry.key
        held = self._entries.get(key)
        if held is not None and held.entry.as_of >= entry.as_of:
            if held.entry.as_of == entry.as_of and proved_at is not None:
                held.proved_at = proved_at
            return
        new = HeldEntry(entry, proved_at)
        if held is not None:
            self.entry_bytes -= held.size
            del self._entries[key]
        if new.size > self._entries_max:
            return
        self._entries[key] = new
        self.entry_bytes += new.size
        while self.entry_bytes > self._entries_max:
            _, gone = self._entries.popitem(last=False)
            self.entry_bytes -= gone.size

    def forget(self, key: bytes) -> None:
        """Drop the entry of a key."""
        held = self._entries.pop(key, None)
        if held is not None:
            self.entry_bytes -= held.size

    def clear(self) -> None:
        """Drop every entry. Large values stay, because they never change."""
        self._entries.clear()
        self.entry_bytes = 0

    def blob(self, reference: Reference) -> bytes | None:
        """Return a large value, if it is held."""
        value = self._blobs.get(reference.hash)
        if value is not None:
            self._blobs.move_to_end(reference.hash)
        return value

    def keep_blob(self, reference: Reference, value: bytes) -> None:
        """Keep a large value, evicting the least recently used ones to make room."""
        if len(value) > self._blobs_max or reference.hash in self._blobs:
            return
        self._blobs[reference.hash] = value
        self.blob_bytes += len(value)
        while self.blob_bytes > self._blobs_max:
            _, gone = self._blobs.popitem(last=False)
            self.blob_bytes -= len(gone)

    def settled(self, event: Settled, proved_at: float | None) -> list[Entry]:
        """Update the entries with a settled event whose versions are proved to be no older than
        `proved_at`; return the new entries of the changed keys.
        """
        if event.undone_after is not None:
            self.clear()
        if event.last <= event.previous:
            return []
        if event.versions is None:
            if not event.records:
                self.clear()
            for record in event.records:
                for key in record.keys:
                    self.forget(key)
            return []
        newest: dict[bytes, Version] = {version.key: version for version in event.versions}
        entries = [Entry(key, version, event.last) for key, version in newest.items()]
        for entry in entries:
            self.keep(entry, proved_at)
        return entries
