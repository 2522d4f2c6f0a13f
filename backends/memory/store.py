"""Implement the Store port on a database in memory, with the faults that a test asks for.

It never reads a clock or draws a random number: its behaviour follows from the calls and the given
`Faults`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Self, TypeVar

from backends.fence import (
    STAGED_BYTES_MAX,
    listed,
)
from backends.memory.database import MemoryDatabase
from backends.memory.faults import AnswerLost, Fails, Faults, Lands, NoFaults
from kv.errors import BackendUnavailable, InvariantViolated, OutcomeUnknown
from kv.model import (
    Group,
    Head,
    LedgerRow,
    RecordedOperation,
    Reference,
    Version,
)
from kv.ports import (
    Appended,
    Facts,
    Fenced,
    Identity,
    LeaseAsk,
    Listing,
    Outranked,
    Pruning,
    Read,
    Retention,
    Scrubbed,
    Span,
    TakenOver,
)

T = TypeVar("T")


class MemoryStore:
    """The Store port on a MemoryDatabase: one session of it, with faults of its own."""

    def __init__(
        self, database: MemoryDatabase, *, faults: Faults | None = None, session: str = "memory"
    ) -> None:
        self.database, self.session = database, session
        self._faults: Faults = NoFaults() if faults is None else faults
        self.staged_bytes_max = STAGED_BYTES_MAX

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    async def head(self, *, at_least: int = 0, timeout_s: float) -> Head:
        return await self._read("head", self.database.head, timeout_s)

    async def probe(self, *, timeout_s: float) -> None:
        await self._read("probe", lambda: None, timeout_s)

    async def facts(
        self,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        blobs: Sequence[tuple[str, bytes]],
        *,
        spans: Sequence[Span] = (),
        leases: Sequence[LeaseAsk] = (),
        timeout_s: float,
    ) -> Facts:
        return await self._read(
            "facts",
            lambda: self.database.facts(op_ids, keys, hashed, blobs, spans=spans, leases=leases),
            timeout_s,
        )

    async def append(self, group: Group, *, timeout_s: float) -> Appended | Fenced:
        return await self._write("append", lambda: self.database.append(group), timeout_s)

    async def take_over(
        self,
        term: int,
        committer: str,
        log_time_ms: int,
        *,
        adopt_last: int | None = None,
        identity: Identity | None = None,
        timeout_s: float,
    ) -> TakenOver | Outranked:
        def transaction() -> TakenOver | Outranked:
            result = self.database.take_over(term, committer, log_time_ms, adopt_last)
            if adopt_last is not None and isinstance(result, TakenOver):
                self.database.adopt(adopt_last, identity)
            return result

        return await self._write("take_over", transaction, timeout_s)

    async def claim(self, identity: Identity, *, timeout_s: float) -> Identity:
        return await self._write("claim", lambda: self.database.claim(identity), timeout_s)

    async def rows(self, after: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        return await self._read("rows", lambda: self.database.rows(after, limit), timeout_s)

    async def ledger(self, from_seq: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        return await self._read("ledger", lambda: self.database.ledger(from_seq, limit), timeout_s)

    async def row_ending(self, last: int, *, timeout_s: float) -> LedgerRow | None:
        return await self._read("row_ending", lambda: self.database.row_ending(last), timeout_s)

    async def read(
        self, keys: Sequence[bytes], *, at: int | None = None, settled: int = 0, timeout_s: float
    ) -> Read:
        return await self._read("read", lambda: self.database.read(keys, at, settled), timeout_s)

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
        return await self._read(
            "list",
            lambda: self.database.list(
                listed(prefix, end, after), limit, at, settled, keys_only=keys_only
            ),
            timeout_s,
        )

    async def versions(
        self, at: Sequence[tuple[bytes, int]], *, timeout_s: float
    ) -> tuple[Version | None, ...]:
        return await self._read("versions", lambda: self.database.versions(at), timeout_s)

    async def operations(
        self, op_ids: Sequence[str], *, timeout_s: float
    ) -> tuple[RecordedOperation | None, ...]:
        return await self._read("operations", lambda: self.database.operations(op_ids), timeout_s)

    async def recorded_after(
        self, revision: int, limit: int, *, timeout_s: float
    ) -> tuple[RecordedOperation, ...]:
        return await self._read(
            "recorded_after", lambda: self.database.recorded_after(revision, limit), timeout_s
        )

    async def stage(self, op_id: str, value: bytes, *, timeout_s: float) -> Reference:
        return await self._write(
            "stage", lambda: self.database.stage(op_id, value, self.staged_bytes_max), timeout_s
        )

    async def unstage(self, reference: Reference, *, timeout_s: float) -> None:
        await self._write("unstage", lambda: self.database.unstage(reference), timeout_s)

    async def blob(self, reference: Reference, *, timeout_s: float) -> bytes | None:
        return await self._read("blob", lambda: self.database.blob(reference), timeout_s)

    async def due(
        self, log_time_ms: int, limit: int, *, timeout_s: float
    ) -> tuple[tuple[bytes, int], ...]:
        return await self._read("due", lambda: self.database.due(log_time_ms, limit), timeout_s)

    async def attached(self, lease: int, *, limit: int, timeout_s: float) -> tuple[bytes, ...]:
        return await self._read("attached", lambda: self.database.attached(lease, limit), timeout_s)

    async def attached_counts(
        self, leases: Sequence[int], *, limit: int, timeout_s: float
    ) -> Mapping[int, int]:
        def counts() -> dict[int, int]:
            return {lease: len(self.database.attached(lease, limit)) for lease in leases}

        return await self._read("attached_counts", counts, timeout_s)

    async def prune(self, retention: Retention, *, timeout_s: float) -> Pruning:
        return await self._write("prune", lambda: self.database.prune(retention), timeout_s)

    async def scrub(self, after: int, *, timeout_s: float) -> Scrubbed:
        return await self._read("scrub", lambda: self.database.scrub(after), timeout_s)

    async def floor(self, *, timeout_s: float) -> int:
        return await self._read("floor", self.database.floor, timeout_s)

    async def cursor(self, name: str, *, timeout_s: float) -> int:
        return await self._read("cursor", lambda: self.database.cursor(name), timeout_s)

    async def move_cursor(self, name: str, to: int, *, timeout_s: float) -> None:
        await self._write("move_cursor", lambda: self.database.move_cursor(name, to), timeout_s)

    async def _read(self, call: str, transaction: Callable[[], T], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                await self._faults.before(self.session, call)
                found = transaction()
                await self._faults.after(self.session, call)
                return found
        except TimeoutError as exc:
            raise BackendUnavailable("memory", f"{call}: no answer in time") from exc

    async def _write(self, call: str, transaction: Callable[[], T], timeout_s: float) -> T:
        sent = False
        try:
            async with asyncio.timeout(timeout_s):
                await self._faults.before(self.session, call)
                match self._faults.fate(self.session, call):
                    case Fails():
                        raise BackendUnavailable("memory", f"{call}: rolled back")
                    case AnswerLost(lands_after_s):
                        if lands_after_s is not None:
                            asyncio.get_running_loop().call_later(
                                lands_after_s, _land_late, transaction
                            )
                        raise OutcomeUnknown(f"{call}: the answer was lost")
                    case Lands():
                        sent = True
                        result = transaction()
                await self._faults.after(self.session, call)
                return result
        except TimeoutError as exc:
            if sent:
                raise OutcomeUnknown(f"{call}: no answer to COMMIT in time") from exc
            raise BackendUnavailable("memory", f"{call}: not sent in time") from exc


def _land_late(transaction: Callable[[], object]) -> None:
    """Run a transaction whose committer no longer waits. The fence decides whether it lands, and
    nobody receives the result.
    """
    try:
        transaction()
    except (BackendUnavailable, InvariantViolated):
        return
