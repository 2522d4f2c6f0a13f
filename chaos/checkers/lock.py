"""Check a lock: it has one holder at a time, and a fenced resource rejects a former holder.

A lock without fencing is unsafe under pauses, whatever the store. A lock held by lease may pass to
another client while its holder sleeps, so for those only fencing is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from chaos.checkers.registers import register
from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import ClientOperation


def check(operations: Iterable[ClientOperation]) -> Judgement:
    """Check `acquire` and `release` (value: the holder's unique name), and `use` (token; result:
    whether the resource accepted it).

    An `acquire` with result false found the lock taken. The key is that of the lock or of the
    resource. A lock whose acquires carry `max_age_ms` is held by lease.
    """
    ops = list(operations)
    held = [o for o in ops if o.op == "acquire" and o.outcome == "ok" and o.result is not False]
    uses = [o for o in ops if o.op == "use" and o.outcome != "fail"]
    findings: list[Finding] = []
    leases = {o.key for o in ops if o.op == "acquire" and o.max_age_ms is not None}
    findings += _mutex([o for o in ops if o.key not in leases])
    for key in dict.fromkeys(o.key for o in ops):
        findings += _tokens([o for o in held if o.key == key])
        findings += _fence([o for o in uses if o.key == key])
    if not held:
        findings.append(Finding("nothing_held", "nobody ever got the lock", Verdict.UNKNOWN))
    refused = sum(o.result is False for o in uses)
    figures = {"acquired": len(held), "uses": len(uses), "late_uses_refused": refused}
    return Judgement("lock", tuple(findings), len(ops), figures)


def _mutex(ops: Sequence[ClientOperation]) -> list[Finding]:
    """Check mutual exclusion by treating the lock as a register.

    An acquire swaps "nobody" for a holder, a release swaps that holder for "nobody".
    """
    swaps = []
    for o in ops:
        if o.op == "acquire":
            swaps.append(msgspec.structs.replace(o, op="cas", expected=None, level=None))
        elif o.op == "release":
            swaps.append(
                msgspec.structs.replace(o, op="cas", expected=o.value, value=None, level=None)
            )
    findings = []
    for report in register.check_keys(swaps):
        if report.verdict is Verdict.OK:
            continue
        illegal = report.verdict is Verdict.ILLEGAL
        why = (
            f"lock {report.key!r}: no order of its acquires and releases has one holder at "
            f"a time ({report.reason})"
        )
        story = report.story or report.stuck
        findings.append(
            Finding(
                "two_holders" if illegal else "undecided",
                why,
                report.verdict,
                report.key,
                tuple(story),
            )
        )
    return findings


def _tokens(held: Sequence[ClientOperation]) -> Iterable[Finding]:
    """Find tokens that do not increase in the order of acquisition."""
    starts = sorted((o for o in held if o.token is not None), key=lambda o: o.start_ns)
    ends = sorted(starts, key=lambda o: o.returned_ns)
    newest: ClientOperation | None = None
    n = 0
    for o in starts:
        while n < len(ends) and ends[n].returned_ns < o.start_ns:
            if newest is None or (ends[n].token or 0) > (newest.token or 0):
                newest = ends[n]
            n += 1
        if newest is not None and (o.token or 0) <= (newest.token or 0):
            why = f"lock {o.key!r}: token {o.token} was given after token {newest.token}"
            yield Finding("token_fell", why, key=o.key, operations=(newest, o))
    for o in held:
        if o.token is None:
            yield Finding(
                "no_token", f"lock {o.key!r}: acquired without a token", key=o.key, operations=(o,)
            )


def _fence(uses: Sequence[ClientOperation]) -> Iterable[Finding]:
    """Find uses where the resource accepted a token below the highest it had seen, or refused a
    token although it had seen no higher one.
    """
    starts = sorted((o for o in uses if o.outcome == "ok"), key=lambda o: o.start_ns)
    ends = sorted((o for o in starts if o.result is not False), key=lambda o: o.returned_ns)
    newest: ClientOperation | None = None
    n = 0
    for o in starts:
        while n < len(ends) and ends[n].returned_ns < o.start_ns:
            if newest is None or (ends[n].token or 0) > (newest.token or 0):
                newest = ends[n]
            n += 1
        token = o.token or 0
        if o.result is not False and newest is not None and token < (newest.token or 0):
            why = f"resource {o.key!r}: took token {token} after token {newest.token}"
            yield Finding("late_use_accepted", why, key=o.key, operations=(newest, o))
        if o.result is False and not any(
            (u.token or 0) > token and u.start_ns <= o.returned_ns for u in uses
        ):
            why = f"resource {o.key!r}: refused token {token}, and had never seen a higher one"
            yield Finding("use_refused", why, key=o.key, operations=(o,))
