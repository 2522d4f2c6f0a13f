"""Decide which strangers may knock: how many at a time, and how often from one host.

Pure: time arrives as an argument. It never says no to a peer that has proved itself.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, Literal, TypeVar

UNPROVED_MAX: Final = 64
"""Connections that have not proved themselves. One more puts out the oldest: a handshake takes
milliseconds, so those that wait long are not members.
"""
KNOCKS_PER_S: Final = 50.0
KNOCKS_BURST: Final = 100.0
HOSTS_MAX: Final = 256

T = TypeVar("T")


class Admission(Generic[T]):
    """Count strangers. `T` stands for a connection."""

    def __init__(self) -> None:
        self._unproved: OrderedDict[T, None] = OrderedDict()
        self._hosts: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """host → (knocks left, when that was so), least recently heard first."""

    @property
    def unproved(self) -> int:
        return len(self._unproved)

    def knock(self, stranger: T, host: str, now_s: float) -> T | Literal["too_often"] | None:
        """Let a stranger in; return whom to put out for it. "too_often": it is not let in."""
        left, since = self._hosts.pop(host, (KNOCKS_BURST, now_s))
        left = min(KNOCKS_BURST, left + (now_s - since) * KNOCKS_PER_S)
        allowed = left >= 1
        self._hosts[host] = (left - 1 if allowed else left, now_s)
        if len(self._hosts) > HOSTS_MAX:
            self._hosts.popitem(last=False)
        if not allowed:
            return "too_often"
        self._unproved[stranger] = None
        return self._unproved.popitem(last=False)[0] if len(self._unproved) > UNPROVED_MAX else None

    def leave(self, stranger: T) -> None:
        """Forget a stranger: it has proved itself, or is gone."""
        self._unproved.pop(stranger, None)
