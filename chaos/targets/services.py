"""Private servers as back ends of a local cluster, each behind a proxy: what can be killed, paused,
slowed and wiped.

It disturbs none that it did not start, and none that anybody
else uses.
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
"""What starts it, and the setting of a node that names its URL."""


class Services:
    """Private servers of a local cluster: `async with Services(("postgres",), rng) as settings`.

    Entering starts them and returns the settings by which nodes find them.
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
        """Return the URL of the broker around its proxy, "" when there is none."""
        broker = self.servers.get("rabbitmq")
        return "" if broker is None else str(broker.url)

    def pid(self, name: str) -> int | None:
        """Return the server's main process, None when it has none."""
        process = self.servers[name].process
        return process.pid if process is not None and process.poll() is None else None

    async def ready(self, name: str) -> bool:
        """Say whether it answers, around its proxy."""
        return self.pid(name) is not None and bool(
            await asyncio.to_thread(self.servers[name].ready)
        )

    async def kill(self, name: str) -> None:
        """Send SIGKILL, to its children too."""
        await asyncio.to_thread(self.servers[name].kill)

    async def start(self, name: str) -> None:
        """Start it again on its data; nothing when it runs."""
        if self.servers[name].process is None:
            await asyncio.to_thread(self.servers[name].start)

    def pause(self, name: str) -> None:
        """Send SIGSTOP, to its children too."""
        self.servers[name].pause()

    def resume(self, name: str) -> None:
        """Send SIGCONT, if it runs."""
        if self.servers[name].process is not None:
            self.servers[name].resume()

    async def wipe(self, name: str) -> None:
        """Kill it and forget its data."""
        await self.kill(name)
        await asyncio.to_thread(self.servers[name].wipe)
