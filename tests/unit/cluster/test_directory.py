"""A directory belongs to one node and one process at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster import directory
from kv.errors import BadRequest


def test_a_node_keeps_its_directory(tmp_path: Path) -> None:
    directory.claim_node(tmp_path, "c1", "n1")
    directory.claim_node(tmp_path, "c1", "n1")
    with pytest.raises(BadRequest, match="belongs to node n1, not to n2"):
        directory.claim_node(tmp_path, "c1", "n2")
    with pytest.raises(BadRequest, match="belongs to cluster c1, not to c2"):
        directory.claim_node(tmp_path, "c2", "n1")
    found = json.loads((tmp_path / "node.json").read_bytes())
    (tmp_path / "node.json").write_text(json.dumps(found | {"format": 99}))
    with pytest.raises(BadRequest, match="newer version"):
        directory.claim_node(tmp_path, "c1", "n1")


def test_a_node_keeps_its_kind_of_store(tmp_path: Path) -> None:
    """A member with its own copy is refused the directory of one with a shared store, and the other
    way round; version 0.1 refuses it by its format.
    """
    shared, own = tmp_path / "shared", tmp_path / "own"
    directory.claim_node(shared, "c1", "n1")
    directory.claim_node(own, "c1", "n1", "replicated")
    directory.claim_node(own, "c1", "n1", "replicated")
    assert json.loads((own / "node.json").read_bytes())["format"] == directory.OWN_FORMAT
    (old := json.loads((shared / "node.json").read_bytes())).pop("store")
    (shared / "node.json").write_text(json.dumps(old))  # as version 0.1 wrote it
    for path, asked in ((shared, "replicated"), (own, "shared")):
        before = {p: p.read_bytes() for p in path.iterdir()}
        with pytest.raises(BadRequest, match="was made with") as caught:
            directory.claim_node(path, "c1", "n1", asked)  # type: ignore[arg-type]
        assert caught.value.code == "other_store"
        assert str(path) in caught.value.detail
        assert {p: p.read_bytes() for p in path.iterdir()} == before


def test_one_process_at_a_time_holds_a_directory(tmp_path: Path) -> None:
    assert not directory.is_locked(tmp_path)
    with directory.locked(tmp_path, "runner"):
        assert directory.is_locked(tmp_path)
        with (
            pytest.raises(BadRequest, match="in use by another runner"),
            directory.locked(tmp_path, "runner"),
        ):
            pass
    assert not directory.is_locked(tmp_path)


def test_a_lock_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    for ask in (
        lambda: directory.locked(tmp_path, "node").__enter__(),
        lambda: directory.is_locked(tmp_path),
    ):
        with pytest.raises(BadRequest, match="lock cannot be opened") as caught:
            ask()
        assert caught.value.code == "bad_directory"
