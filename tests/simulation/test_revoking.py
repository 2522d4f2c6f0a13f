"""No write takes effect that was begun when its token had been revoked for FRESH_S, under harm; and
a node that goes on with old rights is found.
"""

from __future__ import annotations

import pytest

from tests.planted import access  # noqa: F401  # it fills the registry
from tests.simulation.plans import Kind, Plant
from tests.simulation.revoking import RULE, run

SEEDS = range(1, 3)


@pytest.mark.parametrize("kind", ["replicated", "shared"])
def test_a_revoked_token_writes_nothing(kind: Kind) -> None:
    made = [run(seed, kind) for seed in SEEDS]
    assert [str(each) for one in made for each in one.world.violations] == []
    assert min(one.writes for one in made) > 50
    assert sum(one.refused for one in made) > 50 and sum(one.revocations for one in made) > 10


@pytest.mark.parametrize("kind", ["replicated", "shared"])
@pytest.mark.parametrize("fault", ["rights_of_the_beginning", "confirmed_is_known"])
def test_a_node_with_old_rights_is_found(fault: str, kind: Kind) -> None:
    found = (run(seed, kind, Plant(fault, (fault,))).world.violations for seed in SEEDS)
    assert any(each.name == RULE for violations in found for each in violations)
