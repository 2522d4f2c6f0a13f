"""Define the consistency levels of a read and its result. Pure."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from kv.model import Version

Level: TypeAlias = Literal["linearizable", "session", "stale"]
LEVELS: Final[tuple[Level, ...]] = ("linearizable", "session", "stale")
Source: TypeAlias = Literal["memory", "cache", "store"]
SOURCES: Final[tuple[Source, ...]] = ("memory", "cache", "store")


class ReadOptions(NamedTuple):
    """The options of a read of one key."""

    level: Level = "linearizable"
    min_revision: int = 0
    max_age_s: float | None = None


class Reading(NamedTuple):
    """The result of reading one key. `position`: everything settled up to this revision is
    reflected in the result.
    """

    version: Version | None
    as_of: int
    position: int
    level: Level
    source: Source
    age_s: float | None = None

    @property
    def present(self) -> bool:
        """Return whether the key had a value."""
        return self.version is not None and self.version.value is not None
