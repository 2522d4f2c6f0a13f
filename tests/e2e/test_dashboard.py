"""The provisioned dashboard against a live Prometheus: every query of every panel has an answer
while there is load.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

from acordo import AcordoError, Client
from chaos.nemeses.fault_gauge import Windows
from cluster.ports import free_port
from cluster.services.prometheus import Prometheus
from deploy import dashboard
from deploy.dashboard import Line, Query, ask, overlays, panels
from tests.e2e.conftest import Start, until
from tests.e2e.test_autoscaler import autoscaler

ROOT = Path(__file__).parents[2]
PICTURE = "ACORDO_TEST_PICTURE"
"""Names a file: the test then goes on for a while, kills the leader, and draws the panels there."""
LEVELS = ("linearizable", "session", "stale")
pytestmark = pytest.mark.timeout(300)


@contextlib.asynccontextmanager
async def load(urls: list[str]) -> AsyncIterator[None]:
    """Write and read at every level, also what is not there."""
    stop = asyncio.Event()

    async def one(client: Client, n: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            with contextlib.suppress(AcordoError):
                await client.put(f"dash/{n}/{turn % 50}", f"{turn}".encode())
                await client.get(f"dash/{n}/{(turn + 7) % 60}", level=LEVELS[turn % 3])  # type: ignore[arg-type]
            await asyncio.sleep(0.02)

    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(url, retries=False, timeout_s=5)) for url in urls
        ]
        async with asyncio.TaskGroup() as tasks:
            for n in range(9):
                tasks.create_task(one(clients[n % len(clients)], n))
            try:
                yield
            finally:
                stop.set()


async def test_every_panel_shows_something_under_load(start: Start, tmp_path: Path) -> None:
    windows, port, listen = Windows(), free_port(), f"127.0.0.1:{free_port()}"
    async with start() as cluster, contextlib.AsyncExitStack() as stack:
        urls = [node.url for node in cluster.nodes.values()]
        assert stack.enter_context(windows.shown("127.0.0.1", port)) is None
        jobs = {"nodes": [u.removeprefix("http://") for u in urls]}
        jobs |= {"chaos": [f"127.0.0.1:{port}"], "autoscaler": [listen]}
        prometheus = await asyncio.to_thread(Prometheus(jobs).start)
        stack.callback(prometheus.__exit__, None, None, None)
        settings = {
            "DIR": str(tmp_path / "data" / "observers"), "URLS": ",".join(urls), "LISTEN": listen,
            "PROMETHEUS": prometheus.url, "PERIOD_S": "1", "OBSERVERS_MAX": "0",
        }  # fmt: skip
        await stack.enter_async_context(autoscaler(settings, tmp_path / "autoscaler.log"))
        await stack.enter_async_context(load(urls))
        began = time.time()

        async def lines(query: Query) -> list[Line]:
            return await asyncio.to_thread(ask, prometheus.url, query, began, time.time(), 1)

        for panel in panels():
            for query in panel.queries:

                async def shown(query: Query = query) -> bool:
                    return any(line.points for line in await lines(query))

                await until(shown, f"{panel.title}: {query.expression} has an answer")
        # What is counted by node or by level has a line for each.
        by_node = [q for p in panels() for q in p.queries if q.legend == "{{node}}"]
        assert len(by_node) >= 5
        for query in by_node:
            assert {line.name for line in await lines(query)} == {"n1", "n2", "n3"}, query
        levels = next(q for p in panels() for q in p.queries if q.legend == "{{level}}")
        assert {line.name for line in await lines(levels)} == set(LEVELS)
        writes = next(q for p in panels() if p.title == "Writes by outcome" for q in p.queries)
        assert any(line.name == "done" and line.points[-1][1] > 0 for line in await lines(writes))
        states = next(q for p in panels() for q in p.queries if q.legend == "{{state}}")
        counted = {line.name: line.points[-1][1] for line in await lines(states)}
        assert counted.pop("sound") == 3 and set(counted.values()) == {0.0}

        chaos = overlays()[0]
        assert await lines(chaos) == []
        with windows.window("kill-leader", ("n1",)):

            async def window() -> bool:
                return [line.name for line in await lines(chaos)] == ["kill-leader"]

            await until(window, "the window of a fault is an annotation")
        if path := os.environ.get(PICTURE):
            await _picture(cluster, prometheus.url, windows, Path(path))


async def test_a_voter_that_stops_is_an_alert_and_a_whole_cluster_is_none(start: Start) -> None:
    """The rules against what nodes really tell: names, labels and joins. How long they wait,
    promtool tests.
    """
    async with start() as cluster, contextlib.AsyncExitStack() as stack:
        urls = [node.url for node in cluster.nodes.values()]
        prometheus = await asyncio.to_thread(
            Prometheus({"nodes": [u.removeprefix("http://") for u in urls]}).start
        )
        stack.callback(prometheus.__exit__, None, None, None)
        async with load(urls):

            async def told(expression: str, since: float) -> set[str]:
                found = await asyncio.to_thread(
                    ask, prometheus.url, Query(expression, "{{alertname}}"), since, time.time(), 1
                )
                return {line.name for line in found}

            async def all_are_seen() -> bool:
                """Say whether each node was scraped, and so the rules asked, five times."""
                seen = (
                    "acordo_has_quorum == 1 and on (instance) "
                    "count_over_time(acordo_node_info[30s]) >= 5"
                )
                return bool(await told(f"count({seen}) == 3", time.time()))

            await until(all_are_seen, "three nodes are scraped")
            # Before that it knew fewer than three; and nobody runs a worker here.
            assert await told("ALERTS", time.time() - 2) <= {"AcordoWorkerAway"}
            killed = time.time()
            # it stays down: a scrape could miss a start within a second
            await cluster.stop_node("n3", signal.SIGKILL)

            async def raised() -> bool:
                return "AcordoVoterAway" in await told("ALERTS", killed)

            await until(raised, "a stopped voter is an alert")


async def _picture(cluster: object, url: str, windows: Windows, path: Path) -> None:
    from cluster.local.runner import LocalCluster

    assert isinstance(cluster, LocalCluster)
    await asyncio.sleep(4)  # past the window of the test itself
    began = time.time()
    await asyncio.sleep(15)
    async with Client([n.url for n in cluster.nodes.values()]) as client:
        leader = (await client.cluster()).leader
    assert leader is not None
    with windows.window("kill-leader", (leader,)):
        process = cluster.nodes[leader].process
        assert process is not None
        process.kill()
        await asyncio.sleep(8)
    await asyncio.sleep(15)
    await asyncio.to_thread(dashboard.draw, url, path, began, time.time())


def test_no_panel_hides_that_it_is_empty() -> None:
    for panel in panels():
        assert panel.queries, panel.title
        for query in panel.queries:
            assert "vector(" not in query.expression, panel.title
            assert " or " not in query.expression, panel.title


def test_the_dashboard_shows_what_somebody_on_call_asks_for() -> None:
    titles = {panel.title for panel in panels()}
    assert titles >= {
        "Leader", "Term", "Writes by outcome", "Reads by level", "Latency of writes",
        "Latency of reads", "Group sizes", "Revision lag per node", "Cache hits", "Back ends",
        "Observers", "The autoscaler's decisions", "Own stores by state",
        "Settled, not in the file", "Contents compared", "Scrub of rows", "States copied",
    }  # fmt: skip
    assert next(q.legend for q in overlays()) == "{{nemesis}}"


def test_grafana_finds_the_dashboard_and_its_datasource() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounted = dict(v.removesuffix(":ro").split(":") for v in compose["grafana"]["volumes"])
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    assert mounted["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in compose
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "acordo.yml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] == mounted["./deploy/grafana/dashboards"]
    board = json.loads(dashboard.DASHBOARD.read_text())
    used = [p["datasource"] for p in board["panels"] if p["type"] != "row"]
    used += [t["datasource"] for p in board["panels"] for t in p.get("targets", ())]
    used += [a["datasource"] for a in board["annotations"]["list"]]
    assert all(d == {"type": "prometheus", "uid": source["uid"]} for d in used)
    home = compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{dashboard.DASHBOARD.name}"
    assert len({p["id"] for p in board["panels"]}) == len(board["panels"])
