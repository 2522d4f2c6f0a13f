"""Keep the calls and returns of the operations that are not yet in the order, sorted by time."""

from __future__ import annotations

from typing import Final

from chaos.checkers.registers.encode import Column

CALL: Final = 0
RETURN: Final = 1
"""At equal times calls sort before returns: intervals are closed, so the two operations overlap."""


class Remaining:
    """A doubly linked list of events from which operations are removed and put back.

    Events are numbers. Of `count` operations, operation i is called at event i and returns at event
    `count + i`; `head` stands before the first and after the last event. So an event below `count`
    is a call, and its number is that of its operation. Operations that need not return have no
    second event. Operations must be put back in the reverse order of their removal, so that their
    neighbours are in place again (Knuth's dancing links).
    """

    def __init__(self, column: Column) -> None:
        self.count = count = len(column)
        self.head = head = 2 * count
        events = [(column.calls[i], CALL, i) for i in range(count)]
        events += [
            (column.returns[i], RETURN, count + i) for i in range(count) if column.required[i]
        ]
        events.sort()
        self.after = [head] * (head + 1)
        """The event that follows each event."""
        self._before = [head] * (head + 1)
        self._returns = column.required
        at = head
        for _, _, event in events:
            self.after[at] = event
            self._before[event] = at
            at = event
        self._before[head] = at

    def take(self, i: int) -> None:
        """Remove one operation."""
        after, before = self.after, self._before
        left, right = before[i], after[i]
        after[left] = right
        before[right] = left
        if self._returns[i]:
            event = self.count + i
            left, right = before[event], after[event]
            after[left] = right
            before[right] = left

    def put_back(self, i: int) -> None:
        """Put back the operation that was removed last."""
        after, before = self.after, self._before
        if self._returns[i]:
            event = self.count + i
            after[before[event]] = event
            before[after[event]] = event
        after[before[i]] = i
        before[after[i]] = i
