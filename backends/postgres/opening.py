"""Check at start that a database can be relied on and is ours, and migrate its tables.

It never changes a table that is not ours, and raises BadRequest for what an operator must repair.
"""

from __future__ import annotations

import asyncio
import random
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg  # type: ignore[import-untyped]  # ships no types

from backends.postgres import schema
from backends.postgres.dialects import Cockroach, Dialect
from backends.postgres.hosts import Connection
from kv.errors import BadRequest

LEASE_S: Final = 15.0
"""The time that one node may take to migrate before another considers it dead."""

ROLLED_BACK: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
)
"""The errors with which the server rolls a transaction back: it may be tried again from its
start.
"""


async def prepare(connection: Connection, dialect: Dialect, rng: random.Random) -> None:
    """Check the server and the tables, and migrate them. A lease lets one node at a time do it."""
    await _check_version(connection, dialect)
    holder = uuid.uuid4().hex
    await _repeated(lambda: connection.execute(schema.CREATE_LEASE))
    while not await _leased(connection, holder):  # noqa: ASYNC110 - a row of another process
        await asyncio.sleep(0.05 + 0.1 * rng.random())
    try:
        await _migrate(connection)
        if dialect is not Cockroach:  # CockroachDB has no unlogged tables
            await _check_logged(connection)
    finally:
        await connection.execute(schema.DROP_LEASE, "schema", holder)


async def _check_version(connection: Connection, dialect: Dialect) -> None:
    text = str((await connection.fetch("SELECT version() AS version"))[0]["version"])
    shown = text.split(" (", maxsplit=1)[0]
    cockroach = text.startswith("CockroachDB")
    if cockroach is not (dialect is Cockroach):
        other = "cockroachdb" if cockroach else "postgresql"
        raise BadRequest("store_kind", f"this is {shown}", allowed=f"{other}://…")
    found = re.search(r"v?(\d+)\.(\d+)", text)
    if found is None or tuple(map(int, found.groups())) < dialect.version_min:
        needed = f"{dialect.name} {'.'.join(map(str, dialect.version_min))} or newer"
        raise BadRequest("old_server", f"this is {shown}", allowed=needed)


async def _leased(connection: Connection, holder: str) -> bool:
    try:
        return bool(await connection.fetch(schema.TAKE_LEASE, "schema", holder, LEASE_S))
    except ROLLED_BACK:  # another node asked at the same moment
        return False


async def _migrate(connection: Connection) -> None:
    present = await _check_columns(connection, 1)
    version = await _version_found(connection, present)
    if version > 1:
        present = await _check_columns(connection, version)
    if version and (missing := schema.columns(version).keys() - present):
        raise BadRequest(
            "damaged_store",
            f"tables are missing: {', '.join(sorted(missing))}",
            allowed="a whole backup of it",
        )
    for number, statements in enumerate(schema.MIGRATIONS[version:], version + 1):
        for statement in statements:
            await _repeated(lambda statement=statement: connection.execute(statement))  # type: ignore[misc]
        await connection.execute(schema.SCHEMA_MOVED, schema.APPLICATION, number)
    # fails if a later version's table name is taken by a foreign table
    await _check_columns(connection, len(schema.MIGRATIONS))


async def _version_found(connection: Connection, present: set[str]) -> int:
    """Return the version of the schema, 0 for an empty database. Raises BadRequest."""
    version = 0
    if "acordo_schema" in present:
        for row in await connection.fetch(schema.SCHEMA_FOUND):
            if row["application"] != schema.APPLICATION:
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
    if version > len(schema.MIGRATIONS):
        raise BadRequest(
            "newer_schema",
            f"schema version {version}",
            allowed=f"up to {len(schema.MIGRATIONS)}: start it with the newer program that made it",
        )
    return version


async def _check_logged(connection: Connection) -> None:
    """Refuse tables that are lost in a crash of the server. Raises BadRequest."""
    found = await connection.fetch(schema.UNLOGGED, list(schema.columns(len(schema.MIGRATIONS))))
    if found:
        raise BadRequest(
            "store_settings",
            f"{found[0]['name']} is UNLOGGED: a crash of the server empties it",
            allowed=f"ALTER TABLE {found[0]['name']} SET LOGGED",
        )


async def _check_columns(connection: Connection, version: int) -> set[str]:
    """Return the names of our tables that exist. Raises BadRequest for a table whose columns are
    not ours.
    """
    wanted = schema.columns(version)
    found: dict[str, dict[str, str]] = {}
    for row in await connection.fetch(schema.COLUMNS_PRESENT, list(wanted)):
        found.setdefault(row["table_name"], {})[row["column_name"]] = row["data_type"]
    for table, had in sorted(found.items()):
        for column, kind in wanted[table].items():
            if had.get(column) != kind:
                other = had.get(column, "missing")
                raise BadRequest(
                    "foreign_store",
                    f"tables of another application: {table}.{column} is {other}, not {kind}",
                    allowed="a database or schema of its own",
                )
    return set(found)


async def _repeated(step: Callable[[], Awaitable[object]], *, times: int = 5) -> None:
    """Run a repeatable DDL step, and retry it when it fails: two sessions that create something at
    the same time may get an error.
    """
    for left in reversed(range(times)):
        try:
            await step()
            return
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateTableError, *ROLLED_BACK):
            if not left:
                raise
            await asyncio.sleep(0.05)
