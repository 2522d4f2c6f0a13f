"""Find a Docker engine, or start a private one; bring the stack up in it and take it down.

It touches only its own compose project, and stops only the engine that it started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import docker
import docker.errors

from cluster.ports import free_port
from cluster.services.process import wait_until

ROOT: Final = Path(__file__).parent.parent.parent
PROJECT: Final = f"acordotest{os.getpid()}"
UP_TIMEOUT_S: Final = 600
ENGINE_WITHIN_S: Final = 120.0
PORTS: Final = ("HTTP", "NODE1", "NODE2", "NODE3", "PROMETHEUS", "ALERTMANAGER", "RABBITMQ")


class NoEngine(Exception):
    """Why there can be no Docker engine here."""


@contextlib.contextmanager
def engine(*, start: bool) -> Iterator[str]:
    """Yield the URL of an engine: the one that answers, else, with `start`, a private one. Raises
    NoEngine.
    """
    running = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if _answers(running):
        yield running
        return
    if not start:
        raise NoEngine("no Docker engine answers; `make test-stack` installs and starts one")
    if os.geteuid() != 0:
        raise NoEngine("no Docker engine answers, and starting one takes root")
    _install()
    former = {name: value for name, value in os.environ.items() if name == "DOCKER_HOST"}
    forwards = _forwards()
    with tempfile.TemporaryDirectory(prefix="acordo-docker-", ignore_cleanup_errors=True) as folder:
        url = f"unix://{folder}/docker.sock"
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(
                ["dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec",
                 "-H", url, "--pidfile", f"{folder}/pid"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            try:
                wait_until(
                    lambda: process.poll() is not None or _answers(url),
                    "dockerd",
                    timeout_s=ENGINE_WITHIN_S,
                )
            except TimeoutError as exc:
                raise NoEngine(
                    f"dockerd does not answer: {Path(folder, 'log').read_text()[-500:]}"
                ) from exc
            if process.poll() is not None:
                raise NoEngine(
                    f"dockerd does not run here: {Path(folder, 'log').read_text()[-500:]}"
                )
            os.environ["DOCKER_HOST"] = url
            yield url
        finally:
            os.environ.pop("DOCKER_HOST", None)
            os.environ.update(former)
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
            _forward_again(forwards)


FORWARDING: Final = Path("/proc/sys/net/ipv4/ip_forward")


def _forwards() -> tuple[str, str]:
    """Return what the kernel does with the packets of others: its switch, and iptables' policy.
    Engines change both.
    """
    said = subprocess.run(
        ["iptables", "-S", "FORWARD"], capture_output=True, text=True, check=False
    ).stdout
    policy = said.splitlines()[0].split()[-1] if said else ""
    return FORWARDING.read_text().strip(), policy


def _forward_again(before: tuple[str, str]) -> None:
    """Leave both as they were found."""
    switch, policy = before
    with contextlib.suppress(OSError):
        FORWARDING.write_text(switch)
    if policy:
        subprocess.run(["iptables", "-P", "FORWARD", policy], capture_output=True, check=False)


def _answers(url: str) -> bool:
    with contextlib.suppress(docker.errors.DockerException):
        client: Any = docker.DockerClient(base_url=url, timeout=5)
        try:
            return bool(client.ping())
        finally:
            client.close()
    return False


def _install() -> None:
    programs = {"docker.io": "dockerd", "docker-compose": "docker-compose", "iptables": "iptables"}
    wanted = [package for package, program in programs.items() if shutil.which(program) is None]
    if not wanted:
        return
    if shutil.which("apt-get") is None:
        raise NoEngine(f"not there, and no apt-get to bring it: {', '.join(wanted)}")
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *wanted]
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for each in (["apt-get", "update", "-q"], command):
        done = subprocess.run(
            each,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environ,
            check=False,
        )
        if done.returncode:
            raise NoEngine(f"{' '.join(each)} failed: {done.stdout[-500:]}")


class Stack:
    """The stack of docker-compose.yml with the distribution's images, under ports of its own.

    `store` is the URL of its server, or `replicated`: each node keeps its own copy.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        project: str = PROJECT,
        store: str = "postgresql://acordo:acordo@postgres/acordo",
    ) -> None:
        self.project = project
        ports: set[int] = set()
        while len(ports) < len(PORTS):
            ports.add(free_port())
        self.ports = dict(zip(PORTS, ports, strict=True))
        socket = url.removeprefix("unix://")
        settings = {
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_PROFILES": "replicated" if store == "replicated" else "postgres",
            "ACORDO_STORE": store,
            "ACORDO_DOCKER_SOCK": socket,
            "ACORDO_DOCKER_GID": str(os.stat(socket).st_gid),
            **{f"ACORDO_{name}_PORT": str(port) for name, port in self.ports.items()},
            # Small figures: a test's load makes it scale out, and its end in again.
            "ACORDO_OBSERVERS_MAX": "1",
            "ACORDO_AUTOSCALER_PERIOD_S": "2",
            "ACORDO_AUTOSCALER_COOL_DOWN_S": "10",
            "ACORDO_AUTOSCALER_IN_FLIGHT_HIGH": "6",
            "ACORDO_AUTOSCALER_IN_FLIGHT_LOW": "3",
        }
        self.env_file = folder / "env"
        self.settings = settings

    @property
    def label(self) -> str:
        """Return the label of everything that belongs to this stack."""
        return f"com.docker.compose.project={self.project}"

    def containers(self, *services: str) -> dict[str, Any]:
        """Return the containers, by service; of these services alone, if some are named."""
        client: Any = docker.from_env()
        found = client.containers.list(all=True, filters={"label": self.label})
        by_service = {c.labels["com.docker.compose.service"]: c for c in found}
        return {n: c for n, c in by_service.items() if not services or n in services}

    def node(self, number: int) -> str:
        """Return a node's own URL."""
        return f"http://127.0.0.1:{self.ports[f'NODE{number}']}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['HTTP']}"

    @property
    def prometheus(self) -> str:
        return f"http://127.0.0.1:{self.ports['PROMETHEUS']}"

    def start(self, environ: dict[str, str]) -> None:
        """Run ./start.sh, as its reader does."""
        self.env_file.write_text(
            "".join(f"{k}={v}\n" for k, v in (self.settings | environ).items())
        )
        done = self.script()
        if done.returncode:
            raise RuntimeError(f"./start.sh failed:\n{done.stdout[-4000:]}\n{self.logs()}")
        self.said = done.stdout

    def change(self, name: str, value: str) -> None:
        """Change one setting, to be brought in by the next start."""
        lines = [
            line
            for line in self.env_file.read_text().splitlines()
            if not line.startswith(f"{name}=")
        ]
        self.env_file.write_text("".join(f"{line}\n" for line in [*lines, f"{name}={value}"]))

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ./start.sh with this stack's settings."""
        return subprocess.run(
            ["bash", str(ROOT / "start.sh"), *arguments],
            cwd=ROOT,
            env={**os.environ, "ACORDO_ENV_FILE": str(self.env_file)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=UP_TIMEOUT_S,
            check=False,
        )

    def logs(self) -> str:
        client: Any = docker.from_env()
        parts = []
        for container in client.containers.list(all=True, filters={"label": self.label}):
            health = container.attrs["State"].get("Health", {}).get("Status", "")
            parts.append(
                f"== {container.name} {container.status} {health}\n"
                f"{container.logs(tail=5).decode(errors='replace')}"
            )
        return "\n".join(parts)

    def down(self) -> None:
        """Remove containers and volumes of this project, and nothing else."""
        self.script("down")
        client: Any = docker.from_env(timeout=60)
        for volume in client.volumes.list(filters={"label": self.label}):
            for _ in range(20):
                try:
                    volume.remove(force=True)
                    break
                except docker.errors.APIError:
                    time.sleep(0.5)
