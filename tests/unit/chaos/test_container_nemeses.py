"""Each fault of containers bites, does not when replaced by a no-op, and heals all that it hit,
whatever fails.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import docker.errors
import pytest

from chaos.nemeses import base
from chaos.nemeses.base import Inflicted, Nemesis, inflict
from chaos.nemeses.containers import CONTAINER_NEMESES
from chaos.records.intervals import fault_windows
from chaos.records.recorder import Recorder
from chaos.records.saved import load_history
from chaos.targets import docker_stack as docker_target
from chaos.targets.docker_stack import DockerTarget
from tests.unit.chaos.fake_engine import FakeEngine, over

SERVICES = (
    "node1",
    "node2",
    "node3",
    "postgres",
    "nginx",
    "redis1",
    "redis2",
    "redis3",
    "sentinel1",
    "sentinel2",
    "sentinel3",
    "rabbit1",
    "rabbit2",
    "rabbit3",
)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    async def leader(self: DockerTarget) -> str:
        return "n1"

    monkeypatch.setattr(DockerTarget, "leader", leader)
    monkeypatch.setattr(base, "PROOF_WITHIN_S", 0.2)
    return FakeEngine(*SERVICES)


def made(name: str, engine: FakeEngine) -> Nemesis:
    return CONTAINER_NEMESES[name](over(engine), Random(3))


async def inflicted(nemesis: Nemesis, folder: Path) -> Inflicted:
    with Recorder(folder / "history.jsonl") as recorder:
        return await inflict(nemesis, recorder, 0.05)


def whole(engine: FakeEngine) -> bool:
    networks = (c.attrs["NetworkSettings"]["Networks"] for c in engine.found.values())
    return all(networks) and {c.status for c in engine.found.values()} == {"running"}


@pytest.mark.parametrize("name", CONTAINER_NEMESES)
async def test_it_bites_is_recorded_and_heals(
    name: str, engine: FakeEngine, tmp_path: Path
) -> None:
    result = await inflicted(made(name, engine), tmp_path)
    assert result.error is None and result.proof
    assert all(service in result.proof for service in result.targets)
    assert {d.split()[1] for d in engine.done if not d.startswith("exec")} == set(result.targets)
    assert whole(engine)
    (window,) = fault_windows(load_history(tmp_path / "history.jsonl").faults)
    assert window.bit_ns is not None and window.healed_ns is not None


@pytest.mark.parametrize("name", CONTAINER_NEMESES)
async def test_replaced_by_a_no_op_it_does_not_bite(
    name: str, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> None:
        return None

    nemesis = made(name, engine)
    monkeypatch.setattr(nemesis, "start", nothing)
    monkeypatch.setattr(nemesis, "hold", nothing)
    assert (await inflicted(nemesis, tmp_path)).proof is None


@pytest.mark.parametrize("how", ["kill", "pause", "disconnect", "restart"])
async def test_nobody_hit_is_no_proof(how: str, engine: FakeEngine) -> None:
    assert await made(f"container-{how}-all", engine).proof() is None


@pytest.mark.parametrize(
    ("name", "undo"),
    [
        ("container-kill-all", "start"),
        ("container-pause-all", "unpause"),
        ("container-disconnect-all", "connect"),
    ],
)
async def test_one_that_cannot_be_healed_leaves_no_other_broken(
    name: str, undo: str, engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.fails[f"{undo} node1"] = docker.errors.APIError("no space left")
    result = await inflicted(made(name, engine), tmp_path)
    assert result.proof is None, "the run is weak"
    assert "look after them: node1'" in (result.error or "")
    assert "error: node1 is not healed: " in capsys.readouterr().err
    for service in ("node2", "node3"):
        assert engine.found[service].status == "running"
        assert engine.found[service].attrs["NetworkSettings"]["Networks"]


async def test_whoever_cannot_be_chosen_is_an_error_of_the_fault_and_not_the_end_of_the_run(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Sentinel knows a master: killing any other Redis would not be this fault."""
    monkeypatch.setattr(docker_target, "MASTER_WITHIN_S", 0.2)
    engine.says = b"Could not connect\n"
    result = await inflicted(made("container-kill-redis-master", engine), tmp_path)
    assert result.proof is None and "no Sentinel names a Redis" in (result.error or "")
    assert not any(d.startswith("kill") for d in engine.done)
    (fault,) = load_history(tmp_path / "history.jsonl").faults
    assert fault.phase == "skipped" and "no Sentinel" in (fault.detail or "")
