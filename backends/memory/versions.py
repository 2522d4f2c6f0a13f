"""Keep the versions of all keys in memory, ordered by key and by revision.

It knows neither ledger nor floor: its callers decide what may be read.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from backends.leases import LeaseIndex
from kv.model import Reference, Version


class MemoryVersions:
    """All versions that a MemoryDatabase holds."""

    def __init__(self) -> None:
        self.by_key: dict[bytes, list[Version]] = {}
        """The versions of each key, oldest first."""
        self.keys: list[bytes] = []
        """The keys of `by_key`, in byte order."""
        self.made: list[tuple[int, bytes]] = []
        """(revision, key) of every version that pruning has not reached yet, in order."""
        self.due: dict[bytes, tuple[int, int]] = {}
        """Key -> (expires, revision) of newest versions that expire."""
        self.leased = LeaseIndex()

    def insert(self, version: Version) -> None:
        """Add a version that is newer than every other of its key."""
        key = version.key
        if key not in self.by_key:
            self.by_key[key] = []
            bisect.insort(self.keys, key)
        self.by_key[key].append(version)
        self.made.append((version.revision, key))
        self.leased.settle((version,))
        if version.expires_ms is None:
            self.due.pop(key, None)
        else:
            self.due[key] = (version.expires_ms, version.revision)

    def numbered(self, version: Version) -> Version:
        """Return a version that is to be inserted with its create_revision and version."""
        before = self.newest(version.key, None)
        if not version.present:
            return replace(version, create_revision=0, version=0)
        if before is None or not before.present:
            return replace(version, create_revision=version.revision, version=1)
        return replace(version, create_revision=before.create_revision, version=before.version + 1)

    def newest(self, key: bytes, at: int | None) -> Version | None:
        """Return the newest version ≤ `at` (None: newest of all)."""
        versions = self.by_key.get(key, [])
        if at is None:
            return versions[-1] if versions else None
        place = bisect.bisect_right(versions, at, key=lambda version: version.revision)
        return versions[place - 1] if place else None

    def keys_between(self, start: bytes, end: bytes) -> Sequence[bytes]:
        """Return the keys from `start` on and before `end`, in byte order."""
        return self.keys[bisect.bisect_left(self.keys, start) : bisect.bisect_left(self.keys, end)]

    def every(self) -> Iterator[Version]:
        """Yield all versions, key by key."""
        for key in self.keys:
            yield from self.by_key[key]

    def references(self) -> set[tuple[str, bytes]]:
        """Return (op_id, hash) of each staged value that a version refers to."""
        return {
            (version.value.op_id, version.value.hash)
            for version in self.every()
            if isinstance(version.value, Reference)
        }

    def prune(self, below: int, limit: int) -> tuple[int, int, bool]:
        """Process at most `limit` versions up to the revision `below`, and drop what they
        supersede.

        Return the revision reached, the number of versions dropped, and whether there are more to
        process.
        """
        step = [place for place in self.made[:limit] if place[0] <= below]
        more = len(step) == limit
        reached = step[-1][0] if more else below
        gone = sum(self._drop_superseded(key, revision) for revision, key in step)
        del self.made[: len(step)]
        return reached, gone, more

    def _drop_superseded(self, key: bytes, revision: int) -> int:
        """Drop what the version at `revision` supersedes, and the version itself if it is a
        tombstone.
        """
        versions = self.by_key[key]
        newest = self.newest(key, revision)
        tombstone = newest is not None and newest.revision == revision and not newest.present
        kept = [
            each
            for each in versions
            if each.revision > revision or (each.revision == revision and not tombstone)
        ]
        self.by_key[key] = kept
        if not kept:
            del self.by_key[key]
            del self.keys[bisect.bisect_left(self.keys, key)]
        return len(versions) - len(kept)

    def forget_above(self, last: int) -> None:
        """Restore the state at which the revision `last` was the newest."""
        kept = [version for version in self.every() if version.revision <= last]
        made = [place for place in self.made if place[0] <= last]
        self.by_key, self.keys, self.due = {}, [], {}
        self.leased = LeaseIndex()
        for version in sorted(kept, key=lambda version: version.revision):
            self.insert(version)
        self.made = made
