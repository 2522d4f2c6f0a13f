"""Show that the simulation finds every planted fault, by a named promise and within a bounded
number of seeds.

`python -m tests.simulation.planted_cases [--quick]`. A fault is found when a promise (INV-n, Raft,
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

from tests.planted import clocks, leases, protocol, raft, reads, store  # noqa: F401 (they fill the registry)
from tests.simulation import planted_replicated, stock
from tests.simulation.plans import Plan, Plant, changed, plan_of
from tests.simulation.run import run
from tests.simulation.seeds import commit_seed, nice

SEEDS_MAX: Final = 60
"""Seeds until a fault is said to have escaped."""
NAMED: Final = ("INV-", "Lease", "Raft", "Replica", "Liveness", "Durability", "Time", "TTL")

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
LEASED: Final[dict[str, Any]] = {
    **LEADERS,
    "leases": True,
    "faults": ("partition", "one_way", "crash", "transfer", "store_slow"),
}
"""Leases are kept alive through leaders that lead no more."""
LATE_ENDS: Final[dict[str, Any]] = {**LEADERS, "leases": True, "faults": ("late_end", "transfer")}
CACHED_LEASES: Final[dict[str, Any]] = {**LEADERS, "leases": True, "faults": ("cache", "transfer")}
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
LEASED_DEAF: Final[dict[str, Any]] = {**DEAF, "leases": True}
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
FOUNDED_ALONE: Final[dict[str, Any]] = {**LEADERS, "faults": ("founded_alone", "crash", "transfer")}
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


class PlantedCase(NamedTuple):
    """One fault, and what of a plan makes it likely."""

    name: str
    plant: Plant
    plan: dict[str, Any]


@dataclass
class CaseResult:
    """What came of searching for one case, or of one control."""

    name: str
    seeds: int = 0
    promise: str | None = None
    detail: str = ""
    seed: int = 0
    took_s: float = 0.0
    others: dict[str, int] = field(default_factory=dict)
    """What broke without being a named promise."""


def _case(name: str, plan: dict[str, Any], *faults: str, **raft_settings: Any) -> PlantedCase:
    return PlantedCase(name, Plant(name, faults, raft_settings), plan)


CASES: Final = (
    # One for each of the rules without which the model in docs/model breaks a promise, but for a
    # range that is forgotten: a unit test alone shows that.
    _case("no fence", LEADERS, "fence", "fence_row"),
    _case("fence by place and term alone", {**RESTORED, "faults": ("undercut",)}, "fence"),
    _case("taking over appends no row", LATE, "fence_row"),
    _case("a row's term is not compared", TAKEN, "fence_ordered"),
    _case("digests are not compared", LOSS, "digest_check", "fence_digest"),
    _case("taking over does not read the head", LOSS, "reads_head"),
    _case("Rebase without rows, op_id not unique", AGAIN, "rebase_rows", "store_dedupe"),
    _case("Rebase does not raise the floor", LOSS, "rebase_floor"),
    _case("Rebase does not touch what it orders again", {**LATE, "writes": 0.3}, "rebase_touch"),
    _case("a late Rebase is obeyed", {**SLOW, "chaos_s": 25.0}, "rebase_stale"),
    _case("a Rebase on another base is obeyed", SLOW, "rebase_base"),
    _case("watchers miss what a Rebase steps over", LOSS, "rebase_feeds"),
    _case("the floor is ignored for known keys", FLOOR, "judge_floor"),
    _case("reads before taking over", SUCCESSOR, "readindex_taken"),
    _case("a read index without its term", MEETS, "readindex_entry"),
    _case("as_of: what was ordered at the start", LEADERS, "applied_start"),
    _case("as_of: what is settled at the end", LEADERS, "settled_end"),
    _case("a key is touched when it settles", LEADERS, "touch"),
    _case(
        "a range is not touched", {**LEADERS, "hostile": True, "memory_bytes": 1}, "range_untouched"
    ),
    _case("a keep-alive is answered without a round", LEASED_DEAF, "lease_no_round"),
    _case("a new leader does not give leases their ttl", LEASED, "lease_short_ttl"),
    _case("a lease is kept alive while it ends", LEASED, "lease_renewed_while_ending"),
    _case("an end of another term ends a lease", LATE_ENDS, "lease_old_term"),
    _case("the end of a lease touches no key", CACHED_LEASES, "lease_end_untouched"),
    _case("no dedupe at all", LEADERS, "dedupe", "store_dedupe"),
    _case("op_id not unique in the store", {**LEADERS, **SMALL}, "store_dedupe"),
    _case("an overwritten log keeps its machine", BEHIND, "reset"),
    _case(
        "the leader publishes what it committed",
        {**LEADERS, "faults": (*LEADERS["faults"], "broker")},
        "publish",
    ),
    _case("a store that is behind is read", RESTORED, "refuse_behind", "blind_reads"),
    # What the model does not have.
    _case("answered before COMMIT", LEADERS, "answer_committed"),
    _case("settled before COMMIT", LEADERS, "settle_committed"),
    _case("deadlines are not judged", {**LEADERS, "faults": ("long_outage",)}, "late_expires"),
    _case("a snapshot without a floor", {**LEADERS, **SMALL, **COLD}, "snapshot_floor"),
    _case("forgotten keys without a floor", {**LEADERS, **SMALL}, "forget_floor"),
    _case("a position is called the future without a quorum", LINKS, "hasty_reads"),
    _case("caches without judgement", LEADERS, "trusting_reads"),
    _case("a cache entry is believed without its signature", OTHERS, "unsigned"),
    _case("an entry from the future is believed", OTHERS, "future_entries"),
    _case(
        "two clusters on one store",
        {**OTHERS, "faults": ("rival_cluster", "crash", "transfer")},
        "store_identity",
    ),
    _case("each member goes by its own limits", APART, "limits_ordered", "machines_alike"),
    _case("stock truncation", LINKS, "stock_truncation"),
    _case("acknowledged before it is synced", SPLIT, "ack_before_sync"),
    _case("two votes in a term", RIVALS, "two_votes", election_max_s=0.31),
    _case("acknowledgements without their term", FIVE, "acks_without_term"),
    _case("votes for a log that is behind", LINKS, "any_log_wins"),
    _case("ReadIndex without a quorum", DEAF, "no_quorum"),
    _case("a late joiner in a ReadIndex round", ROUNDS, "late_joiner"),
    _case("a late vote is added to pre-votes of another term", BALLOTS, "late_votes"),
    _case("a disk that was lost and started twice votes", LOST, "forgetful_base"),
    _case("a term that was heard hides a lost disk", LOST, "heard_term"),
    _case("log time takes the leader's wall clock whole", CLOCKS, "wall_whole"),
    _case("log time jumps to the clocks' median though it was kept", CLOCKS, "jumps_to_median"),
    _case("time is found by the least of the clocks", STOPS, "minimum"),
    _case("time is found by the greatest of the clocks", STOPS, "maximum"),
    _case("clocks are asked though somebody kept the time", MOST_RESTART, "clocks_first"),
    _case("a member that has just started takes its log's stamp for now", STOPS, "believes_log"),
    _case("logs do not say what they began from", FOUNDED_ALONE, "forgetful_origin"),
    _case("an older term is committed by counting", EIGHT, "counts_old_terms"),
    _case("reads of an older term are confirmed", OVERTAKEN, "confirms_any_term"),
    _case("a configuration that was cut off stays", CUT_OFF, "keeps_what_was_cut_off"),
    _case("a disk that was lost acknowledges", PROMISE, "acks_with_lost_disk"),
    _case("a disk that was lost confirms reads", PROMISE, "confirms_with_lost_disk"),
    _case("a minority commits", LINKS, "minority_leads"),
    *(_case(case.name, case.plan, *case.faults) for case in planted_replicated.CASES),
)


def plan_for(case: PlantedCase, seed: int) -> Plan:
    return changed(plan_of(seed, case.plan.get("kind", "shared")), **case.plan)


def search(position: int, seed_from: int = 1, seeds_max: int = SEEDS_MAX) -> CaseResult:
    """Try seeds until the fault is found."""
    case, began = CASES[position], time.monotonic()
    found = CaseResult(case.name)
    for seed in range(seed_from, seed_from + seeds_max):
        found.seeds += 1
        try:
            result = run(seed, case.plant, plan_for(case, seed), stop=True)
        except Exception as exc:  # noqa: BLE001 - the fault broke the simulation: no promise found it
            found.others[repr(exc)] = found.others.get(repr(exc), 0) + 1
            continue
        named = [violation for violation in result.violations if violation.name.startswith(NAMED)]
        if named:
            found.promise, found.detail, found.seed = named[0].name, named[0].detail, seed
            break
        for violation in result.violations:
            text = f"{violation.name}: {violation.detail}"
            found.others[text] = found.others.get(text, 0) + 1
    found.took_s = time.monotonic() - began
    return found


def control(position: int, seed_from: int = 1, seeds_max: int = SEEDS_MAX) -> CaseResult:
    """Try seeds until the library's own classes show a hazard that they are published to have."""
    hazard, began = stock.HAZARDS[position], time.monotonic()
    found = CaseResult(hazard.name)
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
    return sorted({(number + n * 7) % len(CASES) for n in range(5)}), 1


