"""Keep ledger and versions in PostgreSQL or CockroachDB, through asyncpg.

It never says that a transaction did not land while it still may: a connection lost, or a wait given
up, while a statement that writes was under way is OutcomeUnknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import uuid
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Self, TypeVar

import asyncpg  # type: ignore[import-untyped]  # ships no types
import msgspec
from prometheus_client import Counter

from backends.fence import (
    SCRUB_ROWS,
    STAGED_BYTES_MAX,
    check_group,
    check_room,
    checked,
    checked_blob,
    empty_row,
    hash_of,
    outranks,
    range_of,
    scrubbed,
)
from backends.postgres import sql
from backends.postgres.hosts import REFUSED, Connection, Hosts
from kv.errors import (
    BackendUnavailable,
    BadRequest,
    InvariantViolated,
    OutcomeUnknown,
    Pruned,
    StoreDamaged,
)
from kv.model import (
    GENESIS,
    GENESIS_DIGEST,
    REVISION_MAX,
    Applied,
    Expired,
    Group,
    Head,
    LedgerRow,
    Operation,
    Recorded,
    Reference,
    Refused,
    Version,
    value_hash,
)
from kv.ports import (
    Appended,
    Facts,
    Fenced,
    Identity,
    Listing,
    Outranked,
    Pruning,
    Read,
    Retention,
    Scrubbed,
    TakenOver,
)

SCHEMA_TIMEOUT_S: Final = 30.0
LEASE_S: Final = 15.0
LOOK_AGAIN_S: Final = 1.0
"""Between two comparisons of all hosts, while the one in use is not what was settled."""
READERS_MAX: Final = 4
WRITERS_MAX: Final = 2
BACK_OFF_S: Final = 0.01
BACK_OFF_MAX_S: Final = 0.25
BLOBS_SWEPT_MAX: Final = 64
LIST_VALUES_MAX: Final = 128
"""Versions with values fetched by one statement of a listing: at most 8 MiB inline."""
SQLSTATE_SETUP: Final = ("42501", "3D000", "28000", "28P01", "3F000")
"""What an operator must mend: rights, database, login, schema."""

_TOMBSTONE, _INLINE, _STAGED = 0, 1, 2
_UNKNOWN: Final = (
    # 40003, a subclass of what is retried below: it comes first
    asyncpg.StatementCompletionUnknownError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    TimeoutError,
    OSError,
)
_ROLLED_BACK: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
)

_FAILURES: Final = Counter(
    "acordo_store_failures",
    "Transactions that the SQL server did not settle, by what is known of them",
    ["result"],
)
for _result in ("unavailable", "unknown", "rolled_back"):
    _FAILURES.labels(_result)  # shown as 0 before the first: a rate needs a beginning

_pack = msgspec.msgpack.Encoder().encode
_unpack_body = msgspec.msgpack.Decoder(tuple[Recorded, ...]).decode
_unpack_reference = msgspec.msgpack.Decoder(Reference).decode
_unpack_outcome = msgspec.msgpack.Decoder(Applied | Refused | Expired).decode

T = TypeVar("T")


class PostgresStore:
    """The Store port on asyncpg. Which of several hosts it talks to is for `Hosts` to say."""

    def __init__(self, url: str, *, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._hosts = Hosts(url, self._rng, self._moved)
        self._dialect = self._hosts.dialect
        self.name = self._dialect.name
        self._look_again_at = 0.0
        self.staged_bytes_max = STAGED_BYTES_MAX
        self._readers: asyncpg.Pool[Any] | None = None
        self._writers: asyncpg.Pool[Any] | None = None

    @classmethod
    def from_url(cls, url: str) -> PostgresStore:
        return cls(url)

    async def __aenter__(self) -> Self:
        try:
            self._writers = await self._pool(WRITERS_MAX)
            self._readers = await self._pool(READERS_MAX)
            await asyncio.wait_for(self._prepare(), SCHEMA_TIMEOUT_S)
        except BaseException as exc:
            await self.__aexit__()
            if isinstance(
                exc, asyncpg.PostgresError | OSError | TimeoutError | asyncpg.InterfaceError
            ):
                raise self._setup_error(exc) from exc
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        for pool in (self._readers, self._writers):
            if pool is not None:
                pool.terminate()
        self._readers = self._writers = None

    # ---------------------------------------------------------------------------------- connections

    async def _pool(self, size: int) -> asyncpg.Pool[Any]:
        return await asyncpg.create_pool(
            connect=self._hosts.connect,
            reset=_nothing_to_reset,
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=300.0,
            max_queries=200_000,
        )

    async def _moved(self) -> None:
        """Give up the connections to the host that was used before, each when it comes back to its
        pool.
        """
        for pool in (self._readers, self._writers):
            if pool is not None:
                await pool.expire_connections()

    def _setup_error(self, exc: BaseException) -> Exception:
        state = getattr(exc, "sqlstate", None)
        if state in SQLSTATE_SETUP:
            return BadRequest(
                "store_access", f"{self.name}: {exc}", allowed="a login and database that exist"
            )
        return BackendUnavailable(self.name, f"cannot be reached: {exc!r}")

    async def _run(
        self,
        pool: asyncpg.Pool[Any] | None,
        body: Callable[[Connection, float], Awaitable[T]],
        timeout_s: float,
        *,
        writes: bool,
    ) -> T:
        """Run one transaction; again from its start when the server rolled it back; never again
        when unknown.
        """
        loop = asyncio.get_running_loop()
        deadline, back_off_s = loop.time() + timeout_s, BACK_OFF_S
        if pool is None:
            raise BackendUnavailable(self.name, "closed")
        while True:
            try:
                connection = await pool.acquire(timeout=max(deadline - loop.time(), 0.001))
            except BadRequest as exc:  # its settings were changed since we opened it
                _FAILURES.labels("unavailable").inc()
                raise BackendUnavailable(self.name, str(exc)) from exc
            except REFUSED as exc:
                _FAILURES.labels("unavailable").inc()
                raise BackendUnavailable(self.name, f"no connection: {exc!r}") from exc
            broken = True
            try:
                found = await body(connection, max(deadline - loop.time(), 0.001))
                broken = False
                return found
            except _UNKNOWN as exc:
                _FAILURES.labels("unknown" if writes else "unavailable").inc()
                if writes:
                    raise OutcomeUnknown(f"{self.name}: lost the answer: {exc!r}") from exc
                raise BackendUnavailable(self.name, f"{exc!r}") from exc
            except _ROLLED_BACK as exc:
                broken = False
                _FAILURES.labels("rolled_back").inc()
                if loop.time() + back_off_s >= deadline:
                    raise BackendUnavailable(
                        self.name, f"rolled back until the time was up: {exc!r}"
                    ) from exc
            except asyncpg.UniqueViolationError as exc:  # facts of the same head exclude it
                broken = False
                raise InvariantViolated(
                    f"{self.name}: a write repeats what the store holds: {exc}"
                ) from exc
            except asyncpg.PostgresError as exc:
                # A server that became a standby keeps refusing: the next connection looks for one
                # that takes writes.
                broken = isinstance(exc, asyncpg.ReadOnlySQLTransactionError)
                _FAILURES.labels("unavailable").inc()
                raise BackendUnavailable(self.name, f"refused: {exc!r}") from exc
            finally:
                if broken:
                    # Before asyncpg comes to cancel what runs there: a COMMIT that waits for a
                    # synchronous standby would become visible by it, be read, and be gone after a
                    # fail-over.
                    # the pool lets go of a connection that was lost
                    with contextlib.suppress(asyncpg.InterfaceError):
                        connection.terminate()
                await pool.release(connection)
            await asyncio.sleep(self._rng.random() * back_off_s)
            back_off_s = min(back_off_s * 2, BACK_OFF_MAX_S)

    async def _fetch(self, statement: str, *args: object, timeout_s: float) -> list[Any]:
        async def body(connection: Connection, left_s: float) -> list[Any]:
            rows: list[Any] = await connection.fetch(statement, *args, timeout=left_s)
            return rows

        return await self._run(self._readers, body, timeout_s, writes=False)

    async def _change(self, statement: str, *args: object, timeout_s: float) -> list[Any]:
        """Run one statement that writes: one round trip, one transaction."""

        async def body(connection: Connection, left_s: float) -> list[Any]:
            rows: list[Any] = await connection.fetch(statement, *args, timeout=left_s)
            return rows

        return await self._run(self._writers, body, timeout_s, writes=True)

    # --------------------------------------------------------------------------------------- schema

    async def _prepare(self) -> None:
        assert self._writers is not None
        async with self._writers.acquire(timeout=SCHEMA_TIMEOUT_S) as connection:
            await self._check_version(connection)
            holder = uuid.uuid4().hex
            await _repeated(lambda: connection.execute(sql.CREATE_LEASE))
            while not await self._leased(connection, holder):  # noqa: ASYNC110 - a row of another process
                await asyncio.sleep(0.05 + 0.1 * self._rng.random())
            try:
                await self._migrate(connection)
                await self._check_kept(connection)
            finally:
                await connection.execute(sql.DROP_LEASE, "schema", holder)

    async def _leased(self, connection: Connection, holder: str) -> bool:
        try:
            return bool(await connection.fetch(sql.TAKE_LEASE, "schema", holder, LEASE_S))
        except _ROLLED_BACK:  # another node asked at the same moment
            return False

    async def _check_version(self, connection: Connection) -> None:
        text = str((await connection.fetch("SELECT version() AS version"))[0]["version"])
        cockroach = text.startswith("CockroachDB")
        if cockroach is not (self._dialect is sql.Cockroach):
            other = "cockroachdb" if cockroach else "postgresql"
            raise BadRequest(
                "store_kind", f"this is {text.split(' (', maxsplit=1)[0]}", allowed=f"{other}://…"
            )
        found = re.search(r"v?(\d+)\.(\d+)", text)
        if found is None or tuple(map(int, found.groups())) < self._dialect.version_min:
            needed = f"{self.name} {'.'.join(map(str, self._dialect.version_min))} or newer"
            raise BadRequest(
                "old_server", f"this is {text.split(' (', maxsplit=1)[0]}", allowed=needed
            )

    async def _migrate(self, connection: Connection) -> None:
        present = await self._check_columns(connection, 1)
        version = 0
        if "acordo_schema" in present:
            for row in await connection.fetch(sql.SCHEMA_FOUND):
                if row["application"] != sql.APPLICATION:
                    raise BadRequest(
                        "foreign_store",
                        f"its tables belong to {row['application']}",
                        allowed="a database of its own",
                    )
                version = row["version"]
        elif present:
            raise BadRequest(
                "foreign_store",
                f"tables of another application: {', '.join(sorted(present))}",
                allowed="a database or schema of its own",
            )
        if version > len(sql.MIGRATIONS):
            raise BadRequest(
                "newer_schema",
                f"schema version {version}",
                allowed=f"up to {len(sql.MIGRATIONS)}: start it with the newer program that made it",
            )
        if version > 1:
            present = await self._check_columns(connection, version)
        if version and (missing := sql.columns(version).keys() - present):
            raise BadRequest(
                "damaged_store",
                f"tables are missing: {', '.join(sorted(missing))}",
                allowed="a whole backup of it",
            )
        for number, statements in enumerate(sql.MIGRATIONS[version:], version + 1):
            for statement in statements:
                await _repeated(lambda statement=statement: connection.execute(statement))  # type: ignore[misc]
            await connection.execute(sql.SCHEMA_MOVED, sql.APPLICATION, number)
        # a foreign table under a newer one's name
        await self._check_columns(connection, len(sql.MIGRATIONS))

    async def _check_kept(self, connection: Connection) -> None:
        """Refuse tables that do not outlive a crash of the server. Raises BadRequest."""
        if self._dialect is sql.Cockroach:
            return  # it has no such tables
        found = await connection.fetch(sql.UNLOGGED, list(sql.columns(len(sql.MIGRATIONS))))
        if found:
            raise BadRequest(
                "store_settings",
                f"{found[0]['name']} is UNLOGGED: a crash of the server empties it",
                allowed=f"ALTER TABLE {found[0]['name']} SET LOGGED",
            )

    async def _check_columns(self, connection: Connection, version: int) -> set[str]:
        """Return which of our tables are there. Raises BadRequest for one whose columns are not
        ours.
        """
        wanted = sql.columns(version)
        found: dict[str, dict[str, str]] = {}
        for row in await connection.fetch(sql.COLUMNS_PRESENT, list(wanted)):
            found.setdefault(row["table_name"], {})[row["column_name"]] = row["data_type"]
        for table, had in sorted(found.items()):
            for column, kind in wanted[table].items():
                if had.get(column) != kind:
                    raise BadRequest(
                        "foreign_store",
                        f"tables of another application: {table}.{column} is {had.get(column, 'missing')}, not {kind}",
                        allowed="a database or schema of its own",
                    )
        return set(found)

    # -------------------------------------------------------------------------------------- writing

    async def append(self, group: Group, *, timeout_s: float) -> Appended | Fenced:
        check_group(group)
        if outranks(group.base, group.row.term, group.row.committer):
            return Fenced(await self.head(timeout_s=timeout_s))
        rows = await self._change(sql.APPEND, *_append_arguments(group), timeout_s=timeout_s)
        if rows[0]["landed"]:
            return Appended()
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
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            rows = await self._change(
                sql.TAKE_OVER,
                term,
                committer,
                log_time_ms,
                adopt_last,
                GENESIS_DIGEST,
                None if identity is None else identity.cluster_id,
                None if identity is None else identity.history,
                timeout_s=max(deadline - loop.time(), 0.001),
            )
            head = _head(
                *(rows[0][name] for name in ("seq", "term", "committer", "last_rev", "digest"))
            )
            if rows[0]["landed"]:
                return TakenOver(
                    head, empty_row(head, term, committer, log_time_ms, adopt_last).head
                )
            if outranks(head, term, committer):
                return Outranked(head)
            # raises BadRequest for a low adopt_last
            empty_row(head, term, committer, log_time_ms, adopt_last)
            if loop.time() >= deadline:  # somebody else appended in between, again and again
                raise BackendUnavailable(
                    self.name, "the ledger grew under every attempt to take over"
                )

    async def claim(self, identity: Identity, *, timeout_s: float) -> Identity:
        rows = await self._change(
            sql.CLAIM, identity.cluster_id, identity.history, timeout_s=timeout_s
        )
        return Identity(rows[0]["cluster"], rows[0]["history"])

    async def stage(self, op_id: str, value: bytes, *, timeout_s: float) -> Reference:
        reference = Reference(op_id, value_hash(value), len(value))
        deadline = asyncio.get_running_loop().time() + timeout_s
        # Asked apart, so that those who stage at the same time do not roll each other back: the
        # bound may be passed a little. A value that is staged already is weighed twice then, which
        # only refuses it a little earlier.
        waiting = await self._fetch(sql.STAGED_NOW, timeout_s=timeout_s)
        check_room(waiting[0]["bytes"], len(value), self.staged_bytes_max)
        left_s = max(deadline - asyncio.get_running_loop().time(), 0.001)
        await self._change(
            sql.STAGE, op_id, reference.hash, _pack(reference), value, timeout_s=left_s
        )
        return reference

    async def unstage(self, reference: Reference, *, timeout_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout_s
        if not await self._change(
            sql.UNCLAIM, reference.op_id, reference.hash, timeout_s=timeout_s
        ):
            left_s = max(deadline - asyncio.get_running_loop().time(), 0.001)
            await self._change(sql.UNSTAGE, reference.op_id, reference.hash, timeout_s=left_s)

    async def move_cursor(self, name: str, to: int, *, timeout_s: float) -> None:
        await self._change(sql.MOVE_CURSOR, name, to, timeout_s=timeout_s)

    async def prune(self, retention: Retention, *, timeout_s: float) -> Pruning:
        async def body(connection: Connection, left_s: float) -> Pruning:
            async with asyncio.timeout(left_s), connection.transaction(isolation="serializable"):
                return await _prune(connection, retention)

        return await self._run(self._writers, body, timeout_s, writes=True)

    # -------------------------------------------------------------------------------------- reading

    async def head(self, *, at_least: int = 0, timeout_s: float) -> Head:
        async def ask(left_s: float) -> Head:
            for row in await self._fetch(sql.HEAD_NOW, timeout_s=left_s):
                return _head(row["a"], row["b"], row["t"], row["c"], row["x"])
            return GENESIS

        return await self._ahead(ask, lambda head: head.last >= at_least, timeout_s)

    async def _ahead(
        self, ask: Callable[[float], Awaitable[T]], suits: Callable[[T], bool], timeout_s: float
    ) -> T:
        """Ask once more, of the host that is ahead, where the one in use is not what was settled.

        All hosts are compared once in LOOK_AGAIN_S at most: while none suits, this costs nothing.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        found = await ask(timeout_s)
        if suits(found) or not self._hosts.several or loop.time() < self._look_again_at:
            return found
        self._look_again_at = loop.time() + LOOK_AGAIN_S
        self._hosts.look_again()
        await self._moved()
        return await ask(max(deadline - loop.time(), 0.001))

    async def probe(self, *, timeout_s: float) -> None:
        async def body(connection: Connection, left_s: float) -> None:
            rows = await connection.fetch(sql.READ_ONLY, timeout=left_s)
            if rows[0]["setting"] != "off":
                host = self._hosts.used
                self._hosts.look_again()
                raise ConnectionError(f"{host} takes no writes any more")

        await self._run(self._writers, body, timeout_s, writes=False)

    async def facts(
        self,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        blobs: Sequence[tuple[str, bytes]],
        *,
        timeout_s: float,
    ) -> Facts:
        """Read what `evaluate` needs: one round trip, unless the keys are more than the dialect's
        `keys_max`.
        """
        whole = frozenset(hashed)
        asked = [(key, sql.HASH if key in whole else sql.BARE) for key in dict.fromkeys(keys)]
        owners, hashes = [o for o, _ in blobs], [_b64(h) for _, h in blobs]
        head = GENESIS
        operations: dict[str, Operation] = {}
        versions: dict[bytes, Version] = {}
        found: dict[bytes, bytes] = {}
        staged: set[tuple[str, bytes]] = set()
        snapshots = await self._many(
            self._writers,
            self._dialect.facts,
            (list(op_ids), owners, hashes, REVISION_MAX),
            asked,
            timeout_s,
        )
        for part, rows in snapshots:
            for n, a, b, c, t, x, y, z in rows:
                match n:
                    case sql.HEAD:
                        head = _head(a, b, t, c, x)
                    case sql.OPERATION:
                        operations[t] = Operation(t, x, a, _sound(_unpack_outcome, y), b)
                    case sql.STAGED:
                        staged.add((t, x))
                    case _:
                        key, wanted = part[n]
                        version = versions[key] = self._version(key, a, b, c, y)
                        if version.present and wanted == sql.HASH:
                            found[key] = z or hash_of(version)
        return Facts(head, operations, versions, found, frozenset(set(blobs) - staged))

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
                return tuple(map(_ledger_row, await connection.fetch(sql.ROWS_AFTER, after, limit)))

        return await self._run(self._readers, body, timeout_s, writes=False)

    async def ledger(self, from_seq: int, limit: int, *, timeout_s: float) -> tuple[LedgerRow, ...]:
        return tuple(
            map(
                _ledger_row,
                await self._fetch(sql.LEDGER_FROM, from_seq, limit, timeout_s=timeout_s),
            )
        )

    async def row_ending(self, last: int, *, timeout_s: float) -> LedgerRow | None:
        return next(
            map(_ledger_row, await self._fetch(sql.ROW_ENDING, last, timeout_s=timeout_s)), None
        )

    async def read(
        self, keys: Sequence[bytes], *, at: int | None = None, settled: int = 0, timeout_s: float
    ) -> Read:
        return await self._ahead(
            lambda left_s: self._read_once(keys, at, settled, left_s),
            lambda read: read.head.last >= settled,
            timeout_s,
        )

    async def _read_once(
        self, keys: Sequence[bytes], at: int | None, settled: int, timeout_s: float
    ) -> Read:
        found: dict[bytes, Version] = {}
        head, digest_at = GENESIS, None
        asked = [(key, sql.WHOLE) for key in dict.fromkeys(keys)]
        first = (settled, REVISION_MAX if at is None else at)
        for _, rows in await self._many(self._readers, self._dialect.read, first, asked, timeout_s):
            head, digest_at, unhashed = _point(rows, at)
            for n, a, b, c, _, x, y, z in rows:
                if n >= 0:
                    found[x] = checked(self._version(x, a, b, c, y), z, unhashed, self.name)
        return Read(head, tuple(found.get(key) for key in keys), digest_at)

    async def _many(
        self,
        pool: asyncpg.Pool[Any] | None,
        statement: Callable[[int], str],
        first: tuple[object, ...],
        asked: list[tuple[bytes, str]],
        timeout_s: float,
    ) -> list[tuple[list[tuple[bytes, str]], list[Any]]]:
        """Look keys up in one snapshot: one statement, or a transaction of several when they are
        many.
        """
        parts = list(_parts(asked, self._dialect.keys_max))

        async def one(
            connection: Connection, part: list[tuple[bytes, str]], left_s: float
        ) -> list[Any]:
            raw, whole = [key for key, _ in part], [wanted for _, wanted in part]
            named = self._dialect.keys([_b64(key) for key in raw], raw, whole)
            rows: list[Any] = await connection.fetch(
                statement(len(part)), *first, *named, timeout=left_s
            )
            return rows

        async def body(
            connection: Connection, left_s: float
        ) -> list[tuple[list[tuple[bytes, str]], list[Any]]]:
            if len(parts) == 1:
                return [(parts[0], await one(connection, parts[0], left_s))]
            async with (
                asyncio.timeout(left_s),
                connection.transaction(isolation="serializable", readonly=True),
            ):
                return [(part, await one(connection, part, left_s)) for part in parts]

        return await self._run(pool, body, timeout_s, writes=False)

    async def list(
        self,
        prefix: bytes,
        *,
        after: bytes = b"",
        limit: int,
        at: int | None = None,
        settled: int = 0,
        keys_only: bool = False,
        timeout_s: float,
    ) -> Listing:
        start, end = range_of(prefix, after)
        upto = REVISION_MAX if at is None else at
        wanted = limit if keys_only else min(limit, LIST_VALUES_MAX)
        statement = sql.LIST_KEYS if keys_only else sql.LIST

        async def ask(left_s: float) -> tuple[list[Any], Head, bytes | None, int]:
            rows = await self._fetch(
                statement, settled, start, end, upto, wanted + 1, timeout_s=left_s
            )
            return rows, *_point(rows, at)

        rows, head, digest_at, unhashed = await self._ahead(
            ask, lambda found: found[1].last >= settled, timeout_s
        )
        versions = sorted(
            (
                self._version(x, a, b, c, y)
                if keys_only
                else checked(self._version(x, a, b, c, y), z, unhashed, self.name)
                for n, a, b, c, _, x, y, z in rows
                if n >= 0
            ),
            key=lambda version: version.key,
        )
        return Listing(head, tuple(versions[:wanted]), len(versions) > wanted, digest_at)

    async def versions(
        self, at: Sequence[tuple[bytes, int]], *, timeout_s: float
    ) -> tuple[Version | None, ...]:
        keys, revisions = [_b64(key) for key, _ in at], [str(revision) for _, revision in at]
        rows = await self._fetch(sql.EXACT, keys, revisions, timeout_s=timeout_s)
        found = {
            (key, revision): checked(self._version(key, revision, *rest), kept, unhashed, self.name)
            for key, revision, *rest, kept, unhashed in rows
        }
        return tuple(found.get(asked) for asked in at)

    async def operations(
        self, op_ids: Sequence[str], *, timeout_s: float
    ) -> tuple[Operation | None, ...]:
        rows = await self._fetch(sql.OPERATIONS, list(op_ids), timeout_s=timeout_s)
        found = {
            o: Operation(o, h, revision, _sound(_unpack_outcome, y), when)
            for o, h, revision, y, when in rows
        }
        return tuple(found.get(op_id) for op_id in op_ids)

    async def blob(self, reference: Reference, *, timeout_s: float) -> bytes | None:
        rows = await self._fetch(sql.BLOB, reference.op_id, reference.hash, timeout_s=timeout_s)
        return checked_blob(rows[0]["value"], reference, self.name) if rows else None

    def _version(
        self, key: bytes, revision: int, kind: int, expires: int | None, value: bytes | None
    ) -> Version:
        """Return a version; its value is empty if it was not read along."""
        if kind == _TOMBSTONE:
            return Version(key, revision, None, expires)
        try:
            shown = b"" if value is None else _unpack_reference(value) if kind == _STAGED else value
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise StoreDamaged(self.name, key, revision) from exc
        return Version(key, revision, shown, expires)

    async def due(
        self, log_time_ms: int, limit: int, *, timeout_s: float
    ) -> tuple[tuple[bytes, int], ...]:
        rows = await self._fetch(sql.DUE, log_time_ms, limit, timeout_s=timeout_s)
        return tuple((row["key"], row["revision"]) for row in rows)

    async def scrub(self, after: int, *, timeout_s: float) -> Scrubbed:
        found: list[tuple[Version | None, bytes, int, bytes]] = []
        rows = await self._fetch(sql.SCRUB, after, SCRUB_ROWS, timeout_s=timeout_s)
        for key, revision, kind, expires, value, kept, _ in rows:
            version: Version | None = None
            with contextlib.suppress(StoreDamaged):
                version = self._version(key, revision, kind, expires, value)
            found.append((version, key, revision, kept))
        return scrubbed(found, after, rows[0]["unhashed"] if rows else 0)

    async def floor(self, *, timeout_s: float) -> int:
        return int((await self._fetch(sql.FLOOR_NOW, timeout_s=timeout_s))[0]["floor"])

    async def cursor(self, name: str, *, timeout_s: float) -> int:
        rows = await self._fetch(sql.CURSOR, name, timeout_s=timeout_s)
        return int(rows[0]["place"]) if rows else 0


