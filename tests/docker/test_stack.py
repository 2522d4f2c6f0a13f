"""The stack in containers: it comes up, loses nothing when a container is killed, and grows and
shrinks under load.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from chaos.records.intervals import fault_windows
from chaos.records.saved import load_history
from chaos.strikes.catalogue import STRIKES
from chaos.strikes.disturb import disturb
from chaos.strikes.load import WARM_UP_LEAST
from chaos.strikes.outcome import HEAD, StrikeOutcome
from chaos.targets.docker_stack import DockerTarget
from chaos.waiting import until
from tests.docker.engine import PROJECT, ROOT, Stack

pytestmark = pytest.mark.timeout(1800)
OUT = ROOT / "out" / "docker"
SCALE_WITHIN_S = 180
ALERT_WITHIN_S = 90


def test_start_sh_brings_it_up_and_says_where_it_is(stack: Stack) -> None:
    assert "passed, 0 failed" in stack.said
    assert f"API and page   {stack.url}/" in stack.said
    assert "login admin/admin" in stack.said


def test_everything_is_published_on_loopback_alone_and_nothing_runs_as_root(stack: Stack) -> None:
    import docker

    client = docker.from_env()
    found = client.containers.list(filters={"label": f"com.docker.compose.project={PROJECT}"})
    assert len(found) >= 16
    for container in found:
        for bound in (container.attrs["HostConfig"]["PortBindings"] or {}).values():
            assert all(b["HostIp"] == "127.0.0.1" for b in bound), container.name
        service = container.labels["com.docker.compose.service"]
        if service.startswith(("node", "nginx", "worker", "autoscaler")):
            assert container.attrs["HostConfig"]["ReadonlyRootfs"], service
            code, said = container.exec_run(["id", "-u"])
            assert isinstance(said, bytes)
            assert code == 0 and said.strip() != b"0", service
        assert container.attrs["HostConfig"]["Memory"] > 0, service


def test_starting_again_changes_nothing(stack: Stack) -> None:
    done = stack.script()
    assert done.returncode == 0, done.stdout
    assert "0 failed" in done.stdout


async def test_a_changed_setting_is_rolled_out_without_a_failed_request(stack: Stack) -> None:
    """One node at a time, the leader last: reads and writes through nginx go on all the while."""
    failed: list[str] = []
    answered, stop = 0, asyncio.Event()
    # nginx closes what is idle when its list changes, also what a client writes to in that moment.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=20), connector=connector
    ) as http:

        async def one(n: int) -> None:
            nonlocal answered
            url = f"{stack.url}/v1/kv/rolled/{n}"
            while not stop.is_set():
                for method in ("PUT", "GET"):
                    async with http.request(
                        method, url, data=b"1" if method == "PUT" else None
                    ) as response:
                        said = await response.text()
                        answered += 1
                        if response.status not in (200, 201):
                            failed.append(f"{method} {response.status} {said[:300]}")

        async with asyncio.TaskGroup() as tasks:
            for n in range(4):
                tasks.create_task(one(n))
            stack.change("ACORDO_LOG_LEVEL", "warning")
            done = await asyncio.to_thread(stack.script)
            stop.set()
    assert done.returncode == 0, done.stdout
    for node in ("node1", "node2", "node3"):
        assert f"{node}: new image or settings" in done.stdout
    assert answered > 100
    assert failed == []


async def test_a_start_without_one_node_serves_and_the_alert_comes(stack: Stack) -> None:
    """A node whose settings are refused stays, unhealthy; two of three serve; Prometheus says so
    within 90 s.
    """
    import docker

    client = docker.from_env()
    (container,) = client.containers.list(
        filters={
            "label": [f"com.docker.compose.project={PROJECT}", "com.docker.compose.service=node3"]
        }
    )
    container.stop()
    began = asyncio.get_running_loop().time()
    try:

        async def firing() -> bool:
            url = f"{stack.prometheus}/api/v1/alerts"
            async with aiohttp.ClientSession() as http, http.get(url) as response:
                alerts = (await response.json())["data"]["alerts"]
            return any(
                a["labels"]["alertname"] == "AcordoVoterAway" and a["state"] == "firing"
                for a in alerts
            )

        assert await until(firing, ALERT_WITHIN_S * TIMES)
        print(
            f"AcordoVoterAway after {asyncio.get_running_loop().time() - began:.0f} s (limit "
            f"{ALERT_WITHIN_S})"
        )
        async with (
            aiohttp.ClientSession() as http,
            http.put(stack.url + "/v1/kv/two", data=b"1") as response,
        ):
            assert response.status in (200, 201)
    finally:
        container.start()


FAULTS = (
    "container-kill-leader",
    "container-disconnect-leader",
    "container-pause-follower",
    "container-restart-leader",
    "container-kill-all",
    "container-kill-database",
    "container-kill-redis-master",
    "container-pause-rabbit",
    "container-kill-nginx",
)
"""Of every way and of every kind of container one. Each is a family of its own, so each has its
turn.
"""
CHAOS_WITHIN_S = 1200
"""At most three times its 100 s of load, the last fault, 120 s to recover, 180 s to end and look
up, and judging.
"""
TOLD: list[StrikeOutcome] = []
TIMES = 5
"""A fail-over that does not work takes longer than so many times its limit, a busy machine does
not.
"""
AWAY_S = {
    n: s.limits.writes_after_s * TIMES + 5
    for n, s in STRIKES.items()
    if s.limits.writes_after_s is not None
}
"""A leader comes back only when those limits are over: what writes again is a fail-over, not its
return.
"""


@pytest.mark.parametrize("name", STRIKES)
async def test_nothing_acknowledged_is_lost_when_a_container_goes(stack: Stack, name: str) -> None:
    async with DockerTarget(PROJECT) as target:
        assert await target.healthy(120)
        told = await disturb(target, STRIKES[name], name, AWAY_S.get(name, 3))
    print(told)
    TOLD.append(told)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "kills.md").write_text("\n".join([HEAD, *(t.row for t in TOLD)]) + "\n")
    assert told.before >= WARM_UP_LEAST
    assert told.lost == []
    assert told.missed(TIMES) == ()


def test_a_chaos_run_on_containers_finds_no_anomaly_and_is_not_weak(
    stack: Stack, tmp_path: Path
) -> None:
    """Nine faults, each of which bites: it goes on until they did and enough was written and read,
    however slow.
    """
    command = [
        sys.executable, "-m", "chaos", "run", "--target", "docker", "--workload", "register,append",
        "--nemesis", ",".join(FAULTS), "--faults", str(len(FAULTS)), "--operations", "400",
        "--time", "100", "--clients", "5", "--pause", "0.1", "--seed", "7", "--out", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "COMPOSE_PROJECT_NAME": PROJECT},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=CHAOS_WITHIN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    (folder,) = tmp_path.iterdir()
    assert {
        w.nemesis
        for w in fault_windows(load_history(folder / "history.jsonl").faults)
        if w.bit_ns is not None
    } == set(FAULTS)
    assert (folder / "report.html").stat().st_size > 0


async def test_load_adds_an_observer_and_its_end_removes_it_without_a_failed_request(
    stack: Stack,
) -> None:
    answered: Counter[str] = Counter()
    failed: list[str] = []
    stop, few = asyncio.Event(), asyncio.Event()
    timeout = aiohttp.ClientTimeout(total=20)
    # nginx closes what is idle when its list changes, also what a client writes to in that moment;
    # so whoever stays to the end opens a connection for each request, and nothing that fails can be
    # put down to that.
    many, each = aiohttp.TCPConnector(limit=0), aiohttp.TCPConnector(force_close=True)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=many) as http,
        aiohttp.ClientSession(timeout=timeout, connector=each) as afresh,
    ):
        async with http.put(stack.url + "/v1/kv/scaled", data=b"1") as response:
            assert response.status in (200, 201)

        async def read(slow: bool) -> None:
            while not stop.is_set() and not (few.is_set() and not slow):
                try:
                    async with (afresh if slow else http).get(
                        stack.url + "/v1/kv/scaled"
                    ) as response:
                        if response.status == 200:
                            answered[response.headers["Acordo-Node"]] += 1
                        else:
                            failed.append(f"{response.status}: {await response.text()}")
                except (aiohttp.ClientError, TimeoutError) as exc:
                    failed.append(repr(exc))
                if slow:
                    await asyncio.sleep(0.2)

        def observers() -> list[str]:
            return [n for n in answered if n.startswith("o")]

        async def answers() -> bool:
            return bool(observers()) and answered[observers()[0]] > 20

        async def gone() -> bool:
            async with afresh.get(stack.url + "/v1/cluster") as response:
                members = (await response.json())["members"] if response.status == 200 else []
            return bool(members) and all(m["voter"] for m in members)

        async with asyncio.TaskGroup() as tasks:
            for n in range(64):
                tasks.create_task(read(slow=n == 0))
            try:
                assert await until(answers, SCALE_WITHIN_S), (answered, failed[:3])
                few.set()
                assert await until(gone, SCALE_WITHIN_S), answered
            finally:
                stop.set()

        async def counted() -> bool:  # Prometheus looks at the autoscaler every few seconds
            query = {"query": "acordo_autoscaler_decisions_total"}
            async with http.get(f"{stack.prometheus}/api/v1/query", params=query) as r:
                decisions = (await r.json())["data"]["result"]
            return {d["metric"]["change"] for d in decisions} >= {"1", "-1"}

        assert await until(counted, 60)
    assert failed == []


def test_a_damaged_node_gives_its_place_to_a_new_member(stack: Stack) -> None:
    done = stack.script("replace", "node2")
    assert done.returncode == 0, done.stdout
    assert "n2-2 has taken the place of n2" in done.stdout
    assert "n2-2" in stack.script("status").stdout
