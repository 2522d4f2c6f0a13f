"""See how the stack's containers are, wait until enough of them run, and remove those of an earlier
start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cluster.stack.engine import Engine, StackFailed
from cluster.stack.env_file import NODES, StackSettings
from cluster.stack.env_file import STORES as PROFILES_OF_STORES

LOOK_EVERY_S: Final = 5.0
SPARES_WAIT_S: Final = 60.0
"""Longest wait for what its fellows can do without."""
QUORUM: Final = len(NODES) // 2 + 1
ONCE: Final = ("secret", "cockroach-init")
"""Services that do one job and end."""
STORES: Final = ("postgres", "cockroach")
"""Stores of one copy: nothing is served without."""
STORE_OF_THREE: Final = ("cockroach1", "cockroach2", "cockroach3")
GOES_WITHIN_S: Final = 30
"""What an observer has to answer whoever asked it, before it is killed."""
_STATE: Final = (
    '{{.Name}} {{index .Config.Labels "com.docker.compose.service"}} {{.State.Status}} '
    "{{if .State.Health}}{{.State.Health.Status}}{{else}}-{{end}} {{.State.ExitCode}} "
    "{{.RestartCount}}"
)


class ContainerState(NamedTuple):
    """One container, as the engine describes it."""

    name: str
    service: str
    status: str
    health: str
    code: int
    restarts: int

    @property
    def well(self) -> bool:
        """Say whether it does what it is for: runs, or has done its one job."""
        if self.service in ONCE:
            return self.status == "exited" and self.code == 0
        return self.status == "running" and self.health in ("healthy", "-")

    def __str__(self) -> str:
        if self.service in ONCE and self.status == "running":
            return f"{self.name} (still at work, started again {self.restarts} times)"
        return f"{self.name} ({self.status} {self.health}, started again {self.restarts} times)"


def look(engine: Engine) -> list[ContainerState] | None:
    """Return how every container is; None when one went while it was asked. Raises StackFailed."""
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
    """Who is not well, and whether the stack serves all the same."""

    troubled: tuple[ContainerState, ...]
    serves: bool


def judge(states: Sequence[ContainerState], *, engine_far: bool) -> StackJudgement:
    """Decide: two of three nodes serve, and of what there are several, or what nobody waits for,
    one may be missing.
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
    """Wait until all run, or until the stack serves without some; return those. Raises StackFailed.

    Two looks alike count: what crashes again and again runs for a moment in between.
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
    """Show the last lines of each."""
    for each in troubled:
        say(f"== {each}, its last lines:")
        said = engine.docker("logs", "--tail", "10", each.name)
        say("\n".join(filter(None, (said.out, said.err))))


# -------------------------------------------------------------------------------- of earlier starts


_OF_PROFILE: Final = {
    "crdb-dev": ["cockroach"],
    "crdb3-dev": ["cockroach1", "cockroach2", "cockroach3", "cockroach-init"],
    "postgres": ["postgres"],
    "grafana": ["grafana"],
}


def switched_off(settings: StackSettings) -> list[str]:
    """Return the services of the profiles that are not chosen."""
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
    """Remove what would hold ports and memory; volumes stay."""
    for service in switched_off(settings):
        if found := engine.containers(service=service):
            say(f"stopping {service}: its profile is switched off")
            engine.docker("stop", *found)
            engine.docker("rm", *found)


def remove_old_observers(engine: Engine, say: Callable[[str], None]) -> None:
    """Remove each observer that is older than node1 or of another image: the autoscaler makes new
    ones.
    """
    model = engine.containers(service=NODES[0])
    about = engine.inspect("{{.Created}} {{.Image}}", *model) if model else None
    if not about:
        return
    made, image = about[0].split()
    for observer in engine.observers():
        its = engine.inspect("{{.Created}} {{.Image}}", observer)
        if not its:
            continue  # the autoscaler may take one away at any time
        its_made, its_image = its[0].split()
        if its_image != image or its_made.partition(".")[0] < made.partition(".")[0]:
            say(
                f"removing observer {observer}: it is of an earlier start; the autoscaler makes "
                "new ones"
            )
            # It drains: no request that it has taken fails.
            engine.docker("stop", "-t", str(GOES_WITHIN_S), observer)
            engine.docker("rm", "-fv", observer)
