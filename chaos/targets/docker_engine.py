"""Make blocking calls to the Docker engine from an event loop, and define the errors they raise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import docker.errors
import requests
import urllib3.exceptions

ENGINE_TIMEOUT_S: Final = 60
"""Time-out of one call to the engine, in seconds."""
ENGINE_ERRORS: Final = (
    docker.errors.DockerException,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
)

T = TypeVar("T")


class NoStack(Exception):
    """No running stack was found that can be disturbed."""


class EngineFailed(NoStack):
    """The engine refused a request or does not answer any more."""


class NotHealed(EngineFailed):
    """Some containers may still be down, frozen or disconnected."""


async def ask(*calls: Callable[[], T]) -> T:
    """Make blocking calls concurrently, each in a thread of its own; return the result of the
    first.

    It waits for all of them, even when cancelled: a thread cannot be stopped, and a kill that is
    still under way would undo the healing. The engine's time-out bounds the wait. Raises
    EngineFailed.
    """
    asked = [asyncio.ensure_future(asyncio.to_thread(call)) for call in calls]
    try:
        await asyncio.wait(asked)
    except asyncio.CancelledError:
        await asyncio.wait(asked)
        raise
    results = await asyncio.gather(*asked, return_exceptions=True)
    for each in results:
        if isinstance(each, ENGINE_ERRORS):
            raise EngineFailed(str(each)) from each
        if isinstance(each, BaseException):
            raise each
    return results[0]  # type: ignore[return-value]  # no exception is left


def published(container: Any, port: str) -> str:
    """Return the URL of a published port. Raises NoStack if it is not published."""
    bound = (container.attrs["HostConfig"].get("PortBindings") or {}).get(port)
    if not bound:
        raise NoStack(f"{container.name} publishes no {port}")
    return f"http://127.0.0.1:{bound[0]['HostPort']}"


def bridge_gateway(engine: Any) -> str:
    """Return this machine's address as containers see it. Raises KeyError or the engine's
    errors.
    """
    config = engine.networks.get("bridge").attrs["IPAM"]["Config"][0]
    return str(config["Gateway"])
