"""Clusters that a script or a test starts for itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import acordo
from acordo import SyncClient

ORPHANING = """
import os, acordo
node = acordo.embedded().__enter__()
print(node.url, flush=True)
os._exit(1)  # nothing is closed
"""


def test_a_directory_is_kept_with_its_ports_and_keys(tmp_path: Path) -> None:
    with acordo.embedded(data=tmp_path / "kept") as node, SyncClient(node.urls) as client:
        client.put("greeting", "hello")
        first = node.urls
    with acordo.embedded(data=tmp_path / "kept") as node, SyncClient(node.urls) as client:
        found = client.get("greeting")
        assert (node.urls, found is not None and found.text) == (first, "hello")
    with (
        pytest.raises(acordo.NotStarted, match="1 nodes, not 3"),
        acordo.embedded(3, data=tmp_path / "kept"),
    ):
        pytest.fail("it began")


def test_what_is_not_a_clusters_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(acordo.NotStarted, match="not empty"), acordo.embedded(data=tmp_path):
        pytest.fail("it began")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_node_that_cannot_start_says_why() -> None:
    with (
        pytest.raises(acordo.NotStarted, match="ACORDO_LOG_LEVEL"),
        acordo.embedded(settings={"ACORDO_LOG_LEVEL": "loud"}),
    ):
        pytest.fail("it began")


async def test_three_nodes_outlive_one(acordo_cluster: acordo.Embedded) -> None:
    async with acordo.Client(acordo_cluster.urls, timeout_s=60) as client:
        await client.put("before", "1")
        leader = (await client.leader()).url
        assert leader is not None
        acordo_cluster.kill(leader)
        await client.put("while it is away", "2")
        acordo_cluster.start(leader)
        async with acordo.Client(leader, timeout_s=60) as there:
            keys = [found.key async for found in there.list()]
            assert keys == [b"before", b"while it is away"]


def test_nodes_do_not_outlive_who_started_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHANING], capture_output=True, text=True, check=False
    )
    url = done.stdout.strip()
    assert url.startswith("http://127.0.0.1:"), done.stderr
    with SyncClient(url, timeout_s=0.5) as client:
        while True:
            try:
                client.leader()
            except acordo.Unreachable:
                return
            except acordo.ReadFailed:
                continue


def test_the_fixtures_of_one_session_share_a_node(
    acordo_node: acordo.Embedded, acordo_sync: SyncClient, acordo_prefix: str
) -> None:
    acordo_sync.put(acordo_prefix + "k", "v")
    with SyncClient(acordo_node.urls) as client:
        assert [found.value for found in client.list(acordo_prefix)] == [b"v"]
