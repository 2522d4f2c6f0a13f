"""Implement the Store port on PostgreSQL or CockroachDB, through asyncpg.

`connections` knows how a transaction that was cut off may have ended; `rows` decodes the rows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Self

from backends.fence import STAGED_BYTES_MAX, check_group, checked_blob, listed, outranks
from backends.postgres import pruning, reads, sql, writes
from backends.postgres.connections import Connections
from backends.postgres.hosts import Connection
from backends.postgres.rows import head_of, ledger_row, operation_of
from kv.errors import BackendUnavailable, Pruned
from kv.model import GENESIS, Group, Head, LedgerRow, RecordedOperation, Reference, Version
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


class PostgresStore:
    """The Store port on asyncpg."""

    def __init__(self, url: str, *, rng: random.Random | None = None) -> None:
        self.connections = Connections(url, rng or random.Random())
        self.name = self.connections.name
        self.staged_bytes_max = STAGED_BYTES_MAX

    @classmethod
    def from_url(cls, url: str) -> PostgresStore:
        """Return the store that a postgresql:// or cockroachdb:// URL names. Raises BadRequest."""
        return cls(url)

    async def __aenter__(self) -> Self:
        await self.connections.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.connections.close()

    # -------------------------------------------------------------------------------------- writing

    async def append(self, group: Group, *, timeout_s: float) -> Appended | Fenced:
        check_group(group)
        if outranks(group.base, group.row.term, group.row.committer):
            return Fenced(await self.head(timeout_s=timeout_s))
        numbers = await writes.append(self.connections, group, timeout_s=timeout_s)
        if numbers is not None:
            return Appended(numbers)
        head = await self.head(timeout_s=timeout_s)
        if head == group.base:
            raise BackendUnavailable(self.name, "a staged value is gone: evaluate again")
        return Fenced(head)

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
        return await writes.take_over(
            self.connections,
            term,
            committer,
            log_time_ms,
            adopt_last=adopt_last,
            identity=identity,
            timeout_s=timeout_s,
        )

    async def claim(self, identity: Identity, *, timeout_s: float) -> Identity:
        rows = await self.connections.change(
            sql.CLAIM, identity.cluster_id, identity.history, timeout_s=timeout_s
        )
        return Identity(rows[0]["cluster"], rows[0]["history"])

    async def stage(self, op_id: str, value: bytes, *, timeout_s: float) -> Reference:
        return await writes.stage(
            self.connections, op_id, value, self.staged_bytes_max, timeout_s=timeout_s
        )

    async def unstage(self, reference: Reference, *, timeout_s: float) -> None:
        await writes.unstage(self.connections, reference, timeout_s=timeout_s)

    async def move_cursor(self, name: str, to: int, *, timeout_s: float) -> None:
        await self.connections.change(sql.MOVE_CURSOR, name, to, timeout_s=timeout_s)

    async def prune(self, retention: Retention, *, timeout_s: float) -> Pruning:
        async def body(connection: Connection, left_s: float) -> Pruning:
            async with asyncio.timeout(left_s), connection.transaction(isolation="serializable"):
                return await pruning.prune(connection, retention)

        return await self.connections.run(self.connections.writers, body, timeout_s, writes=True)

    # --------------------------------------------------------------------------- reading the ledger

    async def head(self, *, at_least: int = 0, timeout_s: float) -> Head:
        async def ask(left_s: float) -> Head:
            rows = await self.connections.fetch(sql.HEAD_NOW, timeout_s=left_s)
            return head_of(rows[0]) if rows else GENESIS

        return await self.connections.ahead(ask, lambda head: head.last >= at_least, timeout_s)

    async def probe(self, *, timeout_s: float) -> None:
        async def body(connection: Connection, left_s: float) -> None:
            rows = await connection.fetch(sql.READ_ONLY, timeout=left_s)
            if rows[0]["setting"] != "off":
                host = self.connections.hosts.used
                self.connections.hosts.look_again()
                raise ConnectionError(f"{host} takes no writes any more")

        await self.connections.run(self.connections.writers, body, timeout_s, writes=False)

    async def rows(self, after: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        async def body(connection: Connection, left_s: float) -> tuple[LedgerRow, ...]:
            async with (
                asyncio.timeout(left_s),
                connection.transaction(isolation="serializable", readonly=True),
            ):
                oldest = await connection.fetch(sql.OLDEST)
                if not oldest or after >= oldest[0]["last_rev"]:
                    return ()
                if oldest[0]["seq"] > 1 and after < oldest[0]["first_rev"] - 1:
                    raise Pruned(oldest[0]["first_rev"])
                return tuple(map(ledger_row, await connection.fetch(sql.ROWS_AFTER, after, limit)))

        return await self.connections.run(self.connections.readers, body, timeout_s, writes=False)

    async def ledger(self, from_seq: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        rows = await self.connections.fetch(sql.LEDGER_FROM, from_seq, limit, timeout_s=timeout_s)
        return tuple(map(ledger_row, rows))

    async def row_ending(self, last: int, *, timeout_s: float) -> LedgerRow | None:
        rows = await self.connections.fetch(sql.ROW_ENDING, last, timeout_s=timeout_s)
        return ledger_row(rows[0]) if rows else None

    async def operations(
        self, op_ids: Sequence[str], *, timeout_s: float
    ) -> tuple[RecordedOperation | None, ...]:
        rows = await self.connections.fetch(sql.OPERATIONS, list(op_ids), timeout_s=timeout_s)
        found = {row["op_id"]: operation_of(*row) for row in rows}
        return tuple(found.get(op_id) for op_id in op_ids)

    async def recorded_after(
        self, revision: int, limit: int, *, timeout_s: float
    ) -> tuple[RecordedOperation, ...]:
        rows = await self.connections.fetch(
            sql.RECORDED_AFTER, revision, limit, timeout_s=timeout_s
        )
        return tuple(operation_of(*row) for row in rows)

    # ---------------------------------------------------------------------------- reading the state

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
        return await reads.facts(
            self.connections,
            op_ids,
            keys,
            hashed,
            blobs,
            spans=spans,
            leases=leases,
            timeout_s=timeout_s,
        )

    async def read(
        self, keys: Sequence[bytes], *, at: int | None = None, settled: int = 0, timeout_s: float
    ) -> Read:
        return await reads.read(self.connections, keys, at, settled, timeout_s=timeout_s)

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
        return await reads.listing(
            self.connections, bounds, limit, at, settled, keys_only=keys_only, timeout_s=timeout_s
        )

    async def versions(
        self, at: Sequence[tuple[bytes, int]], *, timeout_s: float
    ) -> tuple[Version | None, ...]:
        return await reads.exact(self.connections, at, timeout_s=timeout_s)

    async def blob(self, reference: Reference, *, timeout_s: float) -> bytes | None:
        rows = await self.connections.fetch(
            sql.BLOB, reference.op_id, reference.hash, timeout_s=timeout_s
        )
        return checked_blob(rows[0]["value"], reference, self.name) if rows else None

    async def due(
        self, log_time_ms: int, limit: int, *, timeout_s: float
    ) -> tuple[tuple[bytes, int], ...]:
        rows = await self.connections.fetch(sql.DUE, log_time_ms, limit, timeout_s=timeout_s)
        return tuple((row["key"], row["revision"]) for row in rows)

    async def attached(self, lease: int, *, limit: int, timeout_s: float) -> tuple[bytes, ...]:
        rows = await self.connections.fetch(sql.ATTACHED, lease, limit, timeout_s=timeout_s)
        return tuple(row["key"] for row in rows)

    async def attached_counts(
        self, leases: Sequence[int], *, limit: int, timeout_s: float
    ) -> Mapping[int, int]:
        rows = await self.connections.fetch(
            sql.COUNT_ATTACHED, [str(lease) for lease in leases], limit, timeout_s=timeout_s
        )
        return {row["lease"]: row["total"] for row in rows}

    async def scrub(self, after: int, *, timeout_s: float) -> Scrubbed:
        return await reads.scrub(self.connections, after, timeout_s=timeout_s)

    async def floor(self, *, timeout_s: float) -> int:
        return int((await self.connections.fetch(sql.FLOOR_NOW, timeout_s=timeout_s))[0]["floor"])

    async def cursor(self, name: str, *, timeout_s: float) -> int:
        rows = await self.connections.fetch(sql.CURSOR, name, timeout_s=timeout_s)
        return int(rows[0]["place"]) if rows else 0
