"""Run transactions on the SQL server's connections, and say what is known of how each ended.

It never says that a transaction did not land while it still may: a connection lost, or a wait given
up, while a statement that writes was under way is OutcomeUnknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg  # type: ignore[import-untyped]  # ships no types
from prometheus_client import Counter

from backends.postgres.hosts import REFUSED, Connection, Hosts
from backends.postgres.opening import ROLLED_BACK, prepare
from kv.errors import BackendUnavailable, BadRequest, InvariantViolated, OutcomeUnknown

SCHEMA_TIMEOUT_S: Final = 30.0
LOOK_AGAIN_S: Final = 1.0
"""Between two comparisons of all hosts, while the one in use is not what was settled."""
READERS_MAX: Final = 4
WRITERS_MAX: Final = 2
BACK_OFF_S: Final = 0.01
BACK_OFF_MAX_S: Final = 0.25
SQLSTATE_SETUP: Final = ("42501", "3D000", "28000", "28P01", "3F000")
"""What an operator must mend: rights, database, login, schema."""

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

_FAILURES: Final = Counter(
    "acordo_store_failures",
    "Transactions that the SQL server did not settle, by what is known of them",
    ["result"],
)
for _result in ("unavailable", "unknown", "rolled_back"):
    _FAILURES.labels(_result)  # shown as 0 before the first: a rate needs a beginning

T = TypeVar("T")

Pool = Any
"""asyncpg ships no types."""
Transaction = Callable[[Connection, float], Awaitable[T]]
"""What runs on a connection, within so many seconds."""


class Connections:
    """The connections of one store: a pool that writes and one that reads.

    Which of several hosts they lead to is for `Hosts` to say.
    """

    def __init__(self, url: str, rng: random.Random) -> None:
        self._rng = rng
        self.hosts = Hosts(url, rng, self.expire)
        self.dialect = self.hosts.dialect
        self.name = self.dialect.name
        self._look_again_at = 0.0
        self.readers: Pool | None = None
        self.writers: Pool | None = None

    async def open(self) -> None:
        """Connect, and check or make the tables. Raises BackendUnavailable, BadRequest."""
        try:
            self.writers = await self._pool(WRITERS_MAX)
            self.readers = await self._pool(READERS_MAX)
            await asyncio.wait_for(self._prepare(self.writers), SCHEMA_TIMEOUT_S)
        except BaseException as exc:
            self.close()
            if isinstance(
                exc, asyncpg.PostgresError | OSError | TimeoutError | asyncpg.InterfaceError
            ):
                raise self._setup_error(exc) from exc
            raise

    def close(self) -> None:
        """End all connections at once; what is under way on them is unknown."""
        for pool in (self.readers, self.writers):
            if pool is not None:
                pool.terminate()
        self.readers = self.writers = None

    async def expire(self) -> None:
        """Give up every connection when it comes back to its pool: another host is in use."""
        for pool in (self.readers, self.writers):
            if pool is not None:
                await pool.expire_connections()

    async def fetch(self, statement: str, *args: object, timeout_s: float) -> list[Any]:
        """Run one statement that reads."""
        return await self.run(self.readers, _one(statement, args), timeout_s, writes=False)

    async def change(self, statement: str, *args: object, timeout_s: float) -> list[Any]:
        """Run one statement that writes: one round trip, one transaction."""
        return await self.run(self.writers, _one(statement, args), timeout_s, writes=True)

    async def ahead(
        self, ask: Callable[[float], Awaitable[T]], suits: Callable[[T], bool], timeout_s: float
    ) -> T:
        """Ask once more, of the host that is ahead, where the one in use is not what was settled.

        All hosts are compared once in LOOK_AGAIN_S at most: while none suits, this costs nothing.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        found = await ask(timeout_s)
        if suits(found) or not self.hosts.several or loop.time() < self._look_again_at:
            return found
        self._look_again_at = loop.time() + LOOK_AGAIN_S
        self.hosts.look_again()
        await self.expire()
        return await ask(max(deadline - loop.time(), 0.001))

    async def run(
        self, pool: Pool | None, body: Transaction[T], timeout_s: float, *, writes: bool
    ) -> T:
        """Run one transaction; again from its start when the server rolled it back; never again
        when its outcome is unknown.
        """
        loop = asyncio.get_running_loop()
        deadline, back_off_s = loop.time() + timeout_s, BACK_OFF_S
        while True:
            connection = await self._acquired(pool, max(deadline - loop.time(), 0.001))
            broken = True
            try:
                found = await body(connection, max(deadline - loop.time(), 0.001))
                broken = False
                return found
            except _UNKNOWN as exc:
                raise self._unknown(exc, writes=writes) from exc
            except ROLLED_BACK as exc:
                broken = False
                _FAILURES.labels("rolled_back").inc()
                if loop.time() + back_off_s >= deadline:
                    raise BackendUnavailable(
                        self.name, f"rolled back until the time was up: {exc!r}"
                    ) from exc
            except asyncpg.PostgresError as exc:
                # A server that became a standby keeps refusing: the next connection looks for one
                # that takes writes.
                broken = isinstance(exc, asyncpg.ReadOnlySQLTransactionError)
                raise self._refused(exc) from exc
            finally:
                if broken:
                    # Before asyncpg comes to cancel what runs there: a COMMIT that waits for a
                    # synchronous standby would become visible by it, be read, and be gone after a
                    # fail-over. The pool has let go already of a connection that was lost.
                    with contextlib.suppress(asyncpg.InterfaceError):
                        connection.terminate()
                await pool.release(connection)  # type: ignore[union-attr]
            await asyncio.sleep(self._rng.random() * back_off_s)
            back_off_s = min(back_off_s * 2, BACK_OFF_MAX_S)

    async def _acquired(self, pool: Pool | None, timeout_s: float) -> Connection:
        if pool is None:
            raise BackendUnavailable(self.name, "closed")
        try:
            return await pool.acquire(timeout=timeout_s)
        except BadRequest as exc:  # its settings were changed since we opened it
            _FAILURES.labels("unavailable").inc()
            raise BackendUnavailable(self.name, str(exc)) from exc
        except REFUSED as exc:
            _FAILURES.labels("unavailable").inc()
            raise BackendUnavailable(self.name, f"no connection: {exc!r}") from exc

    def _unknown(self, exc: BaseException, *, writes: bool) -> OutcomeUnknown | BackendUnavailable:
        _FAILURES.labels("unknown" if writes else "unavailable").inc()
        if writes:
            return OutcomeUnknown(f"{self.name}: lost the answer: {exc!r}")
        return BackendUnavailable(self.name, f"{exc!r}")

    def _refused(self, exc: BaseException) -> InvariantViolated | BackendUnavailable:
        if isinstance(exc, asyncpg.UniqueViolationError):  # facts of the same head exclude it
            return InvariantViolated(f"{self.name}: a write repeats what the store holds: {exc}")
        _FAILURES.labels("unavailable").inc()
        return BackendUnavailable(self.name, f"refused: {exc!r}")

    async def _pool(self, size: int) -> Pool:
        return await asyncpg.create_pool(
            connect=self.hosts.connect,
            reset=_nothing_to_reset,
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=300.0,
            max_queries=200_000,
        )

    async def _prepare(self, pool: Pool) -> None:
        async with pool.acquire(timeout=SCHEMA_TIMEOUT_S) as connection:
            await prepare(connection, self.dialect, self._rng)

    def _setup_error(self, exc: BaseException) -> Exception:
        state = getattr(exc, "sqlstate", None)
        if state in SQLSTATE_SETUP:
            return BadRequest(
                "store_access", f"{self.name}: {exc}", allowed="a login and database that exist"
            )
        return BackendUnavailable(self.name, f"cannot be reached: {exc!r}")


def _one(statement: str, args: tuple[object, ...]) -> Transaction[list[Any]]:
    """Return the transaction that is one statement."""

    async def body(connection: Connection, left_s: float) -> list[Any]:
        rows: list[Any] = await connection.fetch(statement, *args, timeout=left_s)
        return rows

    return body


async def _nothing_to_reset(connection: Connection) -> None:
    """Leave out asyncpg's reset, which costs a round trip each time: no statement of ours leaves a
    trace behind.
    """
