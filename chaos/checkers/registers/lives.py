"""Count for each state who must still observe it and who could still make it.

A state that somebody must still observe and nobody can make again must not be left.
"""

from __future__ import annotations

from chaos.checkers.registers.encode import APPEND, MAKERS, MUST_MATCH, Column


class Lives:
    """The counts of one key, kept while operations come into the order and go out again."""

    def __init__(self, column: Column, makes: list[int]) -> None:
        states = len(column.values.values)
        self.observers = [0] * states
        """Operations that must still find the state."""
        self.writers = [0] * states
        """Operations that could still make it."""
        self._column, self._makes = column, makes
        self._ends: dict[int, list[int]] = {}
        """By append: the observed states that end with its text, any of which it may make."""
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
        """Let every state be left at any time."""
        self.writers[:] = [len(self._column) + 1] * len(self.writers)

    def grow(self) -> None:
        """Make room for states that came up only now."""
        more = len(self._column.values.values) - len(self.observers)
        self.observers += [0] * more
        self.writers += [0] * more

    def take(self, i: int) -> None:
        """Count an operation that came into the order."""
        self._change(i, -1)

    def put_back(self, i: int) -> None:
        """Count an operation that was taken out of the order again."""
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
