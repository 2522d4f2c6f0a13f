"""Track what a node is working on, so that it can be bounded, shown and drained."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from node.http.bodies import Bodies
from node.http.connections import HttpConnections

PAGES_MAX: Final = 4
"""Pages of listings built at a time, each of up to 2 MiB plus one value."""

LARGE_ANSWERS_MAX: Final = 2


@dataclass(slots=True)
class NodeLoad:
    """The work in progress on one node."""

    bodies: Bodies
    requests: int = 0
    """Requests not answered yet."""
    refused: int = 0
    draining: bool = False
    """The node admits no new work."""
    leaving: bool = False
    """The node reports not ready, but still takes work."""
    pages: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PAGES_MAX))
    """Limits how many pages of listings are built at a time; further requests wait, within their
    time limit.
    """
    backups: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a backup is given: one at a time."""
    large_answers: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(LARGE_ANSWERS_MAX)
    )
    """Limits how many answers of up to 64 MiB are made at a time for clients of etcd."""
    inspections: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while all of the store is checked: one at a time."""
    connections: HttpConnections | None = None
    """The connections, once the server is entered."""

    @property
    def at_work(self) -> int:
        """Return how many requests are worked on, without those whose bodies are still arriving."""
        return self.requests - self.bodies.receiving.held
