"""Declare the port of the caches, which only add speed.

It guarantees nothing that a read may rely on: the reader judges every entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import msgspec

from kv.model import (
    Entry,
)


class Space(msgspec.Struct, frozen=True):
    """The namespace of cache entries in a shared cache. No two histories share one, and an adoption
    gives its history a new one.
    """

    namespace: int
    key: bytes = b""
    """The key that signs the entries. It is never sent to the cache."""

    def __repr__(self) -> str:
        return f"Space({self.namespace})"


class Cache(Protocol):
    """A cache of entries, which only adds speed.

    It may forget, serve old entries, or fail over at any time: the reader judges (INV-5). An entry
    that it returns was put into that very space; anything else in a shared cache is not an entry.
    No method raises for a dead or slow back end: `get` then returns Nones, `put` does nothing.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def get(self, space: Space, keys: Sequence[bytes]) -> tuple[Entry | None, ...]:
        """Return the entry of each key, aligned with `keys`; None: there is none."""
        ...

    async def put(self, space: Space, entries: Sequence[Entry]) -> None:
        """Store each entry unless one with the same or a newer `as_of` is held."""
        ...

    def healthy(self) -> bool:
        """Return whether the back end answers (False while its circuit breaker is open)."""
        ...
