"""`acordo top`, driven by its keyboard against a cluster in memory; and its figures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from textual.widgets import DataTable, Static

from acordo._cli.figures import Load, grown, load_of, rates, together
from acordo._cli.screen import Screen
from acordo._cli.shell import GlobalOptions
from tests.unit.acordo.fake_cluster import FakeCluster

METRICS = """\
# TYPE acordo_writes_acknowledged_total counter
acordo_writes_acknowledged_total 40.0
acordo_watchers 3.0
acordo_http_request_seconds_bucket{le="0.01",method="PUT",route="/v1/kv/{key}"} 30.0
acordo_http_request_seconds_bucket{le="0.1",method="PUT",route="/v1/kv/{key}"} 40.0
acordo_http_request_seconds_bucket{le="+Inf",method="PUT",route="/v1/kv/{key}"} 40.0
acordo_http_request_seconds_bucket{le="0.01",method="GET",route="/v1/kv/{key}"} 9.0
"""


def test_figures_are_of_writes_between_two_looks() -> None:
    load = load_of(METRICS)
    assert (load.writes, load.watchers, load.buckets[0.01]) == (40, 3, 30)
    both = together([load, load])
    assert (both.writes, both.watchers, both.buckets[0.1]) == (80, 6, 80)
    moved = rates(load, both, 2.0)
    assert (moved.writes_per_s, moved.p99_ms) == (20.0, 100.0)
    assert rates(both, both, 1.0).p99_ms is None
    assert rates(both, load, 1.0).writes_per_s == 0, "a node that restarted counts from nothing"


def test_a_member_that_is_silent_for_a_look_makes_no_rate_of_its_whole_life() -> None:
    """It answers again after a pause: what it did before the pause was not done just now."""
    old, young = Load(writes=1_000_000, buckets={0.1: 9.0}), Load(writes=5, buckets={0.1: 5.0})
    later = Load(writes=15, buckets={0.1: 15.0}, watchers=2)
    came = grown({"n2": young}, {"n1": old, "n2": later})
    assert (came.writes, came.buckets, came.watchers) == (10, {0.1: 10.0}, 2)
    began_again = Load(writes=3, buckets={0.1: 3.0})
    both = {"n1": old, "n2": later}
    assert grown({"n1": old, "n2": young}, both | {"n1": began_again}).writes == 10


def words(screen: Screen, of: str) -> str:
    return str(screen.query_one(of, Static).render())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.timeout(120)
async def test_top_shows_the_cluster_and_obeys_its_keys() -> None:
    async with FakeCluster(3) as cluster:
        options = GlobalOptions(urls=tuple(cluster.urls), as_json=False, timeout_s=5.0)
        screen = Screen(options, 0.2)
        async with screen.run_test(size=(120, 40)) as pilot:
            await until(lambda: screen.looks > 0)
            assert "n1 leads" in words(screen, "#head")
            table = screen.query_one(DataTable)
            assert [row.value for row in table.rows] == ["n1", "n2", "n3"]
            cluster.dead = {"n3"}
            await until(lambda: "n3 does not answer" in words(screen, "#alarms"))
            await pilot.press("down", "t")
            await until(lambda: "n2 leads" in words(screen, "#head"))
            await pilot.press("p")
            assert screen.paused
            await pilot.press("q")
        assert screen.return_code == 0
