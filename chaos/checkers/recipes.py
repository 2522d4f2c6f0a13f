"""Check the client's recipes by what their users rely on.

Places: never more holders than places, as the holders themselves were told; tokens that grow, and a
fence that holds. Numbers: each increment once. Queues: each item taken once, and none lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from chaos.checkers import counter, lock
from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import ClientOperation


def check(operations: Iterable[ClientOperation]) -> Judgement:
    """Check `acquire` and `hold` (result: whether the place was held all the while; value: the
    number of places), `use`, `increment`, `read`, `enqueue` and `take` (result: the item).
    """
    ops = list(operations)
    findings: list[Finding] = []
    held = [o for o in ops if o.op == "hold" and o.outcome == "ok" and o.result is True]
    for key in dict.fromkeys(o.key for o in held):
        findings += _crowded([o for o in held if o.key == key])
    single = {o.key for o in ops if o.op == "hold" and o.value == 1}
    fenced = [o for o in ops if (o.op == "acquire" and o.key in single) or o.op == "use"]
    findings += lock.check(fenced).findings
    findings += counter.check([o for o in ops if o.op in ("increment", "read")]).findings
    findings += _queue([o for o in ops if o.op == "enqueue"], [o for o in ops if o.op == "take"])
    figures = {
        "held": len(held),
        "lost": sum(o.op == "hold" and o.result is False for o in ops),
        "taken": sum(o.op == "take" and isinstance(o.result, str) for o in ops),
    }
    return Judgement("recipes", tuple(findings), len(ops), figures)


def _crowded(held: Sequence[ClientOperation]) -> Iterable[Finding]:
    """Find moments with more holders than places."""
    inside: list[ClientOperation] = []
    for o in sorted(held, key=lambda o: o.start_ns):
        inside = [each for each in inside if each.returned_ns > o.start_ns]
        inside.append(o)
        if len(inside) > o.value:
            why = f"{o.key!r} has {len(inside)} holders at a time, and {o.value} place(s)"
            yield Finding("too_many_holders", why, key=o.key, operations=tuple(inside))
            return


def _queue(puts: Sequence[ClientOperation], takes: Sequence[ClientOperation]) -> list[Finding]:
    findings: list[Finding] = []
    begun = {o.value: o for o in puts}
    taken = Counter(o.result for o in takes if o.outcome == "ok" and isinstance(o.result, str))
    for o in takes:
        if o.outcome != "ok" or not isinstance(o.result, str):
            continue
        put = begun.get(o.result)
        if put is None or put.outcome == "fail" or put.start_ns > o.returned_ns:
            why = f"item {o.result!r} was taken, and never put before"
            findings.append(Finding("taken_from_nowhere", why, key=o.key, operations=(o,)))
    for item, times in taken.items():
        if times > 1:
            twice = tuple(o for o in takes if o.result == item)
            why = f"item {item!r} was taken {times} times"
            findings.append(Finding("taken_twice", why, key=twice[0].key, operations=twice))
    findings += _missing(puts, takes, set(taken))
    return findings[:10]


def _missing(
    puts: Sequence[ClientOperation], takes: Sequence[ClientOperation], taken: set[str]
) -> Iterable[Finding]:
    """Find items that were put and are nowhere: a take without an answer may have got one each."""
    last = max((o.returned_ns for o in puts if o.outcome == "ok"), default=0)
    drained = [o for o in takes if o.outcome == "ok" and o.result is None and o.start_ns >= last]
    if not drained:
        if puts:
            why = "the queue was never seen empty at the end"
            yield Finding("not_drained", why, Verdict.UNKNOWN)
        return
    missing = [o for o in puts if o.outcome == "ok" and o.value not in taken]
    unknown = sum(o.outcome == "info" for o in takes)
    if len(missing) > unknown:
        why = f"{len(missing)} items are gone, and {unknown} takes had no answer"
        yield Finding("item_lost", why, key=missing[0].key, operations=tuple(missing[:5]))
