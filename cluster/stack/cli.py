"""Run `python -m cluster stack up | down | status | upgrade | replace` on docker-compose.yml's
stack.

`./start.sh` does the same in a fresh clone. No command deletes data, except that `replace` removes
the replaced node's volume.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cluster.local.status import report
from cluster.stack import containers, env_file, images, logins, rolling
from cluster.stack.engine import Engine, StackFailed, find_compose
from cluster.stack.env_file import NODES, StackSettings
from cluster.stack.replace import replace
from kv.errors import BadRequest

FORMAT: Final = "1"
"""Format of the volumes, increased when an older version could not use them."""
MEMORY_LEAST: Final = 4_000_000_000
WAIT_S: Final = 300
LOOKS: Final = 3
CHECK: tuple[str, ...] = (sys.executable, "-m", "cluster.installation")
"""Command that checks the installation; it is given the URL."""

USAGE: Final = """usage: python -m cluster stack COMMAND

  up         check what is needed, make secrets once, build, start or roll, wait, check the
             installation
  down       stop and remove the containers; volumes stay
  status     how every container is, and how far each member is
  upgrade    build the images anew and bring them to the nodes one at a time; --back: take the
             ones before (again it goes on with those; upgrade without --back goes forward)
  replace    give the place of a damaged or lost node (node1, node2, node3) to a new member, with
             an empty volume

