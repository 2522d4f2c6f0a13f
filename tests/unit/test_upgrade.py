"""What the upgrade test takes out of the history, and what it says where it cannot."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from chaos.records.history import ClientOperation
from tests.upgrade.load import is_change_refused, is_failed
from tests.upgrade.versions import COMMIT, TAG, NoTree, released


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A repository whose history has two commits, neither of them the released one."""
    folder = tmp_path / "other"
    folder.mkdir()
    git(folder, "init", "-q")
    for number in (1, 2):
        git(folder, "commit", "-q", "--allow-empty", "-m", str(number))
    return folder


def test_a_clone_without_the_commit_is_told_how_to_get_it(other: Path, tmp_path: Path) -> None:
    with pytest.raises(NoTree, match=r"not in this clone: git fetch --tags") as caught:
        released(tmp_path / "out", other)
    assert TAG in str(caught.value) and COMMIT[:7] in str(caught.value)


def test_a_shallow_clone_is_told_so(other: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{other}", str(shallow))
    with pytest.raises(NoTree, match=r"shallow clone lacks it: git fetch --unshallow --tags"):
        released(tmp_path / "out", shallow)


def test_what_is_no_clone_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(NoTree, match="is no clone"):
        released(tmp_path / "out", tmp_path)


def ended(outcome: str, error: str | None) -> ClientOperation:
    """Return an operation that ended like this."""
    return ClientOperation("c", "cas", outcome, 1, 2, error=error)  # type: ignore[arg-type]


def test_a_guard_that_does_not_hold_is_an_answer_and_a_refusal_is_none() -> None:
    assert not is_failed(ended("ok", None))
    assert not is_failed(ended("fail", "refused: guard 0"))
    assert is_failed(ended("fail", "NotApplied: no_leader"))
    assert is_failed(ended("info", "cut off"))


def test_only_a_certain_refusal_of_a_read_is_put_down_to_a_change_of_leader() -> None:
    why = "no quorum confirmed this node's position: not_taken_over"
    assert is_change_refused(ended("fail", f"ReadFailed: no answer after one attempt: {why}"))
    assert not is_change_refused(ended("info", f"ReadFailed: {why}"))
    assert not is_change_refused(ended("fail", "ReadFailed: the store is away"))
    assert not is_change_refused(ended("fail", "NotApplied: not_taken_over"))
    assert not is_change_refused(ended("ok", None))
