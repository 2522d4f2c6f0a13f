"""Declare the port that publishes committed changes, and the messages that it publishes.

The ledger decides what is published; nothing here does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import msgspec

from kv.model import (
    Version,
)


class UndoneRange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The revisions that the newest adoption undid.

    Of what was published after revision `after` and before `to`, nothing is certain.
    """

    after: int = 0
    to: int = 0
    """The revision that the adoption ends at; 0: there was no adoption."""

    def cut(self, position: int) -> int | None:
        """Return the revision up to which the ledger may be published from `position`; None: to its
        end.

        From a position below `to` that is `after`: the next message after it says that the rest is
        undone.
        """
        return self.after if position < self.to else None


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One committed intent and what it changed (large values as references)."""

    revision: int
    op_id: str
    log_time_ms: int
    versions: tuple[Version, ...]
    undone_after: int | None = None
    """Not None: this is not an intent but an operator's adoption, at `revision`. Everything
    published after the revision `undone_after` is undone.
    """
    term: int = 0
    """Of the ledger row, where each member has its own store; 0: the store is shared. A revision
    that comes in two terms was lost by a quorum and given again (R12).
    """


class Broadcast(Protocol):
    """The publisher of committed changes.

    Guarantees: changes are delivered in revision order, at least once (INV-6).
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def publish(self, changes: Sequence[Change], *, timeout_s: float) -> None:
        """Publish changes, and return when all of them are confirmed. Raises BackendUnavailable:
        any prefix of them may have been published.
        """
        ...

    def healthy(self) -> bool:
        """Return whether the broker answers."""
        ...
