"""Explore the rules of leases state by state: does a lease ever end before its ttl has passed since
the newest keep-alive that was answered?

    python lease_model.py            # with all rules: complete, nothing found
    python lease_model.py --mutants  # one rule away at a time, with the shortest trace

Time is a number that all monotonic clocks share; no clock is compared with another's. Three voters;
a leader that was deposed goes on until it hears of it. The log is what is committed. The end of a
lease is appended by its leader, stays uncommitted, or is forwarded and arrives late; it may be sent
twice. What Raft promises of elections, commits and rounds is assumed.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

MEMBERS = (0, 1, 2)
QUORUM = 2
TTL = 2
NOW_MAX = 4
TERM_MAX = 3
GRANTS_MAX = 2


class Rules(NamedTuple):
    """Each field is a rule; False takes it away."""

    term: bool = True
    """An end carries its leader's term and has no effect in an entry of another term."""
    round: bool = True
    """A keep-alive is answered only after a quorum round."""
    round_after: bool = True
    """... that began after it came."""
    whole_ttl: bool = True
    """A new leader gives every lease its whole ttl from the beginning of its own lead."""
    ending: bool = True
    """A leader that has ordered the end of a lease answers no keep-alive of it any more."""
    grant: bool = True
    """An end names the grant that it ends: an id may be granted again."""
    renews: bool = True
    """A keep-alive moves the deadline when it comes, not only when it is answered. (Not needed.)"""


class End(NamedTuple):
    """The end of a lease as it was ordered: the term of its leader, and the grant that it means."""

    term: int
    grant: int


class Lead(NamedTuple):
    """What a member that believes to lead remembers."""

    term: int
    deadline: int
    knows: int
    """The newest grant that it has applied."""
    ending: int
    """The grant whose end it has ordered; 0: none."""
    appended: End | None = None
    """An end in its own log that is not committed."""
    round: str = ""
    """Of the round under way: "open", or "confirmed" by another voter. Its own voice counts."""
    asked: int | None = None
    """When the keep-alive that waits here came."""
    joined: bool = False
    """Whether it goes by the round under way."""


class State(NamedTuple):
    """Everything."""

    now: int
    terms: tuple[int, ...]
    """The term of each voter."""
    leads: tuple[Lead | None, ...]
    flight: frozenset[End]
    """Ends that were forwarded and may arrive at any leader, any number of times."""
    grant: int
    """The number of the newest grant."""
    there: bool
    granted: int
    """When it was granted."""
    kept: int
    """When the newest keep-alive came that was answered, or the grant was."""
    broken: str = ""


START = State(0, (1, 1, 1), (Lead(1, TTL, 1, 0), None, None), frozenset(), 1, True, 0, 0)


