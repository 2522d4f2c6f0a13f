"""Turn the operations on one key into columns of small integers for the register checker.

It never judges. Values become states (0 is "absent"), so that the search compares integers, and
keep their JSON type: `1`, `"1"` and `true` are three values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from chaos.records.history import HistoryError, Operation

ABSENT: Final = 0
NEVER: Final = 1 << 62
"""Return time of an operation whose outcome is unknown. An integer, so that columns stay
homogeneous.
"""
BEFORE: Final = -1
"""When the initial value was written: before everything (times are never negative)."""

READ: Final = 0
"""State must be `a`. Changes nothing: read, CAS(x, x), delete of nothing."""
NOT: Final = 1
"""State must not be `a`. Changes nothing: refused CAS."""
WRITE: Final = 2
"""State becomes `b`, whatever it was: put, delete that reports nothing."""
CAS: Final = 3
"""State must be `a` and becomes `b`."""
TAKE: Final = 4
"""State must not be `a` and becomes `b`: delete that reports existence."""
APPEND: Final = 5
"""State becomes state + text `b`."""


class Values:
    """Intern values as states. Two values are one state iff they are equal as JSON, types
    included.
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
    """The operations on one key that say anything, as parallel lists. Index = bit in the search's
    set.
    """

    key: str
    initial: int
    values: Values
    kinds: list[int] = field(default_factory=list)
    a: list[int] = field(default_factory=list)
    b: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    returns: list[int] = field(default_factory=list)
    required: list[bool] = field(default_factory=list)
    sources: list[Operation] = field(default_factory=list)
    appends: bool = False

    def __len__(self) -> int:
        return len(self.kinds)


def partition(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Group by key, in order of first appearance (a history is linearizable iff each key's part
    is).

    Raises:
        HistoryError: an operation that is none of a register.
    """
    by_key: dict[str, list[Operation]] = {}
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


def encode(key: str, operations: Sequence[Operation], initial: Any = None) -> Column:
    """Encode one key. Leaves out what says nothing: failed operations, unknown reads, unknown
    CAS(x, x).
    """
    values = Values()
    state = values.state
    column = Column(key, state(initial), values)
    kinds, a, b = column.kinds, column.a, column.b
    calls, returns, required, sources = (
        column.calls,
        column.returns,
        column.required,
        column.sources,
    )
    for o in operations:
        known = o.outcome == "ok"
        op = o.op
        if o.outcome == "fail" or (op == "get" and not known):
            continue
        # The tuple is (kind, a, b); a is ABSENT where it means nothing.
        if op == "get":
            kinds.append(READ)
            a.append(state(o.result))
            b.append(ABSENT)
        elif op == "put":
            kinds.append(WRITE)
            a.append(ABSENT)
            b.append(state(o.value))
        elif op == "cas":
            old, new = state(o.expected), state(o.value)
            if known and o.result is False:
                kinds.append(NOT)
            elif old == new:
                if not known:
                    continue
                kinds.append(READ)
            else:
                kinds.append(CAS)
            a.append(old)
            b.append(new)
        elif op == "delete":
            kinds.append(
                TAKE
                if known and o.result is True
                else READ
                if known and o.result is False
                else WRITE
            )
            a.append(ABSENT)
            b.append(ABSENT)
        else:
            column.appends = True
            kinds.append(APPEND)
            a.append(ABSENT)
            b.append(state(o.value))
        calls.append(o.start_ns)
        returns.append(o.end_ns if known and o.end_ns is not None else NEVER)
        required.append(known)
        sources.append(o)
    return column
