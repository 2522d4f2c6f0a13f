"""Search for an order of one key's operations that a register could have executed.

Wing and Gong, "Testing and verifying concurrent objects" (1993), with Lowe's cache, "Testing for
linearizability" (2017): depth first over configurations (set of linearized operations, state), each
visited once. It never recurses, never copies a history per step, and never answers what it has not
decided: work is counted in steps, and may be resumed.
"""

from __future__ import annotations

from typing import Final

from chaos.checkers.registers.encode import APPEND, CAS, NEVER, NOT, READ, TAKE, WRITE, Column
from chaos.checkers.verdict import Verdict

CONFIGURATIONS_MAX: Final = 2_000_000
CACHE_BYTES_MAX: Final = 1 << 30
STATE_BITS: Final = 24
"""States share one integer with the set of linearized operations in the cache."""


class Search:
    """One key's search. `advance` may be called again after UNKNOWN, unless the cache is full
    (`exhausted`).
    """

    def __init__(self, column: Column, *, lifetimes: bool = True) -> None:
        """Prepare the search. `lifetimes=False` goes on until nothing fits, for a dead end that
        people can read.
        """
        self.column = column
        self.steps = 0
        self.exhausted = False
        self.longest: list[int] = []
        """The longest legal order found so far that could not be continued (or the whole one)."""
        self._n = len(column)
        self._left = sum(column.required)
        self._state = column.initial
        self._mask = 0
        self._trail: list[int] = []
        self._befores: list[int] = []
        """State before each operation of the trail."""
        self._choices: list[list[int]] = []
        self._marks: list[int] = []
        self._seen: set[int] = set()
        self._configurations_max = min(CONFIGURATIONS_MAX, CACHE_BYTES_MAX // (self._n // 7 + 96))
        self._fresh = True
        self._texts: dict[tuple[int, int], int] = {}
        self._b = _merged(column)
        self._observers: list[int] = []
        self._writers: list[int] = []
        self._link()
        self._count_lives()
        if not lifetimes:
            self._writers[:] = [self._n + 1] * len(self._writers)

    def _link(self) -> None:
        """Build the doubly linked list of calls (2i) and returns (2i + 1), calls first at equal
        times.
        """
        column = self.column
        events = [(column.calls[i], 0, 2 * i) for i in range(self._n)]
        events += [(column.returns[i], 1, 2 * i + 1) for i in range(self._n) if column.required[i]]
        events.sort()
        self._head = 2 * self._n
        self._after = [self._head] * (self._head + 1)
        self._before = [self._head] * (self._head + 1)
        at = self._head
        for _, _, event in events:
            self._after[at] = event
            self._before[event] = at
            at = event
        self._before[self._head] = at

    def _count_lives(self) -> None:
        """Count for each state who still must observe it and who could still make it."""
        column = self.column
        states = len(column.values.values)
        self._observers += [0] * states
        self._writers += [0] * states
        for i in range(self._n):
            if column.required[i] and column.kinds[i] in (READ, CAS):
                self._observers[column.a[i]] += 1
            if column.kinds[i] in (WRITE, CAS, TAKE):
                self._writers[self._b[i]] += 1
        self._makes: dict[int, list[int]] = {}
        if not column.appends:
            return
        observed = [s for s in range(states) if self._observers[s]]
        for i in range(self._n):
            if column.kinds[i] == APPEND:
                self._makes[i] = [s for s in observed if self._ends(s, column.b[i])]
                for s in self._makes[i]:
                    self._writers[s] += 1

    def _ends(self, state: int, text: int) -> bool:
        whole, end = self.column.values.values[state], self.column.values.values[text]
        return isinstance(whole, str) and isinstance(end, str) and whole.endswith(end)

    def advance(self, steps_max: int) -> Verdict:
        """Search on for at most `steps_max` steps. UNKNOWN: not decided yet, or never
        (`exhausted`).
        """
        if self.exhausted:
            return Verdict.UNKNOWN
        choices, marks = self._choices, self._marks
        for _ in range(steps_max):
            if self._fresh:
                candidates = self._candidates()
                if self._left == 0:
                    self.longest = list(self._trail)
                    return Verdict.OK
                if candidates and self._is_new(candidates):
                    if self.exhausted:
                        return Verdict.UNKNOWN
                    choices.append(candidates)
                    marks.append(len(self._trail))
                elif len(self._trail) > len(self.longest):
                    self.longest = list(self._trail)
                self._fresh = False
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

    def _is_new(self, candidates: list[int]) -> bool:
        """Remember the configuration; say whether it was seen for the first time.

        One that has a single way on is not worth remembering, as long as every eighth is: chains
        stay short.
        """
        if len(candidates) == 1 and len(self._trail) & 7:
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
        """Linearize what observes the state and cannot change it; return what may come next, the
        best one last.

        Candidates are the calls before the first remaining return. An observer never branches:
        wherever it stood later, it can stand here. A write of the value already present is no
        observer: it may be needed later.
        """
        column, after, state = self.column, self._after, self._state
        kinds, a, b, returns, required = (
            column.kinds,
            column.a,
            self._b,
            column.returns,
            column.required,
        )
        found: dict[tuple[int, int, int], int] = {}
        unknown = False
        event = after[self._head]
        while not event & 1 and event != self._head:
            i = event >> 1
            event = after[event]
            kind = kinds[i]
            if kind == READ:
                if a[i] == state:
                    event = self._absorb(i, event)
                continue
            if kind == NOT:
                if a[i] != state:
                    event = self._absorb(i, event)
                continue
            if kind == CAS:
                if a[i] != state:
                    continue
            elif kind == TAKE:
                if a[i] == state:
                    continue
            elif kind == WRITE and b[i] == state and not required[i]:
                continue
            twin = (kind, a[i], b[i])
            other = found.get(twin)
            if other is None or returns[i] < returns[other]:
                found[twin] = i
                unknown = unknown or not required[i]
        candidates = list(found.values())
        if self._observers[state] and not self._writers[state]:
            last = self._observers[state] == 1
            candidates = [
                i
                for i in candidates
                if (kinds[i] == WRITE and b[i] == state)
                or (last and kinds[i] == CAS and required[i])
            ]
        if unknown and candidates:
            candidates = self._needed(candidates)
        if len(candidates) > 1:
            candidates.sort(key=returns.__getitem__, reverse=True)
        return candidates

    def _needed(self, candidates: list[int]) -> list[int]:
        """Leave out the unknown operations that nothing callable waits for.

        An unknown operation that is followed by one that could also have come before it can be
        moved behind that one, or left out if that one overwrites it. So it need only be tried when
        a callable operation cannot come without it.
        """
        column, after, state = self.column, self._after, self._state
        kinds, a, b, required = column.kinds, column.a, self._b, column.required
        awaited: set[int] = set()
        event = after[self._head]
        while not event & 1 and event != self._head:
            i = event >> 1
            event = after[event]
            kind = kinds[i]
            if kind == APPEND or (kind in (NOT, TAKE) and a[i] == state):
                return candidates
            if kind in (READ, CAS):
                awaited.add(a[i])
        return [i for i in candidates if required[i] or b[i] in awaited]

    def _absorb(self, i: int, event: int) -> int:
        """Linearize an observer during the walk; return where the walk goes on."""
        if event == 2 * i + 1:
            event = self._after[event]
        self._linearize(i)
        return event

    def _linearize(self, i: int) -> None:
        column, after, before = self.column, self._after, self._before
        state, kind = self._state, column.kinds[i]
        self._trail.append(i)
        self._befores.append(state)
        self._mask |= 1 << i
        call = 2 * i
        left, right = before[call], after[call]
        after[left] = right
        before[right] = left
        if column.required[i]:
            self._left -= 1
            left, right = before[call + 1], after[call + 1]
            after[left] = right
            before[right] = left
            if kind in (READ, CAS):
                self._observers[column.a[i]] -= 1
        if kind in (WRITE, CAS, TAKE):
            self._state = self._b[i]
            self._writers[self._b[i]] -= 1
        elif kind == APPEND:
            self._state = self._appended(state, column.b[i])
            for s in self._makes[i]:
                self._writers[s] -= 1

    def _undo(self, length: int) -> None:
        """Take back the newest operations until the trail is `length` long."""
        column, after, before = self.column, self._after, self._before
        trail, befores = self._trail, self._befores
        while len(trail) > length:
            i = trail.pop()
            self._state = befores.pop()
            self._mask ^= 1 << i
            kind = column.kinds[i]
            call = 2 * i
            # In reverse order of unlinking, so that neighbours are in place again.
            if column.required[i]:
                self._left += 1
                after[before[call + 1]] = call + 1
                before[after[call + 1]] = call + 1
                if kind in (READ, CAS):
                    self._observers[column.a[i]] += 1
            after[before[call]] = call
            before[after[call]] = call
            if kind in (WRITE, CAS, TAKE):
                self._writers[self._b[i]] += 1
            elif kind == APPEND:
                for s in self._makes[i]:
                    self._writers[s] += 1

    def _appended(self, state: int, text: int) -> int:
        made = self._texts.get((state, text))
        if made is None:
            values = self.column.values
            whole = values.values[state]
            made = values.state(("" if whole is None else whole) + values.values[text])
            self._texts[(state, text)] = made
            while len(self._observers) < len(values.values):
                self._observers.append(0)
                self._writers.append(0)
        return made

    def state_after_longest(self) -> int:
        """Return the state that the longest legal order leaves."""
        column, state = self.column, self.column.initial
        for i in self.longest:
            if column.kinds[i] in (WRITE, CAS, TAKE):
                state = column.b[i]
            elif column.kinds[i] == APPEND:
                state = self._appended(state, column.b[i])
        return state

    @property
    def stuck(self) -> list[int]:
        """Return the operations that could be called next after `longest`, none of which can follow
        (when illegal).
        """
        done = set(self.longest)
        rest = [i for i in range(self._n) if i not in done]
        first = min(
            (self.column.returns[i] for i in rest if self.column.required[i]), default=NEVER
        )
        return [i for i in rest if self.column.calls[i] <= first]


def _merged(column: Column) -> list[int]:
    """Return what each operation makes, with all values that no operation asks for taken for one of
    them.

    Operations tell states apart only by naming them, so states that none names are alike: a write
    of one is as good as a write of another, and the twins among them are tried once.
    """
    if column.appends:
        return column.b
    named = {column.a[i] for i, kind in enumerate(column.kinds) if kind != WRITE}
    nameless = next((s for s in column.b if s not in named), None)
    if nameless is None:
        return column.b
    return [s if s in named else nameless for s in column.b]
