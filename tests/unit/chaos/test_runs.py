"""What makes a run weak, how long one goes on, and that nothing which fails on the way hides what
was seen.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from chaos import __main__ as command
from chaos.checkers.verdict import Finding, Judgement
from chaos.commands import run as run_command
from chaos.nemeses.base import Nemesis
from chaos.records.history import ClientOperation
from chaos.records.recorder import Recorder
from chaos.runs import conduct
from chaos.runs.disturbing import disturb
from chaos.runs.interrupt import Interrupt
from chaos.runs.opening import TargetUnfit, entrances
from chaos.runs.plan import Plan
from chaos.runs.result import RunResult
from chaos.runs.schedule import Step
from chaos.runs.weakness import TRAFFIC_MIN, thin_traffic
from chaos.targets.docker_stack import DockerTarget
from chaos.targets.urls import UrlTarget
from tests import virtual


class FakeTarget:
    """Three nodes that nothing happens to."""

    nodes = ("n1", "n2", "n3")
    urls = ("http://1", "http://2", "http://3")
    abilities: frozenset[str] = frozenset()
    well = True

    async def healthy(self, within_s: float) -> bool:
        return self.well


class Bites(Nemesis):
    """Takes two seconds, and is proved from the third time on."""

    name: ClassVar[str] = "bites"
    times: ClassVar[int] = 0

    async def choose(self) -> tuple[str, ...]:
        Bites.times += 1
        return ("n1",)

    async def start(self) -> None: ...

    async def proof(self) -> str | None:
        return "seen" if Bites.times > 2 else None

    async def heal(self) -> None: ...


def planned(folder: Path, **more: Any) -> Plan:
    return Plan(
        folder,
        ("register",),
        {"bites": ("bites",)},
        10,
        1,
        quiet=True,
        nemeses={"bites": Bites},
        **more,
    )


def took_effect(recorder: Recorder, outcome: str, count: int, node: str = "n1") -> None:
    for _ in range(count):
        ended: Any = outcome
        recorder.add(
            ClientOperation("c", "get", ended, 1, 2, key="k", workload="register", node=node)
        )


def disturbed(plan: Plan, target: Any, story: Any = None) -> tuple[float, RunResult, Recorder]:
    """Return how long the disturbing lasted, in virtual time."""
    Bites.times = 0
    result = RunResult(plan, plan.schedule)

    async def all_of_it() -> tuple[float, Recorder]:
        with Recorder(plan.folder / "history.jsonl") as recorder:
            began = asyncio.get_running_loop().time()
            telling = asyncio.create_task(story(recorder)) if story else None
            await disturb(target, recorder, result, Interrupt())
            if telling is not None:
                telling.cancel()
            return asyncio.get_running_loop().time() - began, recorder

    lasted_s, recorder = virtual.run(all_of_it)
    return lasted_s, result, recorder


async def slowly(recorder: Recorder) -> None:
    """Only failures at first, and enough operations after 14 s."""
    took_effect(recorder, "fail", 1000)
    await asyncio.sleep(14)
    took_effect(recorder, "ok", TRAFFIC_MIN)


def test_it_goes_on_until_enough_took_effect_and_enough_faults_bit(tmp_path: Path) -> None:
    lasted_s, _, recorder = disturbed(planned(tmp_path, operations=30), FakeTarget(), slowly)
    assert 14 <= lasted_s < 30, "what failed does not count"
    assert recorder.count() > 1000
    lasted_s, result, _ = disturbed(planned(tmp_path, faults=3), FakeTarget(), slowly)
    assert 10 < lasted_s <= 32 * 2
    assert sum(f.proof is not None for f in result.inflicted) >= 3
    lasted_s, _, _ = disturbed(planned(tmp_path, faults=1), FakeTarget())
    assert lasted_s >= 30, "nothing took effect: it is tried for three times its time"
    lasted_s, _, _ = disturbed(planned(tmp_path), FakeTarget())
    assert lasted_s < 20, "nothing was asked for"


def test_a_cluster_that_does_not_recover_from_a_fault_makes_the_run_weak(tmp_path: Path) -> None:
    target = FakeTarget()
    target.well = False
    _, result, _ = disturbed(planned(tmp_path, steps=(Step(1, "bites", 0.1, 0.1),)), target)
    assert result.weak == ["not healthy within 120 s after bites"]


def test_thin_traffic_is_named(tmp_path: Path) -> None:
    plan = planned(tmp_path, operations=50)
    with Recorder(tmp_path / "history.jsonl") as recorder:
        took_effect(recorder, "ok", TRAFFIC_MIN - 1)
        took_effect(recorder, "fail", 100, node="n2")
        told = thin_traffic(plan, FakeTarget(), recorder, [])  # type: ignore[arg-type]
        assert [t.partition(":")[0] for t in told] == [
            ("too little traffic"),
            ("39 operations took effect, 50 were asked for"),
            "2 of 3 nodes answered nothing",
        ]
        took_effect(recorder, "ok", 100, node="an-observer")
        took_effect(recorder, "ok", 100, node="n2")
        told = thin_traffic(plan, FakeTarget(), recorder, [])  # type: ignore[arg-type]
        assert told == ["1 of 3 nodes answered nothing"], (
            "an observer's answers do not stand for a voter's"
        )
        assert thin_traffic(plan, UrlTarget(FakeTarget.urls), recorder, []) == []


def test_clients_come_in_through_every_node_and_the_balancer() -> None:
    stack = DockerTarget("acordo")
    stack._urls, stack.balancer_url = FakeTarget.urls, "http://balancer"
    assert entrances(stack) == (*FakeTarget.urls, "http://balancer")
    stack.balancer_url = ""
    assert entrances(stack) == FakeTarget.urls
    assert entrances(FakeTarget()) == FakeTarget.urls  # type: ignore[arg-type]


@pytest.mark.parametrize("loads", [True, False])
async def test_what_fails_on_leaving_the_target_hides_no_anomaly(
    loads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def leaving_fails(plan: Plan) -> AsyncIterator[FakeTarget]:
        yield FakeTarget()
        raise TargetUnfit("not healed, look after them: node1")

    async def loaded(*_: object) -> bool:
        if not loads:
            raise TargetUnfit("no engine")
        return False

    async def versions(*_: object) -> dict[str, str]:
        return {}

    def judge(result: RunResult) -> None:
        result.judgements = [Judgement("register", (Finding("lost", "it is lost"),), 10)]

    for name, fake in (
        ("opened_target", leaving_fails),
        ("load_and_disturb", loaded),
        ("versions_of", versions),
        ("judge_result", judge),
    ):
        monkeypatch.setattr(conduct, name, fake)
    plan = Plan(tmp_path / "run", ("register",), {}, 1, 1, quiet=True)
    if loads:
        result = await conduct.run(plan)
        assert result.code == 1
        assert result.weak == ["not healed, look after them: node1"]
    else:
        with pytest.raises(TargetUnfit, match="no engine"):
            await conduct.run(plan)


def test_an_error_that_nobody_thought_of_is_no_anomaly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(args: argparse.Namespace) -> int:
        raise KeyError("unforeseen")

    monkeypatch.setattr(run_command, "main", broken)
    assert command.main(["run"]) == 3
    assert "unforeseen" in capsys.readouterr().err
