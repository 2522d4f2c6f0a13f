"""Hold the calls and returns of the operations that are not in the order yet, by time."""

from __future__ import annotations

from typing import Final

from chaos.checkers.registers.encode import Column

CALL: Final = 0
RETURN: Final = 1
"""At equal times calls come first: intervals are closed, so the two operations overlap."""


class Remaining:
    """A doubly linked list of events, from which operations are taken and put back.

    Events are numbers. Of `count` operations, number i is called at event i and returns at event
    `count + i`; `head` stands before the first event and after the last. So an event below `count`
    is a call, and is its operation's number as well. Operations that need not return have no second
    event. They are put back in reverse order of taking, so that their neighbours are in place again
    (Knuth's dancing links).
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
        """The event that follows each."""
        self._before = [head] * (head + 1)
        self._returns = column.required
        at = head
        for _, _, event in events:
            self.after[at] = event
            self._before[event] = at
            at = event
        self._before[head] = at

    def take(self, i: int) -> None:
        """Take one operation out."""
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
        """Put back the operation that was taken last."""
        after, before = self.after, self._before
        if self._returns[i]:
            event = self.count + i
            after[before[event]] = event
            before[after[event]] = event
        after[before[i]] = i
        before[after[i]] = i
