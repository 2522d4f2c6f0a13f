"""Show that the simulation finds every planted fault, by a named promise and within a bounded
number of seeds.

`python -m tests.simulation.teeth [--quick]`. A fault is found when a promise (INV-n, Raft,
Liveness) is broken in a seed; an exception that the product raises about itself does not count.
Each fault says which of a plan's choices make it likely; nothing else of the simulation is changed
for it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Final, NamedTuple

from coordinator.rules import Rules
from tests.simulation import faults, stock
from tests.simulation.run import run
from tests.simulation.seeds import commit_seed, nice
from tests.simulation.world import Plan, Plant, changed, plan_of

SEEDS_MAX: Final = 60
"""Seeds until a fault is said to have escaped."""
NAMED: Final = ("INV-", "Raft", "Liveness", "Durability", "Time", "TTL")

LOSS: Final[dict[str, Any]] = {
    "fsync": "off", "nodes": 3, "restores": False, "chaos_s": 12.0, "clients": 6, "ghosts": False,
    "faults": ("amnesia", "amnesia", "cache", "power", "partition"),
}  # fmt: skip
"""A majority loses committed entries again and again."""
LEADERS: Final[dict[str, Any]] = {
    "fsync": "always", "nodes": 3, "restores": False, "chaos_s": 12.0, "clients": 6,
    "faults": ("crash", "partition", "transfer", "ambiguous", "store_slow", "cache"),
}  # fmt: skip
"""The leadership moves all the time, and transactions end late."""
RESTORED: Final[dict[str, Any]] = {
    **LEADERS,
    "restores": True,
    "faults": ("lose_rows", "ambiguous", "store_slow", "crash", "transfer"),
}
LINKS: Final[dict[str, Any]] = {
    **LEADERS,
    "ghosts": True,
    "faults": ("partition", "one_way", "slow", "loss", "crash"),
}
DEAF: Final[dict[str, Any]] = {
    **LEADERS,
    "faults": ("deaf_leader",),
    "memory_bytes": 1 << 20,
    "clients": 16,
    "writes": 0.3,
}
"""A leader hears old answers while another leads."""
ROUNDS: Final[dict[str, Any]] = {**DEAF, "chaos_s": 16.0, "writes": 0.25, "hostile": True}
SPLIT: Final[dict[str, Any]] = {**LEADERS, "faults": ("split_power",)}
RIVALS: Final[dict[str, Any]] = {**LEADERS, "nodes": 5, "faults": ("rivals",)}
FIVE: Final[dict[str, Any]] = {**LEADERS, "nodes": 5, "chaos_s": 25.0, "faults": ("old_answers",)}
BALLOTS: Final[dict[str, Any]] = {
    **LEADERS,
    "nodes": 5,
    "chaos_s": 16.0,
    "faults": ("late_ballot",),
}
LOST: Final[dict[str, Any]] = {**LEADERS, "faults": ("lost_disk",)}
"""A follower's disk is replaced by an empty one."""
STRANGER: Final[dict[str, Any]] = {**LEADERS, "faults": ("stranger", "crash", "transfer")}
"""A member comes back with an empty disk and another list of first members."""
EIGHT: Final[dict[str, Any]] = {**LEADERS, "nodes": 5, "chaos_s": 16.0, "faults": ("figure_8",)}
OVERTAKEN: Final[dict[str, Any]] = {**DEAF, "faults": ("overtaken",)}
CUT_OFF: Final[dict[str, Any]] = {**LEADERS, "faults": ("cut_off_change",)}
PROMISE: Final[dict[str, Any]] = {**DEAF, "faults": ("forgets_promise",)}
"""A voter forgets whom it has elected."""
LATE: Final[dict[str, Any]] = {
    **LOSS,
    "faults": ("late_commit",),
    "writes": 0.03,
    "hostile": True,
    "memory_bytes": 1,
}
"""Commits land late, on ledgers that have gone on without them."""
BEHIND: Final[dict[str, Any]] = {**LOSS, "faults": ("left_behind",), "hostile": True}
MEETS: Final[dict[str, Any]] = {
    **LOSS,
    "faults": ("comes_back",),
    "reads_apart": True,
    "memory_bytes": 1 << 20,
    "compact_entries": 100_000,
    "clients": 12,
    "writes": 0.5,
}
"""Who was left behind reads through the new leader before its own log is made like that one's."""
SLOW: Final[dict[str, Any]] = {
    **LOSS,
    "faults": ("late_order",),
    "slow_orders": True,
    "hostile": True,
    "memory_bytes": 1,
    "clients": 12,
}
"""What deposed committers ordered reaches the log late."""
FLOOR: Final[dict[str, Any]] = {
    **LOSS,
    "faults": ("amnesia", "late_commit"),
    "hostile": True,
    "memory_bytes": 1,
    "writes": 0.2,
    "recent_max": 10_000,
    "compact_entries": 100_000,
}
"""Who adopts what the log had lost still remembers every key."""
TAKEN: Final[dict[str, Any]] = {**LEADERS, "faults": ("late_takeover",)}
AGAIN: Final[dict[str, Any]] = {
    **LOSS,
    "faults": ("amnesia", "late_commit"),
    "again": 5.0,
    "clients": 8,
}
"""What the log has lost is brought again by a queue."""
SUCCESSOR: Final[dict[str, Any]] = {
    **LOSS,
    "faults": ("slow_successor",),
    "hostile": True,
    "memory_bytes": 1,
}
"""Who has lost what was committed leads, and the store is slow to tell it."""
COLD: Final[dict[str, Any]] = {
    "recent_max": 10_000, "hostile": True, "memory_bytes": 1, "faults": ("crash", "crash", "cache"),
}  # fmt: skip
"""Members start from snapshots all the time, and old entries are at hand."""
CLOCKS: Final[dict[str, Any]] = {**LEADERS, "faults": ("clock", "clock", "crash", "transfer")}
"""Clocks step, and leaders and processes end."""
OTHERS: Final[dict[str, Any]] = {**LEADERS, "others": True, "memory_bytes": 1}
"""The shared cache has entries of other clusters, under the same names; another cluster tries the
store.
"""
APART: Final[dict[str, Any]] = {
    **LEADERS,
    "apart": True,
    "again": 5.0,
    "clients": 8,
    "hostile": True,
}
"""Members are set to other retentions, and queues bring writes again."""
STOPS: Final[dict[str, Any]] = {**LEADERS, "ghosts": False, "faults": ("clock", "clock", "stop")}
"""Clocks step, and all nodes stop for seconds: nobody has kept the time then."""
MOST_RESTART: Final[dict[str, Any]] = {
    **LEADERS,
    "ghosts": False,
    "faults": ("clock", "clock", "amnesia"),
}
"""Clocks step, and most nodes start again at once: one of them leads, and one that runs on has kept
the time.
"""
SMALL: Final[dict[str, Any]] = {"window_max": 8, "recent_max": 2, "compact_entries": 25}


