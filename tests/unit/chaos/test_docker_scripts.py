"""A disturbance of containers is measured from the strike, forgets no acknowledged write, and heals
in any case.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import docker.errors
import pytest
import requests

from acordo import NotApplied, ReadFailed
from chaos.commands import docker_scripts
from chaos.commands.docker_scripts import LOST, MISSED, UNJUDGED, each, interruptible, run
from chaos.strikes import load as docker_load
from chaos.strikes.catalogue import STRIKES
from chaos.strikes.disturb import disturb
from chaos.strikes.load import StackLoad
from chaos.strikes.outcome import StrikeOutcome
from chaos.targets.docker_engine import EngineFailed, NoStack, NotHealed
from chaos.targets.docker_stack import DockerTarget
from tests import virtual
from tests.unit.chaos.fake_engine import FakeEngine, over


class FakeCluster:
    """Keys, and what keeps them from being written, read or kept."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.writes = self.reads = True
        self.puts: list[str] = []
        self.reading = self.reading_most = 0


class FakeClient:
    """The client's calls, answered by the cluster of the test after 10 ms."""

    cluster: ClassVar[FakeCluster]

    def __init__(self, url: str, **settings: object) -> None: ...

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def put(self, key: str, value: bytes) -> None:
        self.cluster.puts.append(key)
        await asyncio.sleep(0.01)
        if not self.cluster.writes:
            raise NotApplied("nobody leads", reason="no_leader")
        self.cluster.kept[key] = value

    async def get(self, key: str | bytes) -> SimpleNamespace | None:
        name = key.decode() if isinstance(key, bytes) else key
        self.cluster.reading += 1
        self.cluster.reading_most = max(self.cluster.reading_most, self.cluster.reading)
        await asyncio.sleep(0.01)
        self.cluster.reading -= 1
        if not self.cluster.reads:
            raise ReadFailed("no node answered", reason="unreachable")
        return SimpleNamespace(value=self.cluster.kept[name]) if name in self.cluster.kept else None


class FakeStack:
    """A target whose strikes take as long, and stop what, the test says."""

    urls = ("http://node",)
    balancer_url = ""
    store: str | None = "postgres"
    services: frozenset[str] = frozenset({"node1", "redis1"})

    def __init__(
        self,
        cluster: FakeCluster,
        *,
        strike_s: float = 0.1,
        outage_s: float = 0.0,
        what: tuple[str, ...] = ("writes",),
        strike: Callable[[tuple[str, ...]], None] = lambda whom: None,
    ) -> None:
        self.cluster, self.fails = cluster, strike
        self.strike_s, self.outage_s, self.what = strike_s, outage_s, what
        self.struck: list[str] = []
        self.healed: list[str] = []
        self.at = self.back = 0.0

    async def __aenter__(self) -> FakeStack:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.healed.append("all")

    async def gateway(self) -> str:
        return "127.0.0.1"

    async def leader(self) -> str:
        return "n1"

    async def redis_master(self) -> str:
        return "redis1"

    async def healthy(self, within_s: float) -> bool:
        return True

    async def strike(self, how: str, whom: tuple[str, ...]) -> float:
        self.at = asyncio.get_running_loop().time()
        self.struck += whom
        self.fails(whom)
        self._let(False)
        asyncio.get_running_loop().call_later(self.outage_s, self._let, True)
        await asyncio.sleep(self.strike_s)
        return self.at

    def _let(self, work: bool) -> None:
        for what in self.what if self.outage_s else ():
            setattr(self.cluster, what, work)

    async def heal_each(self, whom: tuple[str, ...]) -> None:
        self.healed += whom
        self.back = asyncio.get_running_loop().time()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    FakeClient.cluster = FakeCluster()
    monkeypatch.setattr(docker_load, "Client", FakeClient)
    return FakeClient.cluster


def disturbed(stack: Any, name: str = "kill-leader", pause_s: float = 5.0) -> StrikeOutcome:
    return virtual.run(lambda: disturb(stack, STRIKES[name], name, pause_s))


def test_what_was_acknowledged_before_an_outage_is_read_again_after_it(
    cluster: FakeCluster,
) -> None:
    told = disturbed(FakeStack(cluster, outage_s=60), pause_s=60)
    assert told.before >= docker_load.WARM_UP
    assert told.acked > told.before and told.lost == []
    assert told.failed["write: NotApplied"] > 1000, "the outage was felt"
    assert len(cluster.puts) == len(set(cluster.puts)), "no key is written twice"
    assert len(cluster.puts) < 10_000
    assert 1 < cluster.reading_most <= docker_load.READ_BACK_AT_ONCE


