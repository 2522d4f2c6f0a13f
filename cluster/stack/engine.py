"""Run commands of the container engine and of Compose, and return their results unjudged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

CALL_TIMEOUT_S: Final = 900.0
"""Longest time for one command. Building and pulling are the slow ones."""


class StackFailed(Exception):
    """A command on the stack failed. The text says what went wrong and what to do about it."""


class Done:
    """The result of a command: its exit code and output."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out.strip(), err.strip()

    @property
    def ok(self) -> bool:
        """Return whether the exit code was 0."""
        return self.code == 0

    def last(self, lines: int) -> str:
        """Return the last lines of standard error or, if that is empty, of standard output."""
        return "\n".join((self.err or self.out).splitlines()[-lines:])


def run(
    command: Sequence[str],
    *,
    given: str = "",
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Done:
    """Run a command to its end and return the result. Its output may be any bytes.

    `given` is its standard input. Raises StackFailed if it cannot be run or takes longer than
    CALL_TIMEOUT_S.
    """
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environ,
            cwd=cwd,
            timeout=CALL_TIMEOUT_S,
            check=False,
        )
    except OSError as exc:
        raise StackFailed(f"{command[0]} cannot be run: {exc.strerror or exc}") from exc
    except subprocess.TimeoutExpired as exc:
        raise StackFailed(
            f"{' '.join(command[:4])} did not end within {CALL_TIMEOUT_S:.0f} s"
        ) from exc
    return Done(done.returncode, done.stdout, done.stderr)


def find_compose() -> tuple[str, ...]:
    """Return the command of Compose, after checking that Docker answers and both are new enough.

    Raises StackFailed.
    """
    if shutil.which("docker") is None:
        raise StackFailed(
            "Docker is missing. Debian, Ubuntu: sudo apt-get install docker.io docker-compose"
        )
    said = run(("docker", "version", "--format", "{{.Server.Version}}"))
    if not said.ok:
        if "ermission" in said.last(5):
            user = os.environ.get("USER", "YOU")
            raise StackFailed(
                "no permission to talk to Docker: add yourself to its group (sudo usermod -aG "
                f"docker {user}, then log in again), or use sudo"
            )
        raise StackFailed(
            "the Docker engine does not answer: start it (sudo systemctl start docker). It said: "
            f"{said.last(3)}"
        )
    version = re.match(r"(\d+)\.", said.out)
    if version is None or int(version[1]) < 20:
        raise StackFailed(f"Docker {said.out} is too old: 20.10 or newer is needed")
    if run(("docker", "compose", "version")).ok:
        return ("docker", "compose")
    if shutil.which("docker-compose") is None:
        raise StackFailed(
            "Docker Compose is missing. Debian, Ubuntu: sudo apt-get install docker-compose"
        )
    said = run(("docker-compose", "version", "--short"))
    if not said.ok:
        raise StackFailed(f"docker-compose is there and does not run; it said: {said.last(1)}")
    if not re.match(r"1\.29|v?[2-9]|v?\d\d", said.out):
        raise StackFailed(f"docker-compose {said.out} is too old: 1.29 or newer is needed")
    return ("docker-compose",)


class Engine:
    """The engine and Compose for one project.

    Only the file of settings counts: variables exported in the shell (`names`) are removed from the
    environment, because Compose would prefer them.
    """

    def __init__(
        self, compose: tuple[str, ...], env_file: Path, project: str, names: Sequence[str]
    ) -> None:
        left_out = {*names, "COMPOSE_FILE", "COMPOSE_ENV_FILES", "COMPOSE_PROJECT_DIRECTORY"}
        self.environ = {name: value for name, value in os.environ.items() if name not in left_out}
        self.project = project
        self.command = (*compose, "--env-file", str(env_file), "-p", project)

    def docker(self, *arguments: str) -> Done:
        """Run a command of the engine."""
        return run(("docker", *arguments), environ=self.environ)

    def compose(self, *arguments: str, given: str = "") -> Done:
        """Run a command of Compose with `given` as its standard input."""
        return run((*self.command, *arguments), given=given, environ=self.environ)

    def containers(self, *, service: str = "", running: bool = False) -> list[str]:
        """Return the ids of the project's containers. Raises StackFailed."""
        label = f"label=com.docker.compose.project={self.project}"
        which = ["--filter", f"label=com.docker.compose.service={service}"] if service else []
        return self._ps("-q" if running else "-aq", "--filter", label, *which).split()

    def observers(self) -> list[str]:
        """Return the ids of the containers that the autoscaler started. Raises StackFailed."""
        return self._ps("-aq", "--filter", f"label=acordo.project={self.project}").split()

    def published(self) -> set[int]:
        """Return the ports of this machine that the project's containers publish. Raises
        StackFailed.
        """
        label = f"label=com.docker.compose.project={self.project}"
        said = self._ps("--format", "{{.Ports}}", "--filter", label)
        return {int(port) for port in re.findall(r":(\d+)->", said)}

    def _ps(self, *arguments: str) -> str:
        done = self.docker("ps", *arguments)
        if not done.ok:
            raise StackFailed(f"docker ps failed: {done.last(3)}")
        return done.out

    def inspect(self, template: str, *ids: str) -> list[str] | None:
        """Return one line for each container; None if one of them no longer exists."""
        done = self.docker("inspect", "--format", template, *ids)
        return done.out.splitlines() if done.ok else None
