"""Explore the replicated store (`replicated_protocol.py`) state by state and report every broken promise.

It never samples where it claims to be exhaustive: a scenario that hits its state limit is reported as cut short.
`python replicated_model.py` runs all of it on one core: the protocol over every scenario, the rules as they
were worded first, random walks through larger bounds, then the mutants, each a rule taken away.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
from collections import deque
from typing import Any, NamedTuple

from acordo_model import Result, _print_trace, _trace
from acordo_protocol import Broken
from replicated_protocol import Impossible, Model, Op, Rules, Scenario

# -------------------------------------------------------------------------------------------------------- scenarios

PUT_1, PUT_2, OTHER = Op((("x", "1"),)), Op((("x", "2"),)), Op((("y", "1"),))
SWAP, DELETE = Op((("x", "3"),), guard=("x", "1")), Op((("x", None),))
LATE, TTL, NEWER = Op((("x", "2"),), deadline=True), Op((("x", "1"),), ttl=True), Op((("x", "2"),), newer=True)
BOTH = Op((("x", "9"), ("y", "9")))
A, B, C = (("a",), 1), (("b",), 1), (("c",), 1)
AB, AC = {"a": PUT_1, "b": PUT_2}, {"a": PUT_1, "c": SWAP}

SCENARIOS = {
    sc.name: sc
    for sc in (
        Scenario("write", AC, (A, C), slow=True, lag=True, reads=1, members=2),
        Scenario("write-three", AC, (A, C), slow=True, reads=1),
        Scenario("many", {"a": BOTH, "b": Op((("x", "7"), ("y", "7")))}, (A, B), slow=True, reads=1, members=2),
        Scenario("batch", AC, ((("a", "c"), 2),), slow=True, members=2),
        Scenario("election", AB, (A, B), lag=True, elections=2, reads=1),
        Scenario("clock", {"a": PUT_1, "e": LATE}, (A, (("e",), 1)), ticks=1, members=2),
        Scenario("retry", AB, ((("a",), 2), B), ticks=1, members=2),
        Scenario("retry-restart", AB, ((("a",), 2),), ticks=1, crashes=1, dumps=1, elections=1, members=2),
        Scenario("settings", AB, ((("a",), 2),), ticks=1, configs=1, members=2, differ=True),
        Scenario(
            "level",
            {"a": PUT_1, "n": NEWER},
            (A, (("n",), 1)),
            levels=1,
            upgrades=1,
            crashes=1,
            speaks=(2, 2, 1),
            differ=True,
        ),
        Scenario(
            "level-back", {"a": PUT_1, "n": NEWER}, (A, (("n",), 1)), levels=1, upgrades=1, crashes=1, differ=True
        ),
        Scenario(
            "ttl",
            {"t": TTL, "g": SWAP},
            ((("t",), 1), (("g",), 1)),
            ticks=1,
            due=1,
            crashes=1,
            elections=1,
            members=2,
            states_max=170_000,
        ),
        Scenario("crash", AC, (A, C), crashes=2, dumps=1, elections=1, members=2),
        Scenario("power", AC, (A, C), powers=1, dumps=1, elections=1, lag=True, members=3),
        Scenario("blackout", AC, (A, C), blackouts=1, dumps=2, elections=1, members=2),
        Scenario("blackout-three", AB, (A, B), blackouts=1, dumps=3, elections=1),
        Scenario("files", AC, (A, C), crashes=1, tampers=1, dumps=2, elections=1, members=2, states_max=160_000),
        Scenario("lagging", AB, (A, B), crashes=1, dumps=3, lag=True, elections=1),
        Scenario("copy", {**AB, "y": OTHER}, (A, B, (("y",), 1)), wipes=1, dumps=3, elections=0),
        Scenario(
            "copy-prune",
            AB,
            (A, B),
            wipes=1,
            dumps=2,
            prunes=1,
            start=tuple(
                "Submit(a)|n0 applies|n0 writes|n0 makes|n0 dumps at 1|Submit(b)|n0 applies|n0 writes|n1 loses its disk".split(
                    "|"
                )
            ),
        ),
        Scenario(
            "copy-other",
            AB,
            (A, B),
            wipes=1,
            dumps=3,
            start=tuple(
                "Submit(a)|n0 applies|n0 writes|n0 makes|n2 applies|n2 writes|n2 makes|n2 dumps at 1|n0 dumps at 1|Submit(b)|n0 applies|"
                "n0 writes|n0 makes|n1 loses its disk".split("|")
            ),
        ),
        Scenario(
            "copy-base",
            AB,
            (A, B),
            crashes=2,
            tampers=1,
            dumps=3,
            elections=2,
            start=tuple(
                "Submit(a)|n0 applies|n0 writes|n0 makes|n1 applies|n1 writes|n1 makes|n1 dumps at 1|n2 is killed|Submit(b)|n0 applies|"
                "n0 writes|n0 makes|n0 dumps at 2|n0 is killed|the file of n0 is torn|n0 starts|n1 is elected".split(
                    "|"
                )
            ),
        ),
        Scenario("wiped", AB, (A, B), wipes=1, elections=1, lag=True, dumps=1),
        Scenario("aside", AB, (A, B), crashes=1, tampers=1, elections=2, lag=True, dumps=1),
        Scenario("loss", AB, (A, (("b",), 2)), losses=1, elections=1, dumps=1),
        Scenario("loss-late", {"e": LATE}, ((("e",), 2),), losses=1, elections=1, ticks=1),
        Scenario(
            "loss-all",
            AB,
            (A, (("b",), 2)),
            losses=1,
            elections=1,
            dumps=3,
            start=tuple(
                "Submit(a)|n0 applies|n0 writes|n0 makes|n0 dumps at 1|n1 applies|n1 writes|n1 makes|n1 dumps at 1|n2 applies|n2 writes|"
                "n2 makes|n2 dumps at 1|Submit(b)|n0 applies|n1 applies|n2 applies|n0 writes".split("|")
            ),
        ),
        Scenario(
            "prune", AB, (A, B), prunes=1, crashes=1, dumps=1, elections=1, floor_free=True, watches=True, members=2
        ),
        Scenario(
            "prune-blackout",
            AB,
            (A, B),
            prunes=1,
            blackouts=1,
            dumps=2,
            elections=1,
            floor_free=True,
            members=2,
            start=tuple(
                "Submit(a)|n0 applies|n0 writes|n0 makes|n0 dumps at 1|n1 applies|n1 writes|n1 makes|n1 dumps at 1|"
                "Submit(b)|n0 applies|n0 writes|n1 applies|n1 writes".split("|")
            ),
        ),
        Scenario("watch", AB, (A, B), watches=True, crashes=1, elections=1, members=2),
        Scenario("publish", AB, (A, B), publishes=True, cursors=2, prunes=1, dumps=2, elections=1, members=2),
        Scenario(
            "publish-late",
            AB,
            (A, B),
            publishes=True,
            cursors=2,
            prunes=1,
            dumps=1,
            elections=1,
            members=2,
            start=tuple(
                "Submit(a)|n0 applies|n1 applies|n1 writes|n1 makes|n1 dumps at 1|n0 publishes|Cursor(1)|Prune(1)".split(
                    "|"
                )
            ),
        ),
        Scenario("digest", AB, (A, B), plants=1, dumps=1, differ=True, states_max=110_000),
        Scenario("digest-one", {"a": PUT_1}, (A,), plants=1),
        Scenario(
            "digest-copy",
            AB,
            (A, B),
            plants=1,
            wipes=1,
            dumps=1,
            differ=True,
            start=tuple(
                "Submit(a)|n0 applies Submit(a) (plant-values)|n0 writes|n0 makes|n0 dumps at 1|n1 loses its disk".split(
                    "|"
                )
            ),
        ),
        Scenario("digest-two", AB, (A, B), plants=1, members=2),
    )
}

LARGE = Scenario(
    "large",
    {"a": PUT_1, "b": PUT_2, "c": SWAP, "d": DELETE, "e": LATE, "t": TTL, "z": BOTH},
    ((("a",), 2), (("b", "z"), 1), (("c",), 2), (("d",), 1), (("e",), 1), (("t",), 1)),
    ticks=1,
    prunes=2,
    due=1,
    cursors=2,
    configs=1,
    dumps=8,
    crashes=3,
    powers=2,
    blackouts=1,
    wipes=1,
    elections=6,
    reads=2,
    lag=True,
    slow=True,
    publishes=True,
    watches=True,
    floor_free=True,
)
LARGE_PLANT = dataclasses.replace(
    LARGE,
    name="large-plant",
    plants=1,
    wipes=1,
    blackouts=0,
    differ=True,
    publishes=False,
    watches=False,
    reads=0,
    floor_free=False,
)
LARGE_LOSS = dataclasses.replace(LARGE, name="large-loss", losses=1, wipes=0, watches=False)
LARGE_FILES = dataclasses.replace(LARGE, name="large-files", wipes=0, tampers=1)

# ---------------------------------------------------------------------------------------------------------- mutants


class Mutant(NamedTuple):
    """One rule taken away (or two, where the first is masked by the second), and where to look for the consequence."""

    rule: str
    name: str
    changes: dict[str, Any]
    scenarios: tuple[str, ...]


ALL = frozenset({"ops", "outcomes", "versions", "values", "expiry"})
MUTANTS = (
    Mutant("R1", "a row per local transaction", {"row": "batch"}, ("write",)),
    Mutant("R1", "a row carries the member's own time", {"row_stamp": "own"}, ("write",)),
    Mutant("R2", "late by the member's clock", {"late": "clock"}, ("clock",)),
    Mutant("R2", "order of a set", {"order": "set"}, ("batch",)),
    Mutant("R2", "op_id known by what pruning left", {"known": "table"}, ("retry",)),
    Mutant("R2", "retention as the member is configured", {"settings": "own"}, ("settings",)),
    Mutant("R2", "new evaluation by the member's own code", {"level": "own"}, ("level",)),
    Mutant("R2", "level ordered before all speak it", {"level_all": False}, ("level",)),
    Mutant("R2", "who does not speak a level goes on", {"level_halt": False}, ("level-back",)),
    Mutant("R2", "both", {"level_all": False, "level_halt": False}, ("level",)),
    Mutant("R3", "digests are not compared", {"compare": False}, ("digest-one",)),
    Mutant("R3", "digest without outcomes", {"digest": ALL - {"outcomes"}}, ("digest",)),
    Mutant("R3", "digest without versions", {"digest": ALL - {"versions"}}, ("digest",)),
    Mutant("R3", "digest without value hashes", {"digest": ALL - {"values"}}, ("digest",)),
    Mutant("R3", "digest without expiry", {"digest": ALL - {"expiry"}}, ("digest",)),
    Mutant("R3", "without a majority the leader is right", {"compare_guess": True}, ("digest-two",)),
    Mutant("R3", "without a majority reads go on", {"stop_reads": False}, ("digest-two",)),
    Mutant("R3", "who has copied a state is a witness for it", {"source": "blind"}, ("digest-copy",)),
    Mutant("R4", "dump where the machine is", {"dump_durable": False}, ("blackout",)),
    Mutant("R5", "H is the newest row", {"head": "row"}, ("crash", "prune", "loss", "prune-blackout")),
    Mutant("R5", "a file beside the log is kept aside whole", {"cut": False}, ("loss-all",)),
    Mutant("R5", "row by row, exact", {"agree": "rows"}, ("loss", "loss-late")),
    Mutant(
        "R5",
        "row by row, exact; H is the newest row",
        {"agree": "rows", "head": "row"},
        ("loss", "loss-late", "files", "prune"),
    ),
    Mutant("R5", "row by row, by first, last, op_ids", {"agree": "body"}, ("loss", "loss-late")),
    Mutant("R5", "the same; H is the newest row", {"agree": "body", "head": "row"}, ("loss", "loss-late")),
    Mutant("R5", "file and log are not compared", {"agree": "none"}, ("files", "loss")),
    Mutant("R5", "serves before H", {"head_wait": False}, ("crash", "prune", "loss")),
    Mutant("R5", "evaluates again what the file has", {"replay": "again"}, ("crash",)),
    Mutant("R5", "file older than the dump is taken", {"file_old": False}, ("files",)),
    Mutant("R5", "torn file is not found", {"file_whole": False}, ("files",)),
    Mutant("R5", "dump of another log is believed", {"dump_entry": False}, ("loss",)),
    Mutant("R5", "file and dump are not compared", {"dump_file": False}, ("files",)),
    Mutant("R5", "aside: the log goes too", {"keeps_log": False}, ("aside", "files")),
    Mutant("R6", "from a member whose dump is below the leader's log", {"copy_source": False}, ("copy-other",)),
    Mutant("R6", "a dump below the receiver's own log replaces that log", {"copy_base": False}, ("copy-base",)),
    Mutant("R6", "database copied before the dump", {"copy_order": False}, ("copy",)),
    Mutant("R6", "copied at several moments", {"copy_whole": False}, ("copy",)),
    Mutant("R6", "log not kept while copying", {"copy_log": False}, ("copy-other", "copy")),
    Mutant("R6", "rows pruned while copying", {"copy_prune": False}, ("copy-prune",)),
    Mutant("R7", "no ReadIndex", {"readindex": False}, ("write",)),
    Mutant("R7", "does not wait for the touch", {"read_touch": False}, ("write", "write-three")),
    Mutant("R7", "reads the file alone", {"read_memory": False}, ("write",)),
    Mutant("R7", "a part of a command is visible", {"read_whole": False}, ("many", "batch")),
    Mutant("R7", "many keys, each at its own moment", {"read_many": False}, ("many",)),
    Mutant("R7", "look-up does not wait for the read index", {"lookup_waits": False}, ("write", "write-three")),
    Mutant("R8", "due keys go by the member's clock", {"expiry": "own"}, ("ttl",)),
    Mutant("R8", "each prunes by itself", {"prune": "own"}, ("prune", "prune-blackout")),
    Mutant("R8", "each by itself, reads ask the machine's floor", {"prune": "own", "floor_read": False}, ("prune",)),
    Mutant("R8", "rows go where the prune stands in the log", {"prune": "entry"}, ("prune-blackout",)),
    Mutant("R8", "reads ask the machine's floor", {"floor_read": False}, ("prune", "prune-blackout")),
    Mutant(
        "R8", "the same, and H is the newest row", {"floor_read": False, "head": "row"}, ("prune", "prune-blackout")
    ),
    Mutant("R8", "the floor passes the publisher's cursor", {"prune_cursor": False}, ("publish",)),
    Mutant("R9", "no bound", {"bound": False}, ("crash", "write", "election")),
    Mutant("R10", "a new leader publishes from its own head", {"cursor": "own"}, ("publish",)),
    Mutant("R10", "cursor ordered before publishing", {"cursor_after": False}, ("publish",)),
    Mutant("R10", "its position is that of its election", {"cursor_follows": False}, ("publish-late",)),
    Mutant("-", "watchers get what settles while attached", {"watch": "live"}, ("watch",)),
    Mutant("R11", "values staged beside the log", {"values": "staged"}, ("write",)),
    Mutant("R12", "overwritten machine goes on", {"reset": False}, ("loss",)),
    Mutant("new", "an emptied member votes at once", {"votes": False}, ("wiped",)),
)

# What the rules said before this model, read kindly (Raft's own rules on dumps and empty disks are kept).
WRITTEN = Rules(
    head="row",
    agree="rows",
    cut=False,
    level_halt=False,
    source="blind",
    file_whole=False,
    copy_source=False,
    copy_base=False,
    copy_prune=False,
    read_many=False,
    lookup_waits=False,
    prune="entry",
    floor_read=False,
    prune_cursor=False,
)
WRITTEN_BREAKS = (
    "write",
    "many",
    "level-back",
    "files",
    "copy-prune",
    "copy-other",
    "loss-late",
    "loss-all",
    "prune-blackout",
    "publish",
    "digest-copy",
)

# ------------------------------------------------------------------------------------------------------- exploration


def explore(rules: Rules, scenario: Scenario, depth_max: int = 10**9) -> Result:
    """Visit every state in order of distance; stop at the first broken promise (so its trace is a shortest one)."""
    model = Model(rules, scenario)
    first = model.normal(model.initial())
    for wanted in scenario.start:
        try:
            first = model.normal(next(build for what, build in model.steps(first) if what.startswith(wanted))())
            model.check(first)
        except Broken as broken:
            return Result(0, False, str(broken), scenario.start)
    came: dict[int, tuple[int, str]] = {model.key(first): (0, "")}
    queue = deque([(first, 0)])
    complete = True
    while queue:
        s, depth = queue.popleft()
        here = model.key(s)
        if depth >= depth_max or len(came) >= scenario.states_max:
            complete = False
            continue
        ended = True
        for what, build in model.steps(s):
            ended = False
            try:
                after = model.normal(build())
                seen = model.key(after)
                if seen not in came:
                    model.check(after)
                    came[seen] = (here, what)
                    queue.append((after, depth + 1))
            except Impossible:
                continue
            except Broken as broken:
                return Result(len(came), False, str(broken), (*scenario.start, *_trace(came, here), what))
        if ended:
            try:
                model.end(s)
            except Broken as broken:
                return Result(len(came), False, str(broken), (*_trace(came, here), "nothing more can happen"))
    return Result(len(came), complete)


def walk(rules: Rules, scenario: Scenario, steps: int, seed: int, seconds: float) -> Result:
    """Take random paths through bounds too large to visit in full."""
    rng, seen, until = random.Random(seed), 0, time.monotonic() + seconds
    model, number = Model(rules, scenario), 0
    while time.monotonic() < until:
        number += 1
        if number % 200 == 0:
            model = Model(rules, scenario)  # the tries grow with every new history: start afresh
        s, trace = model.normal(model.initial()), []
        for _ in range(steps):
            choices = list(model.steps(s))
            if not choices:
                break
            what, build = rng.choice(choices)
            trace.append(what)
            seen += 1
            try:
                s = model.normal(build())
                model.check(s)
            except Impossible:
                break
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


def run_written(depth_max: int) -> None:
    print("the rules as they were worded first")
    for name in WRITTEN_BREAKS:
        result = explore(WRITTEN, dataclasses.replace(SCENARIOS[name], states_max=20_000), depth_max)
        print(f"  {name:16} {len(result.trace):3} steps  {result.broken or 'nothing found'}", flush=True)


def run_walks(seconds: float, seed: int) -> bool:
    print("the protocol, random walks through larger bounds")
    good = True
    for scenario in (LARGE, LARGE_FILES, LARGE_LOSS, LARGE_PLANT):
        result = walk(Rules(), scenario, 120, seed, seconds / 4)
        good = good and result.broken is None
        print(f"  {scenario.name:16} {result.states:9,} steps   seed {seed}  {result.broken or 'holds'}", flush=True)
        _print_trace(result)
    return good


def run_mutants(traces: bool, limit: int = 40_000) -> int:
    print("mutants: the protocol without one rule")
    return sum(_run_mutant(mutant, limit, traces) for mutant in MUTANTS)


def _run_mutant(mutant: Mutant, limit: int, trace: bool) -> int:
    rules, states = dataclasses.replace(Rules(), **mutant.changes), 0
    said = f"  {mutant.rule:4} {mutant.name:48}"
    for scenario in mutant.scenarios:
        result = explore(rules, dataclasses.replace(SCENARIOS[scenario], states_max=limit))
        states += result.states
        if result.broken:
            print(f"{said} {scenario:14} {len(result.trace):3} steps  {result.broken}", flush=True)
            if trace:
                _print_trace(result)
            return 1
    steps = 0
    for scenario in (LARGE, LARGE_LOSS):
        result = walk(rules, scenario, 120, 1, 2.0)
        steps += result.states
        if result.broken:
            print(f"{said} {'walk':14} {len(result.trace):3} steps  {result.broken}", flush=True)
            return 1
    print(f"{said} breaks nothing in {states:,} states and {steps:,} random steps", flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=10**9, help="longest path in the exhaustive part")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="only this one")
    parser.add_argument("--mutants", action="store_true", help="only the mutants")
    parser.add_argument("--written", action="store_true", help="only the rules as they were worded first")
    parser.add_argument("--traces", action="store_true", help="print the shortest trace of each mutant")
    parser.add_argument("--walk-seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began, good, caught = time.monotonic(), True, None
    names = [args.scenario] if args.scenario else list(SCENARIOS)
    if args.written:
        run_written(args.depth)
        return 0
    if args.mutants:
        caught = run_mutants(args.traces)
    else:
        good = run_scenarios(Rules(), "the protocol", names, args.depth)
        if not args.scenario:
            run_written(args.depth)
            good = run_walks(args.walk_seconds, args.seed) and good
            caught = run_mutants(args.traces)
    said = "" if caught is None else f"; {caught} of {len(MUTANTS)} mutants break a promise"
    print(f"summary: the protocol {'holds' if good else 'IS BROKEN'}{said}; {time.monotonic() - began:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