# ------------------------------------------------------------------------------------------- pieces


async def _nothing_to_reset(connection: Connection) -> None:
    """Leave out asyncpg's reset, which costs a round trip each time: no statement of ours leaves a
    trace behind.
    """


async def _repeated(step: Callable[[], Awaitable[object]], *, times: int = 5) -> None:
    """Do a DDL step that may be repeated; two sessions that create at once may refuse each
    other.
    """
    for left in reversed(range(times)):
        try:
            await step()
            return
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateTableError, *_ROLLED_BACK):
            if not left:
                raise
            await asyncio.sleep(0.05)


def _append_arguments(group: Group) -> list[object]:
    row, base = group.row, group.base
    versions = [(v, _b64(v.key), str(v.revision)) for v in group.versions]
    staged = list(
        dict.fromkeys(
            (v.value.op_id, v.value.hash) for v in group.versions if isinstance(v.value, Reference)
        )
    )
    newest = {v.key: v for v in group.versions}
    return [
        row.seq, row.term, row.committer, row.first, row.last, row.digest, row.log_time_ms,
        _pack(row.body) if row.body else None,
        base.term, base.committer, base.last, base.digest,
        [op_id for op_id, _ in staged], [_b64(digest) for _, digest in staged],
        [key for _, key, _ in versions], [revision for _, _, revision in versions],
        [str(_kind(v)) for v, _, _ in versions],
        [None if v.expires_ms is None else str(v.expires_ms) for v, _, _ in versions],
        [v.value.op_id if isinstance(v.value, Reference) else None for v, _, _ in versions],
        [_stored(v) for v, _, _ in versions],
        [o.op_id for o in group.operations], [_b64(o.body_hash) for o in group.operations],
        [str(o.revision) for o in group.operations], [_b64(_pack(o.outcome)) for o in group.operations],
        [str(o.log_time_ms) for o in group.operations],
        [recorded.op_id for recorded in row.body],
        [_b64(key) for key in newest], [str(v.revision) for v in newest.values()],
        [None if v.expires_ms is None or not v.present else str(v.expires_ms) for v in newest.values()],
        [_b64(hash_of(v)) for v, _, _ in versions],
    ]  # fmt: skip


