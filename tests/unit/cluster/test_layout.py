"""The cluster's directory: claimed once, refused when it is another's, its secret private."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.local import layout
from kv.errors import BadRequest


def claim(
    data: Path,
    nodes: int | None = None,
    port: int | None = None,
    default: tuple[int, int] = (3, 8001),
) -> layout.ClusterFile:
    found, new = layout.find_cluster(data, nodes, port, default)
    if new:
        layout.keep_cluster(data, found)
    return found


def test_a_new_directory_is_claimed_and_found_again(tmp_path: Path) -> None:
    made = claim(tmp_path / "a" / "b")
    assert claim(tmp_path / "a" / "b", None, None, (5, 9001)) == made
    assert (made.nodes, made.base_port) == (3, 8001)


def test_a_new_directory_may_go_on_with_a_cluster_of_that_name(tmp_path: Path) -> None:
    found, new = layout.find_cluster(tmp_path, None, None, (3, 8001), "backedup")
    assert (found.cluster_id, new) == ("backedup", True)
    layout.keep_cluster(tmp_path, found)
    assert layout.find_cluster(tmp_path, None, None, (3, 8001), "") == (found, False)
    with pytest.raises(BadRequest, match="made with cluster id backedup, not other"):
        layout.find_cluster(tmp_path, None, None, (3, 8001), "other")


def test_a_directory_keeps_its_kind_of_store(tmp_path: Path) -> None:
    shared, replicated = tmp_path / "shared", tmp_path / "replicated"
    claim(shared)
    found, _ = layout.find_cluster(replicated, None, None, (3, 8001), store="replicated")
    layout.keep_cluster(replicated, found)
    assert layout.find_cluster(replicated, None, None, (3, 8001), store="replicated")[0] == found
    assert found.with_place(layout.Place("n4", 3)).format == found.format == layout.OWN_FORMAT
    with pytest.raises(BadRequest, match=f"{shared} was made with a store that all") as caught:
        layout.find_cluster(shared, None, None, (3, 8001), store="replicated")
    assert caught.value.code == "other_store"
    assert "acordo dump" in str(caught.value.allowed)
    assert "acordo load" in str(caught.value.allowed)
    with pytest.raises(BadRequest, match="was made with the replicated store"):
        layout.find_cluster(replicated, None, None, (3, 8001))


def test_a_cluster_of_another_shape_is_refused(tmp_path: Path) -> None:
    claim(tmp_path, 3, 8001)
    with pytest.raises(BadRequest, match="made with nodes 3, not 1"):
        layout.find_cluster(tmp_path, 1, None, (3, 8001))
    with pytest.raises(BadRequest, match="made with base port 8001, not 9001"):
        layout.find_cluster(tmp_path, None, 9001, (3, 8001))


def test_a_directory_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(BadRequest, match=r"holds thesis\.txt"):
        layout.find_cluster(tmp_path, None, None, (3, 8001))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"format": 4, "anything": "else"}', "newer_version"),
        (b"{", "corrupt_file"),
        (b"\xff\x00", "corrupt_file"),
        (b"[]", "corrupt_file"),
        (b'{"format": 1, "cluster_id": 7}', "corrupt_file"),
    ],
)
def test_a_newer_or_broken_file_is_refused_by_name(
    tmp_path: Path, content: bytes, code: str
) -> None:
    (tmp_path / "cluster.json").write_bytes(content)
    with pytest.raises(BadRequest, match=r"cluster\.json") as caught:
        layout.find_cluster(tmp_path, None, None, (3, 8001))
    assert caught.value.code == code
    assert (tmp_path / "cluster.json").read_bytes() == content


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match="cannot be used"):
        layout.find_cluster(tmp_path / "file" / "x", None, None, (3, 8001))


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    layout.make_secret(tmp_path / "secret")
    first = (tmp_path / "secret").read_text()
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(first)) == 32
    layout.make_secret(tmp_path / "secret")
    assert (tmp_path / "secret").read_text() == first


def test_the_directory_remembers_who_came_and_went(tmp_path: Path) -> None:
    """An older runner, which would start the first members, refuses the file by its format."""
    made = claim(tmp_path)
    assert json.loads((tmp_path / "cluster.json").read_bytes())["format"] == 1
    assert [(p.id, p.number, p.state) for p in made.all_places] == [
        (f"n{i + 1}", i, "member") for i in range(3)
    ]
    new = layout.Place("n4", 3, "joining", "n1=127.0.0.1:9001")
    layout.keep_cluster(tmp_path, made.with_place(new).with_place(layout.Place("n2", 1, "removed")))
    found = claim(tmp_path)
    assert [(p.id, p.state) for p in found.all_places] == [
        ("n1", "member"), ("n2", "removed"), ("n3", "member"), ("n4", "joining"),
    ]  # fmt: skip
    assert [p.id for p in found.first_places] == ["n1", "n2", "n3"]
    assert json.loads((tmp_path / "cluster.json").read_bytes())["format"] == 2