class Tooth(NamedTuple):
    """One fault, and what of a plan makes it likely."""

    name: str
    plant: Plant
    plan: dict[str, Any]


@dataclass
class Bite:
    """What came of one tooth."""

    name: str
    seeds: int = 0
    promise: str | None = None
    detail: str = ""
    seed: int = 0
    took_s: float = 0.0
    others: dict[str, int] = field(default_factory=dict)
    """What broke without being a named promise."""


def _rule(name: str, plan: dict[str, Any], *, store: bool = False, **away: Any) -> Tooth:
    rules = Rules(**away)
    return Tooth(
        name, Plant(name, rules=rules, database=faults.unfenced(rules) if store else None), plan
    )


TEETH: Final = (
    # One for each of the 23 rules without which the protocol's model breaks a promise.
    _rule("no fence", LEADERS, store=True, fence=False, fence_row=False),
    _rule("fence by place and term alone", {**RESTORED, "faults": ("undercut",)}, store=True, fence=False),
    _rule("taking over appends no row", LATE, store=True, fence_row=False),
    _rule("a row's term is not compared", TAKEN, store=True, fence_ordered=False),
    _rule("digests are not compared", LOSS, store=True, digest_check=False, fence_digest=False),
    _rule("taking over does not read the head", LOSS, reads_head=False),
    _rule("Rebase without rows, op_id not unique", AGAIN, store=True, rebase_rows=False, store_dedupe=False),
    _rule("Rebase does not raise the floor", LOSS, rebase_floor=False),
    _rule("Rebase does not touch what it orders again", {**LATE, "writes": 0.3}, rebase_touch=False),
    _rule("a late Rebase is obeyed", {**SLOW, "chaos_s": 25.0}, rebase_stale=False),
    _rule("a Rebase on another base is obeyed", SLOW, rebase_base=False),
    _rule("watchers miss what a Rebase steps over", LOSS, rebase_feeds=False),
    _rule("the floor is ignored for known keys", FLOOR, judge_floor=False),
    _rule("reads before taking over", SUCCESSOR, readindex_taken=False),
    _rule("a read index without its term", MEETS, readindex_entry=False),
    Tooth("as_of: what was ordered at the start", Plant("", reads=faults.AppliedStart), LEADERS),
    Tooth("as_of: what is settled at the end", Plant("", reads=faults.SettledEnd), LEADERS),
    _rule("a key is touched when it settles", LEADERS, touch="settle"),
    _rule("no dedupe at all", LEADERS, store=True, dedupe=False, store_dedupe=False),
    _rule("op_id not unique in the store", {**LEADERS, **SMALL}, store=True, store_dedupe=False),
    _rule("an overwritten log keeps its machine", BEHIND, reset=False),
    _rule("the leader publishes what it committed", {**LEADERS, "faults": (*LEADERS["faults"], "broker")},
          publish="own"),
    Tooth("a store that is behind is read",
          Plant("", rules=Rules(refuse_behind=False), reads=faults.BlindReads), RESTORED),
    # What the model does not have.
    _rule("answered before COMMIT", LEADERS, answer_committed=False),
    _rule("settled before COMMIT", LEADERS, settle_committed=False),
    _rule("deadlines are not judged", {**LEADERS, "faults": ("long_outage",)}, late_expires=False),
    _rule("a snapshot without a floor", {**LEADERS, **SMALL, **COLD}, snapshot_floor=False),
    _rule("forgotten keys without a floor", {**LEADERS, **SMALL}, forget_floor=False),
    Tooth("a position is called the future without a quorum", Plant("", reads=faults.HastyReads), LINKS),
    Tooth("caches without judgement", Plant("", reads=faults.TrustingReads), LEADERS),
    Tooth("a cache entry is believed without its signature", Plant("", cache=faults.Unsigned), OTHERS),
    Tooth("an entry from the future is believed",
          Plant("", cache=faults.NamedAlike, reads=faults.BelievesFuture), OTHERS),
    _rule("two clusters on one store", {**OTHERS, "faults": ("rival_cluster", "crash", "transfer")},
          store_identity=False),
    _rule("each member goes by its own limits", APART, limits_ordered=False, machines_alike=False),
    Tooth("stock truncation", Plant("", core=faults.StockTruncation), LINKS),
    Tooth("acknowledged before it is synced", Plant("", core=faults.AckBeforeSync), SPLIT),
    Tooth("two votes in a term", Plant("", core=faults.TwoVotes, raft={"election_max_s": 0.31}), RIVALS),
    Tooth("acknowledgements without their term", Plant("", core=faults.AcksWithoutTerm), FIVE),
    Tooth("votes for a log that is behind", Plant("", core=faults.AnyLogWins), LINKS),
    Tooth("ReadIndex without a quorum", Plant("", core=faults.NoQuorum), DEAF),
    Tooth("a late joiner in a ReadIndex round", Plant("", core=faults.LateJoiner), ROUNDS),
    Tooth("a late vote is added to pre-votes of another term", Plant("", core=faults.LateVotes), BALLOTS),
    Tooth("a disk that was lost and started twice votes", Plant("", core=faults.ForgetfulBase), LOST),
    Tooth("a term that was heard hides a lost disk", Plant("", core=faults.HeardTerm), LOST),
    Tooth("log time takes the leader's wall clock whole", Plant("", time=faults.WallWhole), CLOCKS),
    Tooth("log time jumps to the clocks' median though it was kept", Plant("", time=faults.JumpsToMedian), CLOCKS),
    Tooth("time is found by the least of the clocks", Plant("", time=faults.Minimum), STOPS),
    Tooth("time is found by the greatest of the clocks", Plant("", time=faults.Maximum), STOPS),
    Tooth("clocks are asked though somebody kept the time", Plant("", time=faults.ClocksFirst), MOST_RESTART),
    Tooth("a member that has just started takes its log's stamp for now", Plant("", time=faults.BelievesLog), STOPS),
    Tooth("logs do not say what they began from", Plant("", core=faults.ForgetfulOrigin), STRANGER),
    Tooth("an older term is committed by counting", Plant("", core=faults.CountsOldTerms), EIGHT),
    Tooth("reads of an older term are confirmed", Plant("", core=faults.ConfirmsAnyTerm), OVERTAKEN),
    Tooth("a configuration that was cut off stays", Plant("", core=faults.KeepsWhatWasCutOff), CUT_OFF),
    Tooth("a disk that was lost acknowledges", Plant("", core=faults.AcksWithLostDisk), PROMISE),
    Tooth("a disk that was lost confirms reads", Plant("", core=faults.ConfirmsWithLostDisk), PROMISE),
    Tooth("a minority commits", Plant("", core=faults.MinorityLeads), LINKS),
)  # fmt: skip


