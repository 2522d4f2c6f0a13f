"""Draw from a seed what a world is to be: its nodes, its logs, its faults, its clients.

A plan says everything that is chosen before the first step; a plant what is broken on purpose.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

Kind: TypeAlias = Literal["shared", "replicated"]
"""Of store: one for all members, or one for each that its log fills."""


@dataclass(frozen=True)
class Plan:
    """What a seed chose. A planted fault changes some of it."""

    seed: int
    nodes: int
    fsync: str
    ghosts: bool
    faults: tuple[str, ...]
    clients: int
    chaos_s: float
    compact_entries: int
    window_max: int
    recent_max: int
    group_max: int
    restores: bool
    """The store loses its newest rows once; then only what a restore leaves of the promises is
    checked.
    """
    hostile: bool = False
    """The shared cache may give any old entry at any time, not only now and then."""
    others: bool = False
    """Another cluster, or a forger, puts entries into the shared cache under the same names; one
    tries the store.
    """
    apart: bool = False
    """Members are set to different retentions and bounds."""
    memory_bytes: int = 1 << 20
    """Of each node's own cache: next to nothing sends every read to the shared one."""
    reads_apart: bool = False
    """What followers ask of the leader for a read does not wait behind log entries."""
    slow_orders: bool = False
    """What a committer orders may be held back on its way to the log, past the end of its
    leadership.
    """
    upgrades: bool = False
    """Members start in this version or the next one, as in a rolling upgrade that is not over."""
    levels: bool = False
    """Members speak one feature level or the next one, and are upgraded one by one."""
    segment_bytes: int = 16 << 20
    """Of the journal's segments: with small ones entries, cuts and hints lie in several files."""
    writes: float = 1.0
    """How much clients write, compared to the usual."""
    leases: bool = False
    """Clients own leases too."""
    again: float = 1.0
    """How often a queue brings a write once more, compared to the usual."""
    kind: Kind = "shared"
    window_ms: int = 24 * 3_600_000
    """For so long op_ids are remembered. Where it is short, clients give none but some that they
    use again after it, which is allowed then.
    """
    eager: bool = False
    """Clients write from the first moment on, before there is a history."""
    keep_entries: int = 2000
    """What stays of a log behind a snapshot. With little, who was away needs another's state."""
    strikes: tuple[str, ...] = ("receiver", "source", "lead", "cut", "full", "save", "spoil")
    """What may strike a copy that is on its way."""
    unwritten_bytes: int = 0
    """Beyond so much that is not in its file a member applies no more; 0: as the product has it."""

    @property
    def raft_keeps(self) -> bool:
        """Say whether Raft's own promises hold: not when it was told to lose what it had
        acknowledged.
        """
        return self.fsync == "always" or not LOSING & set(self.faults)

    @property
    def replicated(self) -> bool:
        """Say whether each member has its own store."""
        return self.kind == "replicated"

    @property
    def keeps(self) -> bool:
        """Say whether nothing that was acknowledged is lost: in a replicated store the log is the
        authority.
        """
        return self.raft_keeps or not self.replicated

    @property
    def loses(self) -> bool:
        """Say whether something acknowledged may be lost, as was allowed: then only those promises
        are checked that survive it.
        """
        return self.restores or not self.keeps

    @property
    def harmless(self) -> bool:
        """Say whether only cache and broker may fail: then no operation does (INV-7)."""
        return (
            not self.restores and not self.slow_orders and set(self.faults) <= {"cache", "broker"}
        )


LARGE_SEGMENT_BYTES: Final = 16 << 20
FAULTS: Final = (
    "crash",
    "power",
    "partition",
    "one_way",
    "slow",
    "loss",
    "store_slow",
    "store_down",
    "ambiguous",
    "cache",
    "broker",
    "clock",
    "disk",
    "transfer",
    "membership",
)
"""What a plan draws from. `slow_disk` is added to a third of the plans.

Not drawn alone: `amnesia` (a majority loses what it had acknowledged, without fsync).
"""
AIMED: Final = (
    "deaf_leader",
    "split_power",
    "rivals",
    "old_answers",
    "late_commit",
    "left_behind",
    "slow_successor",
    "comes_back",
    "long_outage",
    "late_order",
    "late_takeover",
    "lost_disk",
)
"""Drawn more rarely: each takes its time, and what it is aimed at."""
CLASSICS: Final = ("overtaken", "cut_off_change", "forgets_promise")
"""Drawn apart from those above, with `figure_8` where there are five voters."""
CLASSIC_PLANS: Final = 0.2
"""Share of the plans that are of one classic alone: other harm nearly always spoils its moment."""
CLASSIC_ALONE: Final = (*CLASSICS, "figure_8")
LATE_ENDS: Final = 0.4
"""Share of the plans with leases in which `late_end` is among the harms."""
FIVES: Final = ("late_ballot",)
"""Those that take five voters; drawn for these alone, and more often."""
CUTS: Final = frozenset({"partition", "one_way", *AIMED, *FIVES})
"""Those that cut links: `founded_alone` is added to half of the plans without them."""
LOSING: Final = frozenset(
    {
        "power",
        "disk",
        "amnesia",
        "split_power",
        "late_commit",
        "left_behind",
        "comes_back",
        "slow_successor",
        "late_order",
        "lost_disk",
        "forgets_promise",
        "file_hurt",
        "file_old",
        "copies",
        "blackout",
        "emptied",
    }
)
"""Those that lose what was not synced: power cuts, and syncs that fail."""


