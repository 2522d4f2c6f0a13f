"""What a bare container takes from this machine: the commit, and where pip finds packages."""

from __future__ import annotations

import inspect
import re
import subprocess
from pathlib import Path

from cluster.settings.loading import NOT_OURS
from cluster.settings.node import NodeSettings
from cluster.settings.runner import RunnerSettings
from tests.docker import bare
from tests.docker.bare import pip_settings, take_commit
from tests.docker.engine import ROOT

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


def test_what_the_container_is_given_is_no_unknown_setting_of_a_node() -> None:
    """`make run` inherits all of it, and a node refuses an ACORDO_ variable that it does not
    know.
    """
    given = set(re.findall(r'environment\["(ACORDO_\w+)"\]', inspect.getsource(bare)))
    assert given, "the folder of histories is given by a variable"
    assert {name for name in given if not _passed_over(name)} == set()


def test_what_only_tests_read_has_a_name_that_nodes_pass_over() -> None:
    """A person who sets it for the tests may start a node in the same shell."""
    read = re.compile(r'environ(?:\.get\(|\[)\s*"(ACORDO_\w+)"')
    names = {
        name for path in (ROOT / "tests").rglob("*.py") for name in read.findall(path.read_text())
    }
    assert len(names) >= 4
    assert {name for name in names if not _passed_over(name)} == set()


def _passed_over(name: str) -> bool:
    settings = {*NodeSettings.model_fields, *RunnerSettings.model_fields}
    return name.startswith(NOT_OURS) or name.removeprefix("ACORDO_").lower() in settings
