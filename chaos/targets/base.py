"""Define what every target offers to workloads and nemeses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from chaos.targets.proxy import Mesh

PROBE_TIMEOUT_S: Final = 1.0
HEALTHY_WITHIN_S: Final = 60.0


class Target(Protocol):
    """A cluster that can be disturbed. `abilities` says in which ways."""

    nodes: tuple[str, ...]

    @property
    def urls(self) -> tuple[str, ...]:
        """Return URLs for clients, one per node, in the order of `nodes`."""
        ...

    @property
    def looking_urls(self) -> tuple[str, ...]:
        """Return URLs for observing the nodes, which bypass every proxy."""
        ...

    @property
    def abilities(self) -> frozenset[str]:
        """Return what faults may use: processes, links, files, clocks, disks, or the name of a back
        end's server.
        """
        ...

    async def leader(self) -> str | None:
        """Return the leader that a majority of nodes agree on; None if there is none."""
        ...

    async def answers(self, node: str) -> bool:
        """Return whether the node's own port answers `/livez` in time, bypassing every proxy."""
        ...

    async def ready(self, node: str) -> bool:
        """Return whether the node reports that it is ready."""
        ...

    async def healthy(self, within_s: float = HEALTHY_WITHIN_S) -> bool:
        """Wait until every node is ready and there is a leader; return False if `within_s` is not
        enough.
        """
        ...


@runtime_checkable
class NodeProcesses(Protocol):
    """A target whose nodes are processes of this machine."""

    def pid(self, node: str) -> int | None:
        """Return the node's process id; None if it has no process."""
        ...

    async def kill(self, node: str) -> None:
        """Kill the node with SIGKILL and keep it down until `start`."""
        ...

    async def stop(self, node: str) -> None:
        """Stop the node with SIGTERM, wait until it has ended, and keep it down until `start`."""
        ...

    def start(self, node: str) -> None:
        """Let the node run again."""
        ...

    def pause(self, node: str) -> None:
        """Suspend the node with SIGSTOP."""
        ...

    def resume(self, node: str) -> None:
        """Resume the node with SIGCONT."""
        ...


@runtime_checkable
class NodeLinks(Protocol):
    """A target with proxies between its nodes and in front of each."""

    mesh: Mesh


def majority_leader(claims: Sequence[str | None], nodes: int) -> str | None:
    """Return the leader that a majority of the nodes name; None if no majority agrees.

    Fewer votes are not enough: a leader that is cut off still names itself, and so does every node
    that hears only that one.
    """
    for name in claims:
        if name is not None and claims.count(name) > nodes // 2:
            return name
    return None