OWN: Final = (
    "file_slow",
    "file_full",
    "file_hurt",
    "file_old",
    "copies",
    "compact",
    "blackout",
    "diverge",
)
"""Harm to members' own stores, besides `emptied` and `apart_quorum`; drawn in the replicated
world.
"""
RARE: Final = {
    "broker_away": ("away", 0.15),
    "late_position": ("late position", 0.1),
    "twins": ("twins", 0.15),
}
"""Drawn more rarely there: what each draw is called, and its share of the plans."""
TIE_PLANS: Final = 0.03
"""Share of the plans there that are of `tie` alone."""
STORE_ONLY: Final = frozenset(
    {
        "store_slow", "store_down", "ambiguous", "late_commit", "left_behind", "slow_successor",
        "comes_back", "long_outage", "late_order", "late_takeover", "rival_cluster", "lose_rows",
    }
)  # fmt: skip
"""Harm to a shared store, or that aims at one."""
REPLICATED_SHARE: Final = 0.5


def kind_of(seed: int) -> Kind:
    """Draw the kind of store."""
    drawn = random.Random(f"kind {seed}").random()
    return "replicated" if drawn < REPLICATED_SHARE else "shared"


def plan_of(seed: int, kind: Kind | None = None) -> Plan:
    """Draw a plan. Every kind of fault comes up in a good part of the seeds."""
    chosen = kind or kind_of(seed)
    plan = replace(_drawn(seed), leases=random.Random(f"leases {seed}").random() < 0.25)
    plan = plan if chosen == "shared" else _replicated(plan)
    late = plan.leases and random.Random(f"late end {seed}").random() < LATE_ENDS
    spoils = plan.harmless or plan.faults == ("tie",) or set(plan.faults) <= set(CLASSIC_ALONE)
    return replace(plan, faults=(*plan.faults, "late_end")) if late and not spoils else plan


def _replicated(plan: Plan) -> Plan:
    """Turn a plan into one for the world in which each member has its own store."""
    rng = random.Random(f"replicated {plan.seed}")
    levels = not plan.harmless and random.Random(f"levels {plan.seed}").random() < 0.2
    if plan.faults in {(kind,) for kind in CLASSIC_ALONE}:
        own, levels = list[str](), False  # other harm would spoil its moment
    else:
        own = [fault for fault in OWN if rng.random() < 0.4]
        for fault, (draw, share) in RARE.items():
            own += [fault] if random.Random(f"{draw} {plan.seed}").random() < share else []
        own += ["upgrade"] if levels else []
        own += ["emptied"] if rng.random() < 0.2 and plan.nodes > 1 else []
    if plan.harmless:
        own = []
    kept = tuple(fault for fault in plan.faults if fault not in STORE_ONLY)
    if own and random.Random(f"tie {plan.seed}").random() < TIE_PLANS:
        kept, own, levels = (), ["tie"], False  # other harm would decide it
        plan = replace(plan, nodes=3, fsync="always", ghosts=False, chaos_s=12.0)
    return replace(
        plan,
        kind="replicated",
        faults=(*kept, *own) or ("crash", "power"),
        restores=False,
        slow_orders=False,
        compact_entries=rng.choice((25, 60, 150, 100_000)),
        keep_entries=rng.choice((0, 10, 100, 2000)),
        unwritten_bytes=rng.choice((0, 0, 2_000, 20_000)),
        # Who is alone and loses its log has lost the cluster: nothing is left to be checked.
        fsync="always" if plan.nodes == 1 else plan.fsync,
        window_ms=3_000 if rng.random() < 0.1 else plan.window_ms,
        eager=rng.random() < 0.3,
        levels=levels,
    )


