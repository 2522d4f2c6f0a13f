"""An engine of containers that fails, or waits, where a test says so: what the engine's library
shows, and no more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from chaos.targets.docker_stack import PROJECT, SERVICE, DockerTarget


class FakeContainer:
    """What the engine's library shows of one container."""

    def __init__(self, service: str, engine: FakeEngine) -> None:
        self.id = self.name = service
        self.engine, self.status = engine, "running"
        self.labels = {SERVICE: service, PROJECT: "acordo"}
        self.attrs: dict[str, Any] = {
            "NetworkSettings": {"Networks": {"acordo_default": {}}},
            "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}},
            "State": {"StartedAt": "0"},
        }

    def kill(self) -> None:
        self.engine.do("kill", self.id)
        self.status = "exited"

    def start(self) -> None:
        self.engine.do("start", self.id)
        self._begin()

    def restart(self, timeout: int) -> None:
        self.engine.do("restart", self.id)
        self._begin()

    def pause(self) -> None:
        self.engine.do("pause", self.id)
        self.status = "paused"

    def unpause(self) -> None:
        self.engine.do("unpause", self.id)
        self.status = "running"

    def exec_run(self, command: list[str]) -> tuple[int, bytes]:
        self.engine.do("exec", self.id)
        return 0, self.engine.says

    def _begin(self) -> None:
        self.status = "running"
        self.attrs["State"]["StartedAt"] = f"{next(self.engine.clock)}"


class FakeEngine:
    """One network, and a container for each service."""

    def __init__(self, *services: str) -> None:
        self.found = {s: FakeContainer(s, self) for s in services}
        self.containers = SimpleNamespace(list=lambda **how: list(self.found.values()))
        self.api = SimpleNamespace(disconnect_container_from_network=self.cut)
        self.network = SimpleNamespace(connect=self.connect)
        self.networks = SimpleNamespace(list=lambda **how: [self.network])
        self.clock = itertools.count(1)
        self.done: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.says = b"redis1\n6379\n"
        """What every command in a container prints."""
        self.meanwhile: Callable[[], object] = lambda: None

    def do(self, what: str, service: str) -> None:
        self.meanwhile()
        self.done.append(f"{what} {service}")
        if f"{what} {service}" in self.fails:
            raise self.fails[f"{what} {service}"]

    def cut(self, service: str, network: str, force: bool) -> None:
        self.do("cut", service)
        self.found[service].attrs["NetworkSettings"]["Networks"] = {}

    def connect(self, container: FakeContainer, aliases: list[str]) -> None:
        self.do("connect", container.id)
        container.attrs["NetworkSettings"]["Networks"] = {"acordo_default": {}}

    def close(self) -> None: ...


def over(engine: FakeEngine) -> DockerTarget:
    """Return the target of a stack in this engine."""
    target = DockerTarget("acordo")
    target.docker = engine
    target.services = frozenset(engine.found)
    return target
