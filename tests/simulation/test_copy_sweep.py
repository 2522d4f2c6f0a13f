"""A copy of another member's state may be interrupted at any step: `make sim-copies` tries all."""

from __future__ import annotations

import pytest

from tests.simulation import copy_sweep
from tests.simulation.copy_sweep import WAYS, Interruption, Way

STRIDE = 41


@pytest.mark.parametrize("way", WAYS)
def test_a_member_has_the_state_in_the_end_whatever_happens_at_some_steps(way: Way) -> None:
    calm = copy_sweep.run(Interruption(way, "receiver ends", 0))
    assert calm.violations == ()
    assert calm.counts["installs"] == 1
    for case in copy_sweep.cases(STRIDE, ways=(way,)):
        result = copy_sweep.run(case)
        assert (case, result.struck, result.violations) == (case, True, ())