def _kind(version: Version) -> int:
    match version.value:
        case None:
            return _TOMBSTONE
        case Reference():
            return _STAGED
        case _:
            return _INLINE


def _stored(version: Version) -> str | None:
    match version.value:
        case None:
            return None
        case Reference() as reference:
            return _b64(_pack(reference))
        case value:
            return _b64(value)


async def _prune(connection: Connection, retention: Retention) -> Pruning:
    limit = retention.rows_max
    state = (await connection.fetch(sql.STATE_FOR_PRUNING))[0]
    floor, below = state["floor"], min(retention.revision_below, state["last_rev"])
    gone, more = 0, False
    if below > floor:
        step = await connection.fetch(sql.NEXT_VERSIONS, floor, below, limit)
        more = len(step) == limit
        upto = step[-1]["revision"] if more else below
        await connection.execute(sql.RAISE_FLOOR, upto)
        dropped = await connection.fetch(sql.DROP_SUPERSEDED, floor, upto)
        if freed := [row["staged"] for row in dropped if row["staged"] is not None]:
            await connection.execute(sql.LOOK_AGAIN, freed)
        gone = len(dropped) + _count(await connection.execute(sql.DROP_TOMBSTONES, floor, upto))
        floor = upto
    rows = _count(await connection.execute(sql.DROP_ROWS, below, state["seq"], limit))
    operations = _count(
        await connection.execute(sql.DROP_OPERATIONS, retention.operations_before_ms, limit)
    )
    before_ms = max(retention.operations_before_ms, retention.staged_before_ms)
    looked = await connection.fetch(sql.BLOBS_TO_LOOK_AT, before_ms, min(limit, BLOBS_SWEPT_MAX))
    for op_id, digest, used in looked:
        await connection.execute(sql.KEEP_BLOB if used else sql.DROP_BLOB, op_id, digest)
    await connection.execute(sql.DROP_DONE_DUE, limit)
    more = more or limit in {rows, operations} or len(looked) >= min(limit, BLOBS_SWEPT_MAX)
    return Pruning(
        max(floor, state["adopted"]),
        gone,
        rows,
        operations,
        sum(not used for *_, used in looked),
        more,
    )


