"""Check stale reads: each value was current within the allowed age, and within the stated age."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import ClientOperation

WRITES: Final = frozenset({"put", "cas", "delete"})
NEVER: Final = float("inf")


@dataclass
class _Key:
    """The writes to one key. `known` holds those whose revision is known, in order of revision."""

    known: list[ClientOperation] = field(default_factory=list)
    unknown: list[ClientOperation] = field(default_factory=list)
    failed: list[ClientOperation] = field(default_factory=list)

    def sort_in(self, o: ClientOperation) -> None:
        """File a write under its outcome."""
        if o.outcome == "ok" and o.revision is not None:
            self.known.append(o)
        elif o.outcome == "fail":
            self.failed.append(o)
        else:
            self.unknown.append(o)


def check(operations: Iterable[ClientOperation], *, initial: Any = None) -> Judgement:
    """Check each read of level `stale` against its `max_age_ms`, its stated `age_ms` and its stated
    position.

    The writes are taken from the same history, each with its revision. Nothing is promised about
    the order of two stale reads.
    """
    ops = list(operations)
    keys: dict[str, _Key] = {}
    for o in ops:
        if o.op in WRITES and o.key is not None and o.result is not False:
            key = keys.setdefault(o.key, _Key())
            key.sort_in(o)
    for key in keys.values():
        key.known.sort(key=lambda o: o.revision or 0)
    reads = [o for o in ops if o.op == "get" and o.level == "stale" and o.outcome == "ok"]
    findings: list[Finding] = []
    ages_ms: list[float] = []
    for o in reads:
        findings += _judge(o, keys.get(o.key or "", _Key()), initial, ages_ms)
    if not reads:
        findings.append(Finding("nothing_read", "no stale read succeeded", Verdict.UNKNOWN))
    return Judgement("stale", tuple(findings), len(reads), _distribution(ages_ms))


def _judge(o: ClientOperation, key: _Key, initial: Any, ages_ms: list[float]) -> Iterable[Finding]:
    """Find the latest moment at which the value was current, and yield what is wrong if that is too
    early.
    """
    spans = list(_spans(o.result, key, initial))
    if not spans:
        failed = [w for w in key.failed if _same(_made(w), o.result)]
        name, why = (
            ("dirty_read", "a write that was refused for good")
            if failed
            else ("phantom_value", "nobody wrote")
        )
        yield Finding(
            name, f"key {o.key!r}: read {o.result!r}, {why}", key=o.key, operations=(*failed[:1], o)
        )
        return
    begun = [s for s in spans if s[0] <= o.returned_ns]
    if not begun:
        why = f"key {o.key!r}: read {o.result!r} before its write started"
        yield Finding("from_the_future", why, key=o.key, operations=(o, *spans[0][2][:1]))
        return
    gone_ns, story = max(((s[1], s[2]) for s in begun), key=lambda s: s[0])
    age_ms = 0.0 if gone_ns == NEVER else max(0.0, (o.start_ns - gone_ns) / 1e6)
    ages_ms.append(age_ms)
    for name, allowed in (("too_stale", o.max_age_ms), ("wrong_age", o.age_ms)):
        # The wire format truncates a stated age to whole milliseconds.
        slack_ms = 1.0 if name == "wrong_age" else 0.0
        if allowed is not None and age_ms > allowed + slack_ms:
            what = "allowed" if name == "too_stale" else "stated"
            why = (
                f"key {o.key!r}: read {o.result!r}, overwritten {age_ms:.3f} ms earlier; "
                f"{what}: {allowed} ms"
            )
            yield Finding(name, why, key=o.key, operations=(*story, o))
    yield from _position(o, key, initial)


def _spans(
    value: Any, key: _Key, initial: Any
) -> Iterable[tuple[float, float, tuple[ClientOperation, ...]]]:
    """Yield (earliest start, latest end, story) of each period in which the key had this value."""
    writes = key.known
    if _same(value, initial):
        yield float("-inf"), writes[0].returned_ns if writes else NEVER, tuple(writes[:1])
    for n, w in enumerate(writes):
        if _same(_made(w), value):
            after = writes[n + 1 : n + 2]
            yield w.start_ns, after[0].returned_ns if after else NEVER, (w, *after)
    for w in key.unknown:
        if _same(_made(w), value):
            yield w.start_ns, NEVER, (w,)


def _position(o: ClientOperation, key: _Key, initial: Any) -> Iterable[Finding]:
    """Compare the value with the last known write at or below the stated position.

    If an unknown write of the same value exists, nothing is reported, because it may be the one
    that was read.
    """
    if o.revision is None or any(_same(_made(w), o.result) for w in key.unknown):
        return
    below = [w for w in key.known if (w.revision or 0) <= o.revision]
    value = _made(below[-1]) if below else initial
    if not _same(value, o.result):
        why = (
            f"key {o.key!r}: read {o.result!r} stating revision {o.revision}, where "
            f"{value!r} was current"
        )
        yield Finding("wrong_position", why, key=o.key, operations=(*below[-1:], o))


def _distribution(ages_ms: Sequence[float]) -> dict[str, Any]:
    ages = sorted(ages_ms)
    if not ages:
        return {"reads": 0}
    at = {
        name: ages[min(len(ages) - 1, int(len(ages) * q))]
        for name, q in (("p50", 0.5), ("p99", 0.99))
    }
    return {
        "reads": len(ages),
        "age_ms": {**at, "max": ages[-1]},
        "behind": sum(a > 0 for a in ages),
    }


def _made(w: ClientOperation) -> Any:
    return None if w.op == "delete" else w.value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one == other
    return msgspec.json.encode(one, order="deterministic") == msgspec.json.encode(
        other, order="deterministic"
    )
