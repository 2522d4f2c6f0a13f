"""The autoscaler's decisions, and what it does with them over a cluster that is a fake."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from acordo import Client, Cluster, Member
from cluster.autoscaler import loop
from cluster.autoscaler.command import show
from cluster.autoscaler.docker_driver import DockerDriver
from cluster.autoscaler.driver import NotReady
from cluster.autoscaler.figures import QUERIES, value_of
from cluster.autoscaler.loop import Autoscaler, NoQuorum, bounds_of, ours
from cluster.autoscaler.plan import (
    REASONS,
    REPAIR_REST,
    Band,
    Bounds,
    Decision,
    Figures,
    Memory,
    plan,
)
from cluster.ports import free_port
from cluster.settings.autoscaler import AutoscalerSettings
from cluster.settings.loading import load
from kv.errors import BadRequest

BOUNDS = Bounds(
    0, 3, Band(8, 32), Band(0.1, 0.5), Band(0.3, 0.8), rounds_high=2, rounds_low=3, cool_down_s=60
)
BUSY = Figures(50, 0.2, 0.5)
IDLE = Figures(0.1, None, 0.01)
FAIR = Figures(20, 0.2, 0.5)
NOTHING = Figures(None, None, None)

number = st.one_of(st.none(), st.floats(0, 100))
all_figures = st.builds(
    Figures, number, st.one_of(st.none(), st.floats(0, 2)), st.one_of(st.none(), st.floats(0, 2))
)


def decisions_of(
    story: list[Figures], observers: int = 0, step_s: float = 30.0, bounds: Bounds = BOUNDS
) -> list[Decision]:
    """Return the decisions of a story in which each is carried out at once."""
    memory, decisions = Memory(), []
    for n, figures in enumerate(story):
        decision = plan(figures, observers, bounds, memory, n * step_s)
        memory, observers = decision.memory, observers + decision.change
        decisions.append(decision)
    return decisions


def test_one_busy_round_is_not_enough_two_are() -> None:
    assert [d.change for d in decisions_of([BUSY, FAIR, BUSY, BUSY])] == [0, 0, 0, 1]


def test_it_rests_after_a_change() -> None:
    decisions = decisions_of([BUSY] * 6)
    assert [(d.change, d.reason) for d in decisions] == [
        (0, "waiting"), (1, "busy"), (0, "waiting"), (1, "busy"), (0, "waiting"), (1, "busy"),
    ]  # fmt: skip
    assert [d.reason for d in decisions_of([BUSY] * 4, step_s=10)] == [
        "waiting",
        "busy",
        "waiting",
        "cooling_down",
    ]


def test_it_goes_back_when_all_is_low_and_not_when_one_figure_is_fair() -> None:
    assert [d.change for d in decisions_of([IDLE] * 3, observers=1)] == [0, 0, -1]
    assert all(d.change == 0 for d in decisions_of([Figures(0.1, None, 0.5)] * 9, observers=1))


def test_missing_figures_change_nothing_and_begin_the_count_anew() -> None:
    assert [d.reason for d in decisions_of([BUSY, NOTHING, BUSY], step_s=100)] == [
        "waiting",
        "no_figures",
        "waiting",
    ]
    assert all(d.change == 0 for d in decisions_of([NOTHING] * 9, observers=2))


def test_the_bounds_come_before_everything() -> None:
    assert plan(NOTHING, 4, BOUNDS, Memory(), 0).change == -1
    assert plan(BUSY, 3, BOUNDS, Memory(high=9), 1e9).reason == "at_maximum"
    assert plan(IDLE, 0, BOUNDS, Memory(low=9), 1e9).reason == "at_minimum"


def test_an_observer_that_always_dies_is_replaced_only_so_often() -> None:
    memory, changes = Memory(), []
    bounds = replace(BOUNDS, observers_min=1)
    for now in range(0, 61, 5):  # it is gone again at each round
        decision = plan(FAIR, 0, bounds, memory, now)
        memory = decision.memory
        changes.append(decision.change)
        assert decision.reason == ("below_minimum" if decision.change else "cooling_down")
    assert changes == [1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1]


@given(
    st.lists(st.tuples(all_figures, st.booleans()), max_size=60),
    st.integers(0, 6),
    st.floats(1, 120),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_whatever_is_measured_the_rules_hold(
    story: list[tuple[Figures, bool]], observers: int, step_s: float, low: int, more: int
) -> None:
    bounds = Bounds(low, low + more, BOUNDS.in_flight, BOUNDS.p99_s, BOUNDS.cpu, 2, 3, 60)
    memory, changed_at = Memory(), -math.inf
    for n, (figures, dies) in enumerate(story):
        now = n * step_s
        decision = plan(figures, observers, bounds, memory, now)
        assert decision.reason in REASONS and decision.because
        within = bounds.observers_min <= observers <= bounds.observers_max
        observers += decision.change
        if within:
            assert bounds.observers_min <= observers <= bounds.observers_max
            if decision.change:
                assert now - changed_at >= bounds.cool_down_s
                assert figures.in_flight is not None or figures.cpu is not None
            if decision.change < 0:
                assert figures.in_flight is not None and figures.in_flight < bounds.in_flight.low
                assert figures.p99_s is None or figures.p99_s < bounds.p99_s.low
                assert figures.cpu is not None and figures.cpu < bounds.cpu.low
        elif now - changed_at >= bounds.cool_down_s * REPAIR_REST:
            assert decision.change == (
                1 if observers - decision.change < bounds.observers_min else -1
            )
        else:
            assert (decision.change, decision.reason) == (0, "cooling_down")
        if decision.change:
            assert now - changed_at >= bounds.cool_down_s * REPAIR_REST
            changed_at = now
        if dies:
            observers = max(observers - 1, 0)
        memory = decision.memory


@given(all_figures, st.integers(0, 3))
def test_the_same_figures_for_ever_come_to_rest(figures: Figures, observers: int) -> None:
    changes = [d.change for d in decisions_of([figures] * 100, observers)]
    assert len({c for c in changes if c}) <= 1, "never up and down again"
    assert not any(changes[50:])


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


class Engine:
    """As much of an engine's client as DockerDriver asks: the nodes and the networks that they are
    on.
    """

    def __init__(self, networks: dict[str, dict[str, Any]]) -> None:
        self.networks = networks
        self.made: list[dict[str, Any]] = []
        self.removed: list[str] = []
        self.starts = True
        self.containers = self.api = self

    def list(self, *, filters: dict[str, list[str]], **_: Any) -> list[Any]:
        service = filters["label"][-1].rpartition("=")[2]
        if service not in self.networks:
            return []
        attrs = {
            "Config": {
                "Image": "acordo-node:local",
                "Env": [f"ACORDO_NODE_ID={service}", "ACORDO_CLUSTER_ID=c"],
            },
            "HostConfig": {"Memory": 1},
            "NetworkSettings": {"Networks": self.networks[service]},
            "Mounts": [],
        }
        return [SimpleNamespace(attrs=attrs)]

    def create_host_config(self, **given: Any) -> dict[str, Any]:
        return given

    def create_endpoint_config(self, **given: Any) -> dict[str, Any]:
        return given

    def create_networking_config(self, given: dict[str, Any]) -> dict[str, Any]:
        return given

    def create_container(self, image: str, **given: Any) -> dict[str, str]:
        self.made.append(given)
        return {"Id": "1"}

    def start(self, name: str) -> None:
        assert self.made
        if not self.starts:
            raise OSError("network acordo_default not found")

    def remove_container(self, name: str, **_: Any) -> None:
        self.removed.append(name)


def docker_driver(
    monkeypatch: pytest.MonkeyPatch, networks: dict[str, dict[str, Any]]
) -> tuple[DockerDriver, Engine]:
    engine = Engine(networks)
    monkeypatch.setattr("docker.from_env", lambda **_: engine)
    return DockerDriver("acordo"), engine


@pytest.mark.timeout(60)
async def test_an_observer_is_made_like_a_node_that_is_on_a_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, engine = docker_driver(monkeypatch, {"node1": {}, "node2": {"acordo_default": {}}})
    assert await driver.start("o0123456789", "n1=node1:9001") == (
        "o0123456789:9001",
        "http://o0123456789:8000",
    )
    (made,) = engine.made
    assert set(made["networking_config"]) == {"acordo_default"}
    assert made["environment"]["ACORDO_NODE_ID"] == "o0123456789"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("networks", [{}, {"node1": {}, "node2": {}, "node3": {}}])
async def test_with_no_node_to_be_made_like_the_round_fails_and_does_not_hang(
    monkeypatch: pytest.MonkeyPatch, networks: dict[str, dict[str, Any]]
) -> None:
    driver, engine = docker_driver(monkeypatch, networks)
    with pytest.raises(NotReady):
        async with asyncio.timeout(30):
            await driver.start("o0123456789", "n1=node1:9001")
    assert engine.made == []


@pytest.mark.timeout(60)
async def test_an_observer_that_the_engine_does_not_start_leaves_no_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, engine = docker_driver(monkeypatch, {"node1": {"acordo_default": {}}})
    engine.starts = False
    with pytest.raises(OSError, match="not found"):
        await driver.start("o0123456789", "n1=node1:9001")
    assert len(engine.made) == 1 and engine.removed == ["1"]


def test_bounds_come_from_the_settings() -> None:
    assert bounds_of(AutoscalerSettings()).observers_max == 2