def _count(tag: str) -> int:
    return int(tag.rsplit(" ", 1)[1])


def _point(rows: Iterable[Any], at: int | None) -> tuple[Head, bytes | None, int]:
    """Return the head, the digest at the asked settled revision, the newest one that may lack
    hashes. Raises Pruned.
    """
    head, digest_at, unhashed = GENESIS, None, 0
    for n, a, b, c, t, x, *_ in rows:
        match n:
            case sql.HEAD:
                head = _head(a, b, t, c, x)
            case sql.AT_SETTLED:
                digest_at = x
            case sql.FLOOR:
                if at is not None and at < a:
                    raise Pruned(a)
                unhashed = b
    return head, digest_at, unhashed


def _head(seq: int, term: int, committer: str, last: int, digest: bytes) -> Head:
    return Head(seq, term, committer, last, digest)


def _ledger_row(row: Any) -> LedgerRow:
    seq, term, committer, first, last, digest, log_time, body = row
    intents = () if body is None else _sound(_unpack_body, body)
    return LedgerRow(seq, term, committer, first, last, digest, log_time, intents)


def _sound(decode: Callable[[bytes], T], packed: bytes) -> T:
    try:
        return decode(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise StoreDamaged(
            "store", b"", 0, f"a row of the ledger or of op_ids is damaged: {exc}"
        ) from exc


def _parts(items: list[T], size: int) -> Iterable[list[T]]:
    return (items[n : n + size] for n in range(0, max(len(items), 1), size))


def _b64(raw: bytes) -> str:
    return b64encode(raw).decode()
