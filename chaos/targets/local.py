"""Run a cluster on this machine whose processes, links and files can be disturbed.

It treats the cluster from outside only: processes, ports, HTTP, files. It imports nothing of the
nodes.
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
from chaos.targets import memberdisk, slowdisk, wallclock
from chaos.targets.base import (
    HEALTHY_WITHIN_S,
    PROBE_TIMEOUT_S,
    NodeLinks,
    NodeProcesses,
    Target,
    majority_leader,
)
from chaos.targets.memberdisk import MemberDisk
from chaos.targets.proxy import Link, Mesh
from chaos.targets.services import Services
from chaos.waiting import until
from cluster.local.process import NodeProcess
from cluster.local.runner import LocalCluster
from cluster.settings.runner import RAFT_PORT_OFFSET, RunnerSettings
from cluster.settings.values import PREFIX

NODE: Final = (sys.executable, "-m", "node")
REPLACE_WITHIN_S: Final = 90.0
STORE: Final = "store.sqlite"


class NotReplaced(Exception):
    """`python -m cluster replace` failed, and says why."""


class LocalTarget(Target, NodeProcesses, NodeLinks):
    """A cluster of node processes whose links all lead through our proxies.

    `async with LocalTarget(RunnerSettings(...), Random(7)) as target`. A node that installs another
    node's snapshot learns the members' addresses as that node knows them, which are its proxies.
    From then on a cut between those two also cuts the first one. This makes faults larger, never
    smaller.

    `nodes` are places, named after the first members. A place whose member is replaced stays, with
    its links, and another member is in it: `ids` says which.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        rng: Random,
        *,
        command: tuple[str, ...] | None = None,
        services: Services | None = None,
        clocks: bool = False,
        member_disks: bool = False,
        spare: int = 0,
    ) -> None:
        """`clocks`: nodes run with a clock and syncs that can be shifted and slowed.
        `member_disks`: they run with files that can be taken back to what was synced. `spare`: how
        many members can be replaced; each needs a port behind those of the first members.
        """
        self.settings, self.command = settings, command
        self.services, self.clocks = services, clocks
        if clocks:
            self.command = _with_wall_clock(command or NODE)
        self.mesh, self._rng = Mesh(rng), rng
        self.nodes: tuple[str, ...] = tuple(f"n{n + 1}" for n in range(settings.nodes))
        self.ids = {node: node for node in self.nodes}
        """The member in each place."""
        self.spares = [f"n{settings.nodes + n + 1}" for n in range(spare)]
        """Ids that the next replacements get, in this order."""
        self.disks: dict[str, MemberDisk] = {}
        """The disk of each place's member."""
        self._member_disks = member_disks and memberdisk.compiler_missing() is None
        self._spare_links: dict[tuple[str, str], Link] = {}
        """(place, spare id) → link by which the member in that place reaches that spare one."""
        self._members: dict[str, dict[str, str]] = {}
        """Settings of each member, as the runner reads them when it starts one."""
        self.lines: list[str] = []
        """Lines that the runner reported."""
        self._stack = contextlib.AsyncExitStack()
        self.cluster: LocalCluster

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.mesh)
            timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
            self._http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            if self._member_disks:
                self._library = memberdisk.build(self._beside)
            for node in self.nodes:
                await self.mesh.add_client(node, "127.0.0.1", self._port_of(node))
                for other in self.nodes:
                    if other != node:
                        port = self._port_of(other) + RAFT_PORT_OFFSET
                        await self.mesh.add_peer(node, other, "127.0.0.1", port)
                for spare in self.spares:
                    port = self._port_of(spare) + RAFT_PORT_OFFSET
                    link = Link("127.0.0.1", port, self._rng)
                    self._spare_links[node, spare] = await stack.enter_async_context(link)
            self._members |= {node: self._overrides(node, node) for node in self.nodes}
            self.cluster = LocalCluster(
                self.settings, say=self.lines.append, command=self.command, overrides=self._members
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

    def _overrides(self, node: str, member: str) -> dict[str, str]:
        """Return the settings of a member in a place: the proxies through which it reaches the
        others, whatever they advertise, its clock, and its disk.
        """
        routes = {self.ids[o]: self.mesh.peers[node, o] for o in self.nodes if o != node}
        routes |= {s: self._spare_links[node, s] for s in self.spares if s != member}
        more = {}
        if self._member_disks:
            side = self._beside / f"disk-{member}"
            self.disks[node] = MemberDisk(self._library, self.data / member, side)
            more = self.disks[node].environ
        text = ",".join(f"{id}={link.address}" for id, link in routes.items())
        return {PREFIX + "RAFT_ROUTES": text, **self._clock(member), **more}

    @property
    def _beside(self) -> Path:
        """Return the directory that holds what this target keeps for itself."""
        folder = self.settings.data.absolute().parent
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _port_of(self, member: str) -> int:
        return self.settings.base_port + int(member.removeprefix("n")) - 1

    def _http_port(self, node: str) -> int:
        return self._port_of(self.ids[node])

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
                ("store-files", bool(self.store_files)),
                ("own-stores", set(self.nodes) <= set(self.store_files)),
                ("member-disks", self._member_disks),
                ("replacements", bool(self.spares)),
            )
            if there
        ]
        return frozenset({"processes", "links", "files", "members", "raft-ports", *services, *more})

    def _clock(self, member: str) -> dict[str, str]:
        """Return the environment by which the member's wall clock can be shifted and its syncs
        slowed.
        """
        if not self.clocks:
            return {}
        clock, sync = self._beside / f"clock-{member}", self._beside / f"sync-{member}"
        _put(clock, "+0\n")
        _put(sync, "0\n")
        return {wallclock.VARIABLE: str(clock), slowdisk.VARIABLE: str(sync)}

    def set_clock(self, node: str, offset_s: float) -> None:
        """Shift the node's wall clock by `offset_s` from now on."""
        _put(self._beside / f"clock-{self.ids[node]}", f"{offset_s:+.0f}\n")

    def set_sync_s(self, node: str, seconds: float) -> None:
        """Delay every sync of the node that begins from now on by `seconds`."""
        _put(self._beside / f"sync-{self.ids[node]}", f"{seconds:.3f}\n")

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
    def store_files(self) -> dict[str, Path]:
        """Return the file of each node's own store that there is."""
        files = {node: self.data / member / STORE for node, member in self.ids.items()}
        return {name: path for name, path in files.items() if path.exists()}

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
        member = majority_leader(claims, len(self.nodes))
        return next((node for node, id in self.ids.items() if id == member), None)

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
        return self.cluster.nodes[self.ids[node]]

    @override
    def pid(self, node: str) -> int | None:
        return self._process(node).pid

    @override
    async def kill(self, node: str) -> None:
        await self.cluster.stop_node(self.ids[node], signal.SIGKILL)

    @override
    async def stop(self, node: str) -> None:
        await self.cluster.stop_node(self.ids[node])

    @override
    def start(self, node: str) -> None:
        self.cluster.start_node(self.ids[node])

    async def replace(self, node: str) -> str:
        """Put a new member into a place, as an operator does; return its id. Raises NotReplaced."""
        member = self.spares[0]
        self._members[member] = self._overrides(node, member)
        command = (sys.executable, "-m", "cluster", "replace", self.ids[node])
        process = await asyncio.create_subprocess_exec(
            *command, "--data", str(self.data), stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(REPLACE_WITHIN_S):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            said, _ = await process.communicate()
        if process.returncode != 0 or member not in self.cluster.nodes:
            raise NotReplaced(said.decode(errors="replace")[-500:])
        self.spares.remove(member)
        self.ids[node] = member
        self.mesh.clients[node].target = ("127.0.0.1", self._port_of(member))
        self.mesh.clients[node].close_all()
        for other in self.nodes:
            if other != node:
                self.mesh.peers[other, node] = self._spare_links[other, member]
        return member

    @override
    def pause(self, node: str) -> None:
        self._process(node).signal(signal.SIGSTOP)

    @override
    def resume(self, node: str) -> None:
        self._process(node).signal(signal.SIGCONT)


def _put(file: Path, text: str) -> None:
    """Write a file in one step, for a process that reads it at any moment."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(file)


def _with_wall_clock(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command, changed to run with a shiftable wall clock. Raises ValueError."""
    if len(command) < 3 or command[1] != "-m":
        raise ValueError(f"{command}: only `PYTHON -m MODULE …` can be run under another clock")
    return (*command[:2], "chaos.targets.wallclock", *command[2:])
