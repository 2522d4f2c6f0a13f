"""Syncs take as long as a file says, in a process that is run so, and are done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.targets import slowdisk, wallclock
from chaos.targets.slowdisk import SlowSyncs

ASKED = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for sync in (os.fsync, os.fdatasync):
    began = time.monotonic()
    sync(fd)
    print(time.monotonic() - began)
"""


def test_a_process_that_is_run_so_waits_for_its_syncs(tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(ASKED)
    (tmp_path / "sync").write_text("0.3\n")
    (tmp_path / "offset").write_text("0\n")
    environ = os.environ | {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}",
        wallclock.VARIABLE: str(tmp_path / "offset"),
        slowdisk.VARIABLE: str(tmp_path / "sync"),
    }
    command = [sys.executable, "-m", "chaos.targets.wallclock", "asked", str(tmp_path / "file")]
    told = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=True
    ).stdout.split()
    assert [float(seconds) >= 0.3 for seconds in told] == [True, True]


def test_the_sync_itself_is_done_also_without_a_file_and_its_error_is_told(tmp_path: Path) -> None:
    syncs = SlowSyncs(tmp_path / "missing")
    with (tmp_path / "file").open("wb") as file:
        syncs.fsync(file.fileno())
        syncs.fdatasync(file.fileno())
        closed = file.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        syncs.fsync(closed)
