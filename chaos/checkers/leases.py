"""Check leases: none ends before its ttl has passed since the newest keep-alive that was answered,
whatever leaders and clocks do, and one that has ended does not come back.

Whether a lease ends in time is not checked: each new leader gives it its whole ttl again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import ClientOperation

_MS: Final = 1_000_000


def check(operations: Iterable[ClientOperation]) -> Judgement:
    """Check `grant` and `keep` (value: the ttl in ms; result of `keep`: whether the lease was
    there), `attach` (result: whether the lease was there) and linearizable `read` (result: whether
    its key exists). The key of all is the lease; each is granted once.
    """
    ops = list(operations)
    by_lease: dict[str | None, list[ClientOperation]] = {}
    for o in ops:
        if o.outcome == "ok":
            by_lease.setdefault(o.key, []).append(o)
    findings: list[Finding] = []
    kept = ended = 0
    for lease, mine in by_lease.items():
        promises = [o for o in mine if o.op == "grant" or (o.op == "keep" and o.result)]
        ends = _ends(mine)
        kept += sum(o.op == "keep" for o in promises)
        ended += bool(ends)
        findings += _early(lease, promises, ends) + _back(lease, mine, ends)
    if not kept or not ended:
        findings.append(
            Finding("nothing_ended", "no lease was kept alive, or none ended", Verdict.UNKNOWN)
        )
    return Judgement(
        "lease",
        tuple(findings[:20]),
        len(ops),
        {"leases": len(by_lease), "kept_alive": kept, "ended": ended},
    )


def _ends(mine: Sequence[ClientOperation]) -> list[ClientOperation]:
    """Return the operations that saw that a lease had ended: after its grant, or after its key was
    attached.
    """
    granted_ns = min((o.returned_ns for o in mine if o.op == "grant"), default=None)
    attached_ns = min((o.returned_ns for o in mine if o.op == "attach" and o.result), default=None)
    found: list[ClientOperation] = []
    for o in mine:
        since_ns = attached_ns if o.op == "read" else granted_ns
        saw = o.op in {"keep", "attach", "read"} and o.result is False
        if saw and since_ns is not None and since_ns < o.start_ns:
            found.append(o)
    return found


def _early(
    lease: str | None, promises: Sequence[ClientOperation], ends: Sequence[ClientOperation]
) -> list[Finding]:
    for end in ends:
        for promise in promises:
            until_ns = promise.start_ns + int(promise.value) * _MS
            if promise.start_ns < end.returned_ns < until_ns:
                early_s = (until_ns - end.returned_ns) / 1e9
                why = f"lease {lease} has ended {early_s:.2f} s before its time"
                return [Finding("ended_early", why, key=lease, operations=(promise, end))]
    return []


def _back(
    lease: str | None, mine: Sequence[ClientOperation], ends: Sequence[ClientOperation]
) -> list[Finding]:
    for end in ends:
        for o in mine:
            if o.op in {"keep", "read"} and o.result and end.returned_ns < o.start_ns:
                why = f"lease {lease} is there again after it had ended"
                return [Finding("came_back", why, key=lease, operations=(end, o))]
    return []
