"""Hold the lock of members' own files, as a backup or an operator's shell does."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from random import Random
from typing import ClassVar, Final, Protocol, runtime_checkable

from typing_extensions import override

from chaos.nemeses.base import Nemesis
from chaos.targets.base import Target

LOCKED_S: Final = (0.2, 0.6)
"""Shortest and longest time for which the lock is held at once, in seconds."""
LOCK_RETRY_S: Final = 0.01
LOCK_WITHIN_S: Final = 5.0
LOCKED_TRIES: Final = 8


@runtime_checkable
class StoreFiles(Protocol):
    """A target whose nodes have a SQLite file each on this machine."""

    @property
    def store_files(self) -> dict[str, Path]:
        """Return the paths of the files by node."""
        ...


class StoreBusy(Nemesis):
    """Another process holds the write lock of one member's file or of all members', again and
    again, as a backup does.
    """

    name: ClassVar[str] = "store-busy"
    needs: ClassVar[frozenset[str]] = frozenset({"store-files"})

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.files: dict[str, Path] = {}
        self._connections: dict[str, sqlite3.Connection] = {}

    @override
    async def choose(self) -> tuple[str, ...]:
        assert isinstance(self.target, StoreFiles)
        files = self.target.store_files
        chosen = [self.rng.choice(sorted(files))] if self.rng.random() < 0.5 else sorted(files)
        self.files = {name: files[name] for name in chosen}
        return tuple(chosen)

    @override
    async def start(self) -> None:
        for name, file in self.files.items():
            self._connections[name] = sqlite3.connect(file, timeout=0, isolation_level=None)
        await self._lock()

    async def _lock(self) -> None:
        for name, connection in self._connections.items():
            for _ in range(int(LOCK_WITHIN_S / LOCK_RETRY_S)):
                if _taken(connection):
                    break
                await asyncio.sleep(LOCK_RETRY_S)
            else:
                raise TimeoutError(f"the store of {name} was never free to be locked")

    async def proof(self) -> str | None:
        """Prove that another connection finds each store locked LOCKED_TRIES times in a row.

        No transaction of a node takes that long.
        """
        others = {
            name: sqlite3.connect(file, timeout=0, isolation_level=None)
            for name, file in self.files.items()
        }
        try:
            for _ in range(LOCKED_TRIES):
                for other in others.values():
                    if _taken(other):
                        other.execute("ROLLBACK")
                        return None
                await asyncio.sleep(LOCK_RETRY_S)
        finally:
            for other in others.values():
                other.close()
        return f"store of {', '.join(others)}: locked {LOCKED_TRIES} times in a row"

    @override
    async def hold(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left_s := end - loop.time()) > 0:
            await asyncio.sleep(min(left_s, self.rng.uniform(*LOCKED_S)))
            self._unlock()
            await asyncio.sleep(LOCK_RETRY_S)
            if loop.time() < end:
                await self._lock()

    def _unlock(self) -> None:
        for connection in self._connections.values():
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    @override
    async def heal(self) -> None:
        self._unlock()
        for connection in self._connections.values():
            connection.close()
        self._connections = {}


def _taken(connection: sqlite3.Connection) -> bool:
    """Try to take the write lock; return False if another connection holds it."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True