def _drawn(seed: int) -> Plan:
    plan, classic = _mixed(seed), random.Random(f"classic plan {seed}")
    if classic.random() >= CLASSIC_PLANS or plan.harmless:
        return plan
    kind = classic.choice(CLASSIC_ALONE)
    return replace(
        plan,
        faults=(kind,),
        chaos_s=max(plan.chaos_s, 12.0) if kind == "forgets_promise" else plan.chaos_s,
        compact_entries=min(plan.compact_entries, 60),
        nodes=5 if kind == "figure_8" else 3,
        fsync="always",
        restores=False,
        ghosts=False,
        slow_orders=False,
        clients=6 if kind in {"figure_8", "cut_off_change"} else 16,
        writes=1.0 if kind in {"figure_8", "cut_off_change"} else 0.3,
        memory_bytes=1 << 20,
    )


def _mixed(seed: int) -> Plan:
    rng = random.Random(f"plan {seed}")
    faults = [fault for fault in FAULTS if rng.random() < 0.45]
    if not faults:
        faults = ["crash", "partition"]
    if rng.random() < 0.05:
        faults = ["cache", "broker"]
    restores = rng.random() < 0.06
    if restores:
        faults = [fault for fault in faults if fault not in {"membership", "store_down"}] or [
            "crash"
        ]
    fsync = rng.choices(("always", "interval", "off"), (0.7, 0.1, 0.2))[0]
    if fsync != "always" and rng.random() < 0.7 and not set(faults) <= {"cache", "broker"}:
        faults += [fault for fault in ("power", "amnesia") if fault not in faults]
    aimed, fives = random.Random(f"aimed {seed}"), random.Random(f"fives {seed}")
    nodes = rng.choices((3, 5, 1), (0.7, 0.25, 0.05))[0]
    if not set(faults) <= {"cache", "broker"}:
        faults += [fault for fault in AIMED if aimed.random() < 0.12]
        faults += [fault for fault in FIVES if nodes == 5 and fives.random() < 0.4]
        classic = random.Random(f"classics {seed}")
        faults += [fault for fault in CLASSICS if classic.random() < 0.15]
        faults += ["figure_8"] if nodes == 5 and classic.random() < 0.4 else []
        faults += ["slow_disk"] if random.Random(f"disks {seed}").random() < 0.3 else []
        # What a draw is called is part of what it draws: by another name seeds tell other stories.
        if not CUTS & set(faults) and random.Random(f"strangers {seed}").random() < 0.5:
            faults.append("founded_alone")
    others = random.Random(f"others {seed}").random() < 0.3
    if others and not set(faults) <= {"cache", "broker"}:
        faults.append("rival_cluster")
    return Plan(
        seed=seed,
        nodes=nodes,
        fsync=fsync,
        ghosts=rng.random() < 0.4,
        faults=tuple(faults),
        clients=rng.randint(3, 6),
        chaos_s=rng.uniform(6.0, 14.0),
        compact_entries=rng.choice((25, 60, 100_000)),
        window_max=rng.choice((8, 64, 10_000)),
        recent_max=rng.choice((2, 3, 10_000)),
        group_max=rng.choice((1, 3, 512)),
        restores=restores,
        hostile=aimed.random() < 0.3,
        others=others,
        apart=fsync == "always" and random.Random(f"limits {seed}").random() < 0.3,
        memory_bytes=aimed.choice((1, 1 << 20)),
        slow_orders=aimed.random() < 0.2,
        reads_apart=random.Random(f"apart {seed}").random() < 0.3,
        segment_bytes=_segment_bytes(seed) if fsync == "always" else LARGE_SEGMENT_BYTES,
        upgrades=random.Random(f"upgrades {seed}").random() < 0.2,
        writes=aimed.choice((0.3, 1.0, 1.0)),
    )


def changed(plan: Plan, **to: Any) -> Plan:
    """Return a plan with other choices, and, if its logs are no longer synced, without what takes
    that.
    """
    made = replace(plan, **to)
    if made.fsync == "always":
        return made
    return replace(made, segment_bytes=LARGE_SEGMENT_BYTES, apart=bool(to.get("apart")))


def _segment_bytes(seed: int) -> int:
    """Small ones only where each is promised: else a power cut tears several at once, and the
    member is refused.
    """
    return random.Random(f"segments {seed}").choice((500, 5_000, LARGE_SEGMENT_BYTES))


@dataclass(frozen=True)
class Plant:
    """What a test breaks on purpose in the product of one world."""

    name: str = "none"
    faults: tuple[str, ...] = ()
    """By their names in tests.planted."""
    raft: dict[str, Any] = field(default_factory=dict)
    """Raft settings that give the fault room."""
