"""What the composition root hands to the parts of a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.local.cache import MemoryCache
from backends.memory.member_file import MemoryFile
from backends.memory.member_store import MemoryMemberStore
from cluster.settings.loading import load
from cluster.settings.node import NodeSettings
from coordinator.raft.core.rules.membership import first_digest
from node.__main__ import _coordinator_of
from node.startup.backends import Backends
from node.startup.settings import first_members
from tests.unit.coordinator.cluster import Heard
from tests.unit.coordinator.shared_log import SharedLog
from tests.virtual import run, until


@pytest.mark.parametrize("listed", ["n1=127.0.0.1:9001", "n1=127.0.0.1:9001,n2=127.0.0.1:9002"])
def test_a_history_is_founded_with_the_list_of_first_members(listed: str, tmp_path: Path) -> None:
    """Members that were given another list can be told so (R14)."""
    given = ["--node-id", "n1", "--raft-address", "127.0.0.1:9001", "--members", listed]
    settings = load(NodeSettings, [*given, "--data-dir", str(tmp_path)], prog="node")

    async def founds() -> None:
        shared = SharedLog()
        async with MemoryMemberStore(MemoryFile(), session="n1") as own:
            backends = Backends(None, own, MemoryCache(bytes_max=0), Heard(), None)
            async with _coordinator_of(settings, "ours", shared.member("n1"), backends) as node:
                shared.elect("n1")
                await until(lambda: node.leading.taken_over)
                assert node.machine.founded is not None
                found = node.machine.founded.members
        assert found == first_digest(first_members(settings), "n1") != b""

    run(founds)
