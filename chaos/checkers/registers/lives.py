"""Count for each state the operations that must still observe it and those that could still make
it.

The search must not leave a state that some operation must still observe and none can make again.
"""

from __future__ import annotations

from chaos.checkers.registers.encode import APPEND, MAKERS, MUST_MATCH, Column


class Lives:
    """The counts of one key, updated as operations enter and leave the order."""

    def __init__(self, column: Column, makes: list[int]) -> None:
        states = len(column.values.values)
        self.observers = [0] * states
        """By state: the number of operations that must still observe it."""
        self.writers = [0] * states
        """By state: the number of operations that could still make it."""
        self._column, self._makes = column, makes
        self._ends: dict[int, list[int]] = {}
        """By append: the observed states that end with its text. It might make any of them."""
        count = len(column)
        for i in range(count):
            if column.required[i] and column.kinds[i] in MUST_MATCH:
                self.observers[column.asks[i]] += 1
            if column.kinds[i] in MAKERS:
                self.writers[makes[i]] += 1
        if column.appends:
            observed = [s for s in range(states) if self.observers[s]]
            for i in range(count):
                if column.kinds[i] == APPEND:
                    self._ends[i] = [s for s in observed if self._ends_with(s, column.makes[i])]
                    for s in self._ends[i]:
                        self.writers[s] += 1

    def _ends_with(self, state: int, text: int) -> bool:
        whole, end = self._column.values.values[state], self._column.values.values[text]
        return isinstance(whole, str) and isinstance(end, str) and whole.endswith(end)

    def never_end(self) -> None:
        """Allow every state to be left at any time."""
        self.writers[:] = [len(self._column) + 1] * len(self.writers)

    def grow(self) -> None:
        """Extend the counts to states that were added since."""
        more = len(self._column.values.values) - len(self.observers)
        self.observers += [0] * more
        self.writers += [0] * more

    def take(self, i: int) -> None:
        """Update the counts for an operation that entered the order."""
        self._change(i, -1)

    def put_back(self, i: int) -> None:
        """Update the counts for an operation that left the order again."""
        self._change(i, 1)

    def _change(self, i: int, by: int) -> None:
        column = self._column
        kind = column.kinds[i]
        if column.required[i] and kind in MUST_MATCH:
            self.observers[column.asks[i]] += by
        if kind in MAKERS:
            self.writers[self._makes[i]] += by
        elif kind == APPEND:
            for s in self._ends[i]:
                self.writers[s] += by
