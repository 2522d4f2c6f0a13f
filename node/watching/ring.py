"""Keep the newest changes of all keys for watchers. Pure: no event loop, no store."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from kv.model import Version
from kv.ports import Change, Settled

PORTION_CHANGES: Final = 256
"""Changes handed to a watcher from the ring at a time."""
CHANGE_OVERHEAD_BYTES: Final = 200
"""Bytes that a change, and each version in it, costs beyond key and value (CPython 3.11)."""


class Portion(NamedTuple):
    """The next step of a watcher: changes under its prefix (possibly none), and the position after
    them.
    """

    changes: tuple[Change, ...]
    position: int


class ChangeRing:
    """The newest changes of all keys without a gap: every change with `begin` < revision ≤ `end`.
    Bounded in bytes.
    """

    def __init__(self, bytes_max: int, at: int) -> None:
        self._bytes_max = bytes_max
        self._changes: deque[Change] = deque()
        self._sizes: deque[int] = deque()
        """Bytes of each change in `_changes`."""
        self._bytes = 0
        self.begin = self.end = at

    def take(self, event: Settled) -> bool:
        """Append a settled event; return whether it continues what is held. An event that does not,
        or that comes without versions, restarts the ring.
        """
        if event.last <= self.end:
            if event.undone_after is None:
                return True
            self._restart(event.last)  # the log has lost what was told past it
            return False
        whole = event.versions is not None and len(event.records) == event.last - event.previous
        continues = whole and event.previous == self.end
        if not continues:
            self._restart(event.last if not whole else event.previous)
        if whole:
            self._append(event)
        self.end = event.last
        return continues

    def _restart(self, at: int) -> None:
        self._changes.clear()
        self._sizes.clear()
        self._bytes = 0
        self.begin = self.end = at

    def _append(self, event: Settled) -> None:
        versions = event.versions or ()
        begin, count = 0, len(versions)
        for revision, record in enumerate(event.records, event.previous + 1):
            end = begin
            while end < count and versions[end].revision == revision:
                end += 1
            if end > begin:
                change = Change(
                    revision,
                    record.op_id,
                    event.log_time_ms,
                    versions[begin:end],
                    term=event.term,
                )
                size = size_of(change)
                self._changes.append(change)
                self._sizes.append(size)
                self._bytes += size
                begin = end
        while self._bytes > self._bytes_max:
            self._bytes -= self._sizes.popleft()
            self.begin = self._changes.popleft().revision

    def after(self, position: int, prefix: bytes) -> Portion:
        """Return the next changes under a prefix after a position, which must not be below
        `begin`.
        """
        changes = self._changes
        found: list[Change] = []
        start = bisect_right(changes, position, key=_revision)
        stop = min(len(changes), start + PORTION_CHANGES)
        for place in range(start, stop):
            change = under(changes[place], prefix)
            if change is not None:
                found.append(change)
        reached = changes[stop - 1].revision if stop < len(changes) else self.end
        return Portion(tuple(found), max(position, reached))


def under(change: Change, prefix: bytes) -> Change | None:
    """Return the part of a change that lies under a prefix, if any."""
    if not prefix:
        return change
    versions = tuple(version for version in change.versions if version.key.startswith(prefix))
    if len(versions) == len(change.versions):
        return change
    return msgspec.structs.replace(change, versions=versions) if versions else None


def part_key(change: Change) -> tuple[int, int, bytes]:
    """Return a key that is unique to a change, or to the part of a change under any prefix.

    Parts of one revision that begin with the same key are nested, so they differ in length.
    """
    return change.revision, len(change.versions), change.versions[0].key


def size_of(change: Change) -> int:
    """Return roughly how many bytes a change takes in memory."""
    versions = change.versions
    if len(versions) == 1:  # as below, for most changes
        key, value = versions[0].key, versions[0].value
        return 2 * CHANGE_OVERHEAD_BYTES + len(key) + (len(value) if type(value) is bytes else 0)
    return CHANGE_OVERHEAD_BYTES + sum(map(_version_size, versions))


def bytes_of_changes(changes: Iterable[Change]) -> int:
    """Return roughly how many bytes changes take in memory."""
    return sum(map(size_of, changes))


def _version_size(version: Version) -> int:
    value = version.value
    inline = len(value) if type(value) is bytes else 0
    return CHANGE_OVERHEAD_BYTES + len(version.key) + inline


def _revision(change: Change) -> int:
    return change.revision
