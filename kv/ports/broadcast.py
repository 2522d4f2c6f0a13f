"""Declare the port that tells the outside world of committed changes, and what it tells.

Nothing here decides what is published: the ledger does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import msgspec

from kv.model import (
    Version,
)


class UndoneRange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the newest adoption took back.

    Of what was published after `after` and before `to`, nothing is certain.
    """

    after: int = 0
    to: int = 0
    """The revision that the adoption ends at; 0: there was none."""

    def cut(self, position: int) -> int | None:
        """Return how far the ledger may be published from a position on; None: to its end.

        Below `to` that is `after`; from there on nothing follows but that the rest is undone.
        """
        return self.after if position < self.to else None


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One committed intent with what it changed (values as references when large)."""

    revision: int
    op_id: str
    log_time_ms: int
    versions: tuple[Version, ...]
    undone_after: int | None = None
    """Not None: no intent, but an operator's adoption, at `revision`: what was said after this
    revision is undone.
    """


class Broadcast(Protocol):
    """What publishes committed changes, in revision order, at least once (INV-6)."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def publish(self, changes: Sequence[Change], *, timeout_s: float) -> None:
        """Return when all are confirmed. Raises BackendUnavailable: any prefix may have been
        published.
        """
        ...

    def healthy(self) -> bool:
        """Say whether the broker answers."""
        ...
