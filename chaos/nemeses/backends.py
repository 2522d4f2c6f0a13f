"""Inject faults into the back ends: kill, pause, slow, wipe.

The store is never wiped: that would lose data that it has promised to keep, and no cluster could
hide that.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar, Final

from chaos.nemeses.base import Nemesis
from chaos.nemeses.processes import is_running, process_state
from chaos.targets.base import Target
from chaos.targets.services import Services

SLOW_S: Final = 0.15


class _OnServer(Nemesis):
    """A fault of one private server of the target."""

    server: ClassVar[str]

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.before: int | None = None

    @property
    def services(self) -> Services:
        found = getattr(self.target, "services", None)
        assert found is not None
        services: Services = found
        return services

    async def choose(self) -> tuple[str, ...]:
        self.before = self.services.pid(self.server)
        return (self.server,)


class _Kill(_OnServer):
    """A server is killed (SIGKILL), and restarted with its data at healing."""

    async def start(self) -> None:
        await self.services.kill(self.server)

    async def proof(self) -> str | None:
        if self.before is None or is_running(self.before) or await self.services.ready(self.server):
            return None
        return f"{self.server}: pid {self.before} gone, no answer"

    async def heal(self) -> None:
        await self.services.start(self.server)


class _Pause(_OnServer):
    """A server and its children are suspended (SIGSTOP)."""

    async def start(self) -> None:
        self.services.pause(self.server)

    async def proof(self) -> str | None:
        stopped = self.before is not None and process_state(self.before) == "T"
        return f"{self.server}: pid {self.before} stopped" if stopped else None

    async def heal(self) -> None:
        self.services.resume(self.server)


class _Slow(_OnServer):
    """A server is far away: every request and every answer is delayed by SLOW_S."""

    async def choose(self) -> tuple[str, ...]:
        link = self.services.links[self.server]
        self.delayed = link.up.delayed + link.down.delayed
        return await super().choose()

    async def start(self) -> None:
        link = self.services.links[self.server]
        link.up.delay_s = link.down.delay_s = SLOW_S

    async def proof(self) -> str | None:
        link = self.services.links[self.server]
        grown = link.up.delayed + link.down.delayed - self.delayed
        return (
            f"{self.server}: {grown} packets delayed by {SLOW_S * 1000:.0f} ms" if grown else None
        )

    async def heal(self) -> None:
        self.services.links[self.server].heal()


class _Wipe(_Kill):
    """A server is killed (SIGKILL), and restarted without its data at healing."""

    async def start(self) -> None:
        await self.services.wipe(self.server)


def _made(server: str, fault: str, kind: type[_OnServer]) -> type[_OnServer]:
    fields = {
        "name": f"{server}-{fault}",
        "server": server,
        "needs": frozenset({server}),
        "__doc__": kind.__doc__,
    }
    return type(f"{server.title()}{fault.title()}", (kind,), fields)


FAULTS: Final[tuple[type[_OnServer], ...]] = (
    *(
        _made(server, fault, kind)
        for server in ("postgres", "redis", "rabbitmq")
        for fault, kind in (("kill", _Kill), ("pause", _Pause), ("slow", _Slow))
    ),
    _made("redis", "wipe", _Wipe),
    _made("rabbitmq", "wipe", _Wipe),
)
