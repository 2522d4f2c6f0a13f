"""What a node says of the writes that it acknowledged."""

from __future__ import annotations

from node.writes.activity import BOUNDS_MS, WAITS_MAX, WriteActivity
from tests.unit.node.conftest import Open


def test_counts_by_how_long_they_took() -> None:
    activity = WriteActivity()
    for seconds in (0.0001, 0.00025, 0.0003, 60.0):
        activity.note(10.0, 10.0 + seconds, wall_ms=0)
    assert activity.total == sum(activity.buckets) == 4
    assert len(activity.buckets) == len(BOUNDS_MS) + 1
    assert activity.buckets[:2] == [2, 1]
    assert activity.buckets[-1] == 1


def test_long_waits_that_overlap_are_one() -> None:
    activity = WriteActivity()
    activity.note(1.0, 1.1, wall_ms=1)  # not long
    assert not activity.waits
    activity.note(2.1, 2.5, wall_ms=2)
    activity.note(2.0, 2.6, wall_ms=3)
    activity.note(3.0, 3.3, wall_ms=4)
    told = [(each.ended_ms, each.lasted_ms, each.writes) for each in activity.waits]
    assert told == [(3, 600, 2), (4, 299, 1)]
    for n in range(2 * WAITS_MAX):
        activity.note(10.0 + n, 10.5 + n, wall_ms=n)
    assert len(activity.waits) == WAITS_MAX


async def test_activity_counts_what_was_acknowledged_once(open_api: Open) -> None:
    async with open_api() as api:
        before = (await api.ask("GET", "/v1/activity")).json()
        assert (before["node"], before["writes_acknowledged"]) == ("n1", 0)
        for _ in range(2):
            await api.ask("PUT", "/v1/kv/k", data=b"v", headers={"Idempotency-Key": '"once"'})
        await api.ask("PUT", "/v1/kv/k", data=b"v", headers={"If-None-Match": "*"})  # refused
        after = (await api.ask("GET", "/v1/activity")).json()
        assert after["writes_acknowledged"] == sum(after["write_ms"]["counts"]) == 1
        assert len(after["write_ms"]["counts"]) == len(after["write_ms"]["bounds"]) + 1


async def test_a_local_runner_is_told_to_callers_of_this_machine(open_api: Open) -> None:
    async with open_api() as api:
        (await api.ask("GET", "/v1/control")).problem(404, "no_control")
    async with open_api(control=("http://127.0.0.1:9", "secret")) as api:
        assert (await api.ask("GET", "/v1/control")).json() == {
            "url": "http://127.0.0.1:9",
            "token": "secret",
        }
        rebound = await api.ask("GET", "/v1/control", headers={"Host": "evil.example"})
        rebound.problem(421, "wrong_host")
        page = await api.ask("GET", "/")
        assert " http://127.0.0.1:9 " in page.headers["Content-Security-Policy"]


async def test_a_write_says_where_its_time_went_if_it_is_asked(open_api: Open) -> None:
    async with open_api() as api:
        silent = await api.ask("PUT", "/v1/kv/k", data=b"v")
        assert "Server-Timing" not in silent.headers
        told = await api.ask("PUT", "/v1/kv/k", data=b"v", headers={"Acordo-Timing": "true"})
        stages = [each.split(";dur=") for each in told.headers["Server-Timing"].split(", ")]
        assert [name for name, _ in stages] == ["accept", "order"]
        assert all(float(ms) >= 0 for _, ms in stages)
