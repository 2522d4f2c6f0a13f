"""Give each contract test an adapter, and two open sessions of one database where it asks
for them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kv.ports import Broadcast, Cache, MemberStore, Store
from tests.contract.adapters import BROADCASTS, CACHES, STORES, Hear, OpenCache, OpenStore
from tests.contract.member_adapters import DISKS, Disk


@pytest.fixture(params=STORES)
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    async with STORES[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[Store]:
    async with open_store() as session:
        yield session


@pytest.fixture
async def rival(open_store: OpenStore, store: Store) -> AsyncIterator[Store]:
    """A second session of the same database."""
    async with open_store() as session:
        yield session


@pytest.fixture(params=CACHES)
async def open_cache(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenCache]:
    async with CACHES[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
async def cache(open_cache: OpenCache) -> AsyncIterator[Cache]:
    async with open_cache() as opened:
        yield opened


@pytest.fixture(params=BROADCASTS)
async def broadcast(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Broadcast, Hear]]:
    async with BROADCASTS[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return DISKS[request.param](tmp_path)


@pytest.fixture
async def member(disk: Disk) -> AsyncIterator[MemberStore]:
    async with disk.store() as opened:
        yield opened
