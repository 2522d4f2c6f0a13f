"""Decide which unknown peers may try to prove themselves: how many at a time, and how often from
one host.

Pure: time arrives as an argument. It never says no to a peer that has proved itself.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, Literal, TypeVar

UNPROVED_MAX: Final = 64
"""Connections that have not proved themselves. One more puts out the oldest: a handshake takes
milliseconds, so those that wait long are not members.
"""
CONNECTIONS_PER_S: Final = 50.0
CONNECTIONS_BURST: Final = 100.0
HOSTS_MAX: Final = 256

T = TypeVar("T")


class Admission(Generic[T]):
    """The unknown peers of one port, counted. `T` stands for a connection."""

    def __init__(self) -> None:
        self._unproved: OrderedDict[T, None] = OrderedDict()
        self._hosts: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """host → (connections left, when that was so), least recently heard first."""

    @property
    def unproved(self) -> int:
        """How many are in and have not proved themselves."""
        return len(self._unproved)

    def admit(self, connection: T, host: str, now_s: float) -> T | Literal["too_often"] | None:
        """Let one in; return whom to put out for it. "too_often": it is not let in."""
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
        """Forget one: it has proved itself, or is gone."""
        self._unproved.pop(connection, None)
