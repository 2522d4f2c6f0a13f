"""Tell this member's listeners what is settled: each revision once, in order, without a gap.

A log that was reset repeats itself, and a snapshot steps over revisions: nothing is fed twice, and
what is stepped over is marked as such.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import msgspec

from coordinator.clients.waits import RevisionWaits
from kv.ports import Listener, Settled


class Feed:
    """The listeners of one member, and those who wait for a revision to be settled."""

    def __init__(self) -> None:
        self._listeners: dict[int, Listener] = {}
        self._numbers = count(1)
        self.waits = RevisionWaits()
        self.fed = 0
        """The newest revision that the listeners heard of."""

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` at each Settled from here on; return a function that ends that."""
        number = next(self._numbers)
        self._listeners[number] = listener

        def end() -> None:
            self._listeners.pop(number, None)

        return end

    def feed(self, settled: Settled) -> None:
        """Tell the listeners what of this they have not heard yet, and wake who waited for it."""
        if settled.previous < self.fed:
            settled = _after(settled, self.fed)
        if settled.last > self.fed:
            self.fed = settled.last
            for listener in list(self._listeners.values()):
                listener(settled)
        self.waits.reached(settled.last)


def _after(settled: Settled, fed: int) -> Settled:
    """Return the part of it past `fed`; what it undid is undone all the same."""
    return msgspec.structs.replace(
        settled,
        previous=fed,
        records=settled.records[fed - settled.previous :],
        versions=None
        if settled.versions is None
        else tuple(v for v in settled.versions if v.revision > fed),
    )
