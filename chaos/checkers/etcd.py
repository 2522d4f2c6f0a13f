"""Check what clients of etcd's gateway saw: no lock is held by two, no lease ends early, and groups
have the members that are in them.

A lock's key goes when its lease ends. So it is held from the answer that gave it until its release
begins, or until the ttl is over that the newest keep-alive of its lease has promised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import msgspec

from chaos.checkers import leases, lock
from chaos.checkers.verdict import Finding, Judgement
from chaos.records.history import ClientOperation

_MS: Final = 1_000_000
SHOWN_MAX: Final = 20

ByLease: TypeAlias = dict[str, list[ClientOperation]]


def check(operations: Iterable[ClientOperation]) -> Judgement:
    """Check `grant` and `keep` (key: the lease, value: its ttl in ms); `acquire`, `use` (a write
    under the fence of a token; result: whether it was done) and `release` (key: the lock, value:
    the lease); `join`, `leave` (key: the group, value: the lease) and `read` (key: the group,
    result: the leases of its members). Each lease is one client's, and never used again after an
    operation with it whose outcome is unknown.
    """
    ops = list(operations)
    sure = [o for o in ops if o.outcome == "ok"]
    of_locks, of_leases = lock.check(_locking(sure)), leases.check(_living(ops, sure))
    findings = [
        *_two_holders(ops, sure),
        *_passed_back(sure),
        *_left_and_there(sure),
        *of_locks.findings,
        *of_leases.findings,
    ]
    return Judgement(
        "etcd",
        tuple(findings[:SHOWN_MAX]),
        len(ops),
        {**of_locks.figures, **of_leases.figures, "groups_read": sum(map(_is_list, sure))},
    )


def _is_list(o: ClientOperation) -> bool:
    return o.op == "read" and isinstance(o.result, list)


def _locking(sure: Sequence[ClientOperation]) -> list[ClientOperation]:
    """Return what the checker of locks is shown: every lock is held by lease, and a fence that was
    found lost says nothing about tokens.
    """
    return [
        msgspec.structs.replace(o, max_age_ms=0.0) if o.op == "acquire" else o
        for o in sure
        if o.op == "acquire" or (o.op == "use" and o.result is True)
    ]


def _two_holders(
    ops: Sequence[ClientOperation], sure: Sequence[ClientOperation]
) -> Iterator[Finding]:
    """Find two leases that certainly held one lock at one moment."""
    promised: dict[str | None, float] = {}
    for o in sure:
        if o.op == "grant" or (o.op == "keep" and o.result is True):
            promises_ns = o.start_ns + int(o.value) * _MS
            promised[o.key] = max(promised.get(o.key, 0.0), promises_ns)
    released: dict[tuple[str | None, str], list[int]] = {}
    for o in ops:
        if o.op == "release":
            released.setdefault((o.key, o.value), []).append(o.start_ns)
    held: dict[str | None, tuple[float, ClientOperation]] = {}
    """By lock, which of the holders so far holds it the longest, and until when."""
    taken = [o for o in sure if o.op == "acquire" and o.result is True]
    for o in sorted(taken, key=lambda o: o.returned_ns):
        given_back = [ns for ns in released.get((o.key, o.value), ()) if ns > o.returned_ns]
        until_ns = min([promised.get(o.value, 0.0), *given_back])
        held_ns, other = held.get(o.key, (0.0, o))
        if o.returned_ns < min(held_ns, until_ns) and other.value != o.value:
            why = f"lock {o.key!r} is given to {o.value} while {other.value} holds it"
            yield Finding("two_holders", why, key=o.key, operations=(other, o))
        if until_ns > held_ns:
            held[o.key] = (until_ns, o)


def _passed_back(sure: Sequence[ClientOperation]) -> Iterator[Finding]:
    """Find a write under the fence of an earlier holder, by revision, after one of a later holder's
    was done.
    """
    newest: dict[str | None, ClientOperation] = {}
    uses = [o for o in sure if o.op == "use" and o.result is True]
    for o in sorted(uses, key=lambda o: o.revision or 0):
        before = newest.get(o.key, o)
        if (o.token or 0) < (before.token or 0):
            why = f"lock {o.key!r}: token {o.token} passed its fence after token {before.token}"
            yield Finding("fence_passed_back", why, key=o.key, operations=(before, o))
        else:
            newest[o.key] = o


def _living(
    ops: Sequence[ClientOperation], sure: Sequence[ClientOperation]
) -> list[ClientOperation]:
    """Return what the checker of leases is shown: of each lease its promises, when a key was first
    attached, when its absence was first seen, and when its presence was last seen.
    """
    shown = [o for o in sure if o.op in {"grant", "keep"}]
    first_gone: dict[str, ClientOperation] = {}
    last_there: dict[str, ClientOperation] = {}
    for lease, there, o in _seen(ops, sure):
        seen = msgspec.structs.replace(o, op="read", key=lease, value=None, result=there)
        if there:
            best = last_there.get(lease, seen)
            last_there[lease] = max(best, seen, key=lambda each: each.start_ns)
        else:
            best = first_gone.get(lease, seen)
            first_gone[lease] = min(best, seen, key=lambda each: each.returned_ns)
    for o in sure:
        if o.op in {"acquire", "join"} and o.result is True:
            shown.append(msgspec.structs.replace(o, op="attach", key=o.value, value=None))
    return [*shown, *first_gone.values(), *last_there.values()]


def _seen(
    ops: Sequence[ClientOperation], sure: Sequence[ClientOperation]
) -> Iterator[tuple[str, bool, ClientOperation]]:
    """Yield (lease, whether a key of it was there, who saw that)."""
    for o in sure:
        if o.op == "use":
            yield o.value, o.result is True, o
    for group, (joins, leaves) in _memberships(ops).items():
        for o in sure:
            if _is_list(o) and o.key == group:
                yield from _seen_in(o, joins, leaves)


def _seen_in(
    o: ClientOperation, joins: ByLease, leaves: ByLease
) -> Iterator[tuple[str, bool, ClientOperation]]:
    """Yield what a list of members says of those that had joined and did not leave meanwhile."""
    there = set(o.result)
    for lease, mine in joins.items():
        joined = [j for j in mine if j.returned_ns < o.start_ns]
        if not joined:
            continue
        since_ns = joined[-1].start_ns
        if lease in there or not any(
            since_ns < left.start_ns < o.returned_ns for left in leaves.get(lease, ())
        ):
            yield lease, lease in there, o


def _memberships(
    ops: Sequence[ClientOperation],
) -> dict[str | None, tuple[ByLease, ByLease]]:
    """Return by group, and by lease, the joins that were done and the leaves that were tried, in
    the order of their starts.
    """
    found: dict[str | None, tuple[ByLease, ByLease]] = {}
    moves = [o for o in ops if o.op == "leave" or (o.op == "join" and o.outcome == "ok")]
    for o in sorted(moves, key=lambda o: o.start_ns):
        joins, leaves = found.setdefault(o.key, ({}, {}))
        if o.op == "leave":
            leaves.setdefault(o.value, []).append(o)
        elif o.result is True:
            joins.setdefault(o.value, []).append(o)
    return found


def _left_and_there(sure: Sequence[ClientOperation]) -> Iterator[Finding]:
    """Find a member that had left a group, and is told of all the same."""
    for group, (joins, leaves) in _memberships(sure).items():
        for o in sure:
            if not _is_list(o) or o.key != group:
                continue
            for lease in o.result:
                gone = [left for left in leaves.get(lease, ()) if left.returned_ns < o.start_ns]
                again = gone and any(
                    gone[-1].start_ns < j.start_ns < o.returned_ns for j in joins.get(lease, ())
                )
                if gone and not again:
                    why = f"group {group!r} has {lease}, which had left it"
                    yield Finding("left_and_there", why, key=group, operations=(gone[-1], o))
