"""pytest fixtures: clients and nodes of a real cluster; loaded by the entry point `pytest11`.

`acordo_node` is a node of this machine for the whole session, `acordo_cluster` a cluster of three
for one test, which may kill and start its nodes; both need the extra `server`. `acordo` is a client
of the cluster that ACORDO_URLS names, else of `acordo_node`, and `acordo_sync` the same without
async. Tests that share a cluster keep their keys apart with `acordo_prefix`. Async fixtures need
pytest-asyncio; without it use `acordo_sync`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar, cast

import pytest

from acordo._client import Client
from acordo._extras import MissingExtra
from acordo._local import Embedded
from acordo._sync._client import SyncClient

F = TypeVar("F", bound=Callable[..., Any])


def _async_fixture(function: F) -> F:
    """Declare an async fixture with pytest-asyncio if that is installed, otherwise with plain
    pytest, for whichever plugin supports it.
    """
    if (
        importlib.util.find_spec("pytest_asyncio") is None
    ):  # pragma: no cover - depends on what is installed
        return cast(F, pytest.fixture(function))
    return cast(F, importlib.import_module("pytest_asyncio").fixture(function))


def _started(nodes: int) -> Iterator[Embedded]:
    try:
        cluster = Embedded(nodes)
    except MissingExtra as exc:
        pytest.skip(f"no cluster: {exc}, or set ACORDO_URLS")
    with cluster:
        yield cluster


@pytest.fixture(scope="session")
def acordo_node() -> Iterator[Embedded]:
    """Start one node for the whole session; its `urls` are what a client takes."""
    yield from _started(1)


@pytest.fixture
def acordo_cluster() -> Iterator[Embedded]:
    """Start three nodes for one test, which may `kill` and `start` them by their URLs."""
    yield from _started(3)


@pytest.fixture(scope="session")
def acordo_urls(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return the URLs of the cluster under test: those in ACORDO_URLS, else of `acordo_node`."""
    given = tuple(filter(None, re.split(r"[\s,]+", os.environ.get("ACORDO_URLS", ""))))
    if given:
        return given
    node: Embedded = request.getfixturevalue("acordo_node")
    return node.urls


@_async_fixture
async def acordo(acordo_urls: tuple[str, ...]) -> AsyncIterator[Client]:
    """Open a client of the cluster under test."""
    async with Client(acordo_urls) as client:
        yield client


@pytest.fixture
def acordo_sync(acordo_urls: tuple[str, ...]) -> Iterator[SyncClient]:
    """Open a synchronous client of the cluster under test."""
    with SyncClient(acordo_urls) as client:
        yield client


@pytest.fixture
def acordo_prefix() -> str:
    """Return a key prefix that no other test uses."""
    return f"pytest/{secrets.token_hex(6)}/"
