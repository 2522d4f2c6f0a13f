"""How a load is summed up and judged, and what `acordo check perf` leaves behind."""

from __future__ import annotations

import pytest

from acordo import Client
from acordo._cli.verdicts import Limits, missed, percentile, summed_up
from tests.unit.acordo.fake_cluster import FakeCluster, problem
from tests.unit.acordo.test_cli import Shell
from tests.unit.node.conftest import opened


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)]
)
def test_a_percentile_is_a_latency_that_was_measured(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == expected
    assert percentile([], share) == 0.0


def test_a_load_is_judged_by_its_limits() -> None:
    found = summed_up([0.01] * 98 + [0.3, 0.4], 0, 2.0, 0.5, {"n1": 1.0})
    assert (found.rate, found.p50_ms, found.p99_ms, found.max_ms) == (50.0, 10.0, 300.0, 400.0)
    assert (found.client_cpu_percent, found.member_cpu_percent) == (25.0, {"n1": 50.0})
    assert missed(found, Limits(rate=55, p99_ms=300)) == []
    assert missed(found, Limits(rate=56, p99_ms=299)) == [
        "50 writes/s, below 90% of 56",
        "p99 300 ms, above 299 ms",
    ]
    failed = summed_up([], 3, 2.0, 0.0, {})
    assert missed(failed, Limits(rate=1, p99_ms=1))[0] == "3 writes failed"


async def test_a_check_leaves_no_keys() -> None:
    async with opened() as node, Client(node.url) as client:
        await client.put("mine", "1")
        ran = await Shell([node.url])(
            *("check", "perf", "--rate", "100", "--seconds", "0.3", "--p99-ms", "60000", "--json")
        )
        assert (ran.json["writes"], ran.json["failed"]) == (30, 0)
        assert [each.key async for each in client.list()] == [b"mine"]


async def test_a_load_that_fails_does_not_pass() -> None:
    async with FakeCluster() as cluster:
        cluster.trouble = lambda request: (
            problem(400, "bad", outcome="not_applied") if request.method == "PUT" else None
        )
        ran = await Shell(cluster.urls)("check", "perf", "--rate", "50", "--seconds", "0.1")
        assert (ran.code, b"fail: 5 writes failed" in ran.out) == (1, True)
