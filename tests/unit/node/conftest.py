"""Start a whole node over fakes on a free port, and a client session that sends paths as they are
written.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import aiohttp
import msgspec
import pytest
from yarl import URL

from backends.local.broadcast import LocalBroadcast
from backends.local.cache import MemoryCache
from backends.memory.database import MemoryDatabase
from backends.memory.store import MemoryStore
from node.server import Server
from node.settings import ServerSettings
from tests.kinds_of_store import KINDS, excuse
from tests.unit.node.fakes import FakeClock, FakeConsensus


class Api:
    """A running node, what stands behind it, and a way to ask it."""

    def __init__(
        self, server: Server, session: aiohttp.ClientSession, database: MemoryDatabase
    ) -> None:
        self.server, self.session, self.database = server, session, database
        self.url = f"http://127.0.0.1:{server.port}"

    @property
    def consensus(self) -> FakeConsensus:
        consensus = self.server.services.consensus
        assert isinstance(consensus, FakeConsensus)
        return consensus

    async def ask(self, method: str, path: str, **more: Any) -> Reply:
        async with self.session.request(
            method, URL(self.url + path, encoded=True), **more
        ) as response:
            return Reply(response.status, response.headers, await response.read())


class Reply:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def problem(self, status: int, code: str, outcome: str | None = "not_applied") -> Any:
        """Assert that this is a problem document of that kind, and return it."""
        assert (self.status, self.headers["Content-Type"]) == (
            status,
            "application/problem+json",
        ), self.body
        form = self.json()
        assert (form["status"], form["code"], form.get("outcome")) == (status, code, outcome), form
        assert form["type"] == f"urn:acordo:problem:{code}"
        assert form["title"] and form["detail"] and form["advice"]
        assert self.headers["Acordo-Node"] == "n1"
        if status == 503:
            assert int(self.headers["Retry-After"]) >= 1
        return form


class OwnMemoryStore(MemoryStore):
    """A store that stands for a member's own, as far as a node asks for it."""

    newest = None

    async def damaged_rows(self, after: int, *, timeout_s: float) -> tuple[int, tuple[int, ...]]:
        return 0, ()

    async def broken_pages(self) -> tuple[str, ...]:
        return ()


Open: TypeAlias = Callable[..., AbstractAsyncContextManager[Api]]


@asynccontextmanager
async def opened(
    store: Any = None,
    kind: str = "shared",
    cache: Any = None,
    async_writes: Any = None,
    checks: Any = (),
    **settings: Any,
) -> AsyncIterator[Api]:
    store = store or (OwnMemoryStore if kind == "replicated" else MemoryStore)(MemoryDatabase())
    database = store.database
    consensus = FakeConsensus(database)
    chosen = ServerSettings(
        node_id="n1", advertised_url="http://n1.example:8001", incarnation="i1", **settings
    )
    broadcast = LocalBroadcast()
    server = Server(
        chosen,
        consensus=consensus,
        store=store if kind == "shared" else None,
        own=store if kind == "replicated" else None,
        cache=MemoryCache() if cache is None else cache,
        broadcast=broadcast,
        clock=FakeClock(),
        async_writes=async_writes,
        checks=checks,
    )
    async with broadcast, server:
        await server.start()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            yield Api(server, session, database)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    excuse(items)


@pytest.fixture(params=KINDS)
def store_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_api(store_kind: str) -> Open:
    return functools.partial(opened, kind=store_kind)


@pytest.fixture
async def api(store_kind: str) -> AsyncIterator[Api]:
    async with opened(kind=store_kind) as one:
        yield one


async def raw_exchange(api: Api, raw: bytes) -> Reply:
    """Send bytes as they are and read one answer, until the server closes or the answer is
    whole.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    try:
        writer.write(raw)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.title(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("Content-Length", "0")))
        return Reply(int(head[0].split()[1]), headers, body)
    finally:
        writer.close()
