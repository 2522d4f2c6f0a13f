"""pytest fixtures: `acordo`, a client of a real cluster; loaded by the entry point `pytest11`.

The cluster is the one that ACORDO_URLS names. Without it, inside the repository (where the runner
can be imported), a single node is started once per session in a temporary directory. Tests that
share the cluster keep their keys apart with `acordo_prefix`. Async fixtures need pytest-asyncio;
without it use `acordo_urls` and open a Client yourself.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import pytest

from acordo._client import Client

READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0

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


@pytest.fixture(scope="session")
def acordo_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """Return the URLs of the cluster under test; a node is started if ACORDO_URLS names none."""
    given = tuple(filter(None, re.split(r"[\s,]+", os.environ.get("ACORDO_URLS", ""))))
    if given:
        yield given
    elif importlib.util.find_spec("cluster") is None or importlib.util.find_spec("node") is None:
        pytest.skip("no cluster: set ACORDO_URLS, or run inside Acordo's repository")
    else:
        with _single_node(tmp_path_factory.mktemp("acordo")) as url:
            yield (url,)


@_async_fixture
async def acordo(acordo_urls: tuple[str, ...]) -> AsyncIterator[Client]:
    """Open a client of the cluster under test."""
    async with Client(acordo_urls) as client:
        yield client


@pytest.fixture
def acordo_prefix() -> str:
    """Return a key prefix that no other test uses."""
    return f"pytest/{secrets.token_hex(6)}/"


@contextlib.contextmanager
def _single_node(directory: Path) -> Iterator[str]:
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    log = directory / "cluster.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "cluster", "up", "--nodes", "1"),
                *("--base-port", str(port), "--data", str(directory / "data")),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=_root(),
        )
    try:
        _wait_ready(url, process, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _root() -> Path:
    spec = importlib.util.find_spec("cluster")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.parent


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the node ended with {process.returncode}:\n{_end_of(log)}")
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{url}/readyz", timeout=1) as response,
        ):
            if response.status == 200:
                return
        time.sleep(0.05)
    pytest.fail(f"the node was not ready within {READY_TIMEOUT_S} s:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
