"""Members of two versions of the wire serve together: a rolling upgrade needs no moment at which
all are of one.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.simulation.plans import Kind, plan_of
from tests.simulation.run import run


@pytest.mark.parametrize("kind", ["shared", "replicated"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_members_of_two_versions_keep_every_promise(seed: int, kind: Kind) -> None:
    plan = replace(
        plan_of(seed, kind),
        upgrades=True,
        nodes=3,
        faults=("crash", "partition", "transfer"),
        restores=False,
    )
    result = run(seed, plan=plan)
    assert result.violations == ()
    assert result.counts["upgrades"] > 0
    assert result.counts["raft unknown_messages"] > 0
