"""Notify this member's listeners of what is settled: each revision once, in order, without a gap.

A log that was reset repeats itself, so no revision is fed twice; a snapshot skips revisions, so
what it skips is marked as such.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import msgspec

from coordinator.clients.waits import RevisionWaits
from kv.ports import Listener, Settled


class Feed:
    """The listeners of one member, and the callers that wait for a revision to be settled."""

    def __init__(self) -> None:
        self._listeners: dict[int, Listener] = {}
        self._numbers = count(1)
        self.waits = RevisionWaits()
        self.fed = 0
        """The newest revision that the listeners were notified of."""

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each Settled from now on. The returned function unsubscribes it."""
        number = next(self._numbers)
        self._listeners[number] = listener

        def end() -> None:
            self._listeners.pop(number, None)

        return end

    def feed(self, settled: Settled) -> None:
        """Notify the listeners of the part that they have not seen yet, and wake the callers that
        waited for it.
        """
        if settled.previous < self.fed:
            settled = _after(settled, self.fed)
        if settled.last > self.fed:
            self.fed = settled.last
            for listener in list(self._listeners.values()):
                listener(settled)
        self.waits.reached(settled.last)

    def undo(self, settled: Settled) -> None:
        """Notify the listeners that what they were told past `settled.last` is undone: the log has
        lost it, and those revisions are given again (R12).
        """
        self.fed = settled.last
        for listener in list(self._listeners.values()):
            listener(settled)


def _after(settled: Settled, fed: int) -> Settled:
    """Return the part past `fed`. `undone_after` is kept: what an adoption undid is undone even if
    the listeners have seen part of the range.
    """
    return msgspec.structs.replace(
        settled,
        previous=fed,
        records=settled.records[fed - settled.previous :],
        versions=None
        if settled.versions is None
        else tuple(v for v in settled.versions if v.revision > fed),
    )
