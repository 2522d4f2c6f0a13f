"""Infer the order of each key's versions, and find reads that no order can explain.

These findings need no graph: they are wrong whatever the dependencies are.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from chaos.checkers.lists.case import Case, Transaction, hashable


def judge(case: Case) -> None:
    """Report every read that contradicts its own transaction, another read, or a known outcome."""
    for t, txn in enumerate(case.txns):
        _internal(case, t, txn)
    _commit_what_was_seen(case)
    _order(case)
    _reads(case)
    _dirty_updates(case)
    _lost_updates(case)


def _internal(case: Case, t: int, txn: Transaction) -> None:
    """Find reads that disagree with earlier reads and appends of the same transaction."""
    if txn.operation.outcome != "ok":
        return
    known: dict[str, list[Any]] = {}
    own: dict[str, list[Any]] = {}
    if not txn.reads:
        return
    reads = iter(txn.reads)
    for kind, key, value in txn.micros:
        if kind == "append":
            if key in known:
                known[key] = [*known[key], hashable(value)]
            else:
                own.setdefault(key, []).append(hashable(value))
            continue
        _, seen = next(reads)
        mine = own.get(key, [])
        if key in known and seen != known[key]:
            case.say(
                "internal",
                f"{case.named(t)} expected {known[key]} in {key!r}, and read {seen}",
                key,
                t,
            )
        elif key not in known and mine and seen[-len(mine) :] != mine:
            case.say(
                "internal", f"{case.named(t)} appended {mine} to {key!r}, and read {seen}", key, t
            )
        known[key] = seen


def _commit_what_was_seen(case: Case) -> None:
    for txn in list(case.txns):
        for key, seen in txn.reads:
            for value in seen:
                writer = case.writers.get((key, value))
                if writer is not None and case.txns[writer].operation.outcome == "info":
                    case.txns[writer].committed = True


def _order(case: Case) -> None:
    """Take each key's longest read as the order of its versions, and report reads that are not a
    prefix of it.
    """
    longest: dict[str, tuple[list[Any], int]] = {}
    for t, txn in enumerate(case.txns):
        for key, seen in txn.reads:
            if key not in longest or len(seen) > len(longest[key][0]):
                longest[key] = (seen, t)
    case.orders = {key: list(dict.fromkeys(seen)) for key, (seen, _) in longest.items()}
    for t, txn in enumerate(case.txns):
        for key, seen in txn.reads:
            whole, reader = longest[key]
            if seen != case.orders[key][: len(seen)]:
                case.broken.add((t, key))
            if len(set(seen)) < len(seen):
                twice = next(v for v in seen if seen.count(v) > 1)
                writer = case.writers.get((key, twice))
                why = f"{case.named(t)} read {twice!r} twice in {key!r}: {seen}"
                case.say(
                    "duplicate_elements", why, key, *([writer] if writer is not None else []), t
                )
            elif seen != whole[: len(seen)] and len(set(whole)) == len(whole):
                why = (
                    f"{case.named(t)} read {seen} in {key!r}, {case.named(reader)} read "
                    f"{whole}: neither continues the other"
                )
                case.say("incompatible_order", why, key, t, reader)


def _reads(case: Case) -> None:
    """Find aborted reads (G1a), values from nowhere, and intermediate reads (G1b)."""
    for t, txn in enumerate(case.txns):
        for key, seen in txn.reads:
            for value in seen:
                _origin(case, t, key, value)
            if seen:
                _intermediate(case, t, key, seen[-1])


def _origin(case: Case, t: int, key: str, value: Any) -> None:
    writer = case.writers.get((key, value))
    reader = case.named(t)
    if writer is None:
        why = f"{reader} read {value!r} in {key!r}, which nobody appended"
        case.say("phantom_element", why, key, t)
    elif case.txns[writer].operation.outcome == "fail":
        refused = f"{case.named(writer)} had been refused for good"
        case.say("G1a", f"{reader} read {value!r} in {key!r}; {refused}", key, writer, t)


def _intermediate(case: Case, t: int, key: str, last: Any) -> None:
    writer = case.writers.get((key, last))
    if writer is None or writer == t or case.txns[writer].appends[key][-1] == last:
        return
    unfinished = f"which {case.named(writer)} had not finished"
    why = f"{case.named(t)} read {key!r} up to {last!r}, {unfinished}"
    case.say("G1b", why, key, writer, t)


def _dirty_updates(case: Case) -> None:
    """Find appends of committed transactions that directly follow an append of a refused one."""
    for key, order in case.orders.items():
        for before, after in pairwise(order):
            one, other = case.writers.get((key, before)), case.writers.get((key, after))
            if one is None or other is None or case.txns[one].operation.outcome != "fail":
                continue
            if case.txns[other].committed:
                why = f"{case.named(other)} appended {after!r} in {key!r}"
                case.say("dirty_update", f"{why} on top of the refused {before!r}", key, one, other)


def _lost_updates(case: Case) -> None:
    """Find two committed transactions that read the same version of a key and both append to it."""
    first: dict[tuple[str, tuple[Any, ...]], int] = {}
    for t, txn in enumerate(case.txns):
        if txn.operation.outcome != "ok":
            continue
        for key in txn.appends:
            if key not in txn.external:
                continue
            version = (key, tuple(txn.external[key]))
            if version in first:
                why = (
                    f"{case.named(first[version])} and {case.named(t)} both read "
                    f"{list(version[1])} in {key!r} and appended"
                )
                case.say("lost_update", why, key, first[version], t)
            first.setdefault(version, t)
