"""Say what every target offers to workloads and nemeses, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from chaos.targets.proxy import Mesh

PROBE_TIMEOUT_S: Final = 1.0
HEALTHY_WITHIN_S: Final = 60.0


class Target(Protocol):
    """A cluster that can be disturbed. What it cannot do is missing from `abilities`."""

    nodes: tuple[str, ...]

    @property
    def urls(self) -> tuple[str, ...]:
        """Return URLs for clients, one per node, in the order of `nodes`."""
        ...

    @property
    def looking_urls(self) -> tuple[str, ...]:
        """Return URLs for looking on, around every proxy."""
        ...

    @property
    def abilities(self) -> frozenset[str]:
        """Return what may be done: processes, links, files, clocks, disks, or the name of a back
        end's server.
        """
        ...

    async def leader(self) -> str | None:
        """Return who leads, as far as a majority of nodes says the same."""
        ...

    async def answers(self, node: str) -> bool:
        """Say whether the node's own port answers /livez in time, around every proxy."""
        ...

    async def ready(self, node: str) -> bool:
        """Say whether the node calls itself ready."""
        ...

    async def healthy(self, within_s: float = HEALTHY_WITHIN_S) -> bool:
        """Wait until every node is ready and one leads; return whether that came in time."""
        ...


@runtime_checkable
class NodeProcesses(Protocol):
    """Nodes that are processes of this machine."""

    def pid(self, node: str) -> int | None:
        """Return the node's process, None when it has none."""
        ...

    async def kill(self, node: str) -> None:
        """Send SIGKILL, and keep it down until `start`."""
        ...

    async def stop(self, node: str) -> None:
        """Send SIGTERM, wait until it is gone, and keep it down until `start`."""
        ...

    def start(self, node: str) -> None:
        """Let it run again."""
        ...

    def pause(self, node: str) -> None:
        """Send SIGSTOP."""
        ...

    def resume(self, node: str) -> None:
        """Send SIGCONT."""
        ...


@runtime_checkable
class NodeLinks(Protocol):
    """Nodes between which, and before which, proxies stand."""

    mesh: Mesh


def majority_leader(claims: Sequence[str | None], nodes: int) -> str | None:
    """Return whom most of the nodes call leader; None while no majority says the same.

    A leader that was cut off still calls itself so, and whoever hears only it believes it.
    """
    for name in claims:
        if name is not None and claims.count(name) > nodes // 2:
            return name
    return None
