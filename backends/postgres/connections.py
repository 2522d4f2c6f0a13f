"""Run transactions on the SQL server's connections, and report what is known of how each ended.

It never reports that a transaction did not land while it still may: when a connection is lost, or a
wait is given up, while a writing statement runs, the result is OutcomeUnknown.
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
"""The time between two comparisons of all hosts, while the ledger of the one in use ends too
early.
"""
READERS_MAX: Final = 4
WRITERS_MAX: Final = 2
BACK_OFF_S: Final = 0.01
BACK_OFF_MAX_S: Final = 0.25
SQLSTATE_SETUP: Final = ("42501", "3D000", "28000", "28P01", "3F000")
"""Errors that an operator must repair: rights, database, login, schema."""

_UNKNOWN: Final = (
    # 40003, a subclass of what is retried below, so it must come first
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
    # exported as 0 before the first one, because a rate needs a starting value
    _FAILURES.labels(_result)

T = TypeVar("T")

Pool = Any
"""asyncpg ships no types."""
Transaction = Callable[[Connection, float], Awaitable[T]]
"""A function that runs on a connection, within the given number of seconds."""


class Connections:
    """The connections of one store: a pool that writes and one that reads.

    `Hosts` decides which of several hosts they lead to.
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
        """Connect, and check or create the tables. Raises BackendUnavailable, BadRequest."""
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
        """End all connections at once. The outcome of what runs on them is unknown."""
        for pool in (self.readers, self.writers):
            if pool is not None:
                pool.terminate()
        self.readers = self.writers = None

    async def expire(self) -> None:
        """Close every connection when it returns to its pool, because another host is in use."""
        for pool in (self.readers, self.writers):
            if pool is not None:
                await pool.expire_connections()

    async def fetch(self, statement: str, *args: object, timeout_s: float) -> list[Any]:
        """Run one statement that reads."""
        return await self.run(self.readers, _one(statement, args), timeout_s, writes=False)

    async def change(self, statement: str, *args: object, timeout_s: float) -> list[Any]:
        """Run one statement that writes, in one round trip and one transaction."""
        return await self.run(self.writers, _one(statement, args), timeout_s, writes=True)

    async def ahead(
        self, ask: Callable[[float], Awaitable[T]], suits: Callable[[T], bool], timeout_s: float
    ) -> T:
        """Ask, and ask again on the host that is ahead if the answer of the one in use does not
        suit.

        All hosts are compared at most once in LOOK_AGAIN_S, so that this costs nothing while none
        suits.
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
        """Run one transaction. It is repeated from its start when the server rolled it back, but
        never when its outcome is unknown.
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
                await self._distrust()
                raise self._unknown(exc, writes=writes) from exc
            except ROLLED_BACK as exc:
                broken = False
                _FAILURES.labels("rolled_back").inc()
                if loop.time() + back_off_s >= deadline:
                    raise BackendUnavailable(
                        self.name, f"rolled back until the time was up: {exc!r}"
                    ) from exc
            except asyncpg.PostgresError as exc:
                # A server that became a standby keeps refusing writes: the next connection looks
                # for another one.
                broken = isinstance(exc, asyncpg.ReadOnlySQLTransactionError)
                raise self._refused(exc) from exc
            finally:
                if broken:
                    # Terminate before asyncpg cancels the running statement. Cancelling a COMMIT
                    # that waits for a synchronous standby would make it visible: it would be read,
                    # and be gone after a fail-over. For a connection that was lost the pool has
                    # released it already, hence the suppressed error.
                    with contextlib.suppress(asyncpg.InterfaceError):
                        connection.terminate()
                await pool.release(connection)  # type: ignore[union-attr]
            await asyncio.sleep(self._rng.random() * back_off_s)
            back_off_s = min(back_off_s * 2, BACK_OFF_MAX_S)

    async def _distrust(self) -> None:
        """Let no other connection that is open be tried: where one got no answer the others get
        none either, and each would take a caller's whole time. Where there are several hosts the
        next connection compares them.
        """
        if self.hosts.several:
            self.hosts.look_again()
            await self.expire()

    async def _acquired(self, pool: Pool | None, timeout_s: float) -> Connection:
        if pool is None:
            raise BackendUnavailable(self.name, "closed")
        try:
            return await pool.acquire(timeout=timeout_s)
        except BadRequest as exc:  # the server's settings were changed since the store was opened
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
        if isinstance(exc, asyncpg.UniqueViolationError):  # facts read at the same head exclude it
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
    """Return the transaction that consists of one statement."""

    async def body(connection: Connection, left_s: float) -> list[Any]:
        rows: list[Any] = await connection.fetch(statement, *args, timeout=left_s)
        return rows

    return body


async def _nothing_to_reset(connection: Connection) -> None:
    """Skip asyncpg's reset, which costs a round trip each time: our statements leave no session
    state behind.
    """
