"""Compute each value once for all tasks that want it at the same time, and keep the newest."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """A bounded cache that computes each value once for all tasks that want it at the same time. It
    keeps the newest values: up to a total `size` of `most`, which by default counts values.
    """

    def __init__(self, most: int, size: Callable[[V], int] = lambda _: 1) -> None:
        self._most, self._size = most, size
        self._weight = 0
        self._held: OrderedDict[K, V] = OrderedDict()
        self._making: dict[K, asyncio.Event] = {}
        self._cleared = 0

    def clear(self) -> None:
        """Drop every value. One that is being computed is not kept, nor waited for by others."""
        self._held.clear()
        self._weight = 0
        self._making = {}
        self._cleared += 1

    def held(self, key: K) -> V | None:
        """Return the kept value, if there is one."""
        return self._held.get(key)

    async def get(self, key: K, make: Callable[[], Awaitable[V | None]]) -> V | None:
        """Return the kept value, or what `make` returns; None is not kept. Raises what `make`
        raises; tasks that waited for that call then call `make` themselves.
        """
        while True:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            begun = self._making.get(key)
            if begun is None:
                break
            await begun.wait()
        making, cleared = self._making, self._cleared
        done = making[key] = asyncio.Event()
        try:
            made = await make()
            if made is not None and self._cleared == cleared:
                self._held[key] = made
                self._weight += self._size(made)
                while self._weight > self._most:
                    self._weight -= self._size(self._held.popitem(last=False)[1])
            return made
        finally:
            del making[key]
            done.set()
