"""Encode the operations on one key as columns of small integers for the register checker.

It never judges. Values become states (0 is "absent"), so that the search compares integers. States
keep JSON types apart: `1`, `"1"` and `true` are three values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from chaos.records.history import ClientOperation, HistoryError

ABSENT: Final = 0
NEVER: Final = 1 << 62
"""Return time of an operation whose outcome is unknown. It is an integer so that columns stay
homogeneous.
"""
BEFORE: Final = -1
"""Time at which the initial value was written: before everything (times are never negative)."""

READ: Final = 0
"""Requires the asked state and changes nothing: read, CAS(x, x), delete of nothing."""
NOT: Final = 1
"""Requires a state other than the asked one and changes nothing: refused CAS."""
WRITE: Final = 2
"""Makes its state whatever it was before: put, delete that does not report existence."""
CAS: Final = 3
"""Requires the asked state and makes another."""
TAKE: Final = 4
"""Requires a state other than the asked one, and makes its own: delete that reports existence."""
APPEND: Final = 5
"""Appends its text to the state."""

MUST_MATCH: Final = frozenset({READ, CAS})
MUST_DIFFER: Final = frozenset({NOT, TAKE})
OBSERVERS: Final = frozenset({READ, NOT})
"""Kinds that never change the state."""
MAKERS: Final = frozenset({WRITE, CAS, TAKE})
"""Kinds after which the state is the one they make."""


class Values:
    """The values of one key, interned as states.

    Two values are the same state if and only if they are equal as JSON, including their types.
    """

    def __init__(self) -> None:
        self._states: dict[Any, int] = {None: ABSENT}
        self.values: list[Any] = [None]

    @staticmethod
    def same(one: Any, other: Any) -> bool:
        """Return whether two values are the same state."""
        return bool(_identity(one) == _identity(other))

    def state(self, value: Any) -> int:
        """Return the state of a value; assign a new state to a new value."""
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
    """The operations on one key that carry information, as parallel lists.

    One index stands for the same operation in all lists, and is its bit in the search's set.
    """

    key: str
    initial: int
    values: Values
    kinds: list[int] = field(default_factory=list)
    asks: list[int] = field(default_factory=list)
    """State that the operation compares with; ABSENT if its kind compares with none."""
    makes: list[int] = field(default_factory=list)
    """State that the operation leaves (or text that it appends); ABSENT if it leaves none."""
    calls: list[int] = field(default_factory=list)
    returns: list[int] = field(default_factory=list)
    required: list[bool] = field(default_factory=list)
    """Whether it certainly took effect, so that every order must contain it."""
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
        """Append one operation."""
        self.kinds.append(kind)
        self.asks.append(asks)
        self.makes.append(makes)
        self.calls.append(source.start_ns)
        self.returns.append(returns)
        self.required.append(required)
        self.sources.append(source)
        self.appends = self.appends or kind == APPEND

    def without(self, dropped: set[int]) -> Column:
        """Return a column without the dropped operations."""
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
    """Group operations by key, in order of first appearance.

    A history is linearizable if and only if each key's part is. Raises HistoryError for an
    operation that is not one of a register.
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
    """Encode the operations on one key.

    Operations without information are left out: failed ones, unknown reads, unknown CAS(x, x).
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
    """Return an operation's kind, asked state and made state; None if it carries no information."""
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
    """Return the kind of a delete. One that reports whether the key existed has also read it."""
    if not known or not isinstance(o.result, bool):
        return WRITE
    return TAKE if o.result else READ
