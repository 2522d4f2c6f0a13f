"""Name every adapter that the contract of members' stores runs against, each with the disk that its
file is on, and with all that may happen to it there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias

from backends.memory.member_file import MemoryCopy, MemoryFile
from backends.memory.member_store import MemoryMemberStore
from backends.replicated import files, schema
from backends.replicated.opened import OpenedFile
from backends.replicated.schema import REVISION_SHIFT
from backends.replicated.store import SqliteMemberStore
from kv.ports import MemberStore, StateCopy


class Disk(Protocol):
    """What one member's file is on, and what may happen to it."""

    def __init__(self, directory: Path) -> None: ...

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

    def __init__(self, directory: Path) -> None:
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


class SqliteDisk:
    """The Disk of a file of SqliteMemberStore."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "store.sqlite"
        self._full = False

    def store(self) -> MemberStore:
        return SqliteMemberStore(str(self.path))

    async def kill(self, store: MemberStore) -> None:
        """Take the files as they are between two transactions."""
        thread = _opened(store).thread
        kept = {}
        with thread.lock:
            for path in (self.path, Path(f"{self.path}-wal")):
                kept[path] = path.read_bytes() if path.exists() else None
        await store.__aexit__(None, None, None)
        for path, content in kept.items():
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)

    def spoil(self, how: str) -> None:
        content = self.path.read_bytes()
        spoilt = {
            "cut": content[: len(content) // 2],
            "flipped": flip(content),
            "garbage": b"garbage" * 10_000,
            "zero bytes": b"",
        }
        self.path.write_bytes(spoilt[how])

    def delete(self) -> None:
        self.path.unlink()

    def refuse(self, how: str) -> None:
        self.path.write_bytes(_refused(self.path.read_bytes(), how))

    def file_refused(self, how: str) -> bytes:
        place = f"{self.path}.refused"
        schema.create(place)
        return _refused(Path(place).read_bytes(), how)

    def fill(self, store: MemberStore) -> None:
        real, here = files.free_bytes, str(self.path)
        # only here, and for good: a test that ends without clearing it disturbs no other
        files.free_bytes = lambda path: 0 if path == here and self._full else real(path)
        self._full = True

    def clear(self, store: MemberStore) -> None:
        self._full = False

    def damage_version(self, store: MemberStore, key: bytes, revision: int) -> None:
        self._change(
            "UPDATE versions SET value = CAST(value || 'x' AS BLOB) WHERE key = ? AND id >> ? = ?",
            (key, REVISION_SHIFT, revision),
        )

    def damage_row(self, store: MemberStore, seq: int) -> None:
        self._change("UPDATE ledger SET log_time = log_time + 1 WHERE seq = ?", (seq,))

    def _change(self, statement: str, parameters: tuple[object, ...]) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        assert connection.execute(statement, parameters).rowcount == 1
        connection.close()


def flip(content: bytes) -> bytes:
    """Zero the first bytes of the page that holds the first leaf or the root of `versions`."""
    page_bytes = int.from_bytes(content[16:18], "big")
    return content[:page_bytes] + bytes(64) + content[page_bytes + 64 :]


def _refused(content: bytes, how: str) -> bytes:
    place = 68 if how == "foreign_store" else 60
    return content[:place] + (77).to_bytes(4, "big") + content[place + 4 :]


def _opened(store: MemberStore) -> OpenedFile:
    assert isinstance(store, SqliteMemberStore) and store.file is not None
    return store.file


DISKS: dict[str, Callable[[Path], Disk]] = {
    "memory": MemoryDisk,
    "sqlite": SqliteDisk,
}
OpenDisk: TypeAlias = Callable[[], Disk]


def copy_of(content: bytes) -> StateCopy:
    """Return a StateCopy of any bytes."""
    return MemoryCopy(content)
