"""What start.sh refuses, and what it says: with a docker on PATH that says what the test wants it to say."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOOLS = ("bash", "sed", "tail", "tr", "od", "grep", "dirname", "head", "sort", "cat", "stat", "mv", "xargs", "cut")
DOCKER = r"""#!/bin/bash
echo "docker $*" >> "$FAKE/calls"
case "$1 $2" in
    "version "*) [ ! -e "$FAKE/refuses" ] || { cat "$FAKE/refuses" >&2; exit 1; }; cat "$FAKE/version" ;;
    "compose "*) exit 1 ;;
    "image inspect") [ -e "$FAKE/images" ] && grep -qx "$3" "$FAKE/images" ;;
    "volume inspect") [ -e "$FAKE/stamp" ] && cat "$FAKE/stamp" ;;
    "pull "*) exit 1 ;;
    "info "*) cat "$FAKE/memory" ;;
    *) exit 0 ;;
esac
"""
COMPOSE = r"""#!/bin/bash
echo "docker-compose $*" >> "$FAKE/calls"
case " $* " in
    *" version "*) cat "$FAKE/compose" ;;
    *" config "*) cat "$FAKE/config" ;;
    *" build "*) exit 1 ;;
esac
"""


class Machine:
    """A folder with everything that start.sh finds on PATH, and what its docker says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.env = folder, folder / "bin", folder / "env"
        self.bin.mkdir()
        for tool in TOOLS:
            for place in ("/bin", "/usr/bin"):
                if os.access(f"{place}/{tool}", os.X_OK):
                    (self.bin / tool).symlink_to(f"{place}/{tool}")
                    break
        for name, text in (("docker", DOCKER), ("docker-compose", COMPOSE)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        self.says(version="20.10.24", compose="1.29.2", memory="8000000000", config="    image: one:1")
        self.ports = {}
        for name in ("HTTP", "NODE1", "NODE2", "NODE3", "PROMETHEUS", "RABBITMQ"):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.ports[f"ACORDO_{name}_PORT"] = str(probe.getsockname()[1])
        self.settings({})

    def says(self, **what: str) -> None:
        for name, text in what.items():
            (self.folder / name).write_text(text + "\n")

    def settings(self, more: dict[str, str], text: str = "") -> None:
        pair = {"COMPOSE_PROFILES": "crdb", "ACORDO_STORE": "cockroachdb://root@cockroach:26257/defaultdb"}
        self.env.write_text("".join(f"{k}={v}\n" for k, v in (pair | self.ports | more).items()) + text)

    def start(self, *arguments: str) -> str:
        """Run it; return what it said. It must refuse, and must not have started or removed anything."""
        environ = {"PATH": str(self.bin), "FAKE": str(self.folder), "ACORDO_ENV_FILE": str(self.env), "USER": "you"}
        done = subprocess.run(
            [str(self.bin / "bash"), str(ROOT / "start.sh"), *arguments],
            env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stdout
        calls = (self.folder / "calls").read_text() if (self.folder / "calls").exists() else ""
        for verb in (" up ", " down", " rm ", "volume rm", "prune"):
            assert verb not in calls, calls
        said = done.stdout.splitlines()
        assert said[-1].startswith("error: "), done.stdout
        return done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_docker_missing(machine: Machine) -> None:
    (machine.bin / "docker").unlink()
    assert "Docker is missing" in machine.start()


def test_docker_without_permission(machine: Machine) -> None:
    machine.says(refuses="permission denied while trying to connect to the Docker daemon socket")
    assert "no permission to talk to Docker: add yourself to its group" in machine.start()


def test_engine_does_not_answer(machine: Machine) -> None:
    machine.says(refuses="Cannot connect to the Docker daemon at unix:///var/run/docker.sock")
    assert "the Docker engine does not answer: start it" in machine.start()


@pytest.mark.parametrize("version", ["19.03.15", "1.13.1", "what"])
def test_docker_too_old(machine: Machine, version: str) -> None:
    machine.says(version=version)
    assert f"Docker {version} is too old: 20.10 or newer" in machine.start()


def test_compose_missing_or_too_old(machine: Machine) -> None:
    machine.says(compose="1.25.0")
    assert "docker-compose 1.25.0 is too old: 1.29 or newer" in machine.start()
    (machine.bin / "docker-compose").unlink()
    assert "Docker Compose is missing" in machine.start()


def test_too_little_memory(machine: Machine) -> None:
    machine.says(memory="2000000000")
    assert "the engine has 2000 MB of memory; the stack needs 4 GB" in machine.start()


@pytest.mark.parametrize("name", ["HTTP", "NODE2", "PROMETHEUS", "RABBITMQ"])
def test_port_taken(machine: Machine, listener: int, name: str) -> None:
    machine.settings({f"ACORDO_{name}_PORT": str(listener)})
    said = machine.start()
    assert f"port {listener} is taken: stop what listens there, or set ACORDO_{name}_PORT" in said


@pytest.mark.parametrize(("profile", "name"), [("grafana", "GRAFANA"), ("crdb", "COCKROACH")])
def test_port_of_a_profile_taken(machine: Machine, listener: int, profile: str, name: str) -> None:
    machine.settings({f"ACORDO_{name}_PORT": str(listener), "COMPOSE_PROFILES": f"crdb,{profile}"})
    assert f"port {listener} is taken" in machine.start()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ACORDO_TYPO=1", "ACORDO_TYPO is no setting; .env.example has them all"),
        ("no line of a file of settings", "is no NAME=value"),
        ("lower=1", "is no NAME=value"),
        ("ACORDO_HTTP_PORT=eighty", "ACORDO_HTTP_PORT=eighty is no port"),
        ("ACORDO_HTTP_PORT=0", "is no port"),
        ("ACORDO_HTTP_PORT=70000", "is no port"),
        ("ACORDO_GRAFANA_PASSWORD=a b", "may have letters, digits and . _ - only"),
        ("ACORDO_RABBITMQ_USER=", "may have letters, digits and . _ - only"),
        ("COMPOSE_PROFILES=crdb,mysql", "profile mysql is unknown; there are crdb, crdb3, postgres, grafana"),
        ("COMPOSE_PROFILES=postgres", "COMPOSE_PROFILES and ACORDO_STORE do not fit together"),
        ("ACORDO_OBSERVERS_MAX=many", "ACORDO_OBSERVERS_MAX=many is no whole number"),
        ("ACORDO_AUTOSCALER_PERIOD_S=soon", "ACORDO_AUTOSCALER_PERIOD_S=soon is no number"),
        ("COMPOSE_PROJECT_NAME=My Stack", "COMPOSE_PROJECT_NAME may have"),
    ],
)
def test_a_setting_that_is_unknown_or_malformed(machine: Machine, line: str, why: str) -> None:
    machine.settings({}, line + "\n")
    assert why in machine.start()


