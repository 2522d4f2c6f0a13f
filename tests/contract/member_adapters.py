"""Name every adapter that the contract of members' stores runs against, each with the disk that its
file is on, and with all that may happen to it there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias

from backends.memory.member_file import MemoryCopy, MemoryFile
from backends.memory.member_store import MemoryMemberStore
from kv.ports import MemberStore, StateCopy


class Disk(Protocol):
    """What one member's file is on, and what may happen to it."""

    def store(self) -> MemberStore:
        """Return a new store object, not opened yet."""
        ...

    async def kill(self, store: MemberStore) -> None:
        """End an open store as a killed process ends."""
        ...

    def spoil(self, how: str) -> None:
        """Damage the closed file: "cut", "flipped", "garbage", "zero bytes"."""
        ...

    def delete(self) -> None:
        """Delete the closed file."""
        ...

    def refuse(self, how: str) -> None:
        """Make the closed file one of another application, or of a newer version."""
        ...

    def file_refused(self, how: str) -> bytes:
        """Return the bytes of a file that is refused like that."""
        ...

    def fill(self, store: MemberStore) -> None:
        """Let the open store's disk be full."""
        ...

    def clear(self, store: MemberStore) -> None:
        """Make room on it again."""
        ...

    def damage_version(self, store: MemberStore, key: bytes, revision: int) -> None:
        """Change a value in the file behind the open store's back."""
        ...

    def damage_row(self, store: MemberStore, seq: int) -> None:
        """Change a ledger row in the file behind the open store's back."""
        ...


class MemoryDisk:
    """The Disk of a MemoryFile."""

    def __init__(self) -> None:
        self.file = MemoryFile()

    def store(self) -> MemberStore:
        return MemoryMemberStore(self.file)

    async def kill(self, store: MemberStore) -> None:
        assert isinstance(store, MemoryMemberStore)
        store.crash()

    def spoil(self, how: str) -> None:
        self.file.spoil(how)

    def delete(self) -> None:
        self.file.wipe()

    def refuse(self, how: str) -> None:
        self.file.refusal = how

    def file_refused(self, how: str) -> bytes:
        return b"SQLite format 3" if how == "foreign_store" else b"acordo member store 2\n"

    def fill(self, store: MemberStore) -> None:
        self.file.refuse_writes("the disk is full")

    def clear(self, store: MemberStore) -> None:
        self.file.refuse_writes("")

    def damage_version(self, store: MemberStore, key: bytes, revision: int) -> None:
        self.file.damage_version(key, revision)

    def damage_row(self, store: MemberStore, seq: int) -> None:
        self.file.damage_row(seq)


DISKS: dict[str, Callable[[Path], Disk]] = {"memory": lambda directory: MemoryDisk()}
OpenDisk: TypeAlias = Callable[[], Disk]


def copy_of(content: bytes) -> StateCopy:
    """Return a StateCopy of any bytes."""
    return MemoryCopy(content)
