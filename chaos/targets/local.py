"""Run a cluster on this machine whose processes and links can be disturbed.

It treats the cluster from outside only: processes, ports, HTTP. It imports nothing of the nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Final, Self

import aiohttp
from typing_extensions import override

from acordo import AcordoError, Client
from chaos.targets import slowdisk, wallclock
from chaos.targets.base import (
    HEALTHY_WITHIN_S,
    PROBE_TIMEOUT_S,
    NodeLinks,
    NodeProcesses,
    Target,
    majority_leader,
)
from chaos.targets.proxy import Mesh
from chaos.targets.services import Services
from chaos.waiting import until
from cluster.local.process import NodeProcess
from cluster.local.runner import LocalCluster
from cluster.settings.runner import RAFT_PORT_OFFSET, RunnerSettings
from cluster.settings.values import PREFIX

NODE: Final = (sys.executable, "-m", "node")


class LocalTarget(Target, NodeProcesses, NodeLinks):
    """A cluster of node processes whose links all lead through our proxies.

    `async with LocalTarget(RunnerSettings(...), Random(7)) as target`. A node that installs another
    node's snapshot learns the members' addresses as that node knows them, which are its proxies.
    From then on a cut between those two also cuts the first one. This makes faults larger, never
    smaller.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        rng: Random,
        *,
        command: tuple[str, ...] | None = None,
        services: Services | None = None,
        clocks: bool = False,
    ) -> None:
        self.settings, self.command = settings, command
        self.services, self.clocks = services, clocks
        if clocks:
            self.command = _with_wall_clock(command or NODE)
        self.mesh = Mesh(rng)
        self.nodes: tuple[str, ...] = tuple(f"n{n + 1}" for n in range(settings.nodes))
        self.lines: list[str] = []
        """Lines that the runner reported."""
        self._stack = contextlib.AsyncExitStack()
        self.cluster: LocalCluster

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.mesh)
            timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
            self._http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            overrides = {}
            for node in self.nodes:
                await self.mesh.add_client(node, "127.0.0.1", self._http_port(node))
                routes = [
                    f"{other}={await self._route(node, other)}"
                    for other in self.nodes
                    if other != node
                ]
                overrides[node] = {
                    PREFIX + "RAFT_ROUTES": ",".join(routes),
                    **self._clock(node),
                }
            self.cluster = LocalCluster(
                self.settings, say=self.lines.append, command=self.command, overrides=overrides
            )
            await stack.enter_async_context(self.cluster)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.mesh.heal()
        for node in self.nodes:
            self.resume(node)
        await self._stack.__aexit__(kind, exc, trace)

    async def _route(self, node: str, other: str) -> str:
        """Return the proxy's address through which `node` reaches `other`, whatever `other`
        advertises.
        """
        port = self._http_port(other) + RAFT_PORT_OFFSET
        return (await self.mesh.add_peer(node, other, "127.0.0.1", port)).address

    def _http_port(self, node: str) -> int:
        return self.settings.base_port + self.nodes.index(node)

    # ----------------------------------------------------------------------------------------------
    # what it is

    @property
    @override
    def urls(self) -> tuple[str, ...]:
        return tuple(f"http://{self.mesh.clients[n].address}" for n in self.nodes)

    @property
    def direct_urls(self) -> tuple[str, ...]:
        """Return URLs that bypass the proxies, for observing."""
        return tuple(f"http://127.0.0.1:{self._http_port(n)}" for n in self.nodes)

    @property
    @override
    def looking_urls(self) -> tuple[str, ...]:
        return self.direct_urls

    @property
    @override
    def abilities(self) -> frozenset[str]:
        services = self.services.names if self.services is not None else ()
        more = [
            name
            for name, there in (
                ("clocks", self.clocks),
                ("disks", self.clocks),
                ("store-file", not self.settings.store),
            )
            if there
        ]
        return frozenset({"processes", "links", "files", "members", "raft-ports", *services, *more})

    def _clock(self, node: str) -> dict[str, str]:
        """Return the environment by which the node's wall clock can be shifted and its syncs
        slowed.
        """
        if not self.clocks:
            return {}
        self.set_clock(node, 0.0)
        self.set_sync_s(node, 0.0)
        return {
            wallclock.VARIABLE: str(self._clock_file(node)),
            slowdisk.VARIABLE: str(self._sync_file(node)),
        }

    def _clock_file(self, node: str) -> Path:
        return self.settings.data.absolute().parent / f"clock-{node}"

    def set_clock(self, node: str, offset_s: float) -> None:
        """Shift the node's wall clock by `offset_s` from now on."""
        file = self._clock_file(node)
        fresh = file.with_suffix(".new")
        fresh.write_text(f"{offset_s:+.0f}\n")
        fresh.rename(file)

    def _sync_file(self, node: str) -> Path:
        return self.settings.data.absolute().parent / f"sync-{node}"

    def set_sync_s(self, node: str, seconds: float) -> None:
        """Delay every sync of the node that begins from now on by `seconds`."""
        file = self._sync_file(node)
        fresh = file.with_suffix(".new")
        fresh.write_text(f"{seconds:.3f}\n")
        fresh.rename(file)

    async def unsynced_s(self, node: str) -> float | None:
        """Return how long the node's oldest log entry has waited for its disk; None: no answer."""
        url = self.direct_urls[self.nodes.index(node)]
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError):
            async with self._http.get(url + "/v1/cluster") as response:
                return float((await response.json())["unsynced_age_s"])
        return None

    async def skew_s(self, node: str) -> float | None:
        """Return the offset of the node's wall clock, from its HTTP answers; None: no answer."""
        url = self.direct_urls[self.nodes.index(node)]
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError):
            async with self._http.get(url + "/livez") as response:
                return parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()
        return None

    def raft_ports(self, node: str) -> tuple[int, ...]:
        """Return every port used by packets between this node and its peers."""
        dialled = [link.port for (a, _), link in self.mesh.peers.items() if a == node]
        return (self._http_port(node) + RAFT_PORT_OFFSET, *dialled)

    @property
    def store_file(self) -> Path:
        """Return the file of the embedded store."""
        return self.data / "store.sqlite"

    def folder(self, node: str) -> Path:
        """Return the directory of the node."""
        return self._process(node).data_dir

    @property
    def data(self) -> Path:
        """Return the directory that holds the data of all nodes."""
        return self.settings.data

    @override
    async def leader(self) -> str | None:
        claims = await asyncio.gather(*(self._leader_by(n) for n in self.nodes))
        return majority_leader(claims, len(self.nodes))

    @override
    async def answers(self, node: str) -> bool:
        return await self._get(node, "/livez") is not None

    @override
    async def ready(self, node: str) -> bool:
        return await self._get(node, "/readyz") == 200

    @override
    async def healthy(self, within_s: float = HEALTHY_WITHIN_S) -> bool:
        async def all_ready() -> bool:
            return (
                all(await asyncio.gather(*(self.ready(n) for n in self.nodes)))
                and await self.leader() is not None
            )

        return await until(all_ready, within_s)

    async def _leader_by(self, node: str) -> str | None:
        url = self.direct_urls[self.nodes.index(node)]
        with contextlib.suppress(AcordoError):
            async with Client(url, retries=False, timeout_s=PROBE_TIMEOUT_S) as client:
                return (await client.cluster()).leader
        return None

    async def _get(self, node: str, path: str) -> int | None:
        url = self.direct_urls[self.nodes.index(node)]
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self._http.get(url + path) as response:
                return response.status
        return None

    # ----------------------------------------------------------------------------------------------
    # processes

    def _process(self, node: str) -> NodeProcess:
        return self.cluster.nodes[node]

    @override
    def pid(self, node: str) -> int | None:
        return self._process(node).pid

    @override
    async def kill(self, node: str) -> None:
        await self.cluster.stop_node(node, signal.SIGKILL)

    @override
    async def stop(self, node: str) -> None:
        await self.cluster.stop_node(node)

    @override
    def start(self, node: str) -> None:
        self.cluster.start_node(node)

    @override
    def pause(self, node: str) -> None:
        self._process(node).signal(signal.SIGSTOP)

    @override
    def resume(self, node: str) -> None:
        self._process(node).signal(signal.SIGCONT)


def _with_wall_clock(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command, changed to run with a shiftable wall clock. Raises ValueError."""
    if len(command) < 3 or command[1] != "-m":
        raise ValueError(f"{command}: only `PYTHON -m MODULE …` can be run under another clock")
    return (*command[:2], "chaos.targets.wallclock", *command[2:])
