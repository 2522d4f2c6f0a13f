"""Planted faults are found by a named promise; `make sim-teeth` tries all of them."""

from __future__ import annotations

import pytest

from tests.simulation.plans import plan_of
from tests.simulation.planted_cases import CASES, NAMED, search
from tests.simulation.run import run

RULES_OF_THE_MODEL = 23


@pytest.mark.parametrize("name", ["no fence", "R4: the log is cut before rows are durable"])
def test_a_planted_fault_is_found(name: str) -> None:
    position = next(n for n, case in enumerate(CASES) if case.name == name)
    found = search(position, seeds_max=12)  # docs/simulation.md says how many each takes
    assert found.promise is not None
    assert found.promise.startswith(NAMED)


def test_there_are_enough_faults_each_with_its_own_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= RULES_OF_THE_MODEL + 12


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("an older term is committed by counting", "figure_8"),
        ("reads of an older term are confirmed", "overtaken"),
        ("a configuration that was cut off stays", "cut_off_change"),
        ("a disk that was lost acknowledges", "forgets_promise"),
        ("a disk that was lost confirms reads", "forgets_promise"),
    ],
)
def test_ordinary_seeds_find_the_classics(name: str, kind: str) -> None:
    """One plan in twenty is of that classic alone, and most of those find it."""
    seeds = [seed for seed in range(1, 201) if plan_of(seed, "shared").faults == (kind,)]
    assert len(seeds) >= 5
    plant = next(case.plant for case in CASES if case.name == name)
    results = (run(seed, plant, plan_of(seed, "shared"), stop=True) for seed in seeds)
    assert any(
        violation.name.startswith(NAMED) for result in results for violation in result.violations
    )


@pytest.mark.parametrize(
    ("fault", "kind", "begin"),
    [
        ("lease_old_term", "shared", 100),
        ("lease_old_term", "replicated", 1),
        ("lease_end_untouched", "shared", 60),
        ("lease_end_untouched", "replicated", 90),
    ],
)
def test_ordinary_seeds_find_the_faults_of_leases(fault: str, kind: str, begin: int) -> None:
    """A quarter of the plans has leases. `begin`: where one that finds it is near."""
    plant = next(case.plant for case in CASES if case.plant.faults == (fault,))
    plans = (plan for seed in range(begin, 301) if (plan := plan_of(seed)).kind == kind)
    leased = [plan for plan in plans if plan.leases]
    if fault == "lease_old_term":
        leased = [plan for plan in leased if "late_end" in plan.faults]
    results = (run(plan.seed, plant, plan, stop=True) for plan in leased)
    assert any(
        violation.name.startswith(NAMED) for result in results for violation in result.violations
    )
