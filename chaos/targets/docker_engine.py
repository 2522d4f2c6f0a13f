"""Make blocking calls to the Docker engine from a loop, and name what may come of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import docker.errors
import requests
import urllib3.exceptions

ENGINE_TIMEOUT_S: Final = 60
"""Of one call to the engine."""
ENGINE_ERRORS: Final = (
    docker.errors.DockerException,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
)

T = TypeVar("T")


class NoStack(Exception):
    """No stack that could be disturbed is running."""


class EngineFailed(NoStack):
    """The engine did not do what it was asked, or does not answer any more."""


class NotHealed(EngineFailed):
    """These containers may still be down, frozen or cut off."""


async def ask(*calls: Callable[[], T]) -> T:
    """Make blocking calls to the engine, each in its thread, all at once; return what the first
    returned.

    Ends when every one has ended, also when cancelled meanwhile: a thread cannot be stopped, and a
    kill that is still under way would undo the healing. The engine's time-out bounds it. Raises
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
    """Return the URL of a published port. Raises NoStack."""
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
