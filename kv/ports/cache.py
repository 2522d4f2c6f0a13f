"""Declare the port that keeps entries for speed.

It promises nothing that a read may rest on: the reader judges what it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import msgspec

from kv.model import (
    Entry,
)


class Space(msgspec.Struct, frozen=True):
    """Whose entries a shared cache is asked for: no two histories have one in common, nor have two
    times of one that an adoption lies between.
    """

    namespace: int
    key: bytes = b""
    """Signs the entries. It never goes to the cache."""

    def __repr__(self) -> str:
        return f"Space({self.namespace})"


class Cache(Protocol):
    """What keeps entries for speed.

    It may forget, serve old entries, or fail over at any time: the reader judges (INV-5).

    What comes back was put into that very space: anything else that may stand in a shared cache is
    no entry. No method raises for a dead or slow back end: `get` then returns Nones, `put` and
    `forget` do nothing.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def get(self, space: Space, keys: Sequence[bytes]) -> tuple[Entry | None, ...]:
        """Return what is held of each key, aligned with `keys`; None: nothing."""
        ...

    async def put(self, space: Space, entries: Sequence[Entry]) -> None:
        """Keep each entry unless one with the same or a newer `as_of` is held."""
        ...

    def healthy(self) -> bool:
        """Say whether the back end answers (False while its circuit breaker is open)."""
        ...
