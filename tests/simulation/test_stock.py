"""The control: the library's own classes break, in this very simulation, the promises that ours keep in it."""

from __future__ import annotations

import pytest
from pysyncobj import syncobj

from tests.simulation import stock

FALLS: dict[str, int] = {
    "control: stock truncation": 1,
    "control: stock acknowledges before its disk has it": 1,
    "control: stock leader reads when deposed": 1,
}
"""A seed in which each is known to show."""


@pytest.mark.parametrize("hazard", stock.HAZARDS, ids=[hazard.name for hazard in stock.HAZARDS])
def test_the_library_itself_breaks_a_promise(hazard: stock.Hazard) -> None:
    result = stock.run(hazard, FALLS[hazard.name])
    assert {violation.name for violation in result.violations} & set(hazard.promises)
    assert stock.run(hazard, FALLS[hazard.name]).trace == result.trace


def test_the_library_is_left_as_it_was() -> None:
    before = {name: getattr(syncobj, name) for name in ("monotonicTime", "random", "createJournal")}
    stock.run(stock.HAZARDS[0], 1)
    assert {name: getattr(syncobj, name) for name in before} == before
