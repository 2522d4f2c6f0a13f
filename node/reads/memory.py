"""Keep entries in this process, before the shared cache. It may hold old ones: who reads judges
(INV-5).

Entries come from store reads and from what settles; both bounded by bytes, least recently used go
first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from kv.model import Entry, Reference, Version
from kv.ports import Settled

ENTRY_OVERHEAD_BYTES: Final = 480
"""What an entry costs beyond key and value: objects and nodes (CPython 3.11)."""
BLOB_SHARE: Final = 0.25
"""Part of the memory that large values may take."""


class HeldEntry:
    """An entry in this process. `proved_at`: loop time at which it was last proved to be the
    newest.
    """

    __slots__ = ("entry", "proved_at", "size")

    def __init__(self, entry: Entry, proved_at: float | None) -> None:
        self.entry, self.proved_at = entry, proved_at
        value = None if entry.version is None else entry.version.value
        self.size = (
            ENTRY_OVERHEAD_BYTES + len(entry.key) + (len(value) if isinstance(value, bytes) else 0)
        )


class MemoryTier:
    """The in-process tier: entries by key, and large values by reference (immutable, so never
    judged).
    """

    def __init__(self, bytes_max: int, namespace: int) -> None:
        self.namespace = namespace
        """Of which history the entries are."""
        self._blobs_max = int(bytes_max * BLOB_SHARE)
        self._entries_max = bytes_max - self._blobs_max
        self._entries: OrderedDict[bytes, HeldEntry] = OrderedDict()
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        self.entry_bytes = 0
        self.blob_bytes = 0
        self.get = self._entries.get
        """Return what is held of a key; it does not count as a use."""
        self.used = self._entries.move_to_end
        """Count a use of a held key."""

    def __len__(self) -> int:
        return len(self._entries)

    def enter(self, namespace: int) -> None:
        """Forget every entry when this is another history than theirs: an operator adopted another
        head, and nothing read before it may be judged by the new one.
        """
        if namespace != self.namespace:
            self.namespace = namespace
            self.clear()

    def keep(self, entry: Entry, proved_at: float | None) -> None:
        """Keep the entry unless one with the same or a newer `as_of` is held, or it is too
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
        """Forget the entry of a key."""
        held = self._entries.pop(key, None)
        if held is not None:
            self.entry_bytes -= held.size

    def clear(self) -> None:
        """Forget every entry; large values stay, for they never change."""
        self._entries.clear()
        self.entry_bytes = 0

    def blob(self, reference: Reference) -> bytes | None:
        """Return a large value, if it is held."""
        value = self._blobs.get(reference.hash)
        if value is not None:
            self._blobs.move_to_end(reference.hash)
        return value

    def keep_blob(self, reference: Reference, value: bytes) -> None:
        """Keep a large value, in the place of those not used for longest."""
        if len(value) > self._blobs_max or reference.hash in self._blobs:
            return
        self._blobs[reference.hash] = value
        self.blob_bytes += len(value)
        while self.blob_bytes > self._blobs_max:
            _, gone = self._blobs.popitem(last=False)
            self.blob_bytes -= len(gone)

    def settled(self, event: Settled, proved_at: float | None) -> list[Entry]:
        """Take what settled, proved to be no older than `proved_at`; return the new entries of
        changed keys.
        """
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
