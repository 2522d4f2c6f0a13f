"""Say what a node works on at the moment, so that it can be bounded, shown and drained."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from node.http.bodies import Bodies
from node.http.connections import HttpConnections

PAGES_MAX: Final = 4
"""Pages of listings that are made at a time, of up to 2 MiB and a value each."""


@dataclass(slots=True)
class NodeLoad:
    """What one node works on at the moment."""

    bodies: Bodies
    requests: int = 0
    """Requests that are not answered yet."""
    refused: int = 0
    draining: bool = False
    """No new work is admitted."""
    leaving: bool = False
    """The node is not ready any more, but still works."""
    pages: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PAGES_MAX))
    """So many pages of listings are made at a time; the others wait, within their time."""
    connections: HttpConnections | None = None
    """What holds the connections, once the server is entered."""

    @property
    def at_work(self) -> int:
        """Return how many requests are worked on: those whose bodies are on their way are not."""
        return self.requests - self.bodies.receiving.held
