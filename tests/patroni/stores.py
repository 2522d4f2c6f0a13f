"""Run the store that Patroni keeps its lock in: three members of etcd, or three nodes of Acordo,
each with a copy of its own or all on one PostgreSQL.

Clients reach each member, and members each other, through links that can be cut. It never signals a
process that it did not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Final, Self

import aiohttp

from chaos.targets.proxy import Link
from cluster.ports import lasting_port
from cluster.services.postgres import PostgresServer
from cluster.services.process import find
from tests.patroni.peer_links import PeerLinks

WITHIN_S: Final = 90.0
"""How long a member may take to start, or to end."""
ASK_S: Final = 2.0


class Store(ABC):
    """Three members of a store, with the links by which clients reach them."""

    name = "store"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = [lasting_port() for _ in range(3)]
        self.peers = [lasting_port() for _ in range(3)]
        self.links: list[Link] = []
        self.ways = PeerLinks(self.peers, self._pids)
        self.processes: dict[int, asyncio.subprocess.Process] = {}
        self._stack = AsyncExitStack()
        self.http: aiohttp.ClientSession

    @abstractmethod
    def command(self, n: int) -> list[str]:
        """Return the program of a member, and its arguments."""

    def environment(self, n: int) -> dict[str, str]:
        """Return what its process gets beside this one's variables."""
        return {}

    async def __aenter__(self) -> Self:
        limit = aiohttp.ClientTimeout(total=ASK_S)
        self.http = await self._stack.enter_async_context(aiohttp.ClientSession(timeout=limit))
        for port in self.ports:
            link = Link("127.0.0.1", port, Random(port))
            self.links.append(await self._stack.enter_async_context(link))
        await self._stack.enter_async_context(self.ways)
        await self._begin()
        self._stack.push_async_callback(self._end)
        for n in range(3):
            await self.start(n)
        for n in range(3):
            await self.healthy(n)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _begin(self) -> None:  # noqa: B027 - most need nothing
        """Start what the members need."""

    def _pids(self) -> dict[int, int]:
        return {process.pid: n for n, process in self.processes.items()}

    async def _end(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def url(self, n: int) -> str:
        """Return the URL at which clients reach a member, through its link."""
        return f"http://127.0.0.1:{self.links[n].port}"

    async def start(self, n: int) -> None:
        """Start a member."""
        with (self.folder / f"{self.name}{n}.log").open("ab") as log:
            self.processes[n] = await asyncio.create_subprocess_exec(
                *self.command(n), env=os.environ | self.environment(n), stdout=log, stderr=log,
                stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    async def healthy(self, n: int) -> None:
        """Wait until a member says that it is healthy. Raises TimeoutError."""
        async with asyncio.timeout(WITHIN_S):
            while not await self._says_healthy(n):
                await asyncio.sleep(0.1)

    async def _says_healthy(self, n: int) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.get(f"http://127.0.0.1:{self.ports[n]}/health") as answer:
                return "true" in await answer.text()
        return False

    def signal(self, n: int, number: signal.Signals) -> None:
        """Send a signal to a member."""
        self.processes[n].send_signal(number)

    async def kill(self, n: int) -> None:
        """Kill a member at once."""
        self.signal(n, signal.SIGKILL)
        await self.processes[n].wait()

    async def restart(self, n: int) -> None:
        """Ask a member to end, start it, and wait until it is healthy. Raises TimeoutError."""
        self.signal(n, signal.SIGTERM)
        async with asyncio.timeout(WITHIN_S):
            await self.processes[n].wait()
        await self.start(n)
        await self.healthy(n)

    async def leader(self) -> int:
        """Return which member leads, as the members say. Raises TimeoutError."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                for n in range(3):
                    if await self._leads(n):
                        return n
                await asyncio.sleep(0.1)

    async def _leads(self, n: int) -> bool:
        url = f"http://127.0.0.1:{self.ports[n]}/v3/maintenance/status"
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.post(url, json={}) as answer:
                told = await answer.json(content_type=None)
                return bool(told["header"]["member_id"] == told.get("leader"))
        return False


class Etcd(Store):
    """Three members of the distribution's etcd."""

    name = "etcd"

    def command(self, n: int) -> list[str]:
        peers = [f"http://127.0.0.1:{port}" for port in self.ways.ports]
        own = f"http://127.0.0.1:{self.peers[n]}"
        return [
            *(find("etcd"), "--name", f"e{n}", "--data-dir", str(self.folder / f"etcd{n}")),
            *("--listen-client-urls", f"http://127.0.0.1:{self.ports[n]}"),
            *("--advertise-client-urls", self.url(n), "--log-level", "error"),
            *("--listen-peer-urls", own, "--initial-advertise-peer-urls", peers[n]),
            *("--initial-cluster", ",".join(f"e{m}={url}" for m, url in enumerate(peers))),
        ]


class Acordo(Store):
    """Three nodes of Acordo, each with its own copy, that speak etcd's gateway."""

    name = "acordo"

    def command(self, n: int) -> list[str]:
        return [sys.executable, "-m", "node"]

    def environment(self, n: int) -> dict[str, str]:
        routes = [f"n{m + 1}=127.0.0.1:{p}" for m, p in enumerate(self.ways.ports) if m != n]
        return {
            "ACORDO_ETCD": "true",
            "ACORDO_RAFT_ROUTES": ",".join(routes),
            "ACORDO_NODE_ID": f"n{n + 1}",
            "ACORDO_MEMBERS": ",".join(f"n{m + 1}=127.0.0.1:{p}" for m, p in enumerate(self.peers)),
            "ACORDO_RAFT_ADDRESS": f"127.0.0.1:{self.peers[n]}",
            "ACORDO_HTTP_HOST": "127.0.0.1",
            "ACORDO_HTTP_PORT": str(self.ports[n]),
            "ACORDO_ADVERTISED_URL": self.url(n),
            "ACORDO_DATA_DIR": str(self.folder / f"{self.name}{n}"),
        }


class SharedAcordo(Acordo):
    """Three nodes of Acordo that share one PostgreSQL, which is none of Patroni's."""

    name = "acordo-shared"

    async def _begin(self) -> None:
        server = PostgresServer()
        self._stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)
        await asyncio.to_thread(server.start)
        self._url = server.url

    def environment(self, n: int) -> dict[str, str]:
        return super().environment(n) | {"ACORDO_STORE": self._url}


STORES: Final[dict[str, type[Store]]] = {kind.name: kind for kind in (Etcd, Acordo, SharedAcordo)}
