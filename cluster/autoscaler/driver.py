"""Define the port through which the autoscaler starts and stops observers.

It has one adapter for containers and one for processes.
"""

from __future__ import annotations

from typing import Final, Protocol

STOP_WITHIN_S: Final = 45
"""Longest time an observer may take to drain before it is killed."""


class NotReady(Exception):
    """An observer did not become ready after its start, or there is no node to copy."""


class Driver(Protocol):
    """A port that starts and stops observers. Everything else is done through the cluster's API."""

    async def running(self) -> frozenset[str]:
        """Return the names of the observers that are running now."""
        ...

    async def start(self, name: str, members: str) -> tuple[str, str]:
        """Start an observer and return its Raft address and URL.

        `members` lists the other members in the form of the MEMBERS setting.
        """
        ...

    async def stop(self, name: str) -> None:
        """Let the observer drain, then remove it. Do nothing if there is none of that name."""
        ...
