"""Recipes where something goes wrong that a running cluster does not do at will."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from acordo import Client
from acordo.recipes import Session
from tests.unit.node.conftest import Api, opened


@pytest.fixture
async def node() -> AsyncIterator[Api]:
    async with opened() as made:
        yield made


@pytest.fixture
async def client(node: Api) -> AsyncIterator[Client]:
    async with Client(node.url) as made:
        yield made


async def test_a_machine_that_slept_holds_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monotonic clock stands still meanwhile, and the lease does not."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("no such clock")
    real = time.clock_gettime
    async with Session(client, ttl_s=30) as session:
        assert not session.is_lost
        monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + 60)
        assert session.is_lost


async def test_a_closed_client_costs_the_lease_aloud(node: Api) -> None:
    client = await Client(node.url).open()
    session = Session(client, ttl_s=1)
    await session.begin()
    await client.close()
    assert await session.lost.wait(30)
    with pytest.raises(RuntimeError, match="not open"):
        await session.end()
