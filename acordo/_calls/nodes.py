"""Choose the node to ask next. Never asks one."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Final

AVOID_S: Final = 1.0
"""How long a node that did not answer is asked last."""


class Nodes:
    """The nodes of one cluster, of which the one that answered last is kept until it fails (or all
    are taken in turn).
    """

    def __init__(self, urls: Sequence[str], *, spread: bool, rng: random.Random) -> None:
        self._urls, self._spread = tuple(urls), spread
        self._avoided_until = [0.0] * len(self._urls)
        # Taken in turn from anywhere: clients that make one call each would else all make it at the
        # same node.
        self._at = rng.randrange(len(self._urls)) if spread else 0

    def __len__(self) -> int:
        return len(self._urls)

    def url(self, at: int) -> str:
        """Return the base URL of a node."""
        return self._urls[at]

    def choose(self) -> int:
        """Return the place of the node to ask next: the present one unless it failed a moment
        ago.
        """
        count, now = len(self._urls), time.monotonic()
        if self._spread:
            self._at = (self._at + 1) % count
        for step in range(count):
            at = (self._at + step) % count
            if self._avoided_until[at] <= now:
                self._at = at
                return at
        self._at = min(range(count), key=lambda at: self._avoided_until[at])
        return self._at

    def avoid(self, at: int) -> None:
        """Ask this node last for a while."""
        self._avoided_until[at] = time.monotonic() + AVOID_S
        if self._at == at:
            self._at = (at + 1) % len(self._urls)

    def trust(self, at: int) -> None:
        """Ask this node as before: it answered."""
        self._avoided_until[at] = 0.0
