"""Check counters: every acknowledged increment counts exactly once, despite retries (INV-3)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import ClientOperation


def check(operations: Iterable[ClientOperation]) -> Judgement:
    """Check `increment` (value: amount ≥ 0) and linearizable `read` (result: the count), key by
    key.

    A result of null counts as 0.
    """
    by_key: dict[str, list[ClientOperation]] = {}
    for o in operations:
        if o.op in {"increment", "read"} and o.key is not None:
            by_key.setdefault(o.key, []).append(o)
    findings: list[Finding] = []
    reads = exact = 0
    for key, mine in by_key.items():
        found, n, sharp = _key(key, mine)
        findings += found
        reads += n
        exact += sharp
    if not reads:
        findings.append(Finding("nothing_read", "no counter was read", Verdict.UNKNOWN))
    figures = {"counters": len(by_key), "reads": reads, "exact_reads": exact}
    return Judgement("counter", tuple(findings), sum(map(len, by_key.values())), figures)


def _key(key: str, mine: Sequence[ClientOperation]) -> tuple[list[Finding], int, int]:
    increments = [o for o in mine if o.op == "increment" and o.outcome != "fail"]
    reads = sorted(
        (o for o in mine if o.op == "read" and o.outcome == "ok"), key=lambda o: o.start_ns
    )
    done = sorted((o.returned_ns, o.value) for o in increments if o.outcome == "ok")
    begun = sorted((o.start_ns, o.value) for o in increments)
    done_at, done_sum = [t for t, _ in done], [0, *accumulate(v for _, v in done)]
    begun_at, begun_sum = [t for t, _ in begun], [0, *accumulate(v for _, v in begun)]
    findings = []
    exact = 0
    for o in reads:
        count = o.result or 0
        low = done_sum[bisect_left(done_at, o.start_ns)]
        high = begun_sum[bisect_right(begun_at, o.returned_ns)]
        exact += low == high
        if count < low:
            why = f"counter {key!r} reads {count}, increments of {low} had been acknowledged before"
            findings.append(Finding("lost_increment", why, key=key, operations=(o,)))
        elif count > high:
            why = f"counter {key!r} reads {count}, all increments that had started sum up to {high}"
            findings.append(Finding("increment_applied_twice", why, key=key, operations=(o,)))
    findings += _falling(key, reads)
    return findings[:10], len(reads), exact


def _falling(key: str, reads: Sequence[ClientOperation]) -> Iterable[Finding]:
    ends = sorted(reads, key=lambda o: o.returned_ns)
    highest: ClientOperation | None = None
    n = 0
    for o in reads:
        while n < len(ends) and ends[n].returned_ns < o.start_ns:
            if highest is None or (ends[n].result or 0) > (highest.result or 0):
                highest = ends[n]
            n += 1
        if highest is not None and (o.result or 0) < (highest.result or 0):
            why = f"counter {key!r} reads {o.result or 0} after {highest.result} had been read"
            yield Finding("counter_fell", why, key=key, operations=(highest, o))
