"""Divide what a node has of something among client addresses: a single client must not take all of
it and leave others with refusals. Pure.
"""

from __future__ import annotations


class Shares:
    """An amount that client addresses share; one of them may hold half of it at most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._share = max(1, most // 2)
        self._by_address: dict[str, int] = {}
        self.held = 0

    def take(self, address: str, count: int) -> bool:
        """Take some for an address; False, and nothing is taken, when there is too little or its
        share is used up.
        """
        own = self._by_address.get(address, 0) + count
        if self.held + count > self._most or own > self._share:
            return False
        self._by_address[address] = own
        self.held += count
        return True

    def give_back(self, address: str, count: int) -> None:
        """Give back what was taken."""
        left = self._by_address.get(address, 0) - count
        if left > 0:
            self._by_address[address] = left
        else:
            self._by_address.pop(address, None)
        self.held -= count

    def __len__(self) -> int:
        """Return how many addresses hold anything."""
        return len(self._by_address)
