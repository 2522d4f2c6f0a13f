"""Implement the MemberStore port on a MemoryFile, written behind as the real one is.

It never reads a clock or draws a random number: its behaviour follows from the calls, the given
pause, and the given `Faults`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Self, TypeVar

from backends.fence import listed
from backends.memory.faults import Faults, NoFaults
from backends.memory.member_file import MemoryCopy, MemoryFile, Transaction, bytes_of, tables_of
from backends.memory.member_tables import MemberTables
from kv.errors import BackendUnavailable, BadRequest, InvariantViolated
from kv.model import Head, LedgerRow, RecordedOperation, Reference, Version
from kv.ports import (
    Facts,
    LeaseAsk,
    Listing,
    LocalRetention,
    Note,
    Pruning,
    Read,
    Scrubbed,
    Span,
    StateCopy,
    Step,
)
from kv.ports.member_store import StoreCondition

CHUNK_BYTES: Final = 1024 * 1024
"""How much of a copy is read between two pauses."""

T = TypeVar("T")


async def _yield() -> None:
    await asyncio.sleep(0)


class MemoryMemberStore:
    """The MemberStore port on a MemoryFile. `pause` is awaited before each transaction, so it says
    how far writing lags behind.
    """

    chunk_bytes = CHUNK_BYTES

    def __init__(
        self,
        file: MemoryFile,
        *,
        pause: Callable[[], Awaitable[None]] = _yield,
        faults: Faults | None = None,
        session: str = "member",
    ) -> None:
        self.file, self.session = file, session
        self.tables = MemberTables()
        """What was settled: the file's content and what is not written yet."""
        self._pause = pause
        self._faults: Faults = NoFaults() if faults is None else faults
        self._waiting: list[tuple[Transaction, int]] = []
        """The changes that are not in the file yet, oldest first, with their sizes."""
        self._taken = self._done = 0
        """The number of changes that were queued, and that are in the file."""
        self._changed = asyncio.Event()
        """Set, and replaced, when what somebody may wait for has changed."""
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    # --------------------------------------------------------------------------- opening and ending

    async def __aenter__(self) -> Self:
        if self.file.refusal:
            raise BadRequest(self.file.refusal, f"the file is refused: {self.file.refusal}")
        if self.file.opened is not None:
            raise BadRequest("store_in_use", "another store has the file open")
        self.file.opened, self.file.noticed = self, self._wake.set
        self.tables = MemberTables() if self.file.damage else self.file.written.clone()
        self._writer = asyncio.create_task(self._write_behind())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.file.opened is not self:
            return
        with contextlib.suppress(BackendUnavailable):
            self._write_now()
            self.file.sync()
        await self._stop()

    def crash(self) -> None:
        """End as a killed process does: what is not written is lost, the file stays."""
        self._waiting = []
        if self.file.opened is self:
            self.file.opened, self.file.noticed = None, lambda: None
        if self._writer is not None:
            self._writer.cancel()
        self._notify()

    def power_cut(self, keep: int = 0) -> None:
        """Crash, and lose all but the first `keep` transactions that were not durable."""
        self.crash()
        self.file.power_cut(keep)

    # ---------------------------------------------------------------------------------------- state

    @property
    def condition(self) -> StoreCondition:
        if self.file.damage:
            return "damaged"
        return "sound" if self.tables.note.index else "empty"

    @property
    def damage(self) -> str:
        return self.file.damage

    @property
    def note(self) -> Note:
        return self.tables.note

    @property
    def newest(self) -> LedgerRow | None:
        return self.tables.newest

    @property
    def written(self) -> Note:
        return self.file.written.note

    @property
    def fetched(self) -> bool:
        return self.file.fetched

    @property
    def unwritten_bytes(self) -> int:
        return sum(size for _, size in self._waiting)

    @property
    def trouble(self) -> str:
        return self.file.trouble

    # --------------------------------------------------------------------------- facts and settling

    def facts(
        self,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        *,
        spans: Sequence[Span] = (),
        leases: Sequence[LeaseAsk] = (),
        recorded_since_ms: int,
    ) -> Facts:
        return self._sound().facts_since(
            op_ids,
            keys,
            hashed,
            spans=spans,
            leases=leases,
            recorded_since_ms=recorded_since_ms,
        )

    def numbers(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        return self._sound().numbers(keys)

    def row_at(self, index: int) -> LedgerRow | None:
        return self._sound().row_at(index)

    def settle(self, step: Step) -> None:
        self._sound().apply(step)
        group = step.group
        size = 64 if group is None else 64 + sum(_size_of(version) for version in group.versions)
        self._queue(lambda tables: tables.apply(step), size)

    async def wait_written(self, index: int, *, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            await self._until(lambda: self.written.index >= index)

    async def make_durable(self, index: int) -> None:
        if index > self.note.index:
            raise InvariantViolated(f"{index} is above all that was settled: {self.note}")
        self.file.check()
        await self._until(lambda: bool(self.trouble) or self.written.index >= index)
        await self._pause()
        self._sound()
        self.file.sync()

    def cut_back(self, index: int) -> None:
        if self._waiting:
            raise InvariantViolated("something is unwritten")
        tables = self._sound()
        self.file.commit((lambda tables: tables.cut_back(index),))
        tables.cut_back(index)

    # ------------------------------------------------------------------- copies and whole new files

    async def set_aside(self, why: str) -> str:
        self._waiting, self._done = [], self._taken
        self.file.aside.append((why, self.file.written))
        self.file.put(MemberTables())
        self.tables, self.file.fetched = MemberTables(), False
        return f"memory-{len(self.file.aside)}"

    async def copy(self) -> StateCopy:
        await self._pause()
        return MemoryCopy(bytes_of(self._sound()))

    async def install(self, state: StateCopy) -> None:
        parts = []
        for offset in range(0, state.size, self.chunk_bytes):
            parts.append(state.read_now(offset, self.chunk_bytes))
            await self._pause()
        tables = tables_of(b"".join(parts))
        if self.file.trouble:
            raise BackendUnavailable("memory", self.file.trouble)
        self._check_open()
        self._waiting, self._done = [], self._taken
        self.file.fetched = True
        self.file.put(tables)
        self.tables = tables.clone()

    async def confirm(self) -> None:
        await self._pause()
        self.file.check()
        self.file.fetched = False

    # ------------------------------------------------------------------------- pruning and checking

    async def prune(self, retention: LocalRetention, *, timeout_s: float) -> Pruning:
        pruning = self._sound().prune_below(retention)
        self._queue(lambda tables: tables.prune_below(retention), 64)
        place = self._taken
        try:
            async with asyncio.timeout(timeout_s):
                await self._until(lambda: self._done >= place)
        except TimeoutError as exc:
            raise BackendUnavailable("memory", "prune: not written in time") from exc
        return pruning

    async def broken_pages(self) -> tuple[str, ...]:
        return ()

    async def damaged_rows(self, after: int, *, timeout_s: float) -> tuple[int, tuple[int, ...]]:
        return await self._read("damaged_rows", lambda t: t.damaged_rows(after), timeout_s)

    # -------------------------------------------------------------------------------------- reading

    async def head(self, *, at_least: int = 0, timeout_s: float) -> Head:
        return await self._read("head", lambda tables: tables.head(), timeout_s)

    async def probe(self, *, timeout_s: float) -> None:
        await self._read("probe", lambda _: self.file.check(), timeout_s)

    async def rows(self, after: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        return await self._read("rows", lambda tables: tables.rows(after, limit), timeout_s)

    async def ledger(self, from_seq: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        return await self._read("ledger", lambda tables: tables.ledger(from_seq, limit), timeout_s)

    async def row_ending(self, last: int, *, timeout_s: float) -> LedgerRow | None:
        return await self._read("row_ending", lambda tables: tables.row_ending(last), timeout_s)

    async def read(
        self, keys: Sequence[bytes], *, at: int | None = None, settled: int = 0, timeout_s: float
    ) -> Read:
        return await self._read("read", lambda tables: tables.read(keys, at, settled), timeout_s)

    async def list(
        self,
        prefix: bytes,
        *,
        end: bytes | None = None,
        after: bytes = b"",
        limit: int,
        at: int | None = None,
        settled: int = 0,
        keys_only: bool = False,
        timeout_s: float,
    ) -> Listing:
        bounds = listed(prefix, end, after)
        return await self._read(
            "list",
            lambda tables: tables.list(bounds, limit, at, settled, keys_only=keys_only),
            timeout_s,
        )

    async def versions(
        self, at: Sequence[tuple[bytes, int]], *, timeout_s: float
    ) -> tuple[Version | None, ...]:
        return await self._read("versions", lambda tables: tables.versions(at), timeout_s)

    async def operations(
        self, op_ids: Sequence[str], *, timeout_s: float
    ) -> tuple[RecordedOperation | None, ...]:
        return await self._read("operations", lambda tables: tables.operations(op_ids), timeout_s)

    async def recorded_after(
        self, revision: int, limit: int, *, timeout_s: float
    ) -> tuple[RecordedOperation, ...]:
        return await self._read(
            "recorded_after", lambda tables: tables.recorded_after(revision, limit), timeout_s
        )

    async def blob(self, reference: Reference, *, timeout_s: float) -> bytes | None:
        return await self._read("blob", lambda _: None, timeout_s)

    async def due(
        self, log_time_ms: int, limit: int, *, timeout_s: float
    ) -> tuple[tuple[bytes, int], ...]:
        return await self._read("due", lambda tables: tables.due(log_time_ms, limit), timeout_s)

    async def attached(self, lease: int, *, limit: int, timeout_s: float) -> tuple[bytes, ...]:
        return await self._read("attached", lambda tables: tables.attached(lease, limit), timeout_s)

    async def attached_counts(
        self, leases: Sequence[int], *, limit: int, timeout_s: float
    ) -> Mapping[int, int]:
        def counts(tables: MemberTables) -> dict[int, int]:
            return {lease: len(tables.attached(lease, limit)) for lease in leases}

        return await self._read("attached_counts", counts, timeout_s)

    async def scrub(self, after: int, *, timeout_s: float) -> Scrubbed:
        return await self._read("scrub", lambda tables: tables.scrub(after), timeout_s)

    async def floor(self, *, timeout_s: float) -> int:
        return await self._read("floor", lambda tables: tables.floor(), timeout_s)

    # ------------------------------------------------------------------------------------ internals

    async def _read(
        self, call: str, transaction: Callable[[MemberTables], T], timeout_s: float
    ) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                await self._faults.before(self.session, call)
                found = transaction(self._sound())
                await self._faults.after(self.session, call)
                return found
        except TimeoutError as exc:
            raise BackendUnavailable("memory", f"{call}: no answer in time") from exc

    def _sound(self) -> MemberTables:
        """Return the tables that may be read. Raises BackendUnavailable."""
        self._check_open()
        if self.file.damage:
            raise BackendUnavailable("memory", f"the file is damaged: {self.file.damage}")
        return self.tables

    def _check_open(self) -> None:
        if self.file.opened is not self:
            raise BackendUnavailable("memory", "the store is not open")

    def _queue(self, change: Transaction, size: int) -> None:
        self._waiting.append((change, size))
        self._taken += 1
        self._wake.set()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._sound()
            await self._changed.wait()
        self._sound()

    async def _write_behind(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._pause()
            with contextlib.suppress(BackendUnavailable):  # `noticed` wakes it when it may go on
                self._write_now()
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _write_now(self) -> None:
        if not self._waiting:
            return
        self.file.commit(tuple(change for change, _ in self._waiting))
        self._done += len(self._waiting)
        self._waiting = []

    async def _stop(self) -> None:
        writer, self._writer = self._writer, None
        self.crash()
        if writer is not None:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)


def _size_of(version: Version) -> int:
    return 64 + len(version.key) + (len(version.value) if isinstance(version.value, bytes) else 0)