def test_a_write_from_before_the_strike_that_is_gone_is_lost(cluster: FakeCluster) -> None:
    def forget(whom: tuple[str, ...]) -> None:
        gone.append(next(iter(cluster.kept)))
        del cluster.kept[gone[0]]

    gone: list[str] = []
    assert disturbed(FakeStack(cluster, outage_s=60, strike=forget), pause_s=60).lost == gone


def test_what_fails_or_holds_another_value_is_not_acknowledged_or_lost(
    cluster: FakeCluster,
) -> None:
    async def story() -> list[str]:
        load = StackLoad("http://node")
        load.acked = {b"a": b"1", b"b": b"2", b"c": b"3"}
        cluster.kept = {"a": b"1", "b": b"other"}
        cluster.writes = False
        await load._write(FakeClient(""), 0, 0)  # type: ignore[arg-type]
        assert len(load.acked) == 3
        return await load.lost()

    assert virtual.run(story) == ["b", "c"]


def test_writers_slow_down_so_that_an_hour_leaves_few_keys(cluster: FakeCluster) -> None:
    async def story() -> None:
        stop = asyncio.Event()
        load = asyncio.create_task(StackLoad("http://node").run(stop))
        await asyncio.sleep(3600)
        stop.set()
        await load

    virtual.run(story, limit_s=4000)
    assert len(cluster.puts) <= docker_load.WRITERS * (docker_load.QUICK + 3600)


def test_an_attempt_that_hangs_keeps_no_other_from_being_made() -> None:
    begun: list[float] = []

    async def hang(n: int) -> None:
        begun.append(asyncio.get_running_loop().time())
        await asyncio.sleep(3)

    async def story() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(10, stop.set)
        await docker_load._paced(hang, stop)

    virtual.run(story)
    assert len(begun) > 90
    assert max(b - a for a, b in itertools.pairwise(begun)) < 0.2


def test_a_fail_over_during_the_engines_call_is_counted(cluster: FakeCluster) -> None:
    told = disturbed(FakeStack(cluster, strike_s=2.5, outage_s=2))
    assert told.writes_after_s == pytest.approx(2, abs=0.2)
    assert told.writes_gap_s == pytest.approx(2, abs=0.2)
    assert told.missed() == ()


def test_a_strike_that_stops_nothing_is_told_as_that(cluster: FakeCluster) -> None:
    told = disturbed(FakeStack(cluster))
    assert told.writes_after_s < 0.3 and told.writes_gap_s < 0.3
    assert told.missed() == ()


@pytest.mark.parametrize(
    ("name", "what", "outage_s", "missed"),
    [
        ("kill-leader", "writes", 2.8, []),
        ("kill-leader", "writes", 4, ["writes again after", "longest gap of writes"]),
        ("partition-leader", "writes", 4, ["writes again after", "longest gap of writes"]),
        ("kill-leader", "reads", 9, []),
        ("kill-leader", "reads", 11, ["longest gap of reads"]),
        ("kill-redis-master", "reads", 11, ["longest gap of reads"]),
        ("kill-database", "writes", 14, []),
        ("kill-database", "writes", 16, ["writes again after it was back"]),
        ("full-restart", "writes", 60, []),
        ("kill-nginx", "reads", 60, []),
    ],
)
def test_the_limits_of_each_disturbance(
    cluster: FakeCluster, name: str, what: str, outage_s: float, missed: list[str]
) -> None:
    told = disturbed(FakeStack(cluster, outage_s=outage_s, what=(what,)), name)
    assert [m.partition(" s,")[0].rpartition(" ")[0] for m in told.missed()] == missed
    assert told.missed(5) == ()
    assert told.row.count("(limit") == len(missed)


def test_a_relapse_after_the_first_write_is_a_missed_limit() -> None:
    told = StrikeOutcome(
        "kill-leader",
        whom="node1",
        acked=9,
        before=9,
        lost=[],
        writes_gap_s=20.0,
        reads_gap_s=0.1,
        writes_after_s=0.2,
        after_healing_s=0.1,
        failed={},
        limits=STRIKES["kill-leader"].limits,
    )
    assert told.missed() == ("longest gap of writes 20.0 s, promised within 3 s",)
    assert told.missed(5) and told.missed(7) == ()
    assert "| 0.2 | 0.1 | **20.0** (limit 3) | 0.1 | 9 | 0 |" in told.row


def test_a_leader_stays_away_for_longer_than_its_limit() -> None:
    assert STRIKES["kill-leader"].away_s(1) > 3
    assert STRIKES["kill-leader"].away_s(20) == 20
    assert STRIKES["kill-database"].away_s(1) == 1


