"""`python -m cluster kill`: the process that is meant dies, and no other one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.local import stop
from cluster.local.process import NodeState
from cluster.local.runner import LocalCluster
from kv.errors import BadRequest
from tests.unit.cluster.test_runner import DUMMY, settings, until


@pytest.mark.parametrize(("asked", "killed"), [("leader", "n1"), ("n2", "n2")])
async def test_one_process_is_killed_and_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: str, killed: str
) -> None:
    async with LocalCluster(settings(tmp_path), command=DUMMY) as cluster:
        assert await cluster.wait_ready() == "n1"
        node, first = cluster.nodes[killed], cluster.nodes[killed].pid
        argv = [asked, "--data", str(tmp_path / "data")]
        assert await asyncio.to_thread(stop.kill_main, argv) == 0
        await until(lambda: node.starts == 2 and node.state is NodeState.ALIVE, "it is alive again")
        assert sum(each.starts for each in cluster.nodes.values()) == 4
    said = capsys.readouterr().out
    assert (
        said == f"killed {killed}{', the leader' if asked == 'leader' else ''} (process {first})\n"
    )


async def test_a_node_that_is_none_or_down_is_refused(tmp_path: Path) -> None:
    async with LocalCluster(settings(tmp_path), command=DUMMY) as cluster:
        await cluster.wait_ready()
        await cluster.stop_node("n3")
        for name in ("n3", "n9"):
            with pytest.raises(BadRequest, match=f"no process of {name} runs") as caught:
                await asyncio.to_thread(stop.kill_main, [name, "--data", str(tmp_path / "data")])
            assert caught.value.allowed == "leader, n1, n2"


def test_without_a_cluster_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no cluster runs in"):
        stop.kill_main(["leader", "--data", str(tmp_path)])
