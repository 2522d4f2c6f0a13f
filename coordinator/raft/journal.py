"""Keep the Raft log, term and vote on the disk. Never acknowledges by itself: it says how far the log is durable.

Skeleton: signatures first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, overload

from coordinator.raft.disk import Disk

Entry: TypeAlias = tuple[bytes, int, int]
"""(command, index, term), as the library's core has it."""


class Journal:
    """The log of one member, with the interface that PySyncObj's core calls.

    `synced_index` says up to which index it is durable. Policy `always`: what `add` was given is held in memory until
    `maybe_sync()` starts one group sync in the disk's thread; then `on_synced(index)` is called on the loop. Policies
    `interval` and `off`: written at once, `synced_index` is the last index.
    """

    on_synced: Callable[[int], None]
    """Called on the loop after each group sync with the new `synced_index`. Set it before the first `maybe_sync`."""
    on_fatal: Callable[[BaseException], None]
    """Called once when the log cannot be made durable: stop the process. Nothing is retried."""

    def __init__(
        self,
        path: str | None = None,
        *,
        disk: Disk | None = None,
        name: str = "journal",
        cluster: str = "",
        member: str = "",
        fsync: Literal["always", "interval", "off"] = "off",
        interval_s: float = 0.1,
        segment_bytes_max: int = 16 << 20,
    ) -> None: ...

    # What the library's core calls.
    def add(self, command: bytes, idx: int, term: int) -> None: ...
    def clear(self) -> None: ...
    def deleteEntriesFrom(self, entryFrom: int) -> None: ...
    def deleteEntriesTo(self, entryTo: int) -> None: ...
    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        raise NotImplementedError

    def __len__(self) -> int: ...
    def setRaftCommitIndex(self, raftCommitIndex: int) -> None: ...
    def getRaftCommitIndex(self) -> int: ...
    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Durable when it returns (blocking: rare)."""

    def getCurrentTerm(self) -> int: ...
    def getVotedForNodeId(self) -> str | None: ...
    def onOneSecondTimer(self) -> None: ...
    def flush(self) -> None: ...
    def _destroy(self) -> None: ...

    # What our upper half calls.
    @property
    def synced_index(self) -> int:
        """Every entry up to here is as durable as the policy promises. Falls when entries are deleted from the end."""
        ...

    def maybe_sync(self) -> bool:
        """Start one group sync if anything is unsynced and none is running; say whether it did."""
        ...

    @property
    def bytes(self) -> int:
        """Bytes of all segments on the disk: compact when it grows."""
        ...

    async def aclose(self) -> None:
        """Sync what is left and close."""
        ...
