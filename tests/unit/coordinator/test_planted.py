"""Faults are planted by name, one mechanism for all rings, and leave no trace when they go."""

from __future__ import annotations

import pytest

from tests.planted import (  # noqa: F401 (they fill the registry)
    clocks,
    databases,
    leases,
    member_files,
    nodes,
    protocol,
    raft,
    reads,
    replicated,
)
from tests.planted.registry import FAULTS, fault, is_planted, planted

BOUNDS = "bounds"
"""What is broken by a store that grows without end: no promise to clients."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_planted_and_goes_without_a_trace(name: str) -> None:
    places = [(owner, attribute) for owner, attribute, _ in FAULTS[name].patches()]
    assert places
    before = [vars(owner).get(attribute) for owner, attribute in places]
    with planted(name):
        assert is_planted(name)
        now = [vars(owner).get(attribute) for owner, attribute in places]
        assert any(one is not other for one, other in zip(before, now, strict=True))
    assert not is_planted()
    after = [vars(owner).get(attribute) for owner, attribute in places]
    assert all(one is other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_says_what_it_is_and_what_it_breaks(name: str) -> None:
    assert FAULTS[name].about.endswith(".")
    broken = ("INV-", "Lease", "Raft: ", "Time", "R", "Access", BOUNDS)
    assert FAULTS[name].promise.startswith(broken)


def test_faults_are_planted_one_block_at_a_time_and_under_names_of_their_own() -> None:
    with planted("touch"), pytest.raises(RuntimeError, match="planted already"), planted("fence"):
        pass
    assert not is_planted()
    with pytest.raises(ValueError, match="two faults"):
        fault("INV-1", "touch")(FAULTS["touch"].patches)
