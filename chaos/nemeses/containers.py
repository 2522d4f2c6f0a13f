"""Inject faults into containers of nodes and back ends: kill, pause, restart, disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random
from typing import ClassVar, Final

from chaos.nemeses.base import Nemesis, some
from chaos.targets.base import Target
from chaos.targets.docker_stack import NODES, DockerTarget


class _OnContainers(Nemesis):
    """A fault of containers.

    `whom` is a role of nodes, "store", "redis-master", or "service:…" with the services of which
    one is drawn at random.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"containers"})
    heal_within_s: ClassVar[float] = 120.0
    """Seconds to heal in: a busy engine needs several for each call."""
    whom: ClassVar[str] = "one"

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.started_at: dict[str, str] = {}

    @property
    def stack(self) -> DockerTarget:
        assert isinstance(self.target, DockerTarget)
        return self.target

    def missing(self) -> str | None:
        if (why := super().missing()) is not None:
            return why
        if self.whom == "store" and self.stack.store is None:
            return "the stack has no database of its own"
        if self.whom.startswith("service:") and not self._there():
            return f"the stack has none of {self.whom.removeprefix('service:')}"
        return None

    def _there(self) -> list[str]:
        return [
            s for s in self.whom.removeprefix("service:").split(",") if s in self.stack.services
        ]

    async def choose(self) -> tuple[str, ...]:
        chosen: tuple[str, ...]
        match self.whom:
            case "store":
                chosen = (self.stack.store or "",)
            case "redis-master":
                chosen = (await self.stack.redis_master(),)
            case whom if whom.startswith("service:"):
                chosen = (self.rng.choice(self._there()),)
            case _:
                chosen = tuple(NODES[n] for n in await some(self.target, self.rng, self.whom))
        return chosen

    async def _each_is(self, wanted: str) -> str | None:
        found = {s: await self.stack.state(s) for s in self.targets}
        return _all(f"{s} {state}" if state == wanted else None for s, state in found.items())

    async def heal(self) -> None:
        """Heal all targets. Raises NotHealed, naming those that failed, after all were tried."""
        await self.stack.heal_each(self.targets)


class _Kill(_OnContainers):
    """A container is killed (SIGKILL), and restarted at healing."""

    async def start(self) -> None:
        await asyncio.gather(*(self.stack.kill(s) for s in self.targets))

    async def proof(self) -> str | None:
        return await self._each_is("exited")


class _Pause(_OnContainers):
    """A container is frozen with all its processes."""

    async def start(self) -> None:
        await asyncio.gather(*(self.stack.pause(s) for s in self.targets))

    async def proof(self) -> str | None:
        return await self._each_is("paused")


class _Disconnect(_OnContainers):
    """A container is disconnected from the network; its processes run on, but hear nothing."""

    async def start(self) -> None:
        await asyncio.gather(*(self.stack.disconnect(s) for s in self.targets))

    async def proof(self) -> str | None:
        cut = {s: not await self.stack.connected(s) for s in self.targets}
        return _all(f"{s} without network" if gone else None for s, gone in cut.items())


class _Restart(_OnContainers):
    """Containers are restarted one by one as an operator does it (SIGTERM, then a grace period)."""

    async def choose(self) -> tuple[str, ...]:
        chosen = await super().choose()
        self.started_at = {s: await self.stack.started_at(s) for s in chosen}
        return chosen

    async def start(self) -> None:
        """Do nothing: `hold` takes the steps."""

    async def hold(self, seconds: float) -> None:
        for service in self.targets:
            await self.stack.restart(service)
        await asyncio.sleep(seconds)

    async def proof(self) -> str | None:
        now = {s: await self.stack.started_at(s) for s in self.targets}
        return _all(
            f"{s} runs since {now[s]}" if now[s] != self.started_at[s] else None
            for s in self.targets
        )


def _all(proofs: Iterable[str | None]) -> str | None:
    """Join the proofs; return None if one is missing or there are none."""
    found = list(proofs)
    return None if None in found or not found else ", ".join(p for p in found if p is not None)


_WHOM: Final = {
    "leader": "leader",
    "follower": "follower",
    "all": "all",
    "database": "store",
    "redis-master": "redis-master",
    "sentinel": "service:sentinel1,sentinel2,sentinel3",
    "rabbit": "service:rabbit1,rabbit2,rabbit3",
    "nginx": "service:nginx",
}
_HOW: Final[dict[str, type[_OnContainers]]] = {
    "kill": _Kill,
    "pause": _Pause,
    "disconnect": _Disconnect,
    "restart": _Restart,
}


def _made() -> dict[str, type[Nemesis]]:
    found: dict[str, type[Nemesis]] = {}
    for how, base in _HOW.items():
        for who, whom in _WHOM.items():
            name = f"container-{how}-{who}"
            found[name] = type(
                f"{how.title()}_{who}",
                (base,),
                {"name": name, "whom": whom, "__doc__": base.__doc__},
            )
    return found


CONTAINER_NEMESES: Final = _made()
"""All faults of containers by name: container-kill-leader, container-pause-database, …"""
