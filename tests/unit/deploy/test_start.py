"""What start.sh, and so `python -m cluster stack`, refuses, does and says: with a docker on PATH
that says what the test wants it to say.
"""

# ruff: noqa: E501 - the fakes are shell, a line for a case

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.stack import env_file

ROOT = Path(__file__).parents[3]
TOOLS = ("bash", "dirname", "grep", "cat", "sed", "git")
CODE = ("kv", "backends", "coordinator", "node", "acordo", "cluster", "deploy")
DOCKER = r"""#!/bin/bash
echo "docker $*" >> "$FAKE/calls"
case "$1 $2" in
    "version "*) [ ! -e "$FAKE/refuses" ] || { cat "$FAKE/refuses" >&2; exit 1; }; cat "$FAKE/version" ;;
    "compose "*) exit 1 ;;
    "image inspect") [ -e "$FAKE/images" ] && grep -qx "$3" "$FAKE/images" && { [ ! -e "$FAKE/made" ] || cat "$FAKE/made"; } ;;
    "volume inspect") case $3 in
        *_postgres) [ -e "$FAKE/postgres" ] ;;
        *) [ -e "$FAKE/stamp" ] && cat "$FAKE/stamp" ;;
        esac ;;
    "pull "*) [ -e "$FAKE/pulls" ] ;;
    "info "*) cat "$FAKE/memory" ;;
    "ps "*) case "$*" in
        *Ports*) [ ! -e "$FAKE/ports" ] || cat "$FAKE/ports" ;;
        "ps -q "*service=node*) name="$*"; name=${name##*service=}; [ ! -e "$FAKE/running.$name" ] || cat "$FAKE/running.$name" ;;
        *service=*) name="$*"; name=${name##*service=}; name=${name%% *}; [ ! -e "$FAKE/service.$name" ] || cat "$FAKE/service.$name" ;;
        *acordo.project=*) [ ! -e "$FAKE/observers" ] || cat "$FAKE/observers" ;;
        *) echo all ;;
        esac ;;
    "inspect "*) case "$*" in
        *config-hash*) [ ! -e "$FAKE/hash.${*: -1}" ] || cat "$FAKE/hash.${*: -1}" ;;
        *.Created*) cat "$FAKE/about.${*: -1}" ;;
        *)  looks=$(grep -c Status "$FAKE/calls"); file=$FAKE/states.$looks
            [ -e "$file" ] || file=$FAKE/states; cat "$file" ;;
        esac ;;
    "logs "*) echo "last words of $4" ;;
esac
"""
COMPOSE = r"""#!/bin/bash
echo "docker-compose $*" >> "$FAKE/calls"
case " $* " in
    *" version "*) cat "$FAKE/compose" || { echo "ImportError: broken" >&2; exit 1; } ;;
    *" config --hash "*) name=${*: -1}; [ ! -e "$FAKE/wanted.$name" ] || cat "$FAKE/wanted.$name" ;;
    *" config "*) [ ! -e "$FAKE/malformed" ] || { cat "$FAKE/malformed" >&2; exit 1; }; cat "$FAKE/config" ;;
    *" build "*) [ -e "$FAKE/builds" ] ;;
    *" up "*) [ ! -e "$FAKE/stays_down" ]; exit ;;
    *" exec "*)
        given=$(cat); [ -z "$given" ] || echo "given $given" >> "$FAKE/calls"
        user=${*: -1}
        case " $* " in
            *" await_startup "*) [ ! -e "$FAKE/no_rabbit" ] ;;
            *" authenticate_user "*) grep -qx "$user $given" "$FAKE/logins" ;;
            *" add_user "*) if grep -q "^$user " "$FAKE/logins"; then exit 70; fi; echo "$user $given" >> "$FAKE/logins" ;;
            *" change_password "*) sed -i "s/^$user .*/$user $given/" "$FAKE/logins" ;;
        esac ;;
esac
"""
PYTHON = r"""#!/bin/bash
# The project's own code, in the directory where start.sh stands; what needs a running stack is told to have passed.
PYTHONPATH={root} exec {python} -c 'import sys; from cluster.stack import cli, containers, logins
containers.LOOK_EVERY_S = logins.AGAIN_S = 0.0
cli.CHECK = ("bash", "-c", "echo python -m cluster.installation >> $FAKE/calls")
from cluster.__main__ import main; sys.exit(main(sys.argv[1:]))' "${{@:3}}"
"""
UP = "/p_node1_1 node1 running healthy 0 0\n/p_node2_1 node2 running healthy 0 0\n/p_nginx_1 nginx running healthy 0 0\n/p_worker_1 worker running - 0 0\n/p_secret_1 secret exited - 0 0"


