"""Hold when each lease ends, by the leader's monotonic clock. Pure: time is an argument.

A deadline never moves back, and a lease that has begun to end is never renewed.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import count
from typing import Final, NamedTuple

from kv.ports import LeaseTime

ENDING: Final = LeaseTime(-1, 0)
"""Said of a lease whose end is ordered, and not known yet."""


ENDED_KEPT_MAX: Final = 1_000
"""Entries of leases that ended before their time, beyond as many as there are leases."""


class Granted(NamedTuple):
    """What the store says of a lease."""

    ttl_ms: int
    revision: int
    """The revision of its grant. An id may be granted again after its lease ended."""


class _Lease:
    """One lease, its deadline in seconds, and whether its end was ordered."""

    __slots__ = ("ending", "revision", "ttl_ms", "until_s")

    def __init__(self, granted: Granted, until_s: float) -> None:
        self.ttl_ms, self.revision = granted
        self.until_s, self.ending = until_s, False


class Deadlines:
    """The leases that are there, each with its deadline. There is one heap entry for each; what is
    left of leases that were revoked is dropped at its time, or when there is much of it.
    """

    def __init__(self) -> None:
        self._leases: dict[int, _Lease] = {}
        self._heap: list[tuple[float, int, int, _Lease]] = []
        """(deadline in seconds, number of the entry, lease, what is known of it). The number is
        there because one id may have two entries of one deadline, and leases have no order.
        """
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._leases)

    def grant(self, lease: int, granted: Granted, now_s: float) -> None:
        """Take a lease that is there: if it was not known, it lives its whole ttl from now on."""
        held = self._leases.get(lease)
        if held is not None and held.revision >= granted.revision:
            return
        new = _Lease(granted, self._whole(granted.ttl_ms, now_s))
        self._leases[lease] = new
        self._push(new.until_s, lease, new)

    def renew(self, lease: int, now_s: float) -> None:
        """Let a lease that is there, and has not begun to end, live its whole ttl from now on."""
        held = self._leases.get(lease)
        if held is not None and not held.ending:
            held.until_s = max(held.until_s, self._whole(held.ttl_ms, now_s))

    def ends(self, lease: int, revision: int) -> None:
        """Forget a lease that ended at this revision, unless it was granted again since."""
        held = self._leases.get(lease)
        if held is not None and held.revision <= revision:
            del self._leases[lease]

    def keep_only(self, leases: Mapping[int, Granted], now_s: float) -> None:
        """Let the leases be exactly these; those that were not known begin now."""
        for gone in [lease for lease in self._leases if lease not in leases]:
            del self._leases[gone]
        for lease, granted in leases.items():
            self.grant(lease, granted, now_s)

    def time(self, lease: int, now_s: float) -> LeaseTime | None:
        """Return how long a lease still lives; ENDING; or None: it is not there."""
        held = self._leases.get(lease)
        if held is None:
            return None
        if held.ending:
            return ENDING
        return LeaseTime(held.ttl_ms, max(0, int((held.until_s - now_s) * 1000)))

    def due(self, now_s: float, limit: int) -> dict[int, int]:
        """Return leases whose time is over, at most `limit`, each with the revision of the grant
        whose time that was: its id may be granted again at any moment. They have begun to end.
        """
        found: dict[int, int] = {}
        while self._heap and self._heap[0][0] <= now_s and len(found) < limit:
            _, _, lease, held = heapq.heappop(self._heap)
            if self._leases.get(lease) is not held:
                continue
            if held.until_s > now_s:
                self._push(held.until_s, lease, held)
                continue
            held.ending = True
            found[lease] = held.revision
        return found

    def try_again(self, lease: int, at_s: float) -> None:
        """Let the end of a lease be ordered again at this time: it is not known to have ended."""
        held = self._leases.get(lease)
        if held is not None and held.ending:
            held.until_s = at_s
            self._push(at_s, lease, held)

    def next_s(self) -> float | None:
        """Return when `due` may find something; None: there is no lease."""
        return self._heap[0][0] if self._heap else None

    def _push(self, at_s: float, lease: int, held: _Lease) -> None:
        if len(self._heap) > 2 * len(self._leases) + ENDED_KEPT_MAX:
            self._heap = [entry for entry in self._heap if self._leases.get(entry[2]) is entry[3]]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (at_s, next(self._numbers), lease, held))

    def _whole(self, ttl_ms: int, from_s: float) -> float:
        """Return the deadline of a lease that lives its whole ttl from this time on."""
        return from_s + ttl_ms / 1000
