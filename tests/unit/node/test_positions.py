"""`Acordo-Revision` of a read: all of it is in the answer, and nothing above it (found by a chaos
run on containers).

Whoever reads and then watches from the stated revision must miss nothing: what settles while an
answer is on its way is not in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from backends.local.cache import MemoryCache
from backends.memory.database import MemoryDatabase
from backends.memory.store import MemoryStore
from kv.model import Entry
from kv.ports import Space
from tests.unit.node.conftest import Api, Open


class Empty(MemoryCache):
    """A shared cache that never has anything."""

    async def get(self, space: Space, keys: Sequence[bytes]) -> tuple[Entry | None, ...]:
        return (None,) * len(keys)


class Overtaken(MemoryStore):
    """A store whose answers are overtaken: another write settles before each one arrives."""

    api: Api | None = None

    async def _overtake(self) -> None:
        if self.api is not None:
            api, self.api = self.api, None
            assert (await api.ask("PUT", "/v1/kv/a", data=b"newer")).status == 200
            assert api.consensus.settled.last == 2

    async def read(self, *args: Any, **more: Any) -> Any:
        read = await super().read(*args, **more)
        await self._overtake()
        return read

    async def list(self, *args: Any, **more: Any) -> Any:
        listing = await super().list(*args, **more)
        await self._overtake()
        return listing


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/kv/a", None),
        ("GET", "/v1/kv/absent", None),
        ("GET", "/v1/kv/a?revision=1", None),
        ("GET", "/v1/kv?prefix=", None),
        ("POST", "/v1/txn", {"reads": ["a"]}),
        ("GET", "/kv?key=a", None),
    ],
)
async def test_a_read_states_no_revision_that_it_does_not_contain(
    open_api: Open, method: str, path: str, body: Any
) -> None:
    store = Overtaken(MemoryDatabase())
    async with open_api(store=store, cache=Empty()) as api:
        await api.ask("PUT", "/v1/kv/a", data=b"older")
        await asyncio.sleep(0)
        api.server.services.reads.memory.clear()
        store.api = api
        content = None if body is None else msgspec.json.encode(body)
        reply = await api.ask(
            method, path, data=content, headers={"Content-Type": "application/json"}
        )
        assert store.api is None and reply.status in (200, 404), reply.body
        assert b"newer" not in reply.body
        assert reply.headers["Acordo-Revision"] == "1"
