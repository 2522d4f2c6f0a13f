"""Turn the operations on one key into columns of small integers for the register checker.

It never judges. Values become states (0 is "absent"), so that the search compares integers, and
keep their JSON type: `1`, `"1"` and `true` are three values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from chaos.records.history import ClientOperation, HistoryError

ABSENT: Final = 0
NEVER: Final = 1 << 62
"""Return time of an operation whose outcome is unknown. An integer, so that columns stay
homogeneous.
"""
BEFORE: Final = -1
"""When the initial value was written: before everything (times are never negative)."""

READ: Final = 0
"""State must be what it asks for. Changes nothing: read, CAS(x, x), delete of nothing."""
NOT: Final = 1
"""State must not be what it asks for. Changes nothing: refused CAS."""
WRITE: Final = 2
"""State becomes what it makes, whatever it was: put, delete that reports nothing."""
CAS: Final = 3
"""State must be what it asks for and becomes what it makes."""
TAKE: Final = 4
"""State must not be what it asks for and becomes what it makes: delete that reports existence."""
APPEND: Final = 5
"""State becomes state + the text that it makes."""

MUST_MATCH: Final = frozenset({READ, CAS})
MUST_DIFFER: Final = frozenset({NOT, TAKE})
OBSERVERS: Final = frozenset({READ, NOT})
"""Kinds that change nothing."""
MAKERS: Final = frozenset({WRITE, CAS, TAKE})
"""Kinds after which the state is what they make."""


class Values:
    """The values of one key, interned as states.

    Two values are one state iff they are equal as JSON, types included.
    """

    def __init__(self) -> None:
        self._states: dict[Any, int] = {None: ABSENT}
        self.values: list[Any] = [None]

    @staticmethod
    def same(one: Any, other: Any) -> bool:
        """Say whether two values are one state."""
        return bool(_identity(one) == _identity(other))

    def state(self, value: Any) -> int:
        """Return the state of a value, a new one at first sight."""
        identity = value if value is None or value.__class__ is str else _identity(value)
        state = self._states.get(identity)
        if state is None:
            state = self._states[identity] = len(self.values)
            self.values.append(value)
        return state


def _identity(value: Any) -> Any:
    if isinstance(value, list | dict):
        return ("json", msgspec.json.encode(value, order="deterministic"))
    return (type(value).__name__, value)


@dataclass
class Column:
    """The operations on one key that say anything, as parallel lists.

    An index stands for one operation in all of them, and is its bit in the search's set.
    """

    key: str
    initial: int
    values: Values
    kinds: list[int] = field(default_factory=list)
    asks: list[int] = field(default_factory=list)
    """The state that it compares with; ABSENT where the kind compares with none."""
    makes: list[int] = field(default_factory=list)
    """The state that it leaves (or the text that it appends); ABSENT where it leaves none."""
    calls: list[int] = field(default_factory=list)
    returns: list[int] = field(default_factory=list)
    required: list[bool] = field(default_factory=list)
    """It certainly took effect, so that every order must have it."""
    sources: list[ClientOperation] = field(default_factory=list)
    appends: bool = False

    def __len__(self) -> int:
        return len(self.kinds)

    def add(
        self,
        source: ClientOperation,
        kind: int,
        asks: int,
        makes: int,
        returns: int,
        *,
        required: bool,
    ) -> None:
        """Add one operation at the end."""
        self.kinds.append(kind)
        self.asks.append(asks)
        self.makes.append(makes)
        self.calls.append(source.start_ns)
        self.returns.append(returns)
        self.required.append(required)
        self.sources.append(source)
        self.appends = self.appends or kind == APPEND

    def without(self, dropped: set[int]) -> Column:
        """Return the column of all others."""
        kept = Column(self.key, self.initial, self.values)
        for i in range(len(self)):
            if i not in dropped:
                kept.add(
                    self.sources[i],
                    self.kinds[i],
                    self.asks[i],
                    self.makes[i],
                    self.returns[i],
                    required=self.required[i],
                )
        return kept


def partition(operations: Iterable[ClientOperation]) -> dict[str, list[ClientOperation]]:
    """Group by key, in order of first appearance (a history is linearizable iff each key's part
    is).

    Raises:
        HistoryError: an operation that is none of a register.

    """
    by_key: dict[str, list[ClientOperation]] = {}
    for o in operations:
        if o.op not in {"put", "get", "cas", "delete", "append"} or o.key is None:
            raise HistoryError(
                f"operation {o.op!r} is none of a register: put, get, cas, delete, append"
            )
        mine = by_key.get(o.key)
        if mine is None:
            by_key[o.key] = [o]
        else:
            mine.append(o)
    return by_key


def encode(key: str, operations: Sequence[ClientOperation], initial: Any = None) -> Column:
    """Encode one key. Leaves out what says nothing: failed operations, unknown reads, unknown
    CAS(x, x).
    """
    values = Values()
    column = Column(key, values.state(initial), values)
    for o in operations:
        known = o.outcome == "ok"
        if o.outcome == "fail" or (o.op == "get" and not known):
            continue
        coded = _coded(o, known, values.state)
        if coded is None:
            continue
        kind, asks, makes = coded
        returns = o.end_ns if known and o.end_ns is not None else NEVER
        column.add(o, kind, asks, makes, returns, required=known)
    return column


def _coded(
    o: ClientOperation, known: bool, state: Callable[[Any], int]
) -> tuple[int, int, int] | None:
    """Return its kind, what it asks for and what it makes; None when it says nothing."""
    match o.op:
        case "get":
            return READ, state(o.result), ABSENT
        case "put":
            return WRITE, ABSENT, state(o.value)
        case "cas":
            return _coded_cas(o, known, state)
        case "delete":
            return _coded_delete(o, known), ABSENT, ABSENT
        case _:
            return APPEND, ABSENT, state(o.value)


def _coded_cas(
    o: ClientOperation, known: bool, state: Callable[[Any], int]
) -> tuple[int, int, int] | None:
    old, new = state(o.expected), state(o.value)
    if known and o.result is False:
        return NOT, old, new
    if old != new:
        return CAS, old, new
    return (READ, old, new) if known else None


def _coded_delete(o: ClientOperation, known: bool) -> int:
    """Return the kind: a delete that says whether there was something has seen it as well."""
    if not known or not isinstance(o.result, bool):
        return WRITE
    return TAKE if o.result else READ
