"""A module that is run with a wall clock of its own sees that clock alone set off."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from chaos.targets import wallclock
from chaos.targets.local import LocalTarget
from chaos.targets.wallclock import WallClock
from cluster.settings.runner import RunnerSettings


def test_only_the_wall_clock_moves_and_the_module_gets_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(
        "import sys, time\nprint(time.time(), time.time_ns(), sys.argv[1:])\n"
    )
    (tmp_path / "offset").write_text("-3600\n")
    environ = os.environ | {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}",
        wallclock.VARIABLE: str(tmp_path / "offset"),
    }
    command = [sys.executable, "-m", "chaos.targets.wallclock", "asked", "--one", "two"]
    before = time.time()
    told = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=True
    ).stdout.split(maxsplit=2)
    after = time.time()
    assert before - 3601 < float(told[0]) < after - 3599
    assert before - 3601 < int(told[1]) / 1e9 < after - 3599
    assert told[2].strip() == "['--one', 'two']"


def test_the_offset_is_kept_while_the_file_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "offset"
    file.write_text("+900")
    clock = WallClock(file)
    assert clock.time() > time.time() + 890
    file.unlink()
    clock._looked = float("-inf")
    assert clock.time() > time.time() + 890
    file.write_text("0")
    clock._looked = float("-inf")
    assert abs(clock.time() - time.time()) < 60


def test_nodes_get_it_only_when_clocks_are_to_jump(tmp_path: Path) -> None:
    settings = RunnerSettings(nodes=3, base_port=30000, data=tmp_path / "data")
    plain = LocalTarget(settings, Random(1))
    assert plain.command is None
    assert "clocks" not in plain.abilities
    jumping = LocalTarget(
        settings, Random(1), command=("python", "-m", "another", "bug"), clocks=True
    )
    assert jumping.command == ("python", "-m", "chaos.targets.wallclock", "another", "bug")
    assert "clocks" in jumping.abilities
    with pytest.raises(ValueError, match="under another clock"):
        LocalTarget(settings, Random(1), command=("node",), clocks=True)
