"""The one view of a cluster: what is judged of its members, and what a terminal shows of it."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from acordo import BadRequest, Client, Cluster, Member
from acordo._cli import main as cli
from acordo._cli.health import alarms, healths
from acordo._cli.shell import GlobalOptions, app, client_of_member
from acordo._cli.status import duration
from tests.unit.acordo.fake_cluster import FakeCluster
from tests.unit.acordo.test_cli import Shell

assert cli.COMMANDS  # importing it registers the commands


def seen(*members: Member, raw: dict[str, object] | None = None, **more: Any) -> Cluster:
    given: dict[str, Any] = {"leader": "n1", "quorum": True, "settled": 7, "term": 2} | more
    return Cluster(node="n1", role="leader", members=members, raw=raw or {}, **given)


def three(**of_n3: Any) -> list[Member]:
    usual: dict[str, Any] = {"role": "follower", "settled": 7, "digest": "aa"}
    return [Member(id=id, **usual) for id in ("n1", "n2")] + [Member(id="n3", **usual | of_n3)]


def told(cluster: Cluster, **asked: Cluster | str) -> list[tuple[str, str | None, str]]:
    said: dict[str, Cluster | str] = {each.id: seen() for each in cluster.members}
    return [
        (each.weight, each.member, each.what)
        for each in alarms(cluster, healths(cluster, said | asked))
    ]


def test_a_healthy_cluster_has_no_alarm() -> None:
    assert told(seen(*three())) == []


@pytest.mark.parametrize(
    ("cluster", "asked", "what"),
    [
        (seen(*three(), leader=None), {}, "this node knows no leader yet"),
        (seen(*three(), quorum=False), {}, "no quorum"),
        (seen(*three(), refusal="store_behind"), {}, "writes are refused until somebody decides"),
        (seen(*three(), raw={"unsafe_fsync": True, "fsync": "off"}), {}, "fsync=off"),
        (seen(*three()), {"n3": "connection refused"}, "n3 does not answer: connection refused"),
        (seen(*three(role="unknown")), {}, "n3 was not heard by the others"),
        (seen(*three(digest="bb")), {}, "members differ at revision 7"),
    ],
)
def test_what_costs_service_or_safety_is_an_alarm(
    cluster: Cluster, asked: dict[str, Cluster | str], what: str
) -> None:
    (found,) = told(cluster, **asked)
    assert found[0] == "alarm" and found[2].startswith(what)


@pytest.mark.parametrize(
    ("cluster", "asked", "what"),
    [
        (seen(*three()), {"n3": seen(raw={"version": "0.3"}), "n1": seen(raw={"version": "0.2"})},
         "members run versions 0.2 and 0.3"),
        (seen(*three(), raw={"feature_level": 1}),
         {id: seen(raw={"feature_level_spoken": 2}) for id in ("n1", "n2", "n3")},
         "the feature level is 1"),
        (seen(*three(), raw={"limits_differ": ["retention_ms"]}), {}, "n1 is set otherwise"),
        (seen(*three(), raw={"broadcast_lag": 9}), {}, "the broker is 9 revisions behind"),
        (seen(*three()[:2]), {}, "2 voters"),
    ],
)  # fmt: skip
def test_what_does_not_yet_is_a_notice(
    cluster: Cluster, asked: dict[str, Cluster | str], what: str
) -> None:
    (found,) = told(cluster, **asked)
    assert found[0] == "notice" and found[2].startswith(what)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7200, "2 h 0 min"), (90061, "1 d 1 h")],
)
def test_a_duration_has_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def lines_at(columns: int, monkeypatch: pytest.MonkeyPatch, urls: list[str]) -> list[str]:
    """Return what a terminal of so many columns shows of the status."""
    environment = {"ACORDO_URLS": " ".join(urls), "COLUMNS": str(columns), "TERM": "xterm"}
    monkeypatch.setattr("acordo._cli.output.PIPE_WIDTH", columns)
    ran = CliRunner(env=environment).invoke(app, ["status"])
    assert ran.exit_code == 0, ran.output
    return ran.output.splitlines()


async def test_the_view_fits_any_width_and_cuts_no_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import asyncio

    async with FakeCluster(3) as cluster:
        for columns in (120, 80, 50):
            lines = await asyncio.to_thread(lines_at, columns, monkeypatch, cluster.urls)
            assert all(any(line.rstrip().endswith(url) for line in lines) for url in cluster.urls)
            table = [line for line in lines[1:] if "alarm" not in line]
            assert all(cell_len(line.rstrip()) <= columns for line in table), (columns, lines)
            assert "no alarms" in lines[-1]
            assert not any("\x1b" in line for line in lines), "colours are for terminals"


async def test_a_dead_member_is_an_alarm_and_in_the_json() -> None:
    async with FakeCluster(3) as cluster:
        cluster.dead = {"n3"}
        ran = await Shell(cluster.urls[:1])("status", "--json")
        assert ran.code == 0
        health = ran.json["health"]
        assert [health[id]["state"] for id in ("n1", "n2", "n3")] == [
            *("ready", "ready"),
            "does not answer",
        ]
        assert {each["member"] for each in ran.json["alarms"]} == {"n3"}
        said = await Shell(cluster.urls[:1])("status")
        assert b"alarm: n3 does not answer" in said.out


async def test_no_token_goes_where_https_was_given_and_a_member_names_http() -> None:
    async with FakeCluster(1) as cluster:
        given, named = "https://127.0.0.1:1", cluster.urls[0]
        with pytest.raises(BadRequest, match="is no HTTPS") as refused:
            client_of_member(GlobalOptions((given,), False, 1.0, token="t"), named, 1.0)
        assert refused.value.code == "no_https"
        async with Client([given], token="t") as client:
            status, why = await client.look(named, "/health")
        assert (status, b"is no HTTPS" in why, len(cluster.requests)) == (None, True, 0)
        async with Client([named], token="t") as client:
            status, _ = await client.look(named, "/health")
        assert status is not None
        assert len(cluster.requests) == 1
