"""Hold the lock of the embedded store, as a backup or an operator's shell does."""

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
class StoreFile(Protocol):
    """A target whose nodes share one SQLite file on this machine."""

    @property
    def store_file(self) -> Path:
        """Return the path of the file."""
        ...


class StoreBusy(Nemesis):
    """Another process holds the embedded store's write lock again and again, as a backup does."""

    name: ClassVar[str] = "store-busy"
    needs: ClassVar[frozenset[str]] = frozenset({"store-file"})

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self._connection: sqlite3.Connection | None = None

    @property
    def file(self) -> Path:
        """Return the path of the store to lock."""
        assert isinstance(self.target, StoreFile)
        return self.target.store_file

    @override
    async def choose(self) -> tuple[str, ...]:
        return (self.file.name,)

    @override
    async def start(self) -> None:
        self._connection = sqlite3.connect(self.file, timeout=0, isolation_level=None)
        await self._lock()

    async def _lock(self) -> None:
        assert self._connection is not None
        for _ in range(int(LOCK_WITHIN_S / LOCK_RETRY_S)):
            if _taken(self._connection):
                return
            await asyncio.sleep(LOCK_RETRY_S)
        raise TimeoutError(f"{self.file.name} was never free to be locked")

    async def proof(self) -> str | None:
        """Prove that another connection finds the store locked LOCKED_TRIES times in a row.

        No transaction of a node takes that long.
        """
        other = sqlite3.connect(self.file, timeout=0, isolation_level=None)
        try:
            for _ in range(LOCKED_TRIES):
                if _taken(other):
                    other.execute("ROLLBACK")
                    return None
                await asyncio.sleep(LOCK_RETRY_S)
        finally:
            other.close()
        return f"{self.file.name}: locked {LOCKED_TRIES} times in a row"

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
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    @override
    async def heal(self) -> None:
        self._unlock()
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _taken(connection: sqlite3.Connection) -> bool:
    """Try to take the write lock; return False if another connection holds it."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True