class Machine:
    """A checkout, everything that start.sh finds on PATH, and what its docker says."""

    def __init__(self, folder: Path, engine: Path) -> None:
        self.folder, self.root = folder, folder / "root"
        self.bin, self.env = folder / "bin", folder / "env"
        self.engine = engine
        self.bin.mkdir()
        for tool in TOOLS:
            for place in ("/bin", "/usr/bin"):
                if os.access(f"{place}/{tool}", os.X_OK):
                    (self.bin / tool).symlink_to(f"{place}/{tool}")
                    break
        for name, text in (("docker", DOCKER), ("docker-compose", COMPOSE)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        for name in CODE:
            (self.root / name).mkdir(parents=True)
            (self.root / name / "a.py").write_text("")
        for name in ("Dockerfile", "requirements-run.lock"):
            (self.root / name).write_text("")
        (self.root / ".venv/bin").mkdir(parents=True)
        python = self.root / ".venv/bin/python"
        python.write_text(PYTHON.format(python=sys.executable, root=ROOT))
        python.chmod(0o755)
        (self.root / ".venv/.ready").touch()
        for name in ("start.sh", ".env.example", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        self.says(
            version="20.10.24", compose="1.29.2", memory="8000000000", config="    image: one:1"
        )
        self.says(logins="admin admin", states=UP)
        with contextlib.ExitStack() as held:  # at the same time, else one may come twice
            names = (*env_file.PORTS, "COCKROACH", "GRAFANA")
            probes = {name: held.enter_context(socket.socket()) for name in names}
            for probe in probes.values():
                probe.bind(("127.0.0.1", 0))
            self.ports = {
                f"ACORDO_{name}_PORT": str(probe.getsockname()[1]) for name, probe in probes.items()
            }
        self.settings({})

    def says(self, **what: str) -> None:
        for name, text in what.items():
            (self.folder / name.replace("__", ".")).write_text(text + "\n")

    def settings(self, more: dict[str, str], text: str = "") -> None:
        pair = {
            "COMPOSE_PROFILES": "crdb-dev",
            "ACORDO_STORE": "cockroachdb://root@cockroach:26257/defaultdb",
            "ACORDO_DOCKER_SOCK": str(self.engine),
        }
        self.env.write_text(
            "".join(f"{k}={v}\n" for k, v in (pair | self.ports | more).items()) + text
        )

    def calls(self) -> str:
        return (self.folder / "calls").read_text() if (self.folder / "calls").exists() else ""

    def run(self, *arguments: str, **exported: str) -> tuple[int, str]:
        """Run it with these variables exported; return its exit code and what it said."""
        environ = {
            "PATH": str(self.bin),
            "FAKE": str(self.folder),
            "ACORDO_ENV_FILE": str(self.env),
        }
        environ |= {"DOCKER_HOST": f"unix://{self.engine}", "ACORDO_START_WAIT_S": "1"} | exported
        done = subprocess.run(
            [str(self.bin / "bash"), str(self.root / "start.sh"), *arguments],
            env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def start(self, *arguments: str, **exported: str) -> str:
        """Run it; return what it said. It must refuse, and must not have started or removed
        anything.
        """
        code, said = self.run(*arguments, **exported)
        assert code in (1, 78), said
        calls = self.calls()
        for verb in (" up ", " down", " rm ", "volume rm", "prune"):
            assert verb not in calls, calls
        assert said.splitlines()[-1].startswith("error: "), said
        return said

    def comes_up(self, *arguments: str, **exported: str) -> str:
        """Run it where every image can be had; it must succeed."""
        self.says(pulls="", builds="")
        # Two looks alike take no time here, but a second may end between them.
        code, said = self.run(*arguments, **{"ACORDO_START_WAIT_S": "60"} | exported)
        assert code == 0, said
        assert "error: " not in said
        return said

    def fails_late(self) -> str:
        """Run it where every image can be had; it must fail with a message after it started
        things.
        """
        self.says(pulls="", builds="")
        code, said = self.run()
        assert code == 1, said
        assert " up " in self.calls()
        assert said.splitlines()[-1].startswith("error: "), said
        return said


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as engine:
        engine.bind(f"{short}/e")  # a socket's path has at most 107 characters
        yield Machine(tmp_path, Path(short, "e"))


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


@pytest.mark.parametrize(("profile", "name"), [("grafana", "GRAFANA"), ("crdb-dev", "COCKROACH")])
def test_port_of_a_profile_taken(machine: Machine, listener: int, profile: str, name: str) -> None:
    machine.settings(
        {f"ACORDO_{name}_PORT": str(listener), "COMPOSE_PROFILES": f"crdb-dev,{profile}"}
    )
    assert f"port {listener} is taken" in machine.start()


def test_a_port_given_twice(machine: Machine) -> None:
    port = machine.ports["ACORDO_NODE1_PORT"]
    machine.settings({"ACORDO_NODE3_PORT": "0" * (5 - len(port)) + port})
    # published by this project, so it looks like its own
    machine.says(ports=f"127.0.0.1:{port}->8000/tcp")
    assert f"ACORDO_NODE1_PORT and ACORDO_NODE3_PORT are both {port}" in machine.start()


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
        (
            "COMPOSE_PROFILES=crdb-dev,mysql",
            "profile mysql is unknown; there are replicated, crdb-dev, crdb3-dev, postgres, grafana",
        ),
        (
            "COMPOSE_PROFILES=crdb",
            "profile crdb is called crdb-dev now, for its store has no logins",
        ),
        ("COMPOSE_PROFILES=crdb-dev,crdb3-dev", "COMPOSE_PROFILES has more than one store"),
        ("COMPOSE_PROFILES=postgres", "COMPOSE_PROFILES and ACORDO_STORE do not fit together"),
        ("COMPOSE_PROFILES=replicated", "COMPOSE_PROFILES and ACORDO_STORE do not fit together"),
        ("ACORDO_STORE=replicated", "COMPOSE_PROFILES and ACORDO_STORE do not fit together"),
        ("ACORDO_STORE=", "ACORDO_STORE is malformed; allowed: replicated, cockroachdb://USER@"),
        (
            "ACORDO_OBSERVERS_MAX=many",
            "ACORDO_OBSERVERS_MAX=many is not allowed: a whole number, 0 to 16",
        ),
        (
            "ACORDO_AUTOSCALER_PERIOD_S=soon",
            "ACORDO_AUTOSCALER_PERIOD_S=soon is not allowed: seconds, 0.1 to 3600",
        ),
        (
            "ACORDO_OBSERVERS_MAX=20",
            "ACORDO_OBSERVERS_MAX=20 is not allowed: a whole number, 0 to 16",
        ),
        ("ACORDO_OBSERVERS_MIN=3", "autoscaler_observers_min is above autoscaler_observers_max"),
        (
            "ACORDO_AUTOSCALER_PERIOD_S=0",
            "ACORDO_AUTOSCALER_PERIOD_S=0 is not allowed: seconds, 0.1 to 3600",
        ),
        ("ACORDO_AUTOSCALER_COOL_DOWN_S=86400.5", "is not allowed: seconds, 0 to 86400"),
        (
            "ACORDO_AUTOSCALER_IN_FLIGHT_LOW=32",
            "autoscaler_in_flight_low must be below autoscaler_in_flight_high",
        ),
        (
            "ACORDO_AUTOSCALER_IN_FLIGHT_HIGH=7.5",
            "autoscaler_in_flight_low must be below autoscaler_in_flight_high",
        ),
        ('ACORDO_IMAGE_NODE="acordo-node:air"', "is no name of an image (no quotes, no spaces)"),
        ("ACORDO_IMAGE_GRAFANA=", "ACORDO_IMAGE_GRAFANA= is no name of an image"),
        (
            "ACORDO_LOG_LEVEL=loud",
            "ACORDO_LOG_LEVEL=loud is not allowed: debug, info, warning, error",
        ),
        (
            "ACORDO_STORE=cockroachdb://root@cockroach",
            "ACORDO_STORE is malformed; allowed: replicated, cockroachdb://USER@HOST",
        ),
        ("ACORDO_STORE=sqlite:///x", "ACORDO_STORE is malformed"),
        (
            "ACORDO_CACHE=redis+sentinel://sentinel1:26379",
            "ACORDO_CACHE is malformed; allowed: memory://",
        ),
        (
            "ACORDO_REDIS_PASSWORD=other",
            "ACORDO_REDIS_PASSWORD and the password in ACORDO_CACHE do not fit together",
        ),
        ("ACORDO_DOCKER_SOCK=/etc/passwd", "ACORDO_DOCKER_SOCK=/etc/passwd is no socket"),
        ("ACORDO_RABBITMQ_PASSWORD=-x", "ACORDO_RABBITMQ_PASSWORD may have"),
        ("ACORDO_GRAFANA_PASSWORD=abc", "has fewer than 4 characters, which Grafana refuses"),
        ("COMPOSE_PROJECT_NAME=My Stack", "COMPOSE_PROJECT_NAME may have"),
    ],
)
def test_a_setting_that_is_unknown_or_malformed(machine: Machine, line: str, why: str) -> None:
    machine.settings({}, line + "\n")
    assert why in machine.start()


def test_an_unknown_command(machine: Machine) -> None:
    code, said = machine.run("restart")
    assert (
        code,
        "'restart' is no command; there are up, down, status, upgrade, replace" in said,
    ) == (2, True)


@pytest.mark.parametrize("command", ["down", "status"])
def test_commands_before_the_first_start(machine: Machine, command: str) -> None:
    machine.env.unlink()
    assert "is not there (allowed: ./start.sh makes it)" in machine.start(command)


@pytest.mark.parametrize("stamp", ["2", "0"])
def test_volumes_of_another_version_are_refused_and_left_alone(
    machine: Machine, stamp: str
) -> None:
    machine.says(stamp=stamp)
    said = machine.start()
    assert f"are of format {stamp}, this version knows 1" in said
    assert "nothing was changed" in said


def test_images_that_cannot_be_had(machine: Machine) -> None:
    machine.says(builds="")
    assert (
        "image one:1 cannot be pulled; where no image registry is reached: make images"
        in machine.start()
    )
    machine.says(config="    image: acordo-node:air")
    assert "image acordo-node:air is not there: make images" in machine.start()
    (machine.folder / "builds").unlink()
    assert "building failed; where no image registry is reached: make images" in machine.start()


def test_the_first_start_makes_secrets_once_and_shows_them_to_nobody_else(machine: Machine) -> None:
    machine.env.unlink()
    machine.says(version="20.10.24", memory="1")
    assert "wrote " in machine.start()
    first = machine.env.read_text()
    assert machine.env.stat().st_mode & 0o077 == 0
    secrets = dict(
        line.split("=", 1) for line in first.splitlines() if line and not line.startswith("#")
    )
    assert {len(secrets[name]) for name in env_file.SECRETS} == {32}
    assert f":{secrets['ACORDO_REDIS_PASSWORD']}@sentinel1" in secrets["ACORDO_CACHE"]
    assert secrets["ACORDO_POSTGRES_PASSWORD"] not in machine.start()
    assert machine.env.read_text() == first


@pytest.mark.parametrize(
    ("store", "air", "pair"),
    [
        ("replicated", True, ("replicated", "replicated")),
        ("replicated", False, ("replicated,grafana", "replicated")),
        ("", True, ("postgres", "postgresql://acordo:")),
        ("", False, ("crdb-dev,grafana", "cockroachdb://root@cockroach:26257/")),
        ("crdb3-dev", False, ("crdb3-dev,grafana", "cockroachdb://root@cockroach1:26257,")),
        ("postgres", False, ("postgres,grafana", "postgresql://acordo:")),
    ],
)
def test_the_first_start_takes_the_store_that_is_named(
    machine: Machine, store: str, air: bool, pair: tuple[str, str]
) -> None:
    machine.env.unlink()
    machine.says(memory="1", **({"images": "acordo-node:air"} if air else {}))
    assert "wrote " in machine.start(**({"STORE": store} if store else {}))
    found = env_file.read(machine.env).values
    assert found["COMPOSE_PROFILES"] == pair[0]
    assert found["ACORDO_STORE"].startswith(pair[1])


@pytest.mark.parametrize(("store", "air"), [("sqlite", False), ("crdb-dev", True)])
def test_a_store_that_cannot_be_started_is_refused(machine: Machine, store: str, air: bool) -> None:
    machine.env.unlink()
    if air:
        machine.says(images="acordo-node:air")
    assert f"STORE={store} cannot be started here" in machine.start(STORE=store)
    assert not machine.env.exists()


def test_another_store_than_that_of_the_first_start_is_refused(machine: Machine) -> None:
    said = machine.start(STORE="replicated")
    assert "STORE=replicated is for the first start" in said
    assert "crdb-dev" in machine.env.read_text()


def test_a_stack_without_a_database_starts_no_server_before_the_nodes(machine: Machine) -> None:
    machine.settings({"COMPOSE_PROFILES": "replicated", "ACORDO_STORE": "replicated"})
    machine.says(running__node1="1")
    machine.comes_up(STORE="replicated")
    ups = [line for line in machine.calls().splitlines() if " up " in line]
    assert ups and all(line.endswith(("--remove-orphans", "node1")) for line in ups), ups


def test_a_new_env_is_refused_where_the_database_of_an_old_one_is(machine: Machine) -> None:
    machine.env.unlink()
    machine.says(postgres="")
    said = machine.start()
    assert "the volume acordo_postgres of an earlier start is" in said
    assert "put the old" in said and "docker volume rm acordo_postgres" in said
    assert not machine.env.exists()


def test_all_is_well(machine: Machine) -> None:
    said = machine.comes_up()
    assert f"API and page   http://127.0.0.1:{machine.ports['ACORDO_HTTP_PORT']}/" in said
    assert "python -m cluster.installation" in machine.calls()


@pytest.mark.parametrize("logins", ["me before", "nobody x"])
def test_rabbitmq_gets_the_login_of_the_file(machine: Machine, logins: str) -> None:
    machine.says(logins=logins)
    machine.settings({"ACORDO_RABBITMQ_USER": "me", "ACORDO_RABBITMQ_PASSWORD": "Se.cret-1"})
    said = machine.comes_up()
    assert "me Se.cret-1" in (machine.folder / "logins").read_text().splitlines()
    assert "set_permissions -p / me .* .* .*" in machine.calls()
    assert "set_user_tags me administrator" in machine.calls()
    assert "Se.cret-1" not in said
    assert [
        line
        for line in machine.calls().splitlines()
        if "Se.cret-1" in line and not line.startswith("given ")
    ] == []
    assert "admin/admin in" not in said


def test_a_login_that_everybody_knows_is_named(machine: Machine) -> None:
    machine.settings({"ACORDO_RABBITMQ_USER": "me", "ACORDO_RABBITMQ_PASSWORD": "secret"})
    assert "exec rabbit1 rabbitmqctl delete_user admin" in machine.comes_up()


def test_rabbitmq_that_never_comes(machine: Machine) -> None:
    machine.says(no_rabbit="")
    assert "RabbitMQ did not take the login of" in machine.fails_late()


def test_grafana_gets_a_password_that_the_file_names(machine: Machine) -> None:
    machine.settings({"COMPOSE_PROFILES": "crdb-dev,grafana"})
    machine.comes_up()
    assert "reset-admin-password" not in machine.calls()
    machine.settings({"COMPOSE_PROFILES": "crdb-dev,grafana", "ACORDO_GRAFANA_PASSWORD": "secret"})
    machine.comes_up()
    assert (
        "exec -T grafana grafana cli admin reset-admin-password --password-from-stdin\ngiven secret"
        in machine.calls()
    )


def test_images_of_the_checkout_are_built_each_time(machine: Machine) -> None:
    machine.says(
        config="    image: acordo-node:local", images="acordo-node:local\nacordo-nginx:local"
    )
    machine.comes_up()
    calls = machine.calls()
    assert 0 < calls.index("build --quiet secret nginx") < calls.index(" up ")


def test_images_of_make_images_say_how_old_they_are(machine: Machine) -> None:
    both = {"ACORDO_IMAGE_NODE": "acordo-node:air", "ACORDO_IMAGE_NGINX": "acordo-nginx:air"}
    machine.settings(both)
    machine.says(
        images="acordo-node:air\nacordo-nginx:air",
        made='"2099-01-01T00:00:00Z" 2001-01-01T00:00:00Z',
    )
    said = machine.comes_up()
    assert "acordo-node:air is of 2099-01-01T00:00:00Z; make images makes it anew" in said
    assert "warning" not in said
    assert " build " not in machine.calls()
    machine.says(made='"0001-01-01T00:00:00Z" 2001-01-01T00:00:00Z')
    said = machine.comes_up()
    assert "warning: acordo-node:air is of 2001-01-01T00:00:00Z, and " in said
    assert "python -m cluster stack upgrade makes it anew" in said


def test_observers_of_before_are_removed(machine: Machine) -> None:
    machine.says(
        service__node1="n1",
        observers="old\nother\nfresh",
        about__n1="2026-11-01T10:00:00.5Z sha256:b",
    )
    machine.says(
        about__old="2026-11-01T09:59:59Z sha256:b", about__other="2026-11-01T10:00:09Z sha256:a"
    )
    machine.says(about__fresh="2026-11-01T10:00:01Z sha256:b")
    machine.comes_up()
    removed = [line for line in machine.calls().splitlines() if line.startswith("docker rm ")]
    assert removed == ["docker rm -fv old", "docker rm -fv other"]
    assert machine.calls().index(" up ") < machine.calls().index("docker rm ")
    # it drains
    assert machine.calls().index("docker stop -t 30 old") < machine.calls().index(
        "docker rm -fv old"
    )


def test_the_file_alone_decides(machine: Machine, listener: int) -> None:
    machine.says(pulls="")
    script = (machine.bin / "docker-compose").read_text()
    shown = '#!/bin/bash\necho "sees ${ACORDO_HTTP_PORT-nothing} ${COMPOSE_FILE-nothing}" >> "$FAKE/calls"\n'
    (machine.bin / "docker-compose").write_text(shown + script)
    said = machine.comes_up(ACORDO_HTTP_PORT=str(listener), COMPOSE_FILE="other.yml")
    assert "note: ACORDO_HTTP_PORT of the environment is left aside" in said
    assert f"http://127.0.0.1:{machine.ports['ACORDO_HTTP_PORT']}/" in said
    assert "docker-compose --env-file" in machine.calls()
    assert machine.calls().splitlines().count("sees nothing nothing") >= 2


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ("/p_node2_1 node2 running unhealthy 0 0", "p_node2_1 (running unhealthy"),
        ("/p_node2_1 node2 running starting 0 0", "p_node2_1 (running starting"),
        ("/p_nginx_1 nginx exited - 0 0", "p_nginx_1 (exited"),
        ("/p_secret_1 secret exited - 3 0", "p_secret_1 (exited"),
        ("/p_cockroach-init_1 cockroach-init running - 0 0", "p_cockroach-init_1 (still at work"),
        ("/p_postgres_1 postgres running starting 0 0", "p_postgres_1 (running starting"),
    ],
)
def test_what_does_not_run_is_named_with_its_last_lines(
    machine: Machine, state: str, named: str
) -> None:
    rest = "\n".join(line for line in UP.splitlines() if line.split()[1] != state.split()[1])
    machine.says(states=f"{rest}\n{state}")
    said = machine.fails_late()
    assert f"waiting for {named}" in said
    name = named.partition(" ")[0]
    assert f"last words of {name}" in said
    assert "not everything runs after 1 s: " + named in said
    assert "cluster.installation" not in machine.calls()


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ("/p_worker_1 worker restarting - 1 7", "p_worker_1 (restarting -, started again 7 times)"),
        ("/p_redis1_1 redis1 exited - 0 0", "p_redis1_1 (exited"),
        ("/p_prometheus_1 prometheus running starting 0 0", "p_prometheus_1 (running starting"),
        ("/p_node3_1 node3 running unhealthy 0 0", "p_node3_1 (running unhealthy"),
    ],
)
def test_what_its_fellows_can_do_without_is_named_and_the_stack_serves(
    machine: Machine, state: str, named: str
) -> None:
    rest = "\n".join(line for line in UP.splitlines() if line.split()[1] != state.split()[1])
    machine.says(states=f"{rest}\n{state}")
    said = machine.comes_up(ACORDO_START_WAIT_S="1")
    assert f"warning: it serves, but without {named}" in said
    assert f"last words of {named.partition(' ')[0]}" in said