def plan_for(tooth: Tooth, seed: int) -> Plan:
    return changed(plan_of(seed), **tooth.plan)


def bite(position: int, seed_from: int = 1, seeds_max: int = SEEDS_MAX) -> Bite:
    """Try seeds until the fault is found."""
    tooth, began = TEETH[position], time.monotonic()
    found = Bite(tooth.name)
    for seed in range(seed_from, seed_from + seeds_max):
        found.seeds += 1
        result = run(seed, tooth.plant, plan_for(tooth, seed), stop=True)
        named = [violation for violation in result.violations if violation.name.startswith(NAMED)]
        if named:
            found.promise, found.detail, found.seed = named[0].name, named[0].detail, seed
            break
        for violation in result.violations:
            text = f"{violation.name}: {violation.detail}"
            found.others[text] = found.others.get(text, 0) + 1
    found.took_s = time.monotonic() - began
    return found


def control(position: int, seed_from: int = 1, seeds_max: int = SEEDS_MAX) -> Bite:
    """Try seeds until the library's own classes show a hazard that they are published to have."""
    hazard, began = stock.HAZARDS[position], time.monotonic()
    found = Bite(hazard.name)
    for seed in range(seed_from, seed_from + seeds_max):
        found.seeds += 1
        violations = stock.run(hazard, seed).violations
        if violations:
            found.promise, found.detail, found.seed = violations[0].name, violations[0].detail, seed
            break
    found.took_s = time.monotonic() - began
    return found


