"""Check a grow-only set: each acknowledged element is in every later read (after Jepsen's
set-full).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import ClientOperation

FINDINGS_MAX: Final = 20
"""Most findings that are listed; all are counted."""


def check(operations: Iterable[ClientOperation]) -> Judgement:
    """Check the operations `add` (value: the element) and `read` (result: all elements), key by
    key.

    All of them must be linearizable operations.
    """
    by_key: dict[str, list[ClientOperation]] = {}
    for o in operations:
        if o.op in {"add", "read"}:
            by_key.setdefault(o.key or "", []).append(o)
    findings: list[Finding] = []
    delays: list[float] = []
    stable = elements = judged = 0
    for mine in by_key.values():
        adds = [o for o in mine if o.op == "add"]
        reads = sorted(
            (o for o in mine if o.op == "read" and o.outcome == "ok"), key=lambda o: o.start_ns
        )
        contents = [frozenset(map(_hashable, o.result)) for o in reads]
        findings += [*_strangers(adds, reads), *_duplicates(reads)]
        for add in adds:
            found = None if add.outcome == "fail" else _fate(add, reads, contents, delays)
            if isinstance(found, Finding):
                findings.append(found)
            stable += found is True
        elements += len(adds)
        judged += len(adds) + len(reads)
    if not stable:
        findings.append(
            Finding("nothing_read", "no element was ever seen to stay", Verdict.UNKNOWN)
        )
    figures = {
        "sets": len(by_key),
        "elements": elements,
        "stable": stable,
        "stale_ms_max": max(delays, default=0.0) / 1e6,
        "findings": len(findings),
    }
    return Judgement("set", tuple(findings[:FINDINGS_MAX]), judged, figures)


def _fate(
    add: ClientOperation,
    reads: Sequence[ClientOperation],
    contents: Sequence[frozenset[Any]],
    delays: list[float],
) -> Finding | bool | None:
    """Return what became of one added element.

    This is a finding; True if it was read and never missing afterwards; None if it was never read
    and no read had to contain it.
    """
    element = _hashable(add.value)
    with_it = [r for r, c in zip(reads, contents, strict=True) if element in c]
    without = [r for r, c in zip(reads, contents, strict=True) if element not in c]
    early = next((r for r in with_it if r.returned_ns < add.start_ns), None)
    if early is not None:
        return Finding(
            "from_the_future",
            f"{add.value!r} was read before its add started",
            operations=(early, add),
        )
    known_ns = min([add.returned_ns, *(r.returned_ns for r in with_it)])
    missed = [r for r in without if r.start_ns > known_ns]
    if not missed:
        return True if with_it else None
    last = missed[-1]
    if not with_it or last.start_ns > with_it[-1].start_ns:
        seen = with_it[-1:] if with_it else []
        why = f"{add.value!r} was known at {known_ns:.0f} and is missing from the last reads"
        return Finding("lost_element", why, operations=(add, *seen, last))
    delays.append(last.start_ns - known_ns)
    why = (
        f"{add.value!r} was known at {known_ns:.0f}, a read started "
        f"{last.start_ns - known_ns:.0f} ns later lacks it"
    )
    return Finding("stale_read", why, operations=(add, last))


def _strangers(adds: Sequence[ClientOperation], reads: Sequence[ClientOperation]) -> list[Finding]:
    added = {_hashable(o.value): o for o in adds}
    findings = []
    reported: set[Any] = set()
    for r in reads:
        for value in r.result:
            element = _hashable(value)
            add = added.get(element)
            if element in reported or (add is not None and add.outcome != "fail"):
                continue
            reported.add(element)
            if add is None:
                findings.append(
                    Finding(
                        "phantom_element",
                        f"{value!r} was read, and nobody added it",
                        operations=(r,),
                    )
                )
            else:
                why = f"{value!r} was read, and its add had been refused for good"
                findings.append(Finding("aborted_read", why, operations=(add, r)))
    return findings


def _duplicates(reads: Sequence[ClientOperation]) -> list[Finding]:
    for r in reads:
        twice = [v for v, n in Counter(map(_hashable, r.result)).items() if n > 1]
        if twice:
            return [
                Finding(
                    "duplicate_element",
                    f"{twice[0]!r} is in one read more than once",
                    operations=(r,),
                )
            ]
    return []


def _hashable(value: Any) -> Any:
    return (
        (type(value).__name__, repr(value))
        if isinstance(value, list | dict | bool | float)
        else value
    )
