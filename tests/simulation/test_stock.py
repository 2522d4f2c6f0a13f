"""The control: the library's own classes break, in this very simulation, the promises that ours
keep in it.
"""

from __future__ import annotations

import pytest
from pysyncobj import syncobj

from tests.simulation import stock

SEEDS = range(1, 21)


@pytest.mark.parametrize("hazard", stock.HAZARDS, ids=[hazard.name for hazard in stock.HAZARDS])
def test_the_library_itself_breaks_a_promise(hazard: stock.Hazard) -> None:
    falls = next(seed for seed in SEEDS if stock.run(hazard, seed).violations)
    result = stock.run(hazard, falls)
    assert {violation.name for violation in result.violations} <= set(hazard.promises)
    assert not [line for line in result.trace if "name=Crash" in line], (
        "it is the library that breaks, not its stand"
    )
    assert stock.run(hazard, falls).trace == result.trace


def test_the_library_is_left_as_it_was() -> None:
    before = {name: getattr(syncobj, name) for name in ("monotonicTime", "random", "createJournal")}
    stock.run(stock.HAZARDS[0], 1)
    assert {name: getattr(syncobj, name) for name in before} == before
