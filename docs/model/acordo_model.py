"""Explore Acordo's protocol (`acordo_protocol.py`) state by state and report every broken promise (INV-1 to INV-6).

It never samples where it claims to be exhaustive: a scenario that hits its state limit is reported as cut short.
`python acordo_model.py` runs all of it on one core in about five minutes: the protocol over every scenario, random
walks through larger bounds, then the mutants, each a rule taken away.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
from collections import deque
from typing import NamedTuple

from acordo_protocol import Broken, Model, Op, Rules, Scenario

# -------------------------------------------------------------------------------------------------------- scenarios

PUT_1, PUT_2, OTHER = Op("x", "1"), Op("x", "2"), Op("y", "1")
SWAP, DELETE, LATE = Op("x", "3", guard=("x", "1")), Op("x", None), Op("x", "2", deadline=True)
RANGE_X, RANGE_XY, RANGE_Y = (Op("", None, ranged=keys) for keys in (("x",), ("x", "y"), ("y",)))
AB = {"a": PUT_1, "b": PUT_2}

SCENARIOS = {
    sc.name: sc
    for sc in (
        Scenario("one-change", AB, {"a": 2, "b": 1}, elections=1),
        Scenario("two-changes", AB, {"a": 1, "b": 1}, elections=2, lazy=True),
        Scenario("swap", {"a": PUT_1, "c": SWAP}, {"a": 1, "c": 1}, elections=1, ambiguous=1, lazy=True),
        Scenario(
            "swap-retry", {"a": PUT_1, "c": SWAP}, {"a": 1, "c": 2}, elections=0, ambiguous=1, crashes=0, lazy=True
        ),
        Scenario("delete", {"a": PUT_1, "d": DELETE}, {"a": 1, "d": 1}, elections=1, lazy=True),
        Scenario("range", {"a": PUT_1, "y": OTHER, "r": RANGE_XY}, {"a": 1, "y": 1, "r": 1}, elections=0),
        Scenario("range-change", {"a": PUT_1, "r": RANGE_XY}, {"a": 1, "r": 1}, elections=1, lazy=True),
        Scenario(
            "ranges", {"a": PUT_1, "r": RANGE_X, "s": RANGE_Y}, {"a": 1, "r": 1, "s": 1}, elections=0, ranges=1
        ),
        Scenario("range-loss", {"a": PUT_1, "r": RANGE_X}, {"a": 1, "r": 1}, elections=1, losses=1, lost_max=4),
        Scenario("crash", AB, {"a": 1, "b": 1}, elections=1, crashes=1, lazy=True),
        Scenario("deadline", {"a": PUT_1, "e": LATE}, {"a": 1, "e": 1}, elections=0, ambiguous=1, lazy=True),
        Scenario("window", {"a": PUT_1, "y": OTHER}, {"a": 2, "y": 1}, elections=0, window=1, recent=1),
        Scenario("loss", AB, {"a": 1, "b": 1}, elections=1, losses=1, lost_max=4),
        Scenario("loss-retry", AB, {"a": 2, "b": 1}, elections=1, losses=1, lost_max=4, lazy=True),
        Scenario("loss-keys", {"a": PUT_1, "y": OTHER}, {"a": 1, "y": 1}, elections=1, losses=1, lost_max=4, reads=1),
        Scenario(
            "loss-three",
            {"a": PUT_1, "b": PUT_2, "y": OTHER},
            {"a": 1, "b": 1, "y": 1},
            elections=1,
            losses=1,
            lost_max=4,
            lazy=True,
            states_max=200_000,
        ),
        Scenario("loss-ambiguous", AB, {"a": 1, "b": 1}, elections=1, losses=1, lost_max=4, ambiguous=1, lazy=True),
        Scenario("loss-two", AB, {"a": 1, "b": 1}, elections=2, losses=1, lost_max=4, lazy=True, states_max=300_000),
        Scenario(
            "late-rebase",
            {"a": PUT_1, "y": OTHER, "b": PUT_2},
            {"a": 1, "y": 1, "b": 1},
            elections=2,
            losses=1,
            lazy=True,
            start=tuple(
                "Submit(a)|n0 applies|n0 sends|transaction|n0 hears|n1 is elected, Raft loses the last 1|n1 applies|"
                "n1 takes over|n0 finds|n0 is elected|n0 applies|n0 applies|n0 takes over|n0 proposes Rebase|"
                "n0 applies Rebase|Submit(y)|n0 applies|n0 sends|transaction|n0 hears|n0 proposes|n0 applies Settle|"
                "Submit(b)|n0 applies".split("|")
            ),
        ),
        Scenario("restore", AB, {"a": 1, "b": 1}, elections=1, restores=1, lazy=True),
        Scenario(
            "restore-loss", AB, {"a": 1, "b": 1}, elections=1, losses=1, restores=1, lazy=True, states_max=150_000
        ),
        Scenario("publish", AB, {"a": 1, "b": 1}, elections=1, publishes=True, lazy=True),
    )
}

LARGE = Scenario(
    "large",
    {"a": PUT_1, "b": PUT_2, "c": SWAP, "d": DELETE, "e": LATE, "r": RANGE_XY, "y": OTHER},
    {"a": 2, "b": 1, "c": 2, "d": 1, "e": 1, "r": 1, "y": 2},
    nodes=3,
    elections=4,
    losses=2,
    lost_max=5,
    ambiguous=2,
    crashes=1,
    reads=2,
    window=3,
    recent=1,
    ranges=1,
)
LARGE_CALM = dataclasses.replace(LARGE, name="large-calm", losses=0)

# ---------------------------------------------------------------------------------------------------------- mutants


class Mutant(NamedTuple):
    """One rule taken away (or two, where the first is masked by the second), and where to look for the consequence."""

    name: str
    changes: dict[str, bool | str]
    scenarios: tuple[str, ...]


MUTANTS = (
    Mutant("no fence at all", {"fence": False, "fence_row": False}, ("swap", "deadline")),
    Mutant("fence by place and term alone", {"fence": False}, ("loss", "loss-ambiguous", "restore-loss")),
    Mutant("taking over appends no row", {"fence_row": False}, ("loss",)),
    Mutant("the row's term is not compared", {"fence_ordered": False}, ("loss",)),
    Mutant("digest not compared", {"digest_check": False}, ("loss",)),
    Mutant("taking over does not read the head", {"reads_head": False}, ("loss",)),
    Mutant("taking over does not wait for its no-op", {"waits_noop": False}, ("one-change", "loss", "loss-two")),
    Mutant("own verdict instead of the ledger's", {"ledger_outcomes": False}, ("deadline",)),
    Mutant("Rebase without rows", {"rebase_rows": False}, ("loss-retry",)),
    Mutant(
        "Rebase without rows, op_id not unique in store", {"rebase_rows": False, "store_dedupe": False}, ("loss-retry",)
    ),
    Mutant("Rebase does not raise the floor", {"rebase_floor": False}, ("loss",)),
    Mutant("Rebase does not re-enter last[key]", {"rebase_touch": False}, ("loss",)),
    Mutant("late Rebase / Settle not ignored", {"rebase_stale": False}, ("late-rebase",)),
    Mutant("Rebase whose rows leave a gap is obeyed", {"rebase_base": False}, ("loss-two",)),
    Mutant("Rebase does not feed watchers", {"rebase_feeds": False}, ("loss",)),
    Mutant("floor ignored for known keys", {"judge_floor": False}, ("loss",)),
    Mutant("ReadIndex before taking over", {"readindex_taken": False}, ("loss",)),
    Mutant("read index without its term", {"readindex_entry": False}, ("loss-keys", "loss-three")),
    Mutant("as_of = the row's own revision only", {"as_of": "row_only"}, ("one-change", "delete", "loss-retry")),
    Mutant(
        "as_of = settled revision at read start", {"as_of": "settled_start"}, ("one-change", "delete", "loss-retry")
    ),
    Mutant("as_of = applied revision at read start", {"as_of": "applied_start"}, ("one-change",)),
    Mutant("as_of = settled revision at read end", {"as_of": "settled_end"}, ("one-change",)),
    Mutant("a delete of a range touches keys at Settle", {"range_touch": False}, ("range", "range-change")),
    Mutant("a forgotten range leaves the floor", {"range_floor": False}, ("ranges",)),
    Mutant("last[key] raised at Settle", {"touch": "settle"}, ("one-change",)),
    Mutant("no dedupe in the machine", {"dedupe": False}, ("one-change", "swap-retry", "loss-retry")),
    Mutant("no dedupe at all", {"dedupe": False, "store_dedupe": False}, ("one-change",)),
    Mutant("op_id not unique in the store", {"store_dedupe": False}, ("window",)),
    Mutant("diverged node keeps its machine", {"reset": False}, ("loss", "loss-keys", "loss-three")),
    Mutant("committer broadcasts what it committed", {"publish": "own"}, ("publish",)),
    Mutant("reads do not check the head", {"refuse_behind": False}, ("restore",)),
)

# ------------------------------------------------------------------------------------------------------- exploration


class Result(NamedTuple):
    states: int
    complete: bool
    broken: str | None = None
    trace: tuple[str, ...] = ()


def explore(rules: Rules, scenario: Scenario, depth_max: int = 10**9) -> Result:
    """Visit every state in order of distance; stop at the first broken promise (so its trace is a shortest one)."""
    model = Model(rules, scenario)
    first = model.finish(model.initial())
    for wanted in scenario.start:
        try:
            first = model.finish(next(build for what, build in model.steps(first) if what.startswith(wanted))())
        except Broken as broken:
            return Result(0, False, str(broken), scenario.start)
    came: dict[int, tuple[int, str]] = {hash(first): (0, "")}  # 64-bit hashes: a collision is less likely than 1e-6
    queue = deque([(first, 0)])
    complete = True
    while queue:
        s, depth = queue.popleft()
        here = hash(s)
        if depth >= depth_max or len(came) >= scenario.states_max:
            complete = False
            continue
        for what, build in model.steps(s):
            try:
                after = model.finish(build())
            except Broken as broken:
                return Result(len(came), False, str(broken), (*_trace(came, here), what))
            seen = hash(after)
            if seen not in came:
                came[seen] = (here, what)
                queue.append((after, depth + 1))
    return Result(len(came), complete)


def _trace(came: dict[int, tuple[int, str]], at: int) -> tuple[str, ...]:
    steps = []
    while came[at][1]:
        at, what = came[at][0], came[at][1]
        steps.append(what)
    return tuple(reversed(steps))


def walk(rules: Rules, scenario: Scenario, walks: int, steps: int, seed: int, seconds: float) -> Result:
    """Take random paths through bounds too large to visit in full."""
    rng, seen, until = random.Random(seed), 0, time.monotonic() + seconds
    model = Model(rules, scenario)
    for number in range(walks):
        if time.monotonic() > until:
            break
        if number % 500 == 499:
            model = Model(rules, scenario)  # the tries grow with every new history: start afresh
        s, trace = model.finish(model.initial()), []
        for _ in range(steps):
            choices = list(model.steps(s))
            if not choices:
                break
            what, build = rng.choice(choices)
            trace.append(what)
            seen += 1
            try:
                s = model.finish(build())
            except Broken as broken:
                return Result(seen, False, str(broken), tuple(trace))
    return Result(seen, True)


# -------------------------------------------------------------------------------------------------------------- run


def run_scenarios(rules: Rules, title: str, names: list[str], depth_max: int) -> bool:
    print(f"{title}, every state within the bounds of each scenario")
    total, good = 0, True
    for name in names:
        began = time.monotonic()
        result = explore(rules, SCENARIOS[name], depth_max)
        total, good = total + result.states, good and result.broken is None
        how = result.broken or ("holds" if result.complete else "holds as far as visited (cut short)")
        print(f"  {name:16} {result.states:9,} states {time.monotonic() - began:6.1f} s  {how}", flush=True)
        _print_trace(result)
    print(f"  {total:,} states")
    return good


def run_walks(seconds: float, seed: int) -> bool:
    print("the protocol, random walks through larger bounds (3 nodes, 7 intents, 10 submits, 4 changes of leader)")
    good = True
    for scenario in (LARGE, LARGE_CALM):
        result = walk(Rules(), scenario, 10**9, 150, seed, seconds / 2)
        good = good and result.broken is None
        print(f"  {scenario.name:16} {result.states:9,} steps   seed {seed}  {result.broken or 'holds'}", flush=True)
        _print_trace(result)
    return good


def run_mutants(traces: bool) -> int:
    print("mutants: the protocol without one rule")
    return sum(_run_mutant(*mutant, 200_000, traces) for mutant in MUTANTS)


def _run_mutant(name: str, changes: dict[str, bool | str], scenarios: tuple[str, ...], limit: int, trace: bool) -> int:
    rules, states = dataclasses.replace(Rules(), **changes), 0
    for scenario in scenarios:
        result = explore(rules, dataclasses.replace(SCENARIOS[scenario], states_max=limit))
        states += result.states
        if result.broken:
            print(f"  {name:48} {scenario:12} {len(result.trace):3} steps  {result.broken}", flush=True)
            if trace:
                _print_trace(result)
            return 1
    result = walk(rules, LARGE, 10**9, 150, 1, 4.0)
    if result.broken:
        print(f"  {name:48} {'walk':12} {len(result.trace):3} steps  {result.broken}", flush=True)
        return 1
    print(f"  {name:48} breaks nothing in {states:,} states and {result.states:,} random steps", flush=True)
    return 0


def _print_trace(result: Result) -> None:
    for number, what in enumerate(result.trace, 1):
        print(f"      {number:2}. {what}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=10**9, help="longest path in the exhaustive part")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="only this one")
    parser.add_argument("--mutants", action="store_true", help="only the mutants")
    parser.add_argument("--traces", action="store_true", help="print the shortest trace of each mutant")
    parser.add_argument("--walk-seconds", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began, good, caught = time.monotonic(), True, None
    names = [args.scenario] if args.scenario else list(SCENARIOS)
    if args.mutants:
        caught = run_mutants(args.traces)
    else:
        good = run_scenarios(Rules(), "the protocol", names, args.depth)
        if not args.scenario:
            good = run_walks(args.walk_seconds, args.seed) and good
            caught = run_mutants(args.traces)
    said = "" if caught is None else f"; {caught} of {len(MUTANTS)} mutants break a promise"
    print(f"summary: the protocol {'holds' if good else 'IS BROKEN'}{said}; {time.monotonic() - began:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
