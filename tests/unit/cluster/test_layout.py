"""The cluster's directory: claimed once, refused when it is another's, its secret private."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster import layout
from kv.errors import BadRequest


def test_a_new_directory_is_claimed_and_found_again(tmp_path: Path) -> None:
    made = layout.claim_cluster(tmp_path / "a" / "b", None, None, (3, 8001))
    assert layout.claim_cluster(tmp_path / "a" / "b", None, None, (5, 9001)) == made
    assert (made.nodes, made.base_port) == (3, 8001)


def test_a_cluster_of_another_shape_is_refused(tmp_path: Path) -> None:
    layout.claim_cluster(tmp_path, 3, 8001, (3, 8001))
    with pytest.raises(BadRequest, match="made with nodes 3, not 1"):
        layout.claim_cluster(tmp_path, 1, None, (3, 8001))
    with pytest.raises(BadRequest, match="made with base port 8001, not 9001"):
        layout.claim_cluster(tmp_path, None, 9001, (3, 8001))


def test_a_directory_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(BadRequest, match=r"holds thesis\.txt"):
        layout.claim_cluster(tmp_path, None, None, (3, 8001))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"format": 2, "anything": "else"}', "newer_version"),
        (b"{", "corrupt_file"),
        (b"\xff\x00", "corrupt_file"),
        (b"[]", "corrupt_file"),
        (b'{"format": 1, "cluster_id": 7}', "corrupt_file"),
    ],
)
def test_a_newer_or_broken_file_is_refused_by_name(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "cluster.json").write_bytes(content)
    with pytest.raises(BadRequest, match=r"cluster\.json") as caught:
        layout.claim_cluster(tmp_path, None, None, (3, 8001))
    assert caught.value.code == code
    assert (tmp_path / "cluster.json").read_bytes() == content


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match="cannot be used"):
        layout.claim_cluster(tmp_path / "file" / "x", None, None, (3, 8001))


def test_a_node_keeps_its_directory(tmp_path: Path) -> None:
    layout.claim_node(tmp_path, "c1", "n1")
    layout.claim_node(tmp_path, "c1", "n1")
    with pytest.raises(BadRequest, match="belongs to node n1, not to n2"):
        layout.claim_node(tmp_path, "c1", "n2")
    with pytest.raises(BadRequest, match="belongs to cluster c1, not to c2"):
        layout.claim_node(tmp_path, "c2", "n1")
    found = json.loads((tmp_path / "node.json").read_bytes())
    (tmp_path / "node.json").write_text(json.dumps(found | {"format": 99}))
    with pytest.raises(BadRequest, match="newer version"):
        layout.claim_node(tmp_path, "c1", "n1")


def test_one_process_at_a_time_holds_a_directory(tmp_path: Path) -> None:
    assert not layout.is_locked(tmp_path)
    with layout.locked(tmp_path, "runner"):
        assert layout.is_locked(tmp_path)
        with pytest.raises(BadRequest, match="in use by another runner"), layout.locked(tmp_path, "runner"):
            pass
    assert not layout.is_locked(tmp_path)


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    layout.make_secret(tmp_path / "secret")
    first = (tmp_path / "secret").read_text()
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(first)) == 32
    layout.make_secret(tmp_path / "secret")
    assert (tmp_path / "secret").read_text() == first
