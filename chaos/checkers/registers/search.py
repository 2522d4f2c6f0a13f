"""Search for an order of one key's operations that a register could have executed.

Wing and Gong, "Testing and verifying concurrent objects" (1993), with Lowe's cache, "Testing for
linearizability" (2017): a depth-first search over configurations (set of linearized operations,
state), each visited once. It does not recurse, does not copy the history at each step, and gives a
verdict only when decided. Work is counted in steps and can be resumed.
"""

from __future__ import annotations

from typing import Final

from chaos.checkers.registers.encode import (
    APPEND,
    CAS,
    MAKERS,
    MUST_DIFFER,
    MUST_MATCH,
    NEVER,
    OBSERVERS,
    WRITE,
    Column,
)
from chaos.checkers.registers.lives import Lives
from chaos.checkers.registers.remaining import Remaining
from chaos.checkers.verdict import Verdict

CONFIGURATIONS_MAX: Final = 2_000_000
CACHE_BYTES_MAX: Final = 1 << 30
STATE_BITS: Final = 24
"""Bits for the state in a cache entry, which is one integer with the set of linearized operations.
"""
REMEMBER_EVERY: Final = 8
"""A configuration with a single successor is cached only once in this many steps. That saves
memory, and chains without a cached configuration stay short.
"""


