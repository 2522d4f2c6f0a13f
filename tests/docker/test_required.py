"""Without an engine a run that asks for containers fails; any other names what it skips, and
installs nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.engine import ROOT

ONE = "test_start_sh_brings_it_up_and_says_where_it_is"


def run(folder: Path, *words: str) -> tuple[int, str, bool]:
    """Run pytest where no engine answers and apt-get refuses; return exit code, output, and whether
    it was called.
    """
    asked = folder / "asked"
    apt = folder / "apt-get"
    apt.write_text(f"#!/bin/sh\necho called > {asked}\necho no network\nexit 100\n")
    apt.chmod(0o755)
    environ = {**os.environ, "PATH": str(folder), "DOCKER_HOST": f"unix://{folder}/none.sock"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", ONE, *words],
        cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=100, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, asked.exists()


@pytest.mark.parametrize("name", ["tests/docker", f"tests/docker/test_stack.py::{ONE}"])
def test_asked_for_by_name_it_is_tried_and_fails(name: str, tmp_path: Path) -> None:
    code, said, installing = run(tmp_path, "-rs", name)
    assert code == 1, said
    assert "was asked for and cannot be run: Skipped: no containers here" in said
    assert "1 error" in said and "skipped" not in said.splitlines()[-1]
    if os.geteuid() == 0:
        assert installing and "apt-get update -q failed: no network" in said


def test_as_a_part_of_all_it_is_skipped_by_name_and_nothing_is_installed(tmp_path: Path) -> None:
    code, said, installing = run(tmp_path, "-o", "testpaths=tests/docker")
    assert code == 0, said
    assert "1 skipped" in said
    assert (
        "no containers here: no Docker engine answers; `make test-stack` installs and starts one"
        in said
    )
    assert not installing