def quick() -> tuple[list[int], int]:
    """Choose five faults by the commit, and the seeds to begin at."""
    commit, _ = commit_seed()
    number = int(commit[:6], 16)
    return sorted({(number + n * 7) % len(TEETH) for n in range(5)}), 1


def table(bites: Iterable[Bite]) -> str:
    """Return the table as Markdown."""
    rows = ["| fault | seeds | promise that broke |", "|---|---:|---|"]
    rows += [f"| {b.name} | {b.seeds} | {b.promise or '**escaped**'} |" for b in bites]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.teeth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="five faults, other ones each commit")
    parser.add_argument("--only", help="those whose name contains this")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX, help="until a fault has escaped")
    parser.add_argument("--seed-from", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    chosen, first = list(range(len(TEETH))), asked.seed_from
    if asked.quick:
        chosen, first = quick()
    if asked.only:
        chosen = [n for n in chosen if any(part in TEETH[n].name for part in asked.only.split("|"))]
    controls = [
        n
        for n, hazard in enumerate(stock.HAZARDS)
        if not asked.only or any(part in hazard.name for part in asked.only.split("|"))
    ]
    bites: list[Bite] = []
    shown: list[Bite] = []
    with ProcessPoolExecutor(
        asked.processes, mp_context=get_context("spawn"), initializer=nice
    ) as pool:
        futures = [pool.submit(bite, position, first, asked.seeds) for position in chosen]
        more = [pool.submit(control, position, first, asked.seeds) for position in controls]
        for future in as_completed([*futures, *more]):
            found = future.result()
            (shown if future in more else bites).append(found)
            said = found.promise or f"ESCAPED {found.others or ''}"
            print(
                f"{found.name:48} {found.seeds:4} seeds {found.took_s:6.1f} s  {said}", flush=True
            )
            if found.promise:
                print(f"    seed {found.seed}: {found.detail[:150]}", flush=True)
    order = [tooth.name for tooth in TEETH]
    bites.sort(key=lambda found: order.index(found.name))
    shown.sort(key=lambda found: found.name)
    print(f"\n{table([*bites, *shown])}\n")
    hazards = sum(found.promise is not None for found in shown)
    print(f"{hazards} of {len(shown)} hazards of the library shown by its own classes")
    caught = sum(found.promise is not None for found in bites)
    print(f"{caught} of {len(bites)} caught")
    return 0 if (caught, hazards) == (len(bites), len(shown)) else 1


if __name__ == "__main__":
    sys.exit(main())
