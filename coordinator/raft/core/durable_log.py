"""Declare the journal that a core needs: the library's interface, and what our rules ask of it.

Pure: types only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, overload

Record: TypeAlias = tuple[bytes, int, int]
"""One entry of the log: command, index, term."""


class DurableLog(Protocol):
    """A durable journal: the library's interface (`pysyncobj.journal.Journal`), extended by what
    the core needs.
    """

    on_synced: Callable[[int], None]

    @property
    def synced_index(self) -> int:
        """The index of the last entry that is on the disk."""
        ...

    @property
    def unsynced_bytes(self) -> int:
        """Bytes that are not on the disk yet."""
        ...

    @property
    def policy(self) -> str:
        """The sync policy: `always`, `interval` or `off`."""
        ...

    def maybe_sync(self, *, at_once: bool = False) -> bool:
        """Start a sync if something is not on the disk yet; `on_synced` is called when it is. Say
        whether a sync began. `at_once`: nothing more will be added in this turn of the loop.
        """
        ...

    def flush(self) -> None:
        """Make the whole journal durable before returning; this blocks."""
        ...

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry."""
        ...

    def clear(self) -> None:
        """Drop all entries."""
        ...

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Drop the entries from this position on (a position counts from the first entry held)."""
        ...

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Drop the entries before this position."""
        ...

    @overload
    def __getitem__(self, item: int) -> Record: ...
    @overload
    def __getitem__(self, item: slice) -> list[Record]: ...
    def __len__(self) -> int: ...
    @property
    def first_index(self) -> int:
        """The index of the first entry."""

    @property
    def last_index(self) -> int:
        """The index of the last entry."""

    def term_of(self, position: int) -> int:
        """Return the term of the entry at that position."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes on the disk."""

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Keep the commit index as a hint for the next start."""
        ...

    def getRaftCommitIndex(self) -> int:
        """Return the commit index that was kept."""
        ...

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Store term and vote durably before returning; this blocks."""
        ...

    def getCurrentTerm(self) -> int:
        """Return the stored term."""
        ...

    def getVotedForNodeId(self) -> str | None:
        """Return who was voted for in the stored term; None: nobody."""
        ...

    def onOneSecondTimer(self) -> None:
        """Do the periodic work; called once a second."""
        ...

    def _destroy(self) -> None: ...