class Search:
    """The search for an order of one key's operations, in resumable steps.

    `advance` may be called again after UNKNOWN, unless the cache is full (`exhausted`).
    """

    def __init__(self, column: Column, *, lifetimes: bool = True) -> None:
        """Prepare the search.

        With `lifetimes=False` the search continues until no operation fits, which gives a dead end
        that people can understand.
        """
        self.column = column
        self.steps = 0
        self.exhausted = False
        self.longest: list[int] = []
        """The longest legal order found so far that cannot be continued, or the complete one."""
        count = len(column)
        self._left = sum(column.required)
        self._state = column.initial
        self._mask = 0
        """The set of linearized operations, one bit each."""
        self._trail: list[int] = []
        """The linearized operations in order."""
        self._befores: list[int] = []
        """The state before each operation of the trail."""
        self._choices: list[list[int]] = []
        """Per branching point: the operations that were not tried yet."""
        self._marks: list[int] = []
        """Per branching point: the length of the trail."""
        self._fresh = True
        """Whether the current configuration was just reached and is not branched yet."""
        self._seen: set[int] = set()
        self._configurations_max = min(CONFIGURATIONS_MAX, CACHE_BYTES_MAX // (count // 7 + 96))
        self._texts: dict[tuple[int, int], int] = {}
        self._makes = _merged(column)
        self._remaining = Remaining(column)
        self._lives = Lives(column, self._makes)
        if not lifetimes:
            self._lives.never_end()

    def advance(self, steps_max: int) -> Verdict:
        """Continue the search for at most `steps_max` steps.

        UNKNOWN: not decided yet, or never if `exhausted`.
        """
        if self.exhausted:
            return Verdict.UNKNOWN
        choices, marks = self._choices, self._marks
        for _ in range(steps_max):
            if self._fresh and (verdict := self._branch()) is not None:
                return verdict
            while choices and not choices[-1]:
                choices.pop()
                marks.pop()
            if not choices:
                return Verdict.ILLEGAL
            self._undo(marks[-1])
            self._linearize(choices[-1].pop())
            self._fresh = True
            self.steps += 1
        return Verdict.UNKNOWN

    def _branch(self) -> Verdict | None:
        """Record the possible successors of a new configuration; return a verdict if the search
        ends here.
        """
        candidates = self._candidates()
        if self._left == 0:
            self.longest = list(self._trail)
            return Verdict.OK
        if candidates and self._is_new(candidates):
            if self.exhausted:
                return Verdict.UNKNOWN
            self._choices.append(candidates)
            self._marks.append(len(self._trail))
        elif len(self._trail) > len(self.longest):
            self.longest = list(self._trail)
        self._fresh = False
        return None

    def _is_new(self, candidates: list[int]) -> bool:
        """Cache the configuration; return whether it is new.

        Of configurations with a single successor, only those at every REMEMBER_EVERY-th step are
        cached.
        """
        if len(candidates) == 1 and len(self._trail) % REMEMBER_EVERY:
            return True
        seen = self._seen
        configuration = (self._mask << STATE_BITS) | self._state
        if configuration in seen:
            return False
        if len(seen) >= self._configurations_max:
            self.exhausted = True
            return True
        seen.add(configuration)
        return True

    def _candidates(self) -> list[int]:
        """Linearize all observers that fit the state; return the operations to try next, the best
        last.
        """
        candidates, unknown = self._callable()
        candidates = self._without_leaving_what_lives(candidates)
        if unknown and candidates:
            candidates = self._needed(candidates)
        if len(candidates) > 1:
            candidates.sort(key=self.column.returns.__getitem__, reverse=True)
        return candidates

    def _callable(self) -> tuple[list[int], bool]:
        """Return the calls before the first remaining return that fit the state, and whether one of
        them has an unknown outcome.

        Observers are linearized during this walk and never branch: wherever one could stand later,
        it can stand here. A write of the current value is not an observer, because it may be needed
        later. Of operations that ask for and make the same state (twins), only the one with the
        earliest return is tried.
        """
        column, state, makes = self.column, self._state, self._makes
        kinds, asks = column.kinds, column.asks
        returns, required = column.returns, column.required
        after, count = self._remaining.after, self._remaining.count
        found: dict[tuple[int, int, int], int] = {}
        unknown = False
        event = after[self._remaining.head]
        while event < count:
            i = event
            event = after[event]
            kind = kinds[i]
            if kind in MUST_MATCH:
                if asks[i] != state:
                    continue
            elif kind in MUST_DIFFER:
                if asks[i] == state:
                    continue
            elif kind == WRITE and makes[i] == state and not required[i]:
                continue
            if kind in OBSERVERS:
                event = self._absorb(i, event)
                continue
            twin = (kind, asks[i], makes[i])
            other = found.get(twin)
            if other is None or returns[i] < returns[other]:
                found[twin] = i
                unknown = unknown or not required[i]
        return list(found.values()), unknown

    def _without_leaving_what_lives(self, candidates: list[int]) -> list[int]:
        """Drop operations that would leave a state which must still be observed and cannot be made
        again.
        """
        state, lives = self._state, self._lives
        if not lives.observers[state] or lives.writers[state]:
            return candidates
        kinds, required, makes = self.column.kinds, self.column.required, self._makes
        last = lives.observers[state] == 1
        return [
            i
            for i in candidates
            if (kinds[i] == WRITE and makes[i] == state)
            or (last and kinds[i] == CAS and required[i])
        ]

    def _needed(self, candidates: list[int]) -> list[int]:
        """Drop the unknown operations that no callable operation waits for.

        If an unknown operation is followed by one that could also have come before it, the unknown
        one can be moved behind it, or dropped if the other overwrites it. So it must be tried only
        when a callable operation cannot come without it.
        """
        column, state = self.column, self._state
        kinds, asks, required = column.kinds, column.asks, column.required
        after, count = self._remaining.after, self._remaining.count
        awaited: set[int] = set()
        i = after[self._remaining.head]
        while i < count:
            kind = kinds[i]
            if kind == APPEND or (kind in MUST_DIFFER and asks[i] == state):
                return candidates
            if kind in MUST_MATCH:
                awaited.add(asks[i])
            i = after[i]
        return [i for i in candidates if required[i] or self._makes[i] in awaited]

    def _absorb(self, i: int, event: int) -> int:
        """Linearize an observer during the walk; return the event at which the walk continues."""
        if event == self._remaining.count + i:  # its own return is removed too
            event = self._remaining.after[event]
        self._linearize(i)
        return event

    def _linearize(self, i: int) -> None:
        column, state = self.column, self._state
        kind = column.kinds[i]
        self._trail.append(i)
        self._befores.append(state)
        self._mask |= 1 << i
        self._remaining.take(i)
        if column.required[i]:
            self._left -= 1
        if kind in MAKERS:
            self._state = self._makes[i]
        elif kind == APPEND:
            self._state = self._appended(state, column.makes[i])
        self._lives.take(i)

    def _undo(self, length: int) -> None:
        """Undo the newest operations until the trail is `length` long."""
        required, trail, befores = self.column.required, self._trail, self._befores
        while len(trail) > length:
            i = trail.pop()
            self._state = befores.pop()
            self._mask ^= 1 << i
            self._remaining.put_back(i)
            if required[i]:
                self._left += 1
            self._lives.put_back(i)

    def _appended(self, state: int, text: int) -> int:
        made = self._texts.get((state, text))
        if made is None:
            values = self.column.values
            whole = values.values[state]
            made = values.state(("" if whole is None else whole) + values.values[text])
            self._texts[(state, text)] = made
            self._lives.grow()
        return made

    def state_after_longest(self) -> int:
        """Return the state after the longest legal order."""
        column, state = self.column, self.column.initial
        for i in self.longest:
            if column.kinds[i] in MAKERS:
                state = column.makes[i]
            elif column.kinds[i] == APPEND:
                state = self._appended(state, column.makes[i])
        return state

    @property
    def stuck(self) -> list[int]:
        """Return the operations that could be called next after `longest`.

        If the verdict is illegal, none of them fits.
        """
        done = set(self.longest)
        rest = [i for i in range(len(self.column)) if i not in done]
        first = min(
            (self.column.returns[i] for i in rest if self.column.required[i]), default=NEVER
        )
        return [i for i in rest if self.column.calls[i] <= first]


def _merged(column: Column) -> list[int]:
    """Return what each operation makes, with all states that no operation asks for merged into one.

    Operations distinguish states only by asking for them, so states that none asks for are
    equivalent: a write of one is as good as a write of another, and the resulting twins are tried
    once.
    """
    if column.appends:
        return column.makes
    named = {column.asks[i] for i, kind in enumerate(column.kinds) if kind != WRITE}
    nameless = next((s for s in column.makes if s not in named), None)
    if nameless is None:
        return column.makes
    return [s if s in named else nameless for s in column.makes]
