"""What a bare container takes from this machine: the commit, and where pip finds packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.docker.bare import pip_settings, take_commit

LISTED = """\
:env:.cert='/etc/ssl/x.crt'
global.constraint='{root}/constraints.txt'
global.extra-index-url='\\nfile://{root}/index/simple\\nhttps://index.example/simple'
global.find-links='{root}/none'
global.timeout='60'
"""


def test_pip_finds_in_the_container_what_it_finds_here(tmp_path: Path) -> None:
    (tmp_path / "index" / "simple").mkdir(parents=True)
    (tmp_path / "constraints.txt").touch()
    settings, paths = pip_settings(LISTED.format(root=tmp_path))
    assert settings == {
        "PIP_CONSTRAINT": f"{tmp_path}/constraints.txt",
        "PIP_EXTRA_INDEX_URL": f"file://{tmp_path}/index/simple https://index.example/simple",
        "PIP_FIND_LINKS": f"{tmp_path}/none",
    }
    assert paths == [tmp_path / "constraints.txt", tmp_path / "index"]


def test_what_is_no_repository_is_copied_without_what_was_made_in_it(tmp_path: Path) -> None:
    root, to = tmp_path / "unpacked", tmp_path / "commit"
    (root / ".venv").mkdir(parents=True)
    (root / ".venv" / "large").touch()
    (root / "Makefile").write_text("all:\n")
    take_commit(root, to)
    listed = subprocess.run(
        ["git", "ls-files"], cwd=to, capture_output=True, text=True, check=True
    ).stdout
    assert listed.split() == ["Makefile"]
