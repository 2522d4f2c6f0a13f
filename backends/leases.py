"""Find the keys of a lease. Pure: the index follows from the versions, which say their lease.

It never decides whether a lease is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from kv.model import Version
from kv.ports import LeaseAsk, LeaseFacts

_NOTHING: Final[dict[bytes, None]] = {}


class LeaseIndex:
    """Which lease each key is attached to, and which keys each lease has."""

    def __init__(self, versions: Iterable[tuple[bytes, int]] = ()) -> None:
        """`versions`: the key and the lease of newest versions that have one."""
        self._lease_of: dict[bytes, int] = {}
        self._keys_of: dict[int, dict[bytes, None]] = {}
        for key, lease in versions:
            self._attach(key, lease)

    def settle(self, versions: Sequence[Version]) -> None:
        """Take versions that are newer than all others of their keys, in order."""
        lease_of = self._lease_of
        for version in versions:
            if lease_of and version.key in lease_of:
                self._detach(version.key)
            if version.lease and version.value is not None:
                self._attach(version.key, version.lease)

    def keys(self, lease: int) -> tuple[bytes, ...]:
        """Return the keys of a lease, in byte order."""
        return tuple(sorted(self._keys_of.get(lease, _NOTHING)))

    def count(self, lease: int) -> int:
        """Return how many keys a lease has."""
        return len(self._keys_of.get(lease, _NOTHING))

    def facts(self, asks: Iterable[LeaseAsk]) -> dict[int, LeaseFacts]:
        """Return what `evaluate` asks for."""
        found: dict[int, LeaseFacts] = {}
        for lease, whole in asks:
            if lease in found and found[lease].keys:
                continue
            keys = self.keys(lease) if whole else ()
            found[lease] = LeaseFacts(self.count(lease), keys)
        return found

    def _attach(self, key: bytes, lease: int) -> None:
        self._lease_of[key] = lease
        self._keys_of.setdefault(lease, {})[key] = None

    def _detach(self, key: bytes) -> None:
        lease = self._lease_of.pop(key)
        keys = self._keys_of[lease]
        del keys[key]
        if not keys:
            del self._keys_of[lease]
