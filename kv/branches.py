"""Walk the writes of an intent through the branches of its transactions, and check what they name.

Pure. It never decides which branch is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kv.errors import BadRequest
from kv.leases import SYSTEM_END, SYSTEM_PREFIX
from kv.model import (
    FROM_KEY,
    NESTING_MAX,
    OPERATIONS_MAX,
    Applied,
    Compare,
    Delete,
    DeleteRange,
    EndLease,
    Guard,
    Intent,
    KeyWrite,
    Nested,
    Put,
    PutWith,
    Write,
)


def taken(intent: Intent, outcome: Applied) -> Sequence[KeyWrite]:
    """Return the writes on the path that an applied intent took, in order."""
    writes = intent.writes if outcome.branch == "then" else intent.otherwise or ()
    if not outcome.taken:
        return writes  # type: ignore[return-value]  # nothing was nested
    return tuple(_along(writes, iter(outcome.taken)))


def _along(writes: Sequence[Write], choices: Iterator[bool]) -> Iterator[KeyWrite]:
    for write in writes:
        if type(write) is Nested:
            yield from _along(write.writes if next(choices) else write.otherwise, choices)
        else:
            yield write  # type: ignore[misc]  # not Nested


def every_write(intent: Intent) -> Iterator[KeyWrite]:
    """Yield the writes of all branches, at every depth."""
    for write in intent.writes:
        yield from _every(write)
    for write in intent.otherwise or ():
        yield from _every(write)


def _every(write: Write) -> Iterator[KeyWrite]:
    if type(write) is not Nested:
        yield write  # type: ignore[misc]  # not Nested
        return
    for inner in write.writes + write.otherwise:
        yield from _every(inner)


def every_guard(intent: Intent) -> Iterator[Guard]:
    """Yield the guards at every depth."""
    yield from intent.guards
    for write in intent.writes + (intent.otherwise or ()):
        if type(write) is Nested:
            yield from _guards(write)


def _guards(nested: Nested) -> Iterator[Guard]:
    yield from nested.guards
    for write in nested.writes + nested.otherwise:
        if type(write) is Nested:
            yield from _guards(write)


def within(key: bytes, begin: bytes, end: bytes) -> bool:
    """Return whether a key lies in a range as `Compare` and `DeleteRange` name it."""
    if not end:
        return key == begin
    return key >= begin and (end == FROM_KEY or key < end)


def ranges_in(intent: Intent) -> int:
    """Return how many ranges an intent looks at or deletes; a lease that ends is one."""
    writes = intent.writes
    if not intent.guards and not intent.otherwise and len(writes) == 1 and type(writes[0]) is Put:
        return 0  # as most are
    guards = sum(1 for guard in every_guard(intent) if type(guard) is Compare and guard.end)
    return guards + sum(
        1 for each in every_write(intent) if isinstance(each, DeleteRange | EndLease)
    )


def clients_part(begin: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
    """Return the ranges, two at most, that a range with an end leaves without the system's keys."""
    parts = []
    if begin < SYSTEM_PREFIX:
        before = SYSTEM_PREFIX if end == FROM_KEY else min(end, SYSTEM_PREFIX)
        parts.append((begin, before))
    behind = max(begin, SYSTEM_END)
    if end == FROM_KEY or behind < end:
        parts.append((behind, end))
    return [part for part in parts if part[1] == FROM_KEY or part[0] < part[1]]


def check(intent: Intent) -> None:
    """Check bounds and depth, and that no path writes a key twice. Raises BadRequest
    too_many_operations, too_deep, duplicate_key.
    """
    count = sum(1 for _ in every_write(intent)) + sum(1 for _ in every_guard(intent))
    if count + len(intent.reads) > OPERATIONS_MAX:
        raise BadRequest(
            "too_many_operations",
            f"{count + len(intent.reads)} operations",
            allowed=f"at most {OPERATIONS_MAX}, at every depth together",
        )
    for writes in (intent.writes, intent.otherwise or ()):
        _check_branch(writes, 1)


def _check_branch(writes: Sequence[Write], depth: int) -> tuple[set[bytes], list[DeleteRange]]:
    """Check a branch; return the keys that one of its paths may put, and the ranges that one may
    delete.
    """
    puts: set[bytes] = set()
    ranges: list[DeleteRange] = []
    for write in writes:
        if type(write) is Nested:
            if depth >= NESTING_MAX:
                raise BadRequest(
                    "too_deep", "a transaction is nested too deep", allowed=f"depth {NESTING_MAX}"
                )
            then, otherwise = (
                _check_branch(part, depth + 1) for part in (write.writes, write.otherwise)
            )
            _meet(puts, ranges, *then)
            _meet(puts, ranges, *otherwise)
            puts |= then[0] | otherwise[0]
            ranges += then[1] + otherwise[1]
        elif type(write) is Put or type(write) is PutWith:
            _meet(puts, ranges, {write.key}, [])
            puts.add(write.key)
        else:
            assert isinstance(write, Delete | DeleteRange)
            deleted = write if isinstance(write, DeleteRange) else DeleteRange(write.key, b"")
            _meet(puts, ranges, set(), [deleted])
            ranges.append(deleted)
    return puts, ranges


def _meet(
    puts: set[bytes],
    ranges: Sequence[DeleteRange],
    more_puts: set[bytes],
    more_ranges: Sequence[DeleteRange],
) -> None:
    """Raise BadRequest if both parts of a path write the same key."""
    twice = puts & more_puts
    for keys, deleted in ((puts, more_ranges), (more_puts, ranges)):
        twice |= {key for each in deleted for key in keys if within(key, each.key, each.end)}
    if twice:
        raise BadRequest(
            "duplicate_key",
            f"{min(twice)!r} is written twice",
            allowed="each key once in a transaction",
        )
