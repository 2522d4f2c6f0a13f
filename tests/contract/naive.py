"""Say what a store must show, in the plainest way: keep every version for ever and look through all
of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from kv.model import Reference, Version


class NaiveStore:
    """Everything that was ever written. It prunes nothing, so it is the truth at every revision."""

    def __init__(self) -> None:
        self.last = 0
        self.versions: list[Version] = []
        self.recorded: dict[str, int] = {}
        """Every op_id that the ledger ever recorded, with its log time."""
        self.forgot_before_ms = 0
        """Newest log time whose operations were ever asked to be pruned."""
        self.staged: dict[Reference, int] = {}
        """Every staged value with the log time then."""

    def newest(self, key: bytes, at: int) -> Version | None:
        found = [
            version for version in self.versions if version.key == key and version.revision <= at
        ]
        return max(found, key=lambda version: version.revision, default=None)

    def shown(self, key: bytes, at: int) -> Version | None:
        """Return the newest version if it makes the key present: a tombstone may have been pruned
        or not.
        """
        version = self.newest(key, at)
        return version if version is not None and version.present else None

    def keys_written(self) -> list[bytes]:
        return sorted({version.key for version in self.versions})

    def listing(self, prefix: bytes, at: int) -> tuple[Version, ...]:
        shown = (self.shown(key, at) for key in self.keys_written() if key.startswith(prefix))
        return tuple(version for version in shown if version is not None)

    def due(self, now_ms: int, at: int) -> set[tuple[bytes, int]]:
        return {
            (v.key, v.revision)
            for v in self.listing(b"", at)
            if v.expires_ms is not None and v.expires_ms <= now_ms
        }

    def needed(self, floor: int, at: int) -> Iterator[Version]:
        """Give the present versions that some read between `floor` and `at` still shows."""
        for key in self.keys_written():
            for revision in range(floor, at + 1):
                version = self.shown(key, revision)
                if version is not None:
                    yield version
