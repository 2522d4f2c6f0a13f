"""Every bug planted into the register checker is told by the oracle (STYLE 23)."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.records.history import ClientOperation
from tests.unit.chaos import mutants, oracle

Judged = list[tuple[list[ClientOperation], Any, str]]


@pytest.fixture(scope="module")
def judged() -> Judged:
    return [
        (
            [oracle.operation(o) for o in ops],
            initial,
            "ok" if oracle.judge(ops, initial) else "illegal",
        )
        for ops, initial in oracle.histories(seed=7, count=12_000)
    ]


def test_an_unchanged_copy_survives(judged: Judged) -> None:
    with mutants.loaded(None) as register:
        assert all(
            mutants.verdict(register, ops, initial) == right
            for ops, initial, right in judged[:3_000]
        )


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.name)
def test_the_oracle_kills_the_mutant(mutant: mutants.Mutant, judged: Judged) -> None:
    with mutants.loaded(mutant) as register:
        assert any(
            mutants.verdict(register, ops, initial) != right for ops, initial, right in judged
        )
