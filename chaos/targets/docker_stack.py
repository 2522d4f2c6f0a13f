"""Control a cluster in containers, as `docker-compose.yml` starts it, through the engine.

It touches only the containers of one compose project. The engine does not restart a container that
was killed by hand; healing does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self

import aiohttp
import docker
import docker.errors
from typing_extensions import override

from acordo import AcordoError, Client
from chaos.targets.base import HEALTHY_WITHIN_S, PROBE_TIMEOUT_S, Target, majority_leader
from chaos.targets.docker_engine import (
    ENGINE_TIMEOUT_S,
    EngineFailed,
    NoStack,
    NotHealed,
    ask,
    bridge_gateway,
    published,
)
from chaos.waiting import until

PROJECT: Final = "com.docker.compose.project"
SERVICE: Final = "com.docker.compose.service"
NODES: Final = {"n1": "node1", "n2": "node2", "n3": "node3"}
STORES: Final = ("postgres", "cockroach", "cockroach1")
STOP_S: Final = 30
MASTER_WITHIN_S: Final = 30.0
"""Longest wait for a fail-over of Redis to end."""
How = Literal["kill", "pause", "disconnect"]


def place_of(member: str) -> str:
    """Return the place of a member in NODES. The replacements of n2 are called n2-2, n2-3 and so
    on.
    """
    place, _, number = member.rpartition("-")
    return place if number.isdigit() and place in NODES else member


class DockerTarget(Target):
    """The stack of a compose project: `async with DockerTarget() as target`.

    The project is the given one, COMPOSE_PROJECT_NAME, or "acordo".
    """

    def __init__(self, project: str | None = None) -> None:
        self.project = project or os.environ.get("COMPOSE_PROJECT_NAME") or "acordo"
        self.nodes: tuple[str, ...] = tuple(NODES)
        self._urls: tuple[str, ...] = ()
        self.balancer_url = ""
        self.services: frozenset[str] = frozenset()

    async def __aenter__(self) -> Self:
        """Find the stack's containers. Raises NoStack if there are none."""
        try:
            self.docker: Any = await ask(partial(docker.from_env, timeout=ENGINE_TIMEOUT_S))
            found = await ask(self._containers)
        except EngineFailed as exc:
            raise NoStack(f"no Docker engine answers: {exc}") from exc
        self.services = frozenset(found)
        if missing := [s for s in NODES.values() if s not in found]:
            raise NoStack(
                f"project {self.project} has no {', '.join(missing)}: ./start.sh starts it"
            )
        self._urls = tuple(published(found[NODES[n]], "8000/tcp") for n in self.nodes)
        self.balancer_url = published(found["nginx"], "8080/tcp") if "nginx" in found else ""
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        healing = asyncio.ensure_future(self.heal_all())
        try:
            await asyncio.shield(healing)
        except asyncio.CancelledError:
            await healing
            raise
        finally:
            await self._http.close()
            await asyncio.to_thread(self.docker.close)

    # ----------------------------------------------------------------------------------- what it is

    @property
    @override
    def urls(self) -> tuple[str, ...]:
        return self._urls

    @property
    @override
    def looking_urls(self) -> tuple[str, ...]:
        return self._urls

    @property
    @override
    def abilities(self) -> frozenset[str]:
        return frozenset({"containers"} | {f"container:{s}" for s in self.services})

    @property
    def store(self) -> str | None:
        """Return the service of the store; None if the stack has none of its own."""
        return next((s for s in STORES if s in self.services), None)

    @override
    async def leader(self) -> str | None:
        claims = await asyncio.gather(*(self._leader_by(url) for url in self._urls))
        return majority_leader(claims, len(self.nodes))

    @override
    async def answers(self, node: str) -> bool:
        return await self._status(node, "/livez") is not None

    @override
    async def ready(self, node: str) -> bool:
        return await self._status(node, "/readyz") == 200

    @override
    async def healthy(self, within_s: float = HEALTHY_WITHIN_S) -> bool:
        async def all_ready() -> bool:
            return (
                all(await asyncio.gather(*(self.ready(n) for n in self.nodes)))
                and await self.leader() is not None
            )

        return await until(all_ready, within_s)

    async def _leader_by(self, url: str) -> str | None:
        with contextlib.suppress(AcordoError):
            async with Client(url, retries=False, timeout_s=PROBE_TIMEOUT_S) as client:
                leader = (await client.cluster()).leader
                return None if leader is None else place_of(leader)
        return None

    async def _status(self, node: str, path: str) -> int | None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self._http.get(self._urls[self.nodes.index(node)] + path) as response:
                return response.status
        return None

    async def gateway(self) -> str:
        """Return the address at which the stack's Prometheus reaches this machine."""
        with contextlib.suppress(docker.errors.DockerException, KeyError, IndexError):
            return await asyncio.to_thread(bridge_gateway, self.docker)
        return "127.0.0.1"

    async def redis_master(self) -> str:
        """Return the service that a Sentinel reports as master.

        Raises NoStack if none does so within MASTER_WITHIN_S.
        """
        found = ""

        async def named() -> bool:
            nonlocal found
            for sentinel in ("sentinel1", "sentinel2", "sentinel3"):
                with contextlib.suppress(NoStack):
                    answer = await self.execute(
                        sentinel,
                        [
                            "redis-cli",
                            "-p",
                            "26379",
                            "sentinel",
                            "get-master-addr-by-name",
                            "acordo",
                        ],
                    )
                    found = answer.split()[0] if answer.split() else ""
                    if found in self.services:
                        return True
            return False

        if not await until(named, MASTER_WITHIN_S):
            raise NoStack(
                f"no Sentinel names a Redis of this stack as master within {MASTER_WITHIN_S:g} s"
            )
        return found

    # ----------------------------------------------------------------------- what can be done to it

    async def execute(self, service: str, command: list[str]) -> str:
        """Run a command in a container and return its output."""
        container = await self._container(service)
        _, output = await ask(partial(container.exec_run, command))
        return bytes(output).decode(errors="replace")

    async def state(self, service: str) -> str:
        """Return a container's state in the engine's words: running, paused, exited and so on."""
        return str((await self._container(service)).status)

    async def started_at(self, service: str) -> str:
        """Return the time of a container's last start, as the engine reports it."""
        return str((await self._container(service)).attrs["State"]["StartedAt"])

    async def connected(self, service: str) -> bool:
        """Return whether a container is connected to any network."""
        return bool((await self._container(service)).attrs["NetworkSettings"]["Networks"])

    async def strike(self, how: How, services: Sequence[str]) -> float:
        """Kill, pause or disconnect containers concurrently; return the loop's time just before
        that.

        The time is taken after the look-up and before the first call to the engine, so the time
        that the engine takes counts as part of the fault.
        """
        found = await ask(self._containers)
        acts = [act for service in services for act in self._acts(how, self._of(found, service))]
        if not acts:
            raise EngineFailed(f"{', '.join(services)}: on no network already")
        began = asyncio.get_running_loop().time()
        await ask(*acts)
        return began

    async def kill(self, service: str) -> None:
        """Kill a container (SIGKILL); it stays down until `start`."""
        await self._do(service, "kill")

    async def stop(self, service: str) -> None:
        """Stop a container (SIGTERM, then SIGKILL after STOP_S); it stays down until `start`."""
        await self._do(service, "stop", timeout=STOP_S)

    async def start(self, service: str) -> None:
        """Start a container again."""
        await self._do(service, "start")

    async def restart(self, service: str) -> None:
        """Stop a container and start it again."""
        await self._do(service, "restart", timeout=STOP_S)

    async def pause(self, service: str) -> None:
        """Freeze all processes of a container (cgroup freezer)."""
        await self._do(service, "pause")

    async def resume(self, service: str) -> None:
        """Unfreeze the processes of a container."""
        await self._do(service, "unpause")

    async def disconnect(self, service: str) -> None:
        """Disconnect a container from its networks, so that nothing passes in or out.

        Its published port stops working too.
        """
        await self.strike("disconnect", (service,))

    async def connect(self, service: str) -> None:
        """Reconnect a container under its former names.

        Raises EngineFailed if it is in no network afterwards.
        """
        await ask(partial(self._connect, service))
        if not await self.connected(service):
            raise EngineFailed(f"{service} cannot be put back on its network")

    async def heal_all(self) -> None:
        """Start, unpause and reconnect every container that should run. Raises NotHealed."""
        await self.heal_each(
            service
            for service, container in (await ask(self._containers)).items()
            if container.attrs["HostConfig"]["RestartPolicy"]["Name"]
            not in ("", "no", "on-failure")
        )

    async def heal_each(self, services: Iterable[str]) -> None:
        """Heal containers concurrently; the failure of one does not affect the others.

        Each failure is printed on stderr when it happens. Raises NotHealed at the end, naming all
        of them.
        """
        wrong = []

        async def one(service: str) -> None:
            try:
                await self.heal(service)
            except NoStack as exc:
                wrong.append(service)
                # Printing fails if the terminal is gone, which must not end the healing.
                with contextlib.suppress(OSError):
                    print(f"error: {service} is not healed: {exc}", file=sys.stderr, flush=True)

        await asyncio.gather(*(one(service) for service in services))
        if wrong:
            raise NotHealed(f"not healed, look after them: {', '.join(sorted(wrong))}")

    async def heal(self, service: str) -> None:
        """Start, unpause and reconnect one container."""
        if not await self.connected(service):
            await self.connect(service)
        match await self.state(service):
            case "paused":
                await self.resume(service)
            case "exited" | "created" | "dead":
                await self.start(service)

    async def _do(self, service: str, what: str, **how: Any) -> None:
        container = await self._container(service)
        await ask(partial(getattr(container, what), **how))

    async def _container(self, service: str) -> Any:
        return self._of(await ask(self._containers), service)

    def _of(self, found: dict[str, Any], service: str) -> Any:
        if service not in found:
            raise NoStack(f"project {self.project} has no {service}")
        return found[service]

    def _containers(self) -> dict[str, Any]:
        """Return the first container of each service."""
        label = f"{PROJECT}={self.project}"
        found = {}
        for container in self.docker.containers.list(
            all=True, filters={"label": label}, ignore_removed=True
        ):
            if container.labels.get("com.docker.compose.container-number", "1") == "1":
                found[container.labels[SERVICE]] = container
        return found

    def _acts(self, how: How, container: Any) -> list[Callable[[], object]]:
        """Return the calls that strike one container: several if it leaves several networks."""
        if how != "disconnect":
            return [getattr(container, how)]
        names = container.attrs["NetworkSettings"]["Networks"]
        return [
            partial(self.docker.api.disconnect_container_from_network, container.id, name, True)
            for name in names
        ]

    def _connect(self, service: str) -> None:
        container = self._of(self._containers(), service)
        aliases = [service, *(["nodes"] if service in NODES.values() else [])]
        for network in self.docker.networks.list(filters={"label": f"{PROJECT}={self.project}"}):
            with contextlib.suppress(docker.errors.APIError):  # it is in there already
                network.connect(container, aliases=aliases)