STORE names the store of the first start: replicated (each node keeps its own copy, no database),
postgres, crdb-dev, crdb3-dev. ACORDO_ENV_FILE names another file than .env; ACORDO_START_WAIT_S is
the longest wait for all to run (300).
"""


class Stack:
    """The commands on one Compose project."""

    def __init__(self, root: Path, file: Path, wait_s: float) -> None:
        self.root, self.env_file, self.wait_s = root, file, wait_s
        self.compose = find_compose()
        self.names = env_file.known(root)

    def say(self, line: str) -> None:
        """Print a line and flush it."""
        print(line, flush=True)

    def open(self, *, first: bool = False) -> tuple[Engine, StackSettings]:
        """Read the settings; if the file is missing and `first` is set, create it.

        Raises BadRequest or StackFailed.
        """
        if not self.env_file.exists():
            if not first:
                raise BadRequest(
                    "no_settings", f"{self.env_file} is not there", allowed="./start.sh makes it"
                )
            self._write_first()
        settings = env_file.read(self.env_file)
        if trouble := env_file.project_trouble(settings):
            raise BadRequest("bad_settings", trouble)
        wanted = os.environ.get("STORE", "")
        if first and wanted and wanted not in settings.profiles:
            raise BadRequest(
                "bad_settings",
                f"STORE={wanted} is for the first start; {self.env_file} has another store, which "
                "keeps its data",
                allowed="no STORE, or another project: ACORDO_ENV_FILE and in that file another "
                "COMPOSE_PROJECT_NAME",
            )
        for name in self.names:
            if os.environ.get(name, settings.get(name)) != settings.get(name):
                self.say(f"note: {name} of the environment is left aside; {self.env_file} decides")
        return Engine(self.compose, self.env_file, settings.project, self.names), settings

    def _write_first(self) -> None:
        probe = Engine(self.compose, self.env_file, "acordo", self.names)
        air = probe.docker("image", "inspect", "acordo-node:air").ok
        store = env_file.store_of(os.environ.get("STORE", ""), air=air)
        volume = "acordo_postgres"
        if store != env_file.REPLICATED and probe.docker("volume", "inspect", volume).ok:
            raise StackFailed(
                f"{self.env_file} is not there, but the volume {volume} of an earlier start is, "
                f"and only that file had its password: put the old {self.env_file} back, or give "
                f"up that database on purpose (docker volume rm {volume}); nothing was changed"
            )
        where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
        engine_socket = Path(where) if where.startswith("/") and Path(where).is_socket() else None
        text = env_file.first(
            self.root,
            store=store,
            air=air,
            socket=engine_socket,
            http_port=os.environ.get("ACORDO_HTTP_PORT"),
        )
        env_file.write(self.env_file, text)
        kept = "each node keeps its own copy" if store == env_file.REPLICATED else f"store {store}"
        what = ", images of the distribution, no Grafana" if air else ""
        self.say(f"wrote {self.env_file} ({kept}{what})")

    def checked(self) -> tuple[Engine, StackSettings]:
        """Open the project and check everything that would keep it from starting.

        Raises BadRequest or StackFailed.
        """
        engine, settings = self.open(first=True)
        env_file.check(settings, self.names)
        self._check_socket(settings)
        images.check_readable(self.root)
        self._check_machine(engine)
        self._check_ports(engine, settings)
        return engine, settings

    @property
    def engine_far(self) -> bool:
        """Return whether the engine is on another machine."""
        return not os.environ.get("DOCKER_HOST", "unix://").startswith("unix://")

    def _check_socket(self, settings: StackSettings) -> None:
        path = settings.get("ACORDO_DOCKER_SOCK", "/var/run/docker.sock")
        if self.engine_far:
            self.say(
                f"note: the engine is at {os.environ['DOCKER_HOST']}, not behind a socket of this "
                "machine: the autoscaler will have no engine, and no observer comes or goes"
            )
        elif not Path(path).is_socket():
            raise BadRequest(
                "bad_settings",
                f"{settings.path}: ACORDO_DOCKER_SOCK={path} is no socket",
                allowed="the path of the engine's own, as /var/run/docker.sock",
            )

    def _check_machine(self, engine: Engine) -> None:
        memory = engine.docker("info", "--format", "{{.MemTotal}}").out
        if memory.isdigit() and 0 < int(memory) < MEMORY_LEAST:
            raise StackFailed(
                f"the engine has {int(memory) // 1_000_000} MB of memory; the stack needs 4 GB, "
                "better 6"
            )
        stamp = engine.docker(
            "volume",
            "inspect",
            f"{engine.project}_secrets",
            "--format",
            '{{index .Labels "acordo.format"}}',
        )
        if stamp.ok and stamp.out not in ("", "<no value>", FORMAT):
            raise StackFailed(
                f"the volumes of {engine.project} are of format {stamp.out}, this version knows "
                f"{FORMAT}: start the version that made them, or give this one another "
                "COMPOSE_PROJECT_NAME; nothing was changed"
            )

    def _check_ports(self, engine: Engine, settings: StackSettings) -> None:
        """Raise StackFailed unless each port is free or published by this project."""
        published = engine.published()
        for name, port in settings.ports().items():
            if port in published:
                continue
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    raise StackFailed(
                        f"port {port} is taken: stop what listens there, or set ACORDO_{name}_PORT "
                        f"in {settings.path}"
                    )

    # ------------------------------------------------------------------------------------- commands

    def up(self) -> None:
        """Start the services that do not run, and replace changed nodes one at a time."""
        engine, settings = self.checked()
        images.build(engine, settings, self.root, self.say)
        for image in images.named(settings).values():
            if image.endswith(":air"):
                images.say_age(engine, image, self.root, self.say)
        images.fetch(engine, settings)
        self._start(engine, settings)

    def upgrade(self, *, back: bool) -> None:
        """Roll new images out to the nodes, or with `back` the previous ones."""
        engine, settings = self.checked()
        if back:
            images.go_back(engine, settings, self.say)
        else:
            images.build(engine, settings, self.root, self.say)
            images.build_air(engine, settings, self.root, self.say)
        images.fetch(engine, settings)
        self._start(engine, settings)

    def _start(self, engine: Engine, settings: StackSettings) -> None:
        running = [node for node in NODES if engine.containers(service=node, running=True)]
        self.say(
            f"starting {engine.project}"
            + ("" if running else "; the first time takes a minute or two")
        )
        containers.remove_switched_off(engine, settings, self.say)
        if running:  # the store comes first: no node becomes ready without it
            if servers := containers.stores(settings):
                self._compose_up(engine, *servers)
            rolling.roll(engine, settings, self.wait_s, self.say)
        self._compose_up(engine, "--remove-orphans")
        containers.remove_old_observers(engine, self.say)
        logins.make_rabbit_login_true(engine, settings, self.wait_s, self.say)
        logins.make_grafana_password_true(engine, settings)
        away = containers.wait(engine, self.wait_s, self.say, engine_far=self.engine_far)
        self._check_installation(engine, settings)
        self._say_addresses(settings)
        if away:
            self.say(
                f"warning: it serves, but without {'; '.join(map(str, away))}: bring them back, "
                "each spares another"
            )

    def _compose_up(self, engine: Engine, *what: str) -> None:
        done = engine.compose("up", "-d", "--no-build", *what)
        if not done.ok:
            states = containers.look(engine)
            containers.show_logs(engine, [s for s in states or () if not s.well], self.say)
            raise StackFailed(
                f"the stack did not come up: {done.last(5)}; see: {' '.join(engine.command)} logs"
            )

    def _check_installation(self, engine: Engine, settings: StackSettings) -> None:
        url = f"http://127.0.0.1:{settings.ports()['HTTP']}"
        command = [*CHECK, url]
        if os.spawnvpe(os.P_WAIT, command[0], command, engine.environ):
            raise StackFailed("the installation check failed")

    def _say_addresses(self, settings: StackSettings) -> None:
        at, ports = "http://127.0.0.1", settings.ports()
        lines = ["", f"  API and page   {at}:{ports['HTTP']}/"]
        lines += [f"  node {n}         {at}:{ports[f'NODE{n}']}/" for n in (1, 2, 3)]
        lines += [
            f"  Prometheus     {at}:{ports['PROMETHEUS']}/   dashboard: /consoles/acordo.html",
            f"  Alertmanager   {at}:{ports['ALERTMANAGER']}/",
        ]
        if "GRAFANA" in ports:
            lines.append(
                f"  Grafana        {at}:{ports['GRAFANA']}/   {_login(settings, 'GRAFANA')}"
            )
        lines.append(f"  RabbitMQ       {at}:{ports['RABBITMQ']}/   {_login(settings, 'RABBITMQ')}")
        if "COCKROACH" in ports:
            lines.append(
                f"  CockroachDB    {at}:{ports['COCKROACH']}/   no login: a development profile"
            )
        lines += [
            "  between nodes  authenticated by a secret made once, not encrypted: for more than "
            "one host see docs/security.md",
            "./start.sh down stops it; its data stays.",
        ]
        self.say("\n".join(lines))

    def down(self) -> None:
        """Stop and remove the containers.

        The autoscaler is stopped first, because it would start another observer.
        """
        engine, settings = self.open()
        if found := engine.containers(service="autoscaler", running=True):
            engine.docker("stop", *found)
        if found := engine.observers():
            engine.docker("rm", "-fv", *found)
        containers.remove_switched_off(engine, settings, self.say)
        done = engine.compose("down", "--remove-orphans")
        if not done.ok:
            raise StackFailed(f"not everything was stopped: {done.last(5)}")

    def status(self) -> int:
        """Print the state of every container and of every member.

        Return 1 if there is no leader or no quorum.
        """
        engine, settings = self.open()
        urls = settings.urls()
        # If a container vanishes during a look, the result is None: look again, up to LOOKS times.
        looks = (containers.look(engine) for _ in range(LOOKS))
        for state in sorted(next(filter(None, looks), []), key=lambda s: s.service):
            health = "" if state.health == "-" else f" {state.health}"
            self.say(
                f"{state.service:14} {state.status}{health}"
                + ("" if state.well else f"   <- {state}")
            )
        return min(asyncio.run(report(urls, as_json=False)), 1)

    def replace(self, node: str) -> None:
        """Replace a node by a new member with an empty volume."""
        engine, settings = self.checked()
        replace(engine, settings, node, self.wait_s, self.say)


def _login(settings: StackSettings, name: str) -> str:
    if settings.get(f"ACORDO_{name}_PASSWORD"):
        return f"login as in {settings.path}"
    user = settings.get(f"ACORDO_{name}_USER", "admin")
    return f"login {user}/admin: set ACORDO_{name}_PASSWORD in {settings.path}"


def main(argv: list[str]) -> int:
    """Run one command and return its exit code.

    0: done, and what serves was checked; 1: it failed, or `status` found no leader, no quorum or no
    answer; 2: wrong usage. A wrong setting raises BadRequest, which the caller turns into 78.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    name, *rest = argv
    commands: dict[str, Callable[[Stack, argparse.Namespace], int | None]] = {
        "up": lambda stack, _: stack.up(),
        "down": lambda stack, _: stack.down(),
        "status": lambda stack, _: stack.status(),
        "upgrade": lambda stack, given: stack.upgrade(back=given.back),
        "replace": lambda stack, given: stack.replace(given.node),
    }
    if name not in commands:
        print(f"error: {name!r} is no command; there are {', '.join(commands)}", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog=f"python -m cluster stack {name}")
    if name == "upgrade":
        parser.add_argument("--back", action="store_true", help="take the images before")
    if name == "replace":
        parser.add_argument("node", choices=NODES)
    given = parser.parse_args(rest)
    wait_s = os.environ.get("ACORDO_START_WAIT_S", str(WAIT_S))
    if not re.fullmatch(r"[0-9]{1,6}", wait_s):
        raise BadRequest(
            "bad_settings", f"ACORDO_START_WAIT_S={wait_s} is no whole number of seconds"
        )
    root = Path.cwd()
    if not (root / env_file.EXAMPLE).is_file():
        raise BadRequest(
            "bad_settings",
            f"{root} is no checkout of Acordo: there is no {env_file.EXAMPLE}; cd to it first",
        )
    try:
        return (
            commands[name](
                Stack(root, Path(os.environ.get("ACORDO_ENV_FILE", ".env")), int(wait_s)), given
            )
            or 0
        )
    except (StackFailed, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
