"""Cut what a mirror writes into transactions, and say how long a key still lives. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from acordo._intents import Intent, Write
from acordo._wire import requests

OPERATIONS_MAX: Final = 128
"""Most guards and writes of a transaction."""
CHANGES_MAX: Final = OPERATIONS_MAX - 2
"""Most changes in one: beside them are the position and its guard."""
GUARDED_MAX: Final = CHANGES_MAX // 2
"""The same with a guard for each."""
REQUEST_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
"""Size of a transaction as it is sent, the position aside: a node takes 4 MiB."""
TTL_S_MIN: Final = 1.0
"""The least that a key with an expiry lives in the target."""

T = TypeVar("T")


class Packing(Generic[T]):
    """Packs items whose writes fit into one transaction."""

    def __init__(self, most: int, size_max: int) -> None:
        self._most, self._size_max = most, size_max
        self._part: list[T] = []
        self._size = 0

    def add(self, item: T, write: Write) -> list[T]:
        """Add an item; return the part before it if that is full, else nothing."""
        weight = sent_bytes(write)
        full = len(self._part) >= self._most or self._size + weight > self._size_max
        done = self.rest() if full else []
        self._part.append(item)
        self._size += weight
        return done

    def rest(self) -> list[T]:
        """Return what was added since the last part."""
        part, self._part, self._size = self._part, [], 0
        return part


def parts(items: Iterable[tuple[T, Write]], most: int, size_max: int) -> list[list[T]]:
    """Return items as parts whose writes fit into one transaction each."""
    packing = Packing[T](most, size_max)
    found = [packing.add(*each) for each in items]
    return [part for part in (*found, packing.rest()) if part]


def sent_bytes(write: Write) -> int:
    """Return how many bytes a write takes in a request, at most."""
    return len(requests.txn_request(Intent(writes=(write,))).body or b"")


def ttl_left_s(expires_ms: int | None, lease: str | None, now_ms: int) -> float | None:
    """Return for how many seconds a key is put; None: until it is deleted. One with a lease is put
    without end, because its delete comes as a change.
    """
    if expires_ms is None or lease is not None:
        return None
    return max(TTL_S_MIN, (expires_ms - now_ms) / 1000)
