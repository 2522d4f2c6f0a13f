"""Check what nodes reported about themselves during the faults: Raft invariants visible from
outside.

A term has at most one leader; a node's term never falls, not even across restarts; equal settled
revisions have equal digests. These checks are cheap, and often the first to fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import Fault, NodeStatus
from chaos.records.intervals import fault_windows

EMPTYING: Final = frozenset({"member-wiped", "members-wiped-in-turn"})
"""Nemeses that empty members' directories."""
HARMING: Final = frozenset({"store-flipped"})
"""Nemeses after which a member may find its contents different from the others'."""
DIFFERING: Final = frozenset({"diverged", "undecided"})
"""States of a member's own store: members that read the same log made different things of it."""


def check(seen: Iterable[NodeStatus], faults: Iterable[Fault] = ()) -> Judgement:
    """Check status records.

    A node's settled position may fall: after a restart it begins at its snapshot. So may its term
    while a fault empties members: an emptied one has forgotten it, and never votes again. What a
    member finds by comparing its contents with the others' is a finding, unless its file was
    changed by a fault.
    """
    faults = list(faults)
    harmed = any(f.nemesis in HARMING for f in faults)
    emptied = [w for w in fault_windows(faults) if w.nemesis in EMPTYING]
    records = sorted(seen, key=lambda s: s.t_ns)
    leaders: dict[int, str] = {}
    digests: dict[int, NodeStatus] = {}
    last: dict[str, NodeStatus] = {}
    findings: list[Finding] = []
    for s in records:
        if s.role == "leader" and s.term is not None:
            other = leaders.setdefault(s.term, s.seen)
            if other != s.seen:
                findings.append(
                    Finding("two_leaders", f"{other} and {s.seen} both led term {s.term}")
                )
        if s.settled is not None and s.digest is not None:
            first = digests.setdefault(s.settled, s)
            if first.digest != s.digest:
                why = (
                    f"{first.seen} had digest {first.digest} at {s.settled}, {s.seen} had "
                    f"{s.digest}"
                )
                findings.append(Finding("diverged", why))
        if s.store in DIFFERING and not harmed:
            findings.append(
                Finding("contents_differ", f"{s.seen} found its contents {s.store} by itself")
            )
        before = last.get(s.seen)
        if (
            before is not None
            and before.term is not None
            and s.term is not None
            and s.term < before.term
            and not any(w.start_ns <= s.t_ns <= (w.healed_ns or s.t_ns) for w in emptied)
        ):
            findings.append(
                Finding("term_fell", f"{s.seen} was in term {before.term}, later in {s.term}")
            )
        last[s.seen] = s
    if not records:
        findings.append(Finding("nothing_seen", "no node ever said its state", Verdict.UNKNOWN))
    terms = sorted(leaders)
    figures = {
        "records": len(records),
        "terms_led": len(terms),
        "term_last": terms[-1] if terms else 0,
    }
    return Judgement("members", tuple(findings[:20]), len(records), figures)
