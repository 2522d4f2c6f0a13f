"""Derive the periods of faults and leaderships from the records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from chaos.records.history import Fault, History


@dataclass(frozen=True)
class FaultWindow:
    """The period of one fault; a time is None if it is not in the records."""

    nemesis: str
    targets: tuple[str, ...]
    start_ns: int
    bit_ns: int | None = None
    healed_ns: int | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Leadership:
    """A leader and the time from which it led, as far as any record says."""

    since_ns: int
    term: int | None
    leader: str | None


def fault_windows(faults: Iterable[Fault]) -> list[FaultWindow]:
    """Pair each start with the later steps of the same nemesis and targets, in order of start."""
    open_: dict[tuple[str, tuple[str, ...]], FaultWindow] = {}
    done: list[FaultWindow] = []
    for f in sorted(faults, key=lambda f: f.t_ns):
        name = (f.nemesis, f.targets)
        if f.phase == "start":
            if name in open_:
                done.append(open_[name])
            open_[name] = FaultWindow(f.nemesis, f.targets, f.t_ns, detail=f.detail)
        elif name in open_ and f.phase == "bit":
            window = open_[name]
            if window.bit_ns is None:
                open_[name] = replace(window, bit_ns=f.t_ns, detail=f.detail or window.detail)
        elif name in open_ and f.phase == "healed":
            done.append(replace(open_.pop(name), healed_ns=f.t_ns))
    return sorted([*done, *open_.values()], key=lambda w: w.start_ns)


def leaderships(history: History) -> list[Leadership]:
    """Return each change of leader or term, from status records and answers to operations."""
    claims = [(s.t_ns, s.term, s.leader) for s in history.statuses if s.leader is not None]
    claims += [
        (int(o.end_ns or o.start_ns), o.term, o.leader)
        for o in history.operations
        if o.leader is not None
    ]
    made: list[Leadership] = []
    for t_ns, term, leader in sorted(claims, key=lambda t: t[0]):
        last = made[-1] if made else None
        if last is not None and term is not None and last.term is not None and term < last.term:
            continue  # reported by a node that did not know the new term yet
        if last is None or (term, leader) != (last.term, last.leader):
            made.append(Leadership(t_ns, term, leader))
    return made
