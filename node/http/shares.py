"""Divide a limited amount among client addresses, so that a single client cannot take all of it and
leave the others with refusals. Pure.
"""

from __future__ import annotations


class Shares:
    """An amount that client addresses share; one address may hold at most half of it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._share = max(1, most // 2)
        self._by_address: dict[str, int] = {}
        self.held = 0

    def take(self, address: str, count: int) -> bool:
        """Take `count` for an address. Returns False, and takes nothing, when too little is left or
        the address's share is used up.
        """
        own = self._by_address.get(address, 0) + count
        if self.held + count > self._most or own > self._share:
            return False
        self._by_address[address] = own
        self.held += count
        return True

    def give_back(self, address: str, count: int) -> None:
        """Return what was taken."""
        left = self._by_address.get(address, 0) - count
        if left > 0:
            self._by_address[address] = left
        else:
            self._by_address.pop(address, None)
        self.held -= count

    def __len__(self) -> int:
        """Return how many addresses hold anything."""
        return len(self._by_address)
