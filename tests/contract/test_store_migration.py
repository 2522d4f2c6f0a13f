"""A store that was made before values had hashes is read as it is, and what is written from then on
is checked.
"""

from __future__ import annotations

import asyncpg  # type: ignore[import-untyped]  # ships no types
import pytest

from backends.postgres import schema
from backends.postgres.store import PostgresStore
from kv.errors import StoreDamaged
from kv.model import Put, value_hash
from kv.ports import Store
from tests.contract.groups import Step, T, commit, first, put, put_again
from tests.services import fresh_database


async def fill(store: Store) -> None:
    reference = await store.stage("big", b"b" * 70_000, timeout_s=T)
    await commit(store, [put("1", b"k", b"old"), Step("big", (Put(b"m", reference),))])


async def holds_together(store: Store) -> None:
    """Read what is old, write something, and see that only that is held to its hash."""
    reference = await store.stage("big", b"b" * 70_000, timeout_s=T)
    assert (await store.read([b"k", b"m"], timeout_s=T)).versions == (
        first(b"k", 1, b"old"),
        first(b"m", 2, reference),
    )
    assert [v.key for v in (await store.list(b"", limit=9, timeout_s=T)).versions] == [b"k", b"m"]
    assert (await store.versions([(b"k", 1)], timeout_s=T))[0] == first(b"k", 1, b"old")
    facts = await store.facts([], [b"k", b"m"], [b"k", b"m"], [], timeout_s=T)
    assert facts.hashes == {b"k": value_hash(b"old"), b"m": reference.hash}
    await commit(store, [put("3", b"k", b"new")])
    assert (await store.read([b"k"], timeout_s=T)).versions == (put_again(b"k", 3, b"new"),)


async def test_tables_of_schema_version_1() -> None:
    url = fresh_database()
    async with PostgresStore(url) as store:
        await fill(store)
    connection = await asyncpg.connect(url)
    for column in (
        "versions DROP COLUMN hash",
        "state DROP COLUMN unhashed",
        "blobs DROP COLUMN claims",
        "versions DROP COLUMN create_revision",
        "versions DROP COLUMN version",
        "versions DROP COLUMN lease",
    ):
        await connection.execute(f"ALTER TABLE acordo_{column}")
    await connection.execute("DROP TABLE acordo_identity")
    await connection.execute("UPDATE acordo_schema SET version = 1")
    async with PostgresStore(url) as store:
        await holds_together(store)
        rows = await connection.fetch("SELECT version FROM acordo_schema")
        assert rows[0]["version"] == len(schema.MIGRATIONS)
        with pytest.raises(asyncpg.NotNullViolationError):  # a program that knows no hashes
            await connection.execute(
                "INSERT INTO acordo_versions (key, revision, kind) VALUES ('x', 9, 0)"
            )
        await connection.execute("UPDATE acordo_versions SET hash = ''")
        with pytest.raises(StoreDamaged):
            await store.read([b"k"], timeout_s=T)
        assert (await store.read([b"k"], at=1, timeout_s=T)).versions == (first(b"k", 1, b"old"),)
    await connection.close()
