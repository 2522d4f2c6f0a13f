"""Explain why a history is illegal, by the fewest operations that show it.

The explanation has the longest legal order of these operations, and why none can follow it. A write
whose value was observed is never dropped: a read of a value that was never written explains
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from chaos.checkers.registers.encode import encode
from chaos.checkers.registers.register import LINEARIZABLE, verdict_of
from chaos.checkers.registers.search import Search
from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import ClientOperation, History
from chaos.records.intervals import FaultWindow, Leadership, fault_windows, leaderships

CHECKS_MAX: Final = 4_000
"""Most histories that are tried while minimising."""
SEARCH_STEPS: Final = 200_000
REGISTER: Final = frozenset({"put", "get", "cas", "delete", "append"})


@dataclass(frozen=True)
class Explanation:
    """A finding with everything that a person needs to follow it."""

    checker: str
    anomaly: str
    verdict: Verdict
    message: str
    key: str | None
    operations: tuple[ClientOperation, ...]
    """The fewest operations that show it (registers), or those of the finding (other models), by
    start.
    """
    of: int = 0
    """Number of all operations on the key."""
    prefix: tuple[ClientOperation, ...] = ()
    """Longest legal order of the operations."""
    state: Any = None
    """Value after the prefix."""
    stuck: tuple[tuple[ClientOperation, str], ...] = ()
    """Operations that could be called next, each with the reason why it does not fit."""
    leaderships: tuple[Leadership, ...] = ()
    faults: tuple[FaultWindow, ...] = ()


def explain(
    finding: Finding, judgement: Judgement, history: History, *, initial: Any = None
) -> Explanation:
    """Explain one finding with the history in which it was found."""
    operations = tuple(sorted(finding.operations, key=lambda o: o.start_ns))
    of = len(operations)
    prefix: tuple[ClientOperation, ...] = ()
    stuck: tuple[tuple[ClientOperation, str], ...] = ()
    state: Any = None
    if judgement.checker == "register" and finding.verdict is Verdict.ILLEGAL:
        mine = [
            o
            for o in history.operations
            if o.key == finding.key and o.op in REGISTER and o.level in LINEARIZABLE
        ]
        of = len(mine)
        few = minimise(
            mine, lambda ops: verdict_of(ops, initial=initial) is Verdict.ILLEGAL, initial=initial
        )
        operations = tuple(sorted(few, key=lambda o: o.start_ns))
        prefix, state, stuck = dead_end(operations, initial)
    return Explanation(
        checker=judgement.checker,
        anomaly=finding.anomaly,
        verdict=finding.verdict,
        message=finding.message,
        key=finding.key,
        operations=operations,
        of=of,
        prefix=prefix,
        state=state,
        stuck=stuck,
        leaderships=tuple(_led_by(leaderships(history), operations)),
        faults=tuple(_active(fault_windows(history.faults), operations)),
    )


# ----------------------------------------------------------------------------------------- minimise


def minimise(
    operations: Sequence[ClientOperation],
    illegal: Callable[[list[ClientOperation]], bool],
    *,
    initial: Any = None,
    checks_max: int = CHECKS_MAX,
) -> list[ClientOperation]:
    """Drop operations on one key as long as the rest stays illegal.

    An observer may be dropped alone, a writer only together with everything that observes its
    value. Refusals are tried first, then reads, then writes, by halves and then in smaller parts,
    as in delta debugging.
    """
    kept = list(operations)
    orphans = _orphans(kept, initial)
    left = checks_max
    chunk = max(1, len(kept) // 2)
    while left > 0:
        dropped = False
        order = sorted(kept, key=_rank)
        for at in range(0, len(order), chunk):
            gone = {id(o) for o in order[at : at + chunk]} & {id(o) for o in kept}
            if not gone or left <= 0:
                continue
            rest = _closed([o for o in kept if id(o) not in gone], orphans, initial)
            left -= 1
            if len(rest) < len(kept) and illegal(rest):
                kept = rest
                dropped = True
        if chunk == 1 and not dropped:
            break
        chunk = max(1, chunk // 2) if not dropped else min(chunk, max(1, len(kept) // 2))
    return kept


def _rank(o: ClientOperation) -> int:
    if o.outcome == "ok" and (o.result is False or (o.op == "delete" and o.result is True)):
        return 0
    return 1 if o.op == "get" else 2


def _closed(
    operations: list[ClientOperation], orphans: set[int], initial: Any
) -> list[ClientOperation]:
    """Also drop observers of values that no remaining operation can have written, until none is
    left.
    """
    while new := _orphans(operations, initial) - orphans:
        operations = [o for o in operations if id(o) not in new]
    return operations


def _orphans(operations: Iterable[ClientOperation], initial: Any) -> set[int]:
    """Return the observers that returned before any write of their value began.

    A refused write counts as a write, because it explains the value.
    """
    ops = list(operations)
    begun: dict[bytes, float] = {_text(initial): float("-inf")}
    pieces: dict[str, float] = {}
    appends = False
    if initial is None or any(o.op == "delete" for o in ops):
        begun[_text(None)] = min([o.start_ns for o in ops if o.op == "delete"], default=0)
    if initial is None:
        begun[_text(None)] = float("-inf")
    for o in ops:
        if o.op == "append":
            appends = True
            pieces[o.value] = min(pieces.get(o.value, o.start_ns), o.start_ns)
        elif o.op in {"put", "cas"} and o.result is not False:
            made = _text(o.value)
            begun[made] = min(begun.get(made, o.start_ns), o.start_ns)
            if isinstance(o.value, str):
                pieces[o.value] = min(pieces.get(o.value, o.start_ns), o.start_ns)
    orphans = set()
    for o in ops:
        seen = _observed(o)
        if seen is None or begun.get(seen, float("inf")) <= o.returned_ns:
            continue
        value = o.result if o.op == "get" else o.expected
        if not (appends and isinstance(value, str) and _composed(value, pieces, o.returned_ns)):
            orphans.add(id(o))
    return orphans


def _composed(text: str, begun: dict[str, float], by_ns: float) -> bool:
    """Return whether the text can be composed of values whose writes had begun by then."""
    pieces = [p for p, t in begun.items() if p and t <= by_ns]
    reached = {0}
    for at in range(len(text)):
        if at in reached:
            reached |= {at + len(p) for p in pieces if text.startswith(p, at)}
    return len(text) in reached


def _observed(o: ClientOperation) -> bytes | None:
    if o.outcome != "ok":
        return None
    if o.op == "get":
        return _text(o.result)
    return _text(o.expected) if o.op == "cas" and o.result is not False else None


# --------------------------------------------------------------------- how far, and why not further


def dead_end(
    operations: Sequence[ClientOperation], initial: Any
) -> tuple[tuple[ClientOperation, ...], Any, tuple[tuple[ClientOperation, str], ...]]:
    """Return the longest legal order, the value after it, and the operations that could come next,
    each with the reason why it does not fit.
    """
    column = encode("", operations, initial)
    search = Search(column, lifetimes=False)
    search.advance(SEARCH_STEPS)
    prefix = tuple(column.sources[i] for i in search.longest)
    state = column.values.values[search.state_after_longest()]
    stuck = tuple(
        (column.sources[i], _why(column.sources[i], prefix, state, initial)) for i in search.stuck
    )
    return prefix, state, stuck


def _why(o: ClientOperation, prefix: Sequence[ClientOperation], state: Any, initial: Any) -> str:
    origin = _origin(prefix, state, initial)
    match o.op:
        case "get":
            return (
                f"it read {_show(o.result)}, but {origin}{_overwritten(o.result, prefix, initial)}"
            )
        case "cas" if o.result is False:
            return f"it was refused because the value was not {_show(o.expected)}, but {origin}"
        case "cas" if o.outcome == "ok" and _text(state) != _text(o.expected):
            return (
                f"it swapped {_show(o.expected)}, but "
                f"{origin}{_overwritten(o.expected, prefix, initial)}"
            )
        case "delete" if o.result is False:
            return f"it found nothing to delete, but {origin}"
        case "delete" if o.result is True and state is None:
            return f"it deleted something, but {origin}"
    return f"it would replace {_show(state)}, which others must still observe"


def _origin(prefix: Sequence[ClientOperation], state: Any, initial: Any) -> str:
    """Describe the value after the prefix, and which operation made it."""
    for o in reversed(prefix):
        made = None if o.op == "delete" else o.value
        if (
            o.op in {"put", "cas", "delete", "append"}
            and o.result is not False
            and _text(made) == _text(state)
        ):
            when = f"acknowledged at {o.end_ns}" if o.outcome == "ok" else "of unknown outcome"
            return f"the value was {_show(state)}, by {in_words(o)} of client {o.client!r}, {when}"
    return f"the value was {_show(state)}" + (
        ", as at the beginning" if _text(state) == _text(initial) else ""
    )


def _overwritten(value: Any, prefix: Sequence[ClientOperation], initial: Any) -> str:
    made = [
        None if o.op == "delete" else o.value
        for o in prefix
        if o.op != "get" and o.result is not False
    ]
    if _text(value) in {_text(m) for m in made} or _text(value) == _text(initial):
        return f", which had overwritten {_show(value)}"
    return ""


# ---------------------------------------------------------------------------------- who, what, when


def _led_by(
    all_: Sequence[Leadership], operations: Sequence[ClientOperation]
) -> Iterable[Leadership]:
    """Yield the leaderships during which the operations ran."""
    first, last = _span(operations)
    for n, reign in enumerate(all_):
        until = all_[n + 1].since_ns if n + 1 < len(all_) else float("inf")
        if operations and reign.since_ns <= last and until >= first:
            yield reign


def _active(
    all_: Sequence[FaultWindow], operations: Sequence[ClientOperation]
) -> Iterable[FaultWindow]:
    first, last = _span(operations)
    for window in all_:
        healed = window.healed_ns if window.healed_ns is not None else float("inf")
        if operations and window.start_ns <= last and healed >= first:
            yield window


def _span(operations: Sequence[ClientOperation]) -> tuple[float, float]:
    if not operations:
        return 0.0, 0.0
    ends = [o.returned_ns for o in operations if o.returned_ns != float("inf")]
    return min(o.start_ns for o in operations), max([*ends, *(o.start_ns for o in operations)])


# --------------------------------------------------------------------------------------------- text


def in_words(o: ClientOperation) -> str:
    """Return one operation in a few words."""
    match o.op:
        case "get" | "read":
            return f"{o.op} → {'?' if o.outcome != 'ok' else _show(o.result)}"
        case "cas":
            how = {"info": " (unknown)", "fail": " (failed)"}.get(
                o.outcome, " (refused)" if o.result is False else ""
            )
            return f"cas {_show(o.expected)} → {_show(o.value)}{how}"
        case "delete":
            return f"delete{' (nothing there)' if o.result is False else ''}{_ending(o)}"
        case "txn":
            micros = o.result if o.outcome == "ok" and isinstance(o.result, list) else o.value
            return "txn " + ", ".join(f"{f} {k} {_show(v)}" for f, k, v in micros) + _ending(o)
        case _:
            token = f" token {o.token}" if o.token is not None else ""
            refused = " (refused)" if o.outcome == "ok" and o.result is False else ""
            value = "" if o.value is None else _show(o.value)
            return f"{o.op} {value}{token}{refused}{_ending(o)}".rstrip()


def text(e: Explanation) -> str:
    """Return an explanation as plain lines."""
    where = f" of key {e.key!r}" if e.key is not None else ""
    lines = [f"{e.checker}{where}: {e.anomaly} ({e.verdict})", f"  {e.message}"]
    if e.operations:
        lines.append(
            f"  {len(e.operations)} operations show it"
            + (f", of {e.of}:" if e.of > len(e.operations) else ":")
        )
        numbers = {id(o): n for n, o in enumerate(e.prefix, 1)}
        start = min(o.start_ns for o in e.operations)
        stuck = {id(o) for o, _ in e.stuck}
        unit, name = unit_of(e.operations)
        for o in e.operations:
            number = "  ✗ " if id(o) in stuck else "  · "
            if id(o) in numbers:
                number = f"{numbers[id(o)]:>3}."
            times = f"{_times(o, start, unit)} {name}"
            lines.append(
                f"  {number} {times:>24}  client {o.client!s:<6} {in_words(o)}{_served(o)}"
            )
    if e.stuck:
        lines.append(
            f"  After {len(e.prefix)} of them in a legal order the value is {_show(e.state)}. "
            f"Nothing can follow:"
        )
        lines += [f"    {in_words(o)} of client {o.client!r}: {why}" for o, why in e.stuck]
    if e.leaderships:
        led = ", then ".join(
            f"{r.leader} (term {r.term if r.term is not None else '?'})" for r in e.leaderships
        )
        lines.append(f"  Led by {led}.")
    for w in e.faults:
        until = f"healed at {w.healed_ns}" if w.healed_ns is not None else "not healed"
        lines.append(
            f"  Meanwhile {w.nemesis} of {', '.join(w.targets) or 'all'} from "
            f"{w.start_ns}, {until}."
        )
    if not e.faults and e.operations:
        lines.append("  No fault was active.")
    return "\n".join(lines)


def unit_of(operations: Sequence[ClientOperation]) -> tuple[float, str]:
    """Return the unit that suits the times, in nanoseconds, and its name."""
    first, last = _span(operations)
    return (1.0, "ns") if last - first < 100_000 else (1e6, "ms")


def _times(o: ClientOperation, start: int, unit: float) -> str:
    digits = 3 if unit > 1 else 0
    end = "…" if o.returned_ns == float("inf") else f"{(o.returned_ns - start) / unit:.{digits}f}"
    return f"{(o.start_ns - start) / unit:.{digits}f} – {end}"


def _served(o: ClientOperation) -> str:
    parts = [f"via {o.node}"] if o.node else []
    parts += [f"revision {o.revision}"] if o.revision is not None else []
    parts += [f"{o.attempts} attempts"] if o.attempts > 1 else []
    parts += [o.error] if o.error else []
    return f"  [{', '.join(parts)}]" if parts else ""


def _ending(o: ClientOperation) -> str:
    return {"info": " (unknown)", "fail": " (failed)"}.get(o.outcome, "")


def _show(value: Any) -> str:
    if value is None:
        return "absent"
    if value is msgspec.UNSET:
        return "?"
    shown = msgspec.json.encode(value).decode()
    return shown if len(shown) <= 60 else shown[:57] + "…"


def _text(value: Any) -> bytes:
    return b"" if value is msgspec.UNSET else msgspec.json.encode(value, order="deterministic")
