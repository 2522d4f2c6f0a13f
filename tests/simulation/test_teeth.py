"""Planted faults are found by a named promise; `make sim-teeth` tries all of them."""

from __future__ import annotations

import pytest

from tests.simulation.teeth import NAMED, TEETH, bite

RULES_OF_THE_MODEL = 23


@pytest.mark.parametrize("name", ["no fence", "digests are not compared"])
def test_a_planted_fault_is_found(name: str) -> None:
    position = next(n for n, tooth in enumerate(TEETH) if tooth.name == name)
    found = bite(position, seeds_max=5)
    assert found.promise is not None
    assert found.promise.startswith(NAMED)


def test_there_are_enough_faults_each_with_its_own_name() -> None:
    assert len({tooth.name for tooth in TEETH}) == len(TEETH) >= RULES_OF_THE_MODEL + 12