def coded(stack: Any, name: str, tmp_path: Path) -> int:
    return virtual.run(lambda: run(stack, name, 1, tmp_path / "kills.md"), limit_s=3000)


@pytest.mark.parametrize(
    ("name", "said"), [("each", "1 s, a leader after 5 s"), ("kill-leader", "5 s")]
)
def test_the_pause_that_is_said_is_the_one_that_is_made(
    cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    coded(FakeStack(cluster), name, tmp_path)
    assert (
        capsys.readouterr().out.splitlines()[0] == f"{name}: what it hits comes back after {said}"
    )


def fail(exc: Exception, service: str = "node1") -> Callable[[tuple[str, ...]], None]:
    def strike(whom: tuple[str, ...]) -> None:
        if service in whom:
            raise exc

    return strike


def test_exit_codes(
    cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert coded(FakeStack(cluster), "kill-leader", tmp_path) == 0
    assert "limit missed" not in capsys.readouterr().out
    assert coded(FakeStack(cluster, outage_s=4), "kill-leader", tmp_path) == 3
    assert "limit missed: writes again after 4." in capsys.readouterr().out
    assert (
        coded(
            FakeStack(cluster, outage_s=4, strike=lambda whom: cluster.kept.clear()),
            "kill-leader",
            tmp_path,
        )
        == 1
    )
    assert "lost: disturbed/" in capsys.readouterr().out
    stack = FakeStack(cluster, strike=fail(EngineFailed("500 Server Error")))
    assert coded(stack, "kill-leader", tmp_path) == 2
    assert capsys.readouterr().err == "error: 500 Server Error\n"
    assert stack.healed == ["node1", "all"]


def test_reading_back_that_fails_is_no_loss(
    cluster: FakeCluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def lost(load: StackLoad) -> list[str]:
        cluster.reads = False
        return await whole(load)

    whole = StackLoad.lost
    monkeypatch.setattr(StackLoad, "lost", lost)
    assert coded(FakeStack(cluster), "kill-leader", tmp_path) == 2
    assert capsys.readouterr().err.startswith("error: no node answered")


def test_one_that_fails_does_not_end_the_table(
    cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = FakeStack(cluster, outage_s=4, strike=fail(EngineFailed("a | b"), "postgres"))
    assert coded(stack, "each", tmp_path) == 2
    rows = (tmp_path / "kills.md").read_text().splitlines()[2:]
    assert rows[0] == "| kill-database | not judged: a / b | | | | | | |"
    assert len(rows) == 8 and all(r.count("|") == 9 for r in rows)
    leader = next(r for r in rows if r.startswith("| kill-leader |"))
    assert leader.count("(limit 3)") == 2
    assert "error: kill-database: a | b" in capsys.readouterr().err


def test_the_table_with_a_missed_limit_ends_with_3(cluster: FakeCluster, tmp_path: Path) -> None:
    stack: Any = FakeStack(cluster, outage_s=4)
    assert virtual.run(lambda: each(stack, 1, tmp_path / "t"), limit_s=3000) == 3
    stack.outage_s = 0.0
    assert virtual.run(lambda: each(stack, 1, tmp_path / "t"), limit_s=3000) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_a_signal_heals_and_then_ends(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def strike(whom: tuple[str, ...]) -> None:
        asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), number)

    monkeypatch.setattr(docker_load, "WARM_UP", 1)
    monkeypatch.setattr(docker_load, "WARM_UP_LEAST", 1)
    stack: Any = FakeStack(cluster, strike=strike)
    assert await interruptible(run(stack, "kill-leader", 600)) == 128 + number
    assert stack.healed == ["node1", "all"]


async def test_after_a_signal_nobody_else_is_struck_though_healing_fails(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def heal_each(whom: tuple[str, ...]) -> None:
        raise NotHealed("not healed, look after them: postgres")

    def strike(whom: tuple[str, ...]) -> None:
        asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(docker_load, "WARM_UP", 1)
    monkeypatch.setattr(docker_load, "WARM_UP_LEAST", 1)
    stack: Any = FakeStack(cluster, strike=strike)
    stack.heal_each = heal_each
    assert await interruptible(run(stack, "each", 600, tmp_path / "t")) == 2
    assert stack.struck == ["postgres"]


# ----------------------------------------------------------------------------------- over an engine


async def test_the_strike_begins_before_the_engine_is_asked_and_after_the_look_up() -> None:
    loop, engine = asyncio.get_running_loop(), FakeEngine("node1", "node2")
    times: dict[str, float] = {}
    engine.containers.list = lambda **how: (
        times.update(looked=loop.time()) or list(engine.found.values())
    )
    engine.meanwhile = lambda: times.setdefault("asked", loop.time())
    began = await over(engine).strike("kill", ("node1", "node2"))
    assert times["looked"] <= began <= times["asked"]
    assert sorted(engine.done) == ["kill node1", "kill node2"]
    await over(engine).strike("disconnect", ("node1",))
    assert engine.done[-1] == "cut node1"


@pytest.mark.parametrize("exc", [docker.errors.APIError("500"), requests.ConnectionError("gone")])
async def test_what_the_engine_says_becomes_one_error(exc: Exception) -> None:
    engine = FakeEngine("node1", "node2")
    engine.fails["kill node1"] = exc
    with pytest.raises(EngineFailed, match=r"500|gone"):
        await over(engine).strike("kill", ("node1", "node2"))
    assert engine.found["node2"].status == "exited", "the others were waited for"
    with pytest.raises(NoStack, match="project acordo has no rabbit1"):
        await over(engine).strike("kill", ("rabbit1",))


async def test_one_that_cannot_be_healed_keeps_no_other_down(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = FakeEngine("node1", "node2", "node3")
    for container in engine.found.values():
        container.status = "exited"
    engine.fails["start node1"] = docker.errors.APIError("no space left")
    with pytest.raises(NotHealed, match=r"look after them: node1$"):
        await over(engine).heal_all()
    assert [c.status for c in engine.found.values()] == ["exited", "running", "running"]
    assert capsys.readouterr().err == "error: node1 is not healed: no space left\n"


async def test_who_cannot_be_put_back_on_the_network_is_not_healed() -> None:
    engine = FakeEngine("node1")
    engine.found["node1"].attrs["NetworkSettings"]["Networks"] = {}
    engine.fails["connect node1"] = docker.errors.APIError("address in use")
    with pytest.raises(NotHealed):
        await over(engine).heal_each(["node1"])


async def test_a_kill_under_way_is_waited_for_before_healing() -> None:
    engine, asked, go = FakeEngine("node1"), threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        go.wait(30)

    engine.meanwhile = wait
    target = over(engine)

    async def story() -> None:
        try:
            await target.strike("kill", ("node1",))
        finally:
            await target.heal_each(["node1"])

    running = asyncio.create_task(story())
    await asyncio.to_thread(asked.wait, 30)
    running.cancel()
    asyncio.get_running_loop().call_later(0.2, go.set)
    await asyncio.wait([running])
    assert running.cancelled()
    assert engine.done == ["kill node1", "start node1"]
    assert engine.found["node1"].status == "running"


# ---------------------------------------------------------------------------------- at the terminal

FILES = {path.name: path for path in (Path(docker_load.__file__).parents[1] / "scripts").iterdir()}


@pytest.mark.parametrize("name", FILES)
def test_each_script_says_what_it_does_its_options_and_its_exit_codes(name: str) -> None:
    """In its first lines and with --help, from any directory."""
    file, script = FILES[name].read_text(), STRIKES.get(name)
    told = subprocess.run(
        [FILES[name], "--help"], cwd="/", capture_output=True, text=True, check=True
    ).stdout
    words = ["--pause", "--project"]
    if script is not None:
        words += [script.does, f"limits: {script.limits}"]
        assert f'exec "$python" -m chaos.commands.docker_scripts {name} ' in file
        if script.away_s(0):
            words.append(f", at least {script.away_s(0):g} ")
    for word in words:
        assert word in told and word in file, word
    for code in (0, LOST, UNJUDGED, MISSED):
        assert f"\n  {code}  " in told and f" {code} " in file.partition("# exit codes:")[2], code
    assert os.access(FILES[name], os.X_OK)


@pytest.mark.parametrize(
    "words", [("kill-leader", "--pause", "-1"), ("kill-leader", "--pause", "nan"), ("no-such",)]
)
def test_wrong_arguments_are_no_loss(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        docker_scripts.main(list(words))
    assert ended.value.code == UNJUDGED
    assert "usage:" in capsys.readouterr().err


def test_an_error_that_nobody_thought_of_is_no_loss(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(target: DockerTarget, name: str, pause_s: float) -> int:
        raise KeyError("unforeseen")

    monkeypatch.setattr(docker_scripts, "run", broken)
    assert docker_scripts.main(["kill-leader"]) == UNJUDGED
    assert "unforeseen" in capsys.readouterr().err
