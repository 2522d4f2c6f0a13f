"""The directories of a new local cluster, made out of a backup."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.local.process import NodeProcess
from cluster.local.restoring import restore_members
from cluster.settings.runner import RunnerSettings
from cluster.settings.values import MemberSetting
from kv.errors import BadRequest

REFUSES = (sys.executable, "-c", "import sys; sys.exit('error: it is no backup')")


def members(data: Path) -> list[NodeProcess]:
    return [
        NodeProcess(MemberSetting(name, f"{name}:1", True), f"http://{name}", data / name, {})
        for name in ("n1", "n2", "n3")
    ]


def test_members_that_are_there_are_left_as_they_are(tmp_path: Path) -> None:
    """Their cluster's file was lost, say: nobody may take them for what a failed restore left."""
    kept = tmp_path / "n2" / "store.sqlite"
    kept.parent.mkdir()
    kept.write_bytes(b"all that is left")
    with pytest.raises(BadRequest) as refused:
        restore_members(RunnerSettings(from_backup="a"), members(tmp_path), REFUSES, print)
    assert refused.value.code == "restore_not_empty"
    assert kept.read_bytes() == b"all that is left"


def test_of_a_restore_that_failed_nothing_is_left(tmp_path: Path) -> None:
    made = "import os; os.makedirs(os.environ['PLACE'])"
    nodes = members(tmp_path)
    for node in nodes:
        node.environ["PLACE"] = str(node.data_dir)
    command = (sys.executable, "-c", f"{made}; raise SystemExit('error: it is no backup')")
    with pytest.raises(BadRequest, match="n1 could not be restored: it is no backup") as refused:
        restore_members(RunnerSettings(from_backup="a"), nodes, command, print)
    assert refused.value.code == "not_restored"
    assert list(tmp_path.iterdir()) == []
