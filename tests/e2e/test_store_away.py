"""What is in the way of a member's own file is named, and forgotten when it is gone."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import aiohttp
import pytest

from acordo import Client
from tests.e2e.conftest import Start, until


@pytest.mark.timeout(180)
async def test_a_file_that_another_program_locks_is_named_and_written_once_it_may_be(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A backup, or somebody's shell: clients lose nothing, for the log has what is not written."""
    async with start(nodes=1) as cluster:
        (node,) = cluster.nodes.values()

        async def says(words: str) -> bool:
            async with http.get(f"{node.url}/readyz?verbose") as answer:
                return words in await answer.text()

        async with Client(node.url) as client:
            with contextlib.closing(
                sqlite3.connect(tmp_path / "data" / "n1" / "store.sqlite", isolation_level=None)
            ) as other:
                other.execute("BEGIN IMMEDIATE")
                await client.put("k", b"2")
                found = await client.get("k")
                assert found is not None and found.value == b"2"
                await until(lambda: says("locked"), "what is in the way is named")
                other.execute("ROLLBACK")
            await until(lambda: says("[+]own_store ok"), "well once it is away")
            found = await client.get("k")
            assert found is not None and found.value == b"2"
