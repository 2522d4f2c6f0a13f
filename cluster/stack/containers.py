"""Inspect the stack's containers, wait until enough run, and remove those of an earlier start."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cluster.stack.engine import Engine, StackFailed
from cluster.stack.env_file import NODES, StackSettings
from cluster.stack.env_file import STORES as PROFILES_OF_STORES

LOOK_EVERY_S: Final = 5.0
SPARES_WAIT_S: Final = 60.0
"""Longest wait for a container that the stack can serve without."""
QUORUM: Final = len(NODES) // 2 + 1
ONCE: Final = ("secret", "cockroach-init")
"""Services that do one job and then exit."""
STORES: Final = ("postgres", "cockroach")
"""Stores with a single copy: without it the stack cannot serve."""
STORE_OF_THREE: Final = ("cockroach1", "cockroach2", "cockroach3")
GOES_WITHIN_S: Final = 30
"""Seconds that an observer has to finish its requests before it is killed."""
_STATE: Final = (
    '{{.Name}} {{index .Config.Labels "com.docker.compose.service"}} {{.State.Status}} '
    "{{if .State.Health}}{{.State.Health.Status}}{{else}}-{{end}} {{.State.ExitCode}} "
    "{{.RestartCount}}"
)


class ContainerState(NamedTuple):
    """The state of one container, as the engine reports it."""

    name: str
    service: str
    status: str
    health: str
    code: int
    restarts: int

    @property
    def well(self) -> bool:
        """Return whether it is running and healthy, or has done its one job."""
        if self.service in ONCE:
            return self.status == "exited" and self.code == 0
        return self.status == "running" and self.health in ("healthy", "-")

    def __str__(self) -> str:
        if self.service in ONCE and self.status == "running":
            return f"{self.name} (still at work, started again {self.restarts} times)"
        return f"{self.name} ({self.status} {self.health}, started again {self.restarts} times)"


def look(engine: Engine) -> list[ContainerState] | None:
    """Return the state of every container; None if one vanished during the query.

    Raises StackFailed if there is no container.
    """
    ids = engine.containers()
    if not ids:
        raise StackFailed(f"no container of {engine.project} is there")
    lines = engine.inspect(_STATE, *ids)
    if lines is None:
        return None
    states = []
    for line in lines:
        name, service, status, health, code, restarts = line.split()
        states.append(
            ContainerState(
                name.removeprefix("/"), service, status, health, int(code), int(restarts)
            )
        )
    return states


@dataclass(frozen=True)
class StackJudgement:
    """The containers that are not well, and whether the stack serves without them."""

    troubled: tuple[ContainerState, ...]
    serves: bool


def judge(states: Sequence[ContainerState], *, engine_far: bool) -> StackJudgement:
    """Decide from the containers' states whether the stack serves.

    It needs two of the three nodes, two of the three stores where there are three, nginx, and every
    single store and one-time job that was started. If the engine is on another machine
    (`engine_far`), the autoscaler is not expected to run.
    """
    troubled = tuple(
        s for s in states if not s.well and not (engine_far and s.service == "autoscaler")
    )
    well = {s.service for s in states if s.well}
    needed = {"nginx", "secret"} | {
        s.service for s in states if s.service in ONCE or s.service in STORES
    }
    enough = len(well & set(NODES)) >= QUORUM
    if three := {s.service for s in states if s.service in STORE_OF_THREE}:
        enough = enough and len(well & three) >= QUORUM
    return StackJudgement(troubled, enough and needed <= well)


def wait(
    engine: Engine, wait_s: float, say: Callable[[str], None], *, engine_far: bool
) -> tuple[ContainerState, ...]:
    """Wait until all containers run, or the stack serves without some; return those that are
    missing.

    All are well only if two looks in a row agree, because a container that keeps crashing runs for
    a moment in between. Containers that the stack can serve without are waited for up to
    SPARES_WAIT_S. Raises StackFailed after `wait_s`.
    """
    before: list[ContainerState] | None = None
    said = ""
    began = time.monotonic()
    while True:
        states = look(engine)
        found = (
            judge(states, engine_far=engine_far)
            if states is not None
            else StackJudgement((), False)
        )
        if states is not None and not found.troubled:
            if states == before:
                return ()
            before = states
        else:
            before = None
            named = "; ".join(map(str, found.troubled)) or f"{engine.project} (changing)"
            if named != said:
                say(f"waiting for {named}")
            said = named
        took_s = time.monotonic() - began
        if found.serves and found.troubled and took_s >= min(SPARES_WAIT_S, wait_s):
            show_logs(engine, found.troubled, say)
            return found.troubled
        if took_s >= wait_s:
            show_logs(engine, found.troubled, say)
            named = "; ".join(map(str, found.troubled)) or f"{engine.project} keeps changing"
            raise StackFailed(f"not everything runs after {wait_s:g} s: {named}")
        time.sleep(LOOK_EVERY_S)


def show_logs(
    engine: Engine, troubled: Sequence[ContainerState], say: Callable[[str], None]
) -> None:
    """Show the last log lines of each container."""
    for each in troubled:
        say(f"== {each}, its last lines:")
        said = engine.docker("logs", "--tail", "10", each.name)
        say("\n".join(filter(None, (said.out, said.err))))


# -------------------------------------------------------------------------------- of earlier starts


_OF_PROFILE: Final[Mapping[str, list[str]]] = {
    "replicated": [],  # the nodes themselves
    "crdb-dev": ["cockroach"],
    "crdb3-dev": ["cockroach1", "cockroach2", "cockroach3", "cockroach-init"],
    "postgres": ["postgres"],
    "grafana": ["grafana"],
}


def switched_off(settings: StackSettings) -> list[str]:
    """Return the services that belong to profiles that are not enabled."""
    return [
        name
        for profile, names in _OF_PROFILE.items()
        if profile not in settings.profiles
        for name in names
    ]


def stores(settings: StackSettings) -> list[str]:
    """Return the services of the store in use."""
    return [
        name
        for profile in PROFILES_OF_STORES
        if profile in settings.profiles
        for name in _OF_PROFILE[profile]
    ]


def remove_switched_off(
    engine: Engine, settings: StackSettings, say: Callable[[str], None]
) -> None:
    """Stop and remove containers of disabled profiles, which would hold ports and memory. Volumes
    stay.
    """
    for service in switched_off(settings):
        if found := engine.containers(service=service):
            say(f"stopping {service}: its profile is switched off")
            engine.docker("stop", *found)
            engine.docker("rm", *found)


def remove_old_observers(engine: Engine, say: Callable[[str], None]) -> None:
    """Remove each observer that is older than node1 or runs another image.

    The autoscaler starts new ones.
    """
    model = engine.containers(service=NODES[0])
    about = engine.inspect("{{.Created}} {{.Image}}", *model) if model else None
    if not about:
        return
    made, image = about[0].split()
    for observer in engine.observers():
        its = engine.inspect("{{.Created}} {{.Image}}", observer)
        if not its:
            continue  # the autoscaler may remove an observer at any time
        its_made, its_image = its[0].split()
        if its_image != image or its_made.partition(".")[0] < made.partition(".")[0]:
            say(
                f"removing observer {observer}: it is of an earlier start; the autoscaler makes "
                "new ones"
            )
            # `stop` lets it drain, so that no request that it has accepted fails.
            engine.docker("stop", "-t", str(GOES_WITHIN_S), observer)
            engine.docker("rm", "-fv", observer)
