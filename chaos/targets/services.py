"""Run private back ends for a local cluster, each behind a proxy, that can be disturbed.

It disturbs only servers that it started, which nobody else uses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from random import Random
from types import TracebackType
from typing import Any, Final

from chaos.targets.proxy import Link
from cluster.services.postgres import PostgresServer
from cluster.services.process import Service
from cluster.services.rabbitmq import RabbitServer
from cluster.services.redis import RedisServer

KINDS: Final[dict[str, tuple[type[Service], str]]] = {
    "postgres": (PostgresServer, "store"),
    "redis": (RedisServer, "cache"),
    "rabbitmq": (RabbitServer, "broadcast"),
}
"""By name: the class of the server, and the node's setting that takes its URL."""


class Services:
    """The private servers of a local cluster: `async with Services(("postgres",), rng) as
    settings`.

    Entering starts them and returns the settings by which nodes reach them.
    """

    def __init__(self, names: Sequence[str], rng: Random) -> None:
        self.names, self._rng = tuple(names), rng
        self.servers: dict[str, Any] = {}
        self.links: dict[str, Link] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> dict[str, str]:
        settings: dict[str, str] = {}
        async with AsyncExitStack() as stack:
            for name in self.names:
                kind, setting = KINDS[name]
                server: Any = kind()
                self.servers[name] = server
                stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)
                await asyncio.to_thread(server.start)
                link = await stack.enter_async_context(Link("127.0.0.1", server.port, self._rng))
                self.links[name] = link
                settings[setting] = server.url.replace(f":{server.port}", f":{link.port}")
            self._stack = stack.pop_all()
        return settings

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for link in self.links.values():
            link.heal()
        await self._stack.__aexit__(kind, exc, trace)

    @property
    def broadcast(self) -> str:
        """Return the URL of the broker that bypasses its proxy; "" if there is no broker."""
        broker = self.servers.get("rabbitmq")
        return "" if broker is None else str(broker.url)

    def pid(self, name: str) -> int | None:
        """Return the id of the server's main process; None if it has none."""
        process = self.servers[name].process
        return process.pid if process is not None and process.poll() is None else None

    async def ready(self, name: str) -> bool:
        """Return whether the server answers, bypassing its proxy."""
        return self.pid(name) is not None and bool(
            await asyncio.to_thread(self.servers[name].ready)
        )

    async def kill(self, name: str) -> None:
        """Kill the server and its children (SIGKILL)."""
        await asyncio.to_thread(self.servers[name].kill)

    async def start(self, name: str) -> None:
        """Start the server again with its data; do nothing if it runs."""
        if self.servers[name].process is None:
            await asyncio.to_thread(self.servers[name].start)

    def pause(self, name: str) -> None:
        """Suspend the server and its children (SIGSTOP)."""
        self.servers[name].pause()

    def resume(self, name: str) -> None:
        """Resume the server (SIGCONT) if it has a process."""
        if self.servers[name].process is not None:
            self.servers[name].resume()

    async def wipe(self, name: str) -> None:
        """Kill the server and delete its data."""
        await self.kill(name)
        await asyncio.to_thread(self.servers[name].wipe)
