"""Check times to live: a key exists for its ttl, whatever clocks and leaders do, and ends soon
after.

Whether it ends in time is checked only while no other fault than those of clocks and leadership is
active: an expiry sweep needs a leader and a store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import ClientOperation, Fault

EARLY_S: Final = 0.2
LATE_S: Final = 0.5
"""Tolerances in seconds: a key may end EARLY_S before its ttl, and LATE_S after its ttl plus one
sweep interval.
"""
CALM: Final = frozenset({"clock-jump", "clock-jump-most", "transfer-leader"})
"""Faults during which a key must still end in time."""
RECOVERY_S: Final = 5.0
"""Seconds after the healing of any other fault during which late ends are not reported."""
_NS: Final = 1_000_000_000


def check(
    operations: Iterable[ClientOperation],
    faults: Sequence[Fault] = (),
    *,
    sweep_interval_s: float = 1.0,
) -> Judgement:
    """Check `give` (value: the ttl in ms; each key is given once) and linearizable `read` (result:
    whether the key exists).

    If the nodes or their machine stall, operations take long. So the duration of the slowest
    operation in that time is added to the allowed delay of an end.
    """
    ops = list(operations)
    given = {o.key: o for o in ops if o.op == "give" and o.outcome != "fail"}
    reads: dict[str | None, list[ClientOperation]] = {}
    for o in ops:
        if o.op == "read" and o.outcome == "ok":
            reads.setdefault(o.key, []).append(o)
    storms = _storms(faults)
    done = [o for o in ops if o.end_ns is not None]
    findings: list[Finding] = []
    ended = late = 0
    for key, give in given.items():
        mine = sorted(reads.get(key, ()), key=lambda o: o.start_ns)
        findings += _early(give, mine) + _again(give, mine)
        ended += any(not o.result for o in mine)
        for o in mine:
            due_ns = give.returned_ns + int(give.value) * 1_000_000 + sweep_interval_s * _NS
            due_ns = max(
                [due_ns, *(end for begin, end in storms if begin <= o.start_ns and due_ns <= end)]
            )
            if o.start_ns <= due_ns:
                continue
            late += 1
            if o.result:
                findings += _late(give, o, due_ns, done)
    if not ended or not late:
        findings.append(
            Finding(
                "nothing_ended", "no key was seen to outlive its time, or to end", Verdict.UNKNOWN
            )
        )
    return Judgement(
        "ttl",
        tuple(findings[:20]),
        len(ops),
        {"keys": len(given), "ended": ended, "ends_judged": late},
    )


def _early(give: ClientOperation, reads: Sequence[ClientOperation]) -> list[Finding]:
    until_ns = give.start_ns + int(give.value) * 1_000_000 - EARLY_S * _NS
    for o in reads:
        if not o.result and give.returned_ns < o.start_ns and o.returned_ns < until_ns:
            lived_s = (o.returned_ns - give.start_ns) / _NS
            why = (
                f"key {give.key!r} is gone {lived_s:.2f} s after it was given "
                f"{int(give.value) / 1000:g} s"
            )
            return [Finding("ended_early", why, key=give.key, operations=(give, o))]
    return []


def _late(
    give: ClientOperation, read: ClientOperation, due_ns: float, done: Sequence[ClientOperation]
) -> list[Finding]:
    slow_ns = max(
        (
            o.returned_ns - o.start_ns
            for o in done
            if o.start_ns < read.start_ns and o.returned_ns > due_ns
        ),
        default=0.0,
    )
    late_s = (read.start_ns - due_ns - slow_ns) / _NS
    if late_s <= LATE_S:
        return []
    why = f"key {give.key!r} is still there {late_s:.2f} s after its ttl and a sweep interval"
    return [Finding("lives_on", why, key=give.key, operations=(give, read))]


def _again(give: ClientOperation, reads: Sequence[ClientOperation]) -> list[Finding]:
    gone: ClientOperation | None = None
    for o in sorted(reads, key=lambda o: o.returned_ns):
        if not o.result and give.returned_ns < o.start_ns:
            gone = gone or o
        elif o.result and gone is not None and gone.returned_ns < o.start_ns:
            why = f"key {give.key!r} is there again after it had ended"
            return [Finding("came_back", why, key=give.key, operations=(give, gone, o))]
    return []


def _storms(faults: Sequence[Fault]) -> list[tuple[float, float]]:
    """Return the periods of faults that may delay the end of a key, each with RECOVERY_S added."""
    storms: list[tuple[float, float]] = []
    began: dict[str, float] = {}
    for fault in sorted(faults, key=lambda fault: fault.t_ns):
        if fault.nemesis in CALM:
            continue
        if fault.phase == "start":
            began.setdefault(fault.nemesis, fault.t_ns)
        elif fault.phase in {"healed", "skipped"} and fault.nemesis in began:
            storms.append((began.pop(fault.nemesis), fault.t_ns + RECOVERY_S * _NS))
    return storms + [(start, float("inf")) for start in began.values()]
