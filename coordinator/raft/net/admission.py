"""Decide which unknown peers may try to prove themselves: how many at a time, and how often from
one host.

Pure: time arrives as an argument. It never refuses a peer that has proved itself.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, Literal, TypeVar

UNPROVED_MAX: Final = 64
"""Number of connections that may be unproved at a time. One more evicts the oldest: a handshake
takes milliseconds, so a connection that has waited long is not a member.
"""
CONNECTIONS_PER_S: Final = 50.0
CONNECTIONS_BURST: Final = 100.0
HOSTS_MAX: Final = 256

T = TypeVar("T")


class Admission(Generic[T]):
    """The limiter of unknown peers on one port. `T` is the type of a connection."""

    def __init__(self) -> None:
        self._unproved: OrderedDict[T, None] = OrderedDict()
        self._hosts: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By host: (connections left, time of that count), least recently seen host first."""

    @property
    def unproved(self) -> int:
        """The number of admitted connections that have not proved themselves."""
        return len(self._unproved)

    def admit(self, connection: T, host: str, now_s: float) -> T | Literal["too_often"] | None:
        """Admit a connection. Return an older connection to close in its favour, None if there is
        none to close, or "too_often" if the new one is not admitted.
        """
        left, since = self._hosts.pop(host, (CONNECTIONS_BURST, now_s))
        left = min(CONNECTIONS_BURST, left + (now_s - since) * CONNECTIONS_PER_S)
        allowed = left >= 1
        self._hosts[host] = (left - 1 if allowed else left, now_s)
        if len(self._hosts) > HOSTS_MAX:
            self._hosts.popitem(last=False)
        if not allowed:
            return "too_often"
        self._unproved[connection] = None
        return self._unproved.popitem(last=False)[0] if len(self._unproved) > UNPROVED_MAX else None

    def leave(self, connection: T) -> None:
        """Stop counting a connection that has proved itself or is closed."""
        self._unproved.pop(connection, None)
