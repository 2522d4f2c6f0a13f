"""Choose the node for the next attempt. Never sends anything."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Sequence
from typing import Final

AVOID_S: Final = 1.0
"""How long a node that did not answer is used only as the last choice."""


class Nodes:
    """The nodes of one cluster. The node that answered last is used until it fails, and the leader
    for writes while it is known to be one of them; with `spread` the nodes are used in turn.
    """

    def __init__(self, urls: Sequence[str], *, spread: bool, rng: random.Random) -> None:
        self._urls, self._spread = tuple(urls), spread
        self._avoided_until = [0.0] * len(self._urls)
        # Start at a random node. Otherwise clients that make a single call each would all make it
        # at the same node.
        self._at = rng.randrange(len(self._urls)) if spread else 0
        self._leader: int | None = None

    def __len__(self) -> int:
        return len(self._urls)

    def url(self, at: int) -> str:
        """Return the base URL of a node."""
        return self._urls[at]

    def choose(self, *, writes: bool = False) -> int:
        """Return the index of the node for the next attempt: for a write the leader, else the
        current one, unless it failed a moment ago.
        """
        count, now = len(self._urls), time.monotonic()
        leader = self._leader  # once: another thread may change it meanwhile
        if self._spread:
            self._at = (self._at + 1) % count
        elif writes and leader is not None and self._avoided_until[leader] <= now:
            return leader
        for step in range(count):
            at = (self._at + step) % count
            if self._avoided_until[at] <= now:
                self._at = at
                return at
        self._at = min(range(count), key=lambda at: self._avoided_until[at])
        return self._at

    def avoid(self, at: int) -> None:
        """Use this node only as the last choice for AVOID_S seconds."""
        self._avoided_until[at] = time.monotonic() + AVOID_S
        if self._leader == at:
            self._leader = None
        if self._at == at:
            self._at = (at + 1) % len(self._urls)

    def leads(self, url: str) -> None:
        """Note who leads, as a node said. A URL that is none of ours changes nothing: it may be one
        that this client cannot reach.
        """
        with contextlib.suppress(ValueError):
            self._leader = self._urls.index(url.rstrip("/"))

    def trust(self, at: int) -> None:
        """Use this node normally again, because it answered."""
        self._avoided_until[at] = 0.0


class Highest:
    """The highest of the numbers that any thread has reached; it never goes back."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def reach(self, number: int) -> None:
        """Take a number, if it is higher."""
        with self._lock:
            self.value = max(self.value, number)
