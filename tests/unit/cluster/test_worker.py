"""A worker says at its start what it cannot do as it is."""

from __future__ import annotations

from structlog.testing import capture_logs

from acordo import Client
from cluster.workers.worker import say_what_is_missing
from tests.unit.acordo.fake_cluster import FakeCluster
from tests.unit.acordo.scripted import closed_port


async def test_without_a_cluster_and_a_broker_it_says_so_in_one_line_each() -> None:
    url = f"http://127.0.0.1:{await closed_port()}"
    async with Client(url) as client:
        with capture_logs() as said:
            await say_what_is_missing(client, [url], broker=False)
    assert [each["log_level"] for each in said] == ["warning", "warning"]
    assert said[0]["event"].startswith("no broker: asynchronous writes are not submitted")
    assert said[1]["event"].startswith("no cluster answers yet")
    assert said[1]["urls"] == [url]


async def test_with_both_it_says_nothing() -> None:
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        with capture_logs() as said:
            await say_what_is_missing(client, cluster.urls, broker=True)
    assert said == []
