"""A fixed set of seeds keeps every promise; the same seed is the same story, whatever Python's
hashes are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import structlog

from tests.simulation import summary
from tests.simulation.plans import (
    FAULTS,
    LARGE_SEGMENT_BYTES,
    OWN,
    STORE_ONLY,
    Plan,
    changed,
    plan_of,
)
from tests.simulation.run import on_a_loop, run
from tests.simulation.seeds import ROOT

SEEDS = range(1, 41)
SHORT_S = 3.0


def short(seed: int) -> Plan:
    """Return a seed's plan with less time for harm: the whole ones run in `make sim`."""
    return replace(plan_of(seed), chaos_s=SHORT_S)


@pytest.mark.parametrize("first", range(SEEDS.start, SEEDS.stop, 8))
def test_a_fixed_set_of_seeds_keeps_every_promise(first: int) -> None:
    counts: Counter[str] = Counter()
    for seed in range(first, first + 8):
        result = run(seed, plan=short(seed))
        assert [str(violation) for violation in result.violations] == []
        counts.update(result.counts)
    assert (
        min(
            counts[name]
            for name in ("elections", "operations", "cache hits", "watched", "log checks")
        )
        > 0
    )


def test_the_same_seed_gives_the_same_trace_under_any_hash_seed() -> None:
    program = (
        "from tests.simulation.test_seeds import short; from tests.simulation.run import run; "
        "print([run(seed, plan=short(seed)).digest for seed in (4, 7)])"
    )
    told = set()
    for hash_seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        told.add(done.stdout)
    assert len(told) == 1
    first = [run(seed, plan=short(seed)).digest for seed in (4, 7)]
    assert told == {f"{first}\n"}


def test_another_seed_gives_another_trace() -> None:
    assert run(4, plan=short(4)).digest != run(5, plan=short(5)).digest


def test_a_restart_on_a_log_that_lost_what_it_had_acknowledged() -> None:
    """A majority loses committed entries: rows come back by Rebase, machines that applied them
    start again.
    """
    counts: Counter[str] = Counter()
    for seed in range(1, 7):
        plan = changed(
            plan_of(seed, "shared"),
            fsync="off",
            nodes=3,
            restores=False,
            chaos_s=5.0,
            faults=("amnesia", "power", "cache"),
        )
        result = run(seed, plan=plan)
        assert [str(violation) for violation in result.violations] == []
        counts.update(result.counts)
    assert counts["power cuts"] > 0
    assert counts["coordinator rebases"] > 0


def test_plans_make_every_fault_likely() -> None:
    plans = [plan_of(seed, "shared") for seed in range(200)]
    drawn = Counter(fault for plan in plans for fault in plan.faults)
    assert all(drawn[fault] > 40 for fault in FAULTS)
    assert drawn["amnesia"] > 10
    assert sum(plan.harmless for plan in plans) > 2
    own = [plan_of(seed, "replicated") for seed in range(200)]
    drawn = Counter(fault for plan in own for fault in plan.faults)
    assert all(drawn[fault] > 40 for fault in OWN)
    assert drawn["emptied"] > 20
    assert not STORE_ONLY & set(drawn)
    assert 80 < sum(plan_of(seed).replicated for seed in range(200)) < 120


def test_a_plan_that_syncs_no_more_has_no_small_segments() -> None:
    """A power cut would tear several at once, and the member be refused: that is said of them, and
    is no finding.
    """
    small = next(
        plan for seed in range(100) if (plan := plan_of(seed)).segment_bytes < LARGE_SEGMENT_BYTES
    )
    assert changed(small, clients=1).segment_bytes == small.segment_bytes
    assert changed(small, fsync="off").segment_bytes == LARGE_SEGMENT_BYTES


def test_a_summary_without_something_that_must_happen_fails() -> None:
    names = [
        *summary.MUST_HAPPEN.values(),
        *(n for of in summary.ONLY.values() for n in of.values()),
    ]
    counts = dict.fromkeys(names, 1)
    both = {"shared": 100, "replicated": 100}
    assert summary.missing(counts, both) == []
    assert summary.missing({**counts, "coordinator rebases": 0}, both) == ["Rebases"]
    assert summary.missing({**counts, "coordinator store_installs": 0}, both) == ["installs"]
    assert summary.missing({**counts, "coordinator store_installs": 0}, {"shared": 100}) == []
    assert summary.missing({}, {"shared": 49, "replicated": 50}) == []
    assert "Rebases 1," in summary.line(counts, both, 60.0, 0)


def test_a_simulation_leaves_logs_as_they_were() -> None:
    async def story() -> bool:
        return "_silent" in str(structlog.get_config()["processors"])

    configured, before = structlog.is_configured(), structlog.get_config()
    assert on_a_loop(story)
    assert (structlog.is_configured(), structlog.get_config()) == (configured, before)