def test_an_unknown_command(machine: Machine) -> None:
    assert "'restart' is no command; there are down and status" in machine.start("restart")


@pytest.mark.parametrize("command", ["down", "status"])
def test_commands_before_the_first_start(machine: Machine, command: str) -> None:
    machine.env.unlink()
    assert "is not there: ./start.sh makes it" in machine.start(command)


@pytest.mark.parametrize("stamp", ["2", "0"])
def test_volumes_of_another_version_are_refused_and_left_alone(machine: Machine, stamp: str) -> None:
    machine.says(stamp=stamp)
    said = machine.start()
    assert f"are of format {stamp}, this version knows 1" in said
    assert "nothing was changed" in said


def test_images_that_cannot_be_had(machine: Machine) -> None:
    assert "image one:1 cannot be pulled; where no image registry is reached: make images" in machine.start()
    machine.says(config="    image: acordo-node:air")
    assert "image acordo-node:air is not there: make images" in machine.start()
    machine.says(config="    image: acordo-node:local")
    assert "building failed; where no image registry is reached: make images" in machine.start()


def test_the_first_start_makes_secrets_once_and_shows_them_to_nobody_else(machine: Machine) -> None:
    machine.env.unlink()
    machine.says(version="20.10.24", memory="1")
    assert "wrote " in machine.start()
    first = machine.env.read_text()
    assert machine.env.stat().st_mode & 0o077 == 0
    secrets = dict(line.split("=", 1) for line in first.splitlines() if line and not line.startswith("#"))
    assert len(secrets["ACORDO_POSTGRES_PASSWORD"]) == len(secrets["ACORDO_RABBITMQ_COOKIE"]) == 32
    assert secrets["ACORDO_POSTGRES_PASSWORD"] not in machine.start()
    assert machine.env.read_text() == first
