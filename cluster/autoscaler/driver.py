"""Name what starts and stops observers: a port, with one adapter for containers and one for
processes.
"""

from __future__ import annotations

from typing import Final, Protocol

STOP_WITHIN_S: Final = 45
"""Longest that an observer may drain; then it is killed."""


class NotReady(Exception):
    """An observer was started and did not come to serve, or there is nothing that it could be made
    like.
    """


class Driver(Protocol):
    """What starts and stops observers; everything else is asked of the cluster."""

    async def running(self) -> frozenset[str]:
        """Return the names of the observers that run now."""
        ...

    async def start(self, name: str, members: str) -> tuple[str, str]:
        """Start a node; `members` names the others. Return its Raft address and URL."""
        ...

    async def stop(self, name: str) -> None:
        """Let it drain, and remove it with all that it stored. Nothing happens when it is not
        there.
        """
        ...