def table(results: Iterable[CaseResult]) -> str:
    """Return the table as Markdown."""
    rows = ["| fault | seeds | promise that broke |", "|---|---:|---|"]
    rows += [f"| {b.name} | {b.seeds} | {b.promise or '**escaped**'} |" for b in results]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.planted_cases", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="five faults, other ones each commit")
    parser.add_argument("--only", help="those whose name contains this")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX, help="until a fault has escaped")
    parser.add_argument("--seed-from", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    chosen, first = list(range(len(CASES))), asked.seed_from
    if asked.quick:
        chosen, first = quick()
    if asked.only:
        chosen = [n for n in chosen if any(part in CASES[n].name for part in asked.only.split("|"))]
    controls = [
        n
        for n, hazard in enumerate(stock.HAZARDS)
        if not asked.only or any(part in hazard.name for part in asked.only.split("|"))
    ]
    results: list[CaseResult] = []
    shown: list[CaseResult] = []
    with ProcessPoolExecutor(
        asked.processes, mp_context=get_context("spawn"), initializer=nice
    ) as pool:
        futures = [pool.submit(search, position, first, asked.seeds) for position in chosen]
        more = [pool.submit(control, position, first, asked.seeds) for position in controls]
        for future in as_completed([*futures, *more]):
            found = future.result()
            (shown if future in more else results).append(found)
            said = found.promise or f"ESCAPED {found.others or ''}"
            print(
                f"{found.name:48} {found.seeds:4} seeds {found.took_s:6.1f} s  {said}", flush=True
            )
            if found.promise:
                print(f"    seed {found.seed}: {found.detail[:150]}", flush=True)
    order = [case.name for case in CASES]
    results.sort(key=lambda found: order.index(found.name))
    shown.sort(key=lambda found: found.name)
    print(f"\n{table([*results, *shown])}\n")
    hazards = sum(found.promise is not None for found in shown)
    print(f"{hazards} of {len(shown)} hazards of the library shown by its own classes")
    caught = sum(found.promise is not None for found in results)
    print(f"{caught} of {len(results)} caught")
    return 0 if (caught, hazards) == (len(results), len(shown)) else 1


if __name__ == "__main__":
    sys.exit(main())