def steps(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """Yield every step from a state, with its name."""
    if s.now < NOW_MAX:
        yield "a moment passes", s._replace(now=s.now + 1)
    if not s.there and s.grant < GRANTS_MAX and any(_commits(s, m) for m in MEMBERS):
        yield from _granted_again(s)
    for m in MEMBERS:
        yield from _elected(s, m, rules)
        lead = s.leads[m]
        if lead is None:
            continue
        if max(s.terms) > lead.term:
            yield f"the leader of {lead.term} hears that it was deposed", _put(s, m, None)
        yield from _kept_alive(s, m, lead, rules)
        yield from _expired(s, m, lead, rules)
        for end in s.flight:
            if _commits(s, m):
                name = f"the end of term {end.term} arrives at the leader of {lead.term}"
                yield name, _ended(s, end, lead.term, rules)


def _granted_again(s: State) -> Iterator[tuple[str, State]]:
    s = s._replace(grant=s.grant + 1, there=True, granted=s.now, kept=s.now)
    leads = tuple(
        lead._replace(deadline=s.now + TTL, knows=s.grant)
        if lead is not None and _is_newest(s, lead)
        else lead
        for lead in s.leads
    )
    yield "the id is granted again", s._replace(leads=leads)


def _elected(s: State, m: int, rules: Rules) -> Iterator[tuple[str, State]]:
    term = max(s.terms) + 1
    if term > TERM_MAX:
        return
    for others in combinations([v for v in MEMBERS if v != m], QUORUM - 1):
        voters = (m, *others)
        terms = tuple(term if v in voters else s.terms[v] for v in MEMBERS)
        deadline = (s.now if rules.whole_ttl else s.granted) + TTL
        left = tuple(None if v in voters else s.leads[v] for v in MEMBERS)
        after = _put(s._replace(terms=terms, leads=left), m, Lead(term, deadline, s.grant, 0))
        yield f"a leader is elected in {term}", after
        # the log of the new leader may hold what an earlier one appended; its no-op commits that
        for old in s.leads:
            if old is not None and old.appended is not None and _is_newest(s, old):
                ended = _ended(after, old.appended, old.term, rules)
                name = f"a leader is elected in {term}, with the end that {old.term} appended"
                yield name, ended


def _kept_alive(s: State, m: int, lead: Lead, rules: Rules) -> Iterator[tuple[str, State]]:
    who = f"the leader of {lead.term}"
    if not lead.round:
        begun = lead._replace(round="open", joined=lead.asked is not None)
        yield f"{who} begins a round", _put(s, m, begun)
    elif lead.round == "open" and _commits(s, m):
        yield f"a voter confirms the round of {lead.term}", _put(
            s, m, lead._replace(round="confirmed")
        )
    if lead.asked is None:
        moved = lead
        if rules.renews and lead.ending != lead.knows:
            moved = lead._replace(deadline=max(lead.deadline, s.now + TTL))
        joins = bool(lead.round) and not rules.round_after
        yield f"a keep-alive comes to {who}", _put(
            s, m, moved._replace(asked=s.now, joined=joins)
        )
        return
    confirmed = lead.round == "confirmed"
    if rules.round and not (confirmed and lead.joined):
        if confirmed:  # the next round serves it
            yield f"the round of {lead.term} ends", _put(s, m, lead._replace(round=""))
        return
    if rules.ending and lead.ending == lead.knows:
        yield f"{who} says that the lease is about to end", _put(s, m, _free(lead))
    elif s.there:
        answered = _free(lead)._replace(deadline=max(lead.deadline, lead.asked + TTL))
        kept = _put(s._replace(kept=max(s.kept, lead.asked)), m, answered)
        yield f"{who} answers the keep-alive of {lead.asked}", kept
    elif _is_newest(s, lead) or not rules.round:
        yield f"{who} says that the lease has ended", _put(s, m, _free(lead))


def _free(lead: Lead) -> Lead:
    return lead._replace(asked=None, round="", joined=False)


def _expired(s: State, m: int, lead: Lead, rules: Rules) -> Iterator[tuple[str, State]]:
    if not s.there or lead.deadline > s.now or lead.ending == lead.knows:
        return
    end = End(lead.term, lead.knows)
    over = _put(s, m, lead._replace(ending=lead.knows))
    yield f"the leader of {lead.term} forwards the end", over._replace(flight=s.flight | {end})
    appended = _put(s, m, lead._replace(ending=lead.knows, appended=end))
    yield f"the leader of {lead.term} appends the end", appended
    if _commits(s, m):
        yield f"the leader of {lead.term} commits the end", _ended(over, end, lead.term, rules)


def _ended(s: State, end: End, term: int, rules: Rules) -> State:
    """Apply the end of a lease in an entry of a term."""
    if not s.there or (rules.term and end.term != term) or (rules.grant and end.grant != s.grant):
        return s
    early = s.kept + TTL - s.now
    broken = f"it ends {early} before its time" if early > 0 else ""
    return s._replace(there=False, broken=broken)


def _commits(s: State, m: int) -> bool:
    """Return whether a member can commit in the term that it leads: a quorum follows it."""
    lead = s.leads[m]
    return lead is not None and sum(term == lead.term for term in s.terms) >= QUORUM


def _is_newest(s: State, lead: Lead) -> bool:
    return lead.term == max(s.terms)


def _put(s: State, m: int, lead: Lead | None) -> State:
    return s._replace(leads=tuple(lead if n == m else old for n, old in enumerate(s.leads)))


def _sorted(s: State) -> State:
    """Return the state with its members in a certain order: they are interchangeable."""
    members = sorted(zip(s.terms, s.leads, strict=True), key=lambda each: (each[0], str(each[1])))
    return s._replace(
        terms=tuple(term for term, _ in members), leads=tuple(lead for _, lead in members)
    )


def explore(rules: Rules) -> tuple[int, str, list[str]]:
    """Visit every state. Return their number, and what is broken first, with the way there."""
    start = _sorted(START)
    before: dict[State, tuple[State, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for name, after in steps(state, rules):
            after = _sorted(after)
            if after in before:
                continue
            before[after] = (state, name)
            if after.broken:
                return len(before), after.broken, _way(before, after)
            queue.append(after)
    return len(before), "", []


def _way(before: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    way: list[str] = []
    step = before[state]
    while step is not None:
        way.append(step[1])
        step = before[step[0]]
    return way[::-1]


def main() -> int:
    """Explore with all rules, or with each one away. Return 0 when the result is what it is in the
    README.
    """
    mutants = "--mutants" in sys.argv[1:]
    wrong = 0
    for name in Rules._fields if mutants else ("",):
        rules = Rules()._replace(**{name: False}) if name else Rules()
        states, broken, way = explore(rules)
        print(f"{name or 'all rules':<12} {states:>8} states  {broken or 'holds'}", flush=True)
        for number, step in enumerate(way, 1):
            print(f"    {number:>2}. {step}")
        wrong += bool(broken) != (bool(name) and name != "renews")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
