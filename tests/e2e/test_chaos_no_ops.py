"""A real run whose faults do nothing exits 2 and names each of them: no nemesis may claim what it
did not do.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.checkers.verdict import Verdict
from chaos.nemeses import base
from chaos.nemeses.base import Nemesis
from chaos.nemeses.catalogue import NEMESES
from chaos.runs.conduct import run
from chaos.runs.plan import Plan
from chaos.runs.schedule import Step

SERVERS = ("postgres", "redis", "rabbitmq")
LOCAL = {name: kind for name, kind in NEMESES.items() if not name.startswith(SERVERS)}


def no_op(kind: type[Nemesis]) -> type[Nemesis]:
    async def nothing(*_: object) -> None:
        return None

    return type(kind.__name__, (kind,), {"start": nothing, "hold": nothing, "heal": nothing})


async def test_every_nemesis_that_does_nothing_makes_the_run_weak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PROOF_WITHIN_S", 0.2)
    steps = tuple(Step(n, name, 0.0, 0.1) for n, name in enumerate(NEMESES, 1))
    plan = Plan(
        folder=tmp_path / "run",
        workloads=("register",),
        families={},
        seconds=3,
        seed=7,
        clients=3,
        quiet=True,
        steps=steps,
        nemeses={name: no_op(kind) for name, kind in NEMESES.items()},
    )
    result = await run(plan)
    assert result.verdict is Verdict.OK, "nothing was disturbed"
    assert result.code == 2
    for name in LOCAL:
        if name == "drop-packets" and f"{name} was skipped" in "".join(result.weak):
            continue
        assert any(w.startswith(f"{name} did not bite") for w in result.weak), name
    for name in NEMESES.keys() - LOCAL.keys():
        assert any(w.startswith(f"{name} was skipped: the target has no") for w in result.weak), (
            name
        )
    assert len(result.weak) == len(NEMESES), "and for no other reason"