@contextlib.contextmanager
def serving() -> Iterator[int]:
    """What answers every question with 200 and no leader; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def changed_nodes(machine: Machine) -> None:
    for n in (1, 2, 3):
        name = f"node{n}"
        machine.says(
            **{
                f"service__{name}": f"c{n}",
                f"running__{name}": f"c{n}",
                f"about__c{n}": "2026-11-01T10 a",
            }
        )
        machine.says(**{f"hash__c{n}": "old sha256:a image:1", f"wanted__{name}": f"{name} new"})


def test_a_node_is_not_touched_while_its_fellows_do_not_serve(machine: Machine) -> None:
    """One serves; of the others, which serve nobody, the first is made anew and awaited, through no
    proxy.
    """
    changed_nodes(machine)
    with serving() as port:
        machine.settings({"ACORDO_NODE3_PORT": str(port)})
        machine.says(ports=f"127.0.0.1:{port}->8000/tcp", pulls="", builds="")
        code, said = machine.run(http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9")
    assert code == 1, said
    assert "node1: new image or settings" in said
    assert "node1 is not ready after 1 s; the nodes after it were left as they were" in said
    calls = machine.calls()
    assert "--no-deps --no-build node1" in calls
    assert "--no-build node2" not in calls and "--no-build node3" not in calls
    assert calls.index(" up -d --no-build cockroach\n") < calls.index("--no-build node1")


def test_where_no_node_is_ready_all_are_made_anew_at_once(machine: Machine) -> None:
    """None of them could become ready alone, so waiting for one would be for ever."""
    changed_nodes(machine)
    said = machine.comes_up()
    assert "no node is ready: all that changed are made anew at once" in said
    assert "--no-deps" not in machine.calls()
    assert " up -d --no-build --remove-orphans" in machine.calls()


def test_one_rabbitmq_that_is_away_keeps_nobody_from_starting(machine: Machine) -> None:
    script = (machine.bin / "docker-compose").read_text()
    gone = '[[ " $* " != *" exec -T rabbit1 "* ]] || { echo "no container rabbit1" >&2; exit 1; }\n'
    (machine.bin / "docker-compose").write_text(
        script.replace("#!/bin/bash\n", "#!/bin/bash\n" + gone)
    )
    machine.settings({"ACORDO_RABBITMQ_USER": "me", "ACORDO_RABBITMQ_PASSWORD": "secret"})
    said = machine.comes_up()
    assert "exec rabbit2 rabbitmqctl delete_user admin" in said
    assert "me secret" in (machine.folder / "logins").read_text()


@pytest.mark.parametrize("command", ["up", "down", "status"])
@pytest.mark.parametrize(
    ("text", "why"), [(b"A=1\r\n", "line 1 ends as on Windows"), (b"A=\xff\n", "cannot be read")]
)
def test_a_file_that_cannot_be_read_is_named(
    machine: Machine, command: str, text: bytes, why: str
) -> None:
    machine.env.write_bytes(text)
    code, said = machine.run(command)
    assert code == 78, said
    assert why in said and "Traceback" not in said


def test_status_names_an_odd_port(machine: Machine) -> None:
    machine.settings({"ACORDO_NODE1_PORT": "eight"})
    code, said = machine.run("status")
    assert code == 78, said
    assert "ACORDO_NODE1_PORT=eight is no port" in said and "Traceback" not in said


def test_status_without_a_node_that_answers_fails(machine: Machine) -> None:
    code, said = machine.run("status")
    assert code == 1, said
    assert "no node answered" in said and "worker" in said


def test_last_words_may_be_any_bytes(machine: Machine) -> None:
    script = (machine.bin / "docker").read_text()
    (machine.bin / "docker").write_text(
        script.replace('echo "last words of $4"', r'printf "last words of $4 \xff\n"')
    )
    machine.says(stays_down="", states="/p_node3_1 node3 running unhealthy 0 0")
    assert "last words of p_node3_1" in machine.fails_late()


def test_a_checkout_is_needed(machine: Machine) -> None:
    (machine.root / ".env.example").unlink()
    code, said = machine.run("status")
    assert code == 78, said
    assert "is no checkout of Acordo" in said


def test_what_crashes_between_two_looks_is_not_up(machine: Machine) -> None:
    again = [UP.replace("worker running - 0 0", f"worker running - 0 {n}") for n in range(3)]
    machine.says(**{f"states__{n}": text for n, text in enumerate(again, 1)})
    machine.comes_up()
    assert machine.calls().count(".State.Status") >= 5  # three that differ, then two alike


def test_a_stack_that_does_not_come_up_says_who_is_to_blame(machine: Machine) -> None:
    machine.says(stays_down="", states="/p_node3_1 node3 running unhealthy 0 0")
    said = machine.fails_late()
    assert "last words of p_node3_1" in said
    assert "the stack did not come up" in said


def test_an_engine_elsewhere(machine: Machine) -> None:
    machine.says(states=f"{UP}\n/p_autoscaler_1 autoscaler restarting - 1 4")
    said = machine.comes_up(DOCKER_HOST="tcp://10.0.0.9:2375")
    assert "the autoscaler will have no engine" in said


def test_a_broken_compose_is_told_from_an_old_one(machine: Machine) -> None:
    (machine.folder / "compose").unlink()
    assert (
        "docker-compose is there and does not run; it said: ImportError: broken" in machine.start()
    )


def test_what_compose_complains_of_is_said(machine: Machine) -> None:
    machine.says(builds="", malformed="services.node1 is odd")
    assert "docker-compose.yml cannot be used with" in (said := machine.start())
    assert "services.node1 is odd" in said


def test_no_failure_is_silent(machine: Machine) -> None:
    (machine.root / ".venv/bin/python").unlink()
    code, said = machine.run()
    assert code != 0
    assert "make" in said


def test_ports_of_its_own_are_not_taken(machine: Machine, listener: int) -> None:
    machine.settings({"ACORDO_HTTP_PORT": str(listener)})
    machine.says(ports=f"127.0.0.1:{listener}->8080/tcp")
    machine.comes_up()


def test_down_stops_the_autoscaler_before_it_removes_observers(machine: Machine) -> None:
    machine.settings({"ACORDO_OBSERVERS_MAX": "20"})  # what may not start may be stopped
    machine.says(service__autoscaler="a1", observers="o1\no2")
    machine.comes_up("down")
    calls = machine.calls()
    assert (
        0
        < calls.index("docker stop a1")
        < calls.index("docker rm -fv o1 o2")
        < calls.index(" down --remove-orphans")
    )


@pytest.mark.parametrize("arguments", [(), ("down",)])
def test_services_of_a_profile_that_is_switched_off_go(
    machine: Machine, arguments: tuple[str, ...]
) -> None:
    machine.says(service__postgres="pg1", service__cockroach="c1")
    machine.comes_up(*arguments)
    calls = machine.calls()
    then = " down " if arguments else " up "
    assert calls.index("docker stop pg1") < calls.index("docker rm pg1") < calls.index(then)
    assert "docker stop c1" not in calls


@pytest.mark.parametrize("path", ["deploy/a.py", "node/a.py", "deploy"])
def test_a_checkout_that_containers_cannot_read(machine: Machine, path: str) -> None:
    (machine.root / path).chmod(0o700)
    said = machine.start()
    assert f"error: {path} cannot be read by the containers' users" in said
    assert "chmod -R go+rX kv" in said
