"""What the autoscaler does with its decisions, over a cluster that is a fake."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import msgspec
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from acordo import Client, Cluster, Member
from cluster.autoscaler import loop
from cluster.autoscaler.command import show
from cluster.autoscaler.driver import NotReady
from cluster.autoscaler.figures import QUERIES, value_of
from cluster.autoscaler.local_driver import LocalDriver
from cluster.autoscaler.loop import Autoscaler, NoQuorum, bounds_of, ours
from cluster.autoscaler.plan import Figures
from cluster.local.layout import ClusterFile
from cluster.ports import free_port
from cluster.settings.autoscaler import AutoscalerSettings
from cluster.settings.loading import load
from kv.errors import BadRequest
from tests.unit.cluster.test_autoscaler_plan import BUSY, FAIR, IDLE


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ({"data": {"result": [{"value": [1, "2.5"]}]}}, 2.5),
        ({"data": {"result": [{"value": [1, "NaN"]}]}}, None),
        ({"data": {"result": []}}, None),
        ({"data": {"result": [{"value": [1, "1"]}, {"value": [1, "2"]}]}}, None),
        ({"status": "error"}, None),
        ([], None),
    ],
)
def test_an_answer_of_prometheus(answer: Any, value: float | None) -> None:
    assert value_of(answer) == value


def test_settings_that_cannot_work_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags in (
        ["--autoscaler-observers-min", "3", "--autoscaler-observers-max", "2"],
        ["--autoscaler-in-flight-low", "40"],
        ["--autoscaler-listen", "nowhere"],
    ):
        with pytest.raises(BadRequest):
            load(AutoscalerSettings, flags, prog="autoscaler")


# ----------------------------------------------------------------------------- what it does with it


@dataclass
class World:
    """Members and processes; what a client and a driver see of them."""

    members: dict[str, bool] = field(default_factory=lambda: {"n1": True, "n2": True, "n3": True})
    running_: set[str] = field(default_factory=set)
    did: list[str] = field(default_factory=list)
    add_fails: bool = False
    stop_fails: bool = False
    quorum: bool = True

    async def cluster(self, **_: Any) -> Cluster:
        members = tuple(
            Member(id=m, voter=v, raft_address=f"{m}:9001") for m, v in self.members.items()
        )
        return Cluster(
            node="n1",
            role="leader",
            term=1,
            leader="n1",
            quorum=self.quorum,
            settled=0,
            members=members,
            raw={},
        )

    async def add_member(
        self, member: str, *, raft_address: str, url: str, voter: bool = False, **_: Any
    ) -> None:
        assert not voter
        if self.add_fails:
            raise NotReady("no")
        self.did.append("add")
        self.members[member] = voter

    async def remove_member(self, member: str, **_: Any) -> None:
        assert member not in self.running_, "it drains first"
        self.did.append("remove")
        self.members.pop(member, None)

    async def running(self) -> frozenset[str]:
        return frozenset(self.running_)

    async def start(self, name: str, members: str) -> tuple[str, str]:
        assert "n1=n1:9001" in members and name not in members
        self.did.append("start")
        self.running_.add(name)
        return f"{name}:9001", f"http://{name}:8000"

    async def stop(self, name: str) -> None:
        if self.stop_fails:
            raise OSError("the engine does not answer")
        self.did.append("stop")
        self.running_.discard(name)


def scaler(world: World, figures: Figures) -> Autoscaler:
    settings = AutoscalerSettings(
        autoscaler_period_s=0.1,
        autoscaler_cool_down_s=0,
        autoscaler_rounds_high=1,
        autoscaler_rounds_low=1,
    )
    made = Autoscaler(settings, cast(Client, world), cast(Any, SimpleNamespace()), world)

    async def measured() -> Figures:
        return figures

    async def ready(url: str) -> None:
        return None

    made.figures, made._ready = measured, ready  # type: ignore[method-assign]
    return made


async def test_it_scales_out_and_in_again() -> None:
    world = World()
    assert (await scaler(world, BUSY).round()).change == 1
    assert world.did == ["start", "add"]
    (observer,) = world.running_
    assert ours(observer) and world.members[observer] is False
    assert (await scaler(world, IDLE).round()).change == -1
    assert world.did == ["start", "add", "stop", "remove"]
    assert not world.running_ and all(world.members.values())


async def test_what_a_crash_left_half_done_is_taken_away() -> None:
    world = World()
    world.members |= {"o0123456789": False, "standby": False}
    world.running_ = {"oabcdef0123"}
    assert await scaler(world, FAIR).reconcile() == []
    assert set(world.members) == {"n1", "n2", "n3", "standby"}, (
        "an observer that somebody else added stays"
    )
    assert not world.running_


async def test_an_observer_that_cannot_join_is_stopped_again() -> None:
    world = World(add_fails=True)
    with pytest.raises(NotReady):
        await scaler(world, BUSY).round()
    assert not world.running_


async def test_a_clean_up_that_fails_does_not_hide_why_it_was_needed() -> None:
    world = World(add_fails=True, stop_fails=True)
    with pytest.raises(NotReady, match="no"):
        await scaler(world, BUSY).round()
    world.stop_fails = False
    assert await scaler(world, FAIR).reconcile() == []
    assert not world.running_


async def test_a_change_that_failed_is_rested_after_as_well() -> None:
    failing = scaler(World(add_fails=True), BUSY)
    with pytest.raises(NotReady):
        await failing.round()
    before, after = failing.decisions[-1].memory.changed_at, failing.memory.changed_at
    assert before is not None and after is not None
    assert before < after


async def test_nothing_follows_from_what_a_node_without_a_quorum_knows() -> None:
    world = World(quorum=False)
    world.members |= {"o0123456789": False}
    world.running_ = {"oabcdef0123"}
    with pytest.raises(NoQuorum):
        await scaler(world, BUSY).round()
    assert world.did == []


async def served(made: Autoscaler, rounds: int) -> list[Any]:
    """Let it serve until it has said that so many rounds failed; return what was logged."""
    with capture_logs() as said:
        serving = asyncio.ensure_future(made.serve())
        while len([s for s in said if s["event"] == "round failed"]) < rounds:
            assert not serving.done(), serving.exception()
            await asyncio.sleep(0)
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    return [s for s in said if s["event"] == "round failed"]


def failed(kind: str) -> float:
    return REGISTRY.get_sample_value("acordo_autoscaler_failed_total", {"step": kind}) or 0.0


@pytest.mark.timeout(60)
async def test_a_round_without_quorum_is_logged_and_counted() -> None:
    before = failed("NoQuorum")
    (said,) = await served(scaler(World(quorum=False), BUSY), 1)
    assert "n1 reaches no quorum" in said["reason"]
    assert failed("NoQuorum") == before + 1


@pytest.mark.timeout(60)
async def test_a_round_that_never_ends_is_given_up_logged_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "ROUND_WITHIN_S", 0.01)
    world, before = World(), failed("TimeoutError")
    made = scaler(world, BUSY)
    monkeypatch.setattr(world, "start", never)
    said = await served(made, 2)
    assert {s["kind"] for s in said} == {"TimeoutError"}
    assert failed("TimeoutError") >= before + 2


@pytest.mark.timeout(60)
async def test_an_observer_that_cannot_be_taken_away_does_not_hold_a_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "CLEAN_UP_WITHIN_S", 0.01)
    world = World(add_fails=True)
    monkeypatch.setattr(world, "stop", never)
    with pytest.raises(NotReady):
        await scaler(world, BUSY).round()


async def never(*_: Any) -> Any:
    await asyncio.Event().wait()


def test_a_round_may_take_longer_than_adding_an_observer_and_taking_it_away_again() -> None:
    asked = 4 * loop.CHANGE_TIMEOUT_S + len(QUERIES) * loop.ASK_TIMEOUT_S
    assert asked + loop.READY_WITHIN_S + loop.CLEAN_UP_WITHIN_S + 60 < loop.ROUND_WITHIN_S


async def test_a_decision_that_is_found_again_is_logged_once() -> None:
    made = scaler(World(), IDLE)
    with capture_logs() as said:
        for _ in range(3):
            assert (await made.round()).reason == "at_minimum"
    assert [s["log_level"] for s in said if s["event"] == "decided"] == ["info", "debug", "debug"]


async def test_its_port_shows_metrics_and_the_last_decisions() -> None:
    made, listen = scaler(World(), IDLE), f"127.0.0.1:{free_port()}"
    async with show(made, listen), aiohttp.ClientSession() as http:
        await made.round()
        async with http.get(f"http://{listen}/decisions") as response:
            (shown,) = await response.json()
        assert (shown["change"], shown["reason"]) == (0, "at_minimum") and shown["because"]
        async with http.get(f"http://{listen}/metrics") as response:
            assert response.status == 200
            assert (
                'acordo_autoscaler_decisions_total{change="0",reason="at_minimum"}'
                in await response.text()
            )
        with pytest.raises(BadRequest, match="cannot listen"):
            async with show(made, listen):
                pass


# ---------------------------------------------------------------------------------- like which node


def test_bounds_come_from_the_settings() -> None:
    assert bounds_of(AutoscalerSettings()).observers_max == 2


def test_nodes_that_share_a_store_need_its_url(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_bytes(msgspec.json.encode(ClusterFile(1, "here", 3, 8001)))
    with pytest.raises(BadRequest, match="share a store, and its file names none"):
        LocalDriver(tmp_path / "observers", {})
    store = "postgresql://127.0.0.1/acordo"
    assert LocalDriver(tmp_path / "observers", {"ACORDO_STORE": store}).file.store == "shared"
